/* Allocations at the edges of a program's life: in constructors before main, in libraries that
 * come and go, in destructors and at exit. With -DLIBRARY this is the library that is loaded; the
 * program is given its path. A constructor's memory is checked and freed by somebody later. */
#include <stdlib.h>
#include <string.h>
#include "check.h"

enum { BLOCKS = 64 };

/* From 16 bytes to 1 MiB, so that every kind of allocation is among them. */
static size_t size_of(int i) { return (size_t)16 << (i % 17); }

static void take(unsigned char **blocks, int fill) {
    for (int i = 0; i < BLOCKS; i++) {
        CHECK((blocks[i] = malloc(size_of(i))));
        memset(blocks[i], fill, size_of(i));
    }
}

static void give(unsigned char **blocks, int fill) {
    for (int i = 0; i < BLOCKS; i++) {
        CHECK(blocks[i][0] == fill && blocks[i][size_of(i) - 1] == fill);
        free(blocks[i]);
    }
}

static unsigned char *early[BLOCKS];

#ifdef LIBRARY

__attribute__((constructor)) static void begin(void) { take(early, 'l'); }
__attribute__((destructor)) static void end(void) { give(early, 'l'); }
/* What the library allocates outlives it. */
unsigned char *leave(void) {
    unsigned char *left = malloc(5000);
    CHECK(left);
    return memset(left, 'k', 5000);
}

#else
#include <dlfcn.h>

static unsigned char *late[BLOCKS];

__attribute__((constructor(101))) static void before_main(void) { take(early, 'c'); }

/* Runs after everything that atexit was told. */
__attribute__((destructor(101))) static void after_everything(void) {
    give(late, 'a');
    take(late, 'd');
    give(late, 'd');
    CHECK(write(1, "ended\n", 6) == 6);
}

static void at_exit(void) { take(late, 'a'); }

int main(int argc, char **argv) {
    CHECK(argc == 2);
    give(early, 'c');
    CHECK(!atexit(at_exit));
    for (int i = 0; i < 1000; i++) {
        void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
        CHECK(library);
        unsigned char *(*leave)(void) = (unsigned char *(*)(void))dlsym(library, "leave");
        CHECK(leave);
        unsigned char *left = leave();
        CHECK(!dlclose(library));
        CHECK(left[0] == 'k' && left[4999] == 'k');
        free(left);
    }
    return 0;
}
#endif
