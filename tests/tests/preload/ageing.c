// A heap that was full and is nearly empty, but for objects here and there: what stands in them stays, and
// with "memory" most of the rest goes back to the system while the program goes on.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OBJECTS = 60000, KEPT = 20 };

static unsigned char *objects[OBJECTS];
static size_t sizes[OBJECTS];
static uint64_t state = 7;

static uint64_t draw(void) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static void make(int n) {
    sizes[n] = 16 + draw() % 4000;
    objects[n] = malloc(sizes[n]);
    if (!objects[n]) {
        fprintf(stderr, "no memory for object %d\n", n);
        exit(1);
    }
    memset(objects[n], n % 251, sizes[n]);
}

static void check(int n) {
    for (size_t i = 0; i < sizes[n]; i++) {
        if (objects[n][i] != n % 251) {
            fprintf(stderr, "byte %zu of object %d is %d\n", i, n, objects[n][i]);
            exit(1);
        }
    }
}

static long resident_pages(void) {
    long total, resident;
    FILE *statm = fopen("/proc/self/statm", "r");
    if (!statm || fscanf(statm, "%ld %ld", &total, &resident) != 2) {
        perror("/proc/self/statm");
        exit(1);
    }
    fclose(statm);
    return resident;
}

int main(int argc, char **argv) {
    int memory = argc > 1 && strcmp(argv[1], "memory") == 0;
    for (int n = 0; n < OBJECTS; n++) make(n);
    long full = resident_pages();
    for (int n = 0; n < OBJECTS; n++) {
        if (n % KEPT) {
            check(n);
            free(objects[n]);
            objects[n] = NULL;
        }
    }
    // Few requests, for so long that what is to go is gone; at most 20 seconds of a busy machine.
    long left = full;
    for (int wait = 0; wait < (memory ? 20000 : 100) && left > full / 2; wait++) {
        free(malloc(2000 + draw() % 3000));
        usleep(1000);
        if (wait % 50 == 0) left = resident_pages();
    }
    if (memory && left > full / 2) {
        fprintf(stderr, "%ld of %ld pages are still resident\n", left, full);
        return 1;
    }
    for (int n = 0; n < OBJECTS; n++) {
        if (!objects[n]) make(n);
    }
    for (int n = 0; n < OBJECTS; n++) {
        check(n);
        free(objects[n]);
    }
    return 0;
}
