/* An allocator that hands the same memory out again and again, to see that the patterns notice. */
#include <stddef.h>
#include <string.h>

enum { SMALL = 16 << 10 };
static _Alignas(4096) unsigned char ring[64 << 10], rest[256 << 20];
static size_t ring_used, rest_used;

/* Small objects go round in the ring; large ones, tables among them, are all right. */
void *malloc(size_t size) {
    size = (size + 31) & ~(size_t)15; /* 16 bytes in front of each object hold its size */
    if (size <= SMALL && ring_used + size > sizeof ring)
        ring_used = 0; /* whatever still lives there */
    size_t *used = size <= SMALL ? &ring_used : &rest_used;
    if (size > SMALL && *used + size > sizeof rest)
        return NULL;
    unsigned char *at = (size <= SMALL ? ring : rest) + *used + 16;
    memcpy(at - 16, &size, sizeof size);
    *used += size;
    return at;
}

void free(void *at) {
    (void)at;
}

void *calloc(size_t count, size_t size) {
    void *at = malloc(count * size);
    return at ? memset(at, 0, count * size) : NULL;
}

void *realloc(void *old, size_t size) {
    void *at = malloc(size);
    size_t held = 0;
    if (old && at) {
        memcpy(&held, (unsigned char *)old - 16, sizeof held);
        memcpy(at, old, held - 16 < size ? held - 16 : size);
    }
    return at;
}
