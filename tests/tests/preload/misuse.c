/* What a heap must not be asked for: ends by SIGABRT, with a line that names the address. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv) {
    static char foreign[64];
    volatile char *p = malloc(100), *q = malloc(3 << 20), *r = malloc(400 << 10);
    void *at = NULL;
    if (argc != 2) return 2;
    /* So that printing takes nothing of what is freed below. */
    static char buffer[BUFSIZ];
    setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
    if (!strcmp(argv[1], "foreign")) at = foreign;
    if (!strcmp(argv[1], "twice-run")) free((void *)r), at = (void *)r;
    if (!strcmp(argv[1], "twice-huge")) free((void *)q), at = (void *)q;
    if (!strcmp(argv[1], "interior-run")) at = (void *)(r + 16);
    if (!strcmp(argv[1], "interior-huge")) at = (void *)(q + (1 << 20));
    if (!strcmp(argv[1], "twice")) free((void *)p), at = (void *)p;
    if (!strcmp(argv[1], "interior")) at = (void *)(p + 16);
    if (!at) return 2;
    printf("0x%lx\n", (unsigned long)(uintptr_t)at);
    fflush(stdout);
    free(at);
    /* Small objects are looked at when they go back to their slab. */
    for (int i = 0; i < 1000; i++) {
        void *many[300];
        for (int k = 0; k < 300; k++) many[k] = malloc(100);
        for (int k = 0; k < 300; k++) free(many[k]);
    }
    return 0;
}
