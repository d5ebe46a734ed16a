/* What all patterns share: options, random numbers, and objects that notice when somebody else wrote
 * into them.
 *
 * Work is deterministic: the same pattern, scale and number of threads allocate the same sizes in the
 * same order on every thread, whatever the allocator. Every object carries a stamp made of its
 * address, its size and a number that no other object has, at its start, at its end and at strides
 * between, and it is checked before it is freed. So memory that was handed out twice, or written by
 * an allocator after it was handed out, ends the program with status 3.
 */
#ifndef BOOKEND_BENCH_COMMON_H
#define BOOKEND_BENCH_COMMON_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STATUS_NO_MEMORY = 2, STATUS_CORRUPT = 3, STATUS_SYSTEM = 4 };

#define KIB ((size_t)1 << 10)
#define MIB ((size_t)1 << 20)

struct options {
    double scale;     /* of the work: 1 is 0.5 to 3 seconds with glibc */
    unsigned threads; /* of the patterns that have several */
    size_t size;      /* bytes of an object; `pairs` only */
    uint64_t count;   /* of operations; `pairs` only */
};

/* A pattern does its work and returns how many operations that were. */
typedef uint64_t pattern_fn(const struct options *options);

struct pattern {
    const char *name;
    pattern_fn *run;
};

extern const struct pattern order_patterns[], thread_patterns[], sharing_patterns[],
    size_patterns[], server_patterns[], heap_patterns[], pair_patterns[];

static inline _Noreturn void die(int status, const char *what) {
    fprintf(stderr, "%s\n", what);
    exit(status);
}

/* `count` times the scale, at least `least`. */
static inline uint64_t scaled(const struct options *options, double count, uint64_t least) {
    double wanted = count * options->scale;
    return wanted < (double)least ? least : (uint64_t)wanted;
}

/* --- Random numbers: xorshift64*, Vigna 2016 --- */

struct rng {
    uint64_t state;
};

static inline struct rng rng_new(uint64_t seed) {
    return (struct rng){(seed + 1) * UINT64_C(0x9e3779b97f4a7c15)};
}

static inline uint32_t rng_next(struct rng *rng) {
    uint64_t x = rng->state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    rng->state = x;
    return (uint32_t)((x * UINT64_C(0x2545f4914f6cdd1d)) >> 32);
}

/* Below `bound`, by multiplication instead of division. */
static inline uint32_t rng_below(struct rng *rng, uint32_t bound) {
    return (uint32_t)(((uint64_t)rng_next(rng) * bound) >> 32);
}

/* From `low` up to `low << doublings`, every doubling equally likely: many small, few large, as
 * programs ask. */
static inline uint32_t rng_size(struct rng *rng, uint32_t low, uint32_t doublings) {
    uint32_t base = low << rng_below(rng, doublings);
    return base + rng_below(rng, base);
}

/* --- Objects --- */

struct object {
    unsigned char *at;
    uint32_t size; /* at least 8 */
    uint32_t id;   /* no other object of this run has it */
};

static inline uint64_t object_stamp(const struct object *object) {
    uint64_t identity = ((uint64_t)object->id << 32) | object->size;
    return (identity * UINT64_C(0x9e3779b97f4a7c15)) ^ (uintptr_t)object->at;
}

/* Bytes between two stamps: a cache line in small objects, less densely in larger ones. */
static inline size_t object_stride(const struct object *object) {
    return object->size <= KIB ? 64 : 256;
}

/* The last stamp may not lie over another one, hence twice its length. */
static inline void object_write(const struct object *object) {
    uint64_t stamp = object_stamp(object);
    size_t stride = object_stride(object);
    for (size_t at = 0; at + 2 * sizeof stamp <= object->size; at += stride)
        memcpy(object->at + at, &stamp, sizeof stamp);
    memcpy(object->at + object->size - sizeof stamp, &stamp, sizeof stamp);
}

static inline void object_expect(const struct object *object, size_t at, uint64_t stamp) {
    uint64_t found;
    memcpy(&found, object->at + at, sizeof found);
    if (found != stamp)
        die(STATUS_CORRUPT, "an object was written by somebody else");
}

/* Ends the program unless the object is as `object_write` left it. */
static inline void object_check(const struct object *object) {
    uint64_t stamp = object_stamp(object);
    size_t stride = object_stride(object);
    for (size_t at = 0; at + 2 * sizeof stamp <= object->size; at += stride)
        object_expect(object, at, stamp);
    object_expect(object, object->size - sizeof stamp, stamp);
}

static inline void *present(void *memory) {
    if (!memory)
        die(STATUS_NO_MEMORY, "out of memory");
    return memory;
}

static inline struct object object_new(uint32_t size, uint32_t id) {
    struct object object = {present(malloc(size)), size, id};
    object_write(&object);
    return object;
}

/* Checks and frees; what holds nothing is left alone. */
static inline void object_end(struct object *object) {
    if (!object->at)
        return;
    object_check(object);
    free(object->at);
    object->at = NULL;
}

/* A table of objects, all empty. */
static inline struct object *object_table(size_t count) {
    return present(calloc(count, sizeof(struct object)));
}

/* --- Threads --- */

struct worker {
    const struct options *options;
    void *shared;
    unsigned index;
    uint64_t operations;
};

/* Runs `body` on `options->threads` threads with a `struct worker` each; the sum of operations. */
uint64_t run_workers(const struct options *options, void *(*body)(void *), void *shared);

/* A thread's objects are numbered from here, so that no two threads' are alike. */
static inline uint32_t first_id(unsigned index) {
    return (uint32_t)index << 27;
}

double seconds_now(void);

#endif
