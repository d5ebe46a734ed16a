/* What C and POSIX say of malloc and its family. Ends with 0, or names the line that failed. */
#define _GNU_SOURCE
#include "check.h"
#include <errno.h>
#include <malloc.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* What the compiler cannot see through. */
static size_t opaque(size_t value) { __asm__ volatile("" : "+r"(value)); return value; }

static void sizes_and_alignment(void) {
    for (size_t size = 0; size <= 4096; size++) {
        char *p = malloc(opaque(size));
        CHECK(p && (uintptr_t)p % 16 == 0);
        CHECK(malloc_usable_size(p) >= size);
        memset(p, 0xa5, malloc_usable_size(p));
        free(p);
    }
    for (int shift = 4; shift <= 26; shift++) {
        size_t size = (size_t)1 << shift;
        char *p = malloc(opaque(size));
        CHECK(p && malloc_usable_size(p) >= size);
        p[0] = p[size - 1] = 1;
        free(p);
        for (size_t extra = 0; extra < 3; extra++) {
            void *q = NULL;
            CHECK(posix_memalign(&q, size, size / 2 + extra) == 0);
            CHECK(q && (uintptr_t)q % size == 0);
            memset(q, 1, size / 2 + extra);
            free(q);
            q = aligned_alloc(size, size);
            CHECK(q && (uintptr_t)q % size == 0);
            free(q);
            q = memalign(size, 100);
            CHECK(q && (uintptr_t)q % size == 0);
            free(q);
        }
    }
    size_t page = 4096;
    void *v = valloc(opaque(1)), *w = pvalloc(opaque(1));
    CHECK((uintptr_t)v % page == 0 && (uintptr_t)w % page == 0);
    CHECK(malloc_usable_size(w) >= page);
    free(v);
    free(w);
}

static void limits(void) {
    size_t huge[] = {SIZE_MAX, SIZE_MAX - 15, SIZE_MAX - 4096, PTRDIFF_MAX, (size_t)PTRDIFF_MAX + 1};
    for (size_t i = 0; i < sizeof huge / sizeof *huge; i++) {
        errno = 0;
        CHECK(malloc(opaque(huge[i])) == NULL && errno == ENOMEM);
        errno = 0;
        CHECK(calloc(opaque(huge[i]), 1) == NULL && errno == ENOMEM);
        char *p = malloc(100);
        strcpy(p, "kept");
        errno = 0;
        CHECK(realloc(p, opaque(huge[i])) == NULL && errno == ENOMEM);
        CHECK(strcmp(p, "kept") == 0);
        free(p);
        errno = 0;
        void *q = &q;
        CHECK(posix_memalign(&q, 64, opaque(huge[i])) == ENOMEM && q == &q);
    }
    errno = 0;
    CHECK(calloc(opaque(SIZE_MAX / 2), 3) == NULL && errno == ENOMEM);
    errno = 0;
    CHECK(reallocarray(NULL, opaque(SIZE_MAX / 2), 3) == NULL && errno == ENOMEM);
    void *q = &q;
    CHECK(posix_memalign(&q, opaque(24), 8) == EINVAL && q == &q);
    CHECK(posix_memalign(&q, opaque(4), 8) == EINVAL && q == &q);
    CHECK(posix_memalign(&q, opaque(0), 8) == EINVAL && q == &q);
    void *a = malloc(opaque(0)), *b = malloc(opaque(0));
    CHECK(a && b && a != b);
    free(a);
    free(b);
    errno = 77;
    free(malloc(opaque(1 << 26)));
    CHECK(errno == 77);
    free(NULL);
    CHECK(malloc_usable_size(NULL) == 0);
}

static void zeroed(void) {
    for (int round = 0; round < 3; round++) {
        for (size_t size = 1; size < (size_t)48 << 20; size = size * 3 + 1) {
            unsigned char *p = calloc(1, opaque(size));
            CHECK(p);
            for (size_t i = 0; i < size; i++) CHECK(p[i] == 0);
            memset(p, 0xff, size);
            free(p);
        }
    }
}

static unsigned char byte(size_t i) { return (unsigned char)(i * 2654435761u >> 13); }

static void resized(void) {
    size_t sizes[] = {1, 16, 17, 100, 1024, 1025, 32768, 32769, 262144, 262145, 1048576, 1048577,
                      2097152, 5000000, 8388608, 40000000, 67108864};
    size_t count = sizeof sizes / sizeof *sizes;
    for (size_t from = 0; from < count; from++) {
        for (size_t to = 0; to < count; to++) {
            size_t n = sizes[from], m = sizes[to], kept = n < m ? n : m;
            unsigned char *p = malloc(n);
            size_t step = n > 100000 ? 509 : 1;
            for (size_t i = 0; i < n; i += step) p[i] = byte(i);
            p = realloc(p, m);
            CHECK(p && malloc_usable_size(p) >= m);
            for (size_t i = 0; i < kept; i += step) CHECK(p[i] == byte(i));
            p[m - 1] = 1;
            free(p);
        }
    }
    unsigned char *p = NULL;
    size_t n = 0;
    while (n < (size_t)100 << 20) {
        size_t m = n + n / 7 + 5;
        p = realloc(p, m);
        CHECK(p);
        for (size_t i = n; i < m; i += 97) p[i] = byte(i);
        for (size_t i = 0; i < 64 && i < n; i += 1) (void)p[i];
        n = m;
    }
    free(p);
    CHECK(realloc(malloc(10), opaque(0)) == NULL);
    p = memalign(4096, 100);
    p[99] = 7;
    p = realloc(p, 5000);
    CHECK(p[99] == 7);
    free(p);
}

int main(void) {
    sizes_and_alignment();
    limits();
    zeroed();
    resized();
    char text[4096];
    FILE *stream = tmpfile();
    CHECK(stream && malloc_info(0, stream) == 0);
    rewind(stream);
    CHECK(fgets(text, sizeof text, stream) && !strncmp(text, "<malloc version=", 16));
    fclose(stream);
    errno = 0;
    CHECK(malloc_info(1, stdout) != 0);
    struct mallinfo2 info = mallinfo2();
    (void)info;
    malloc_trim(0);
    return 0;
}
