/* Growing, large, aligned and zeroed memory; one thread.
 *
 * realloc-growth      strings and vectors that are appended to, several at the same time
 * large-blocks        buffers of images, columns and sorts: 1 to 64 MiB, written, read, gone
 * small-among-large   an index that stays while the buffers it was made from go
 * aligned             SIMD kernels, direct I/O and cache-line-sized nodes
 * calloc-heavy        tables and matrices that count on zeros
 */
#include "common.h"

enum { VECTORS = 64 };

/* Appends to one vector until it is `most` bytes long, by a half more each time as vectors do; what
 * was in it has to be there still. Appends are of a few bytes, as to strings, below a page. */
struct vector {
    struct object object;
    uint32_t most;
};

static void vector_grow(struct vector *vector, struct rng *rng, uint32_t id) {
    struct object *object = &vector->object;
    if (!object->at || object->size >= vector->most) {
        object_end(object);
        vector->most = rng_size(rng, 4 * KIB, 11); /* 4 KiB to 8 MiB */
        *object = object_new(16, id);
        return;
    }
    uint32_t old = object->size;
    uint32_t size = old < 4 * KIB ? old + 8 + rng_below(rng, 120) : old + old / 2;
    uint64_t stamp = object_stamp(object), found;
    struct object grown = {present(realloc(object->at, size)), size, object->id};
    for (size_t at = 0; at + 8 < old; at += object_stride(object)) {
        memcpy(&found, grown.at + (at + 16 <= old ? at : old - 8), sizeof found);
        if (found != stamp)
            die(STATUS_CORRUPT, "realloc lost what was there");
    }
    *object = grown;
    object_write(object);
}

static uint64_t realloc_growth(const struct options *options) {
    uint64_t steps = scaled(options, 250e3, 1000);
    struct vector *vectors = present(calloc(VECTORS, sizeof *vectors));
    struct rng rng = rng_new(3);
    for (uint64_t i = 0; i < steps; i++)
        vector_grow(&vectors[rng_below(&rng, VECTORS)], &rng, (uint32_t)i);
    for (unsigned i = 0; i < VECTORS; i++)
        object_end(&vectors[i].object);
    free(vectors);
    return steps;
}

enum { PAGE = 4096 };

static void touch(struct object *object, int write) {
    uint64_t stamp = object_stamp(object);
    for (size_t at = 0; at + sizeof stamp <= object->size; at += PAGE) {
        if (write)
            memcpy(object->at + at, &stamp, sizeof stamp);
        else
            object_expect(object, at, stamp);
    }
}

static uint64_t large_blocks(const struct options *options) {
    enum { SLOTS = 6 };
    uint64_t steps = scaled(options, 250, 8);
    struct object slots[SLOTS] = {{0}};
    struct rng rng = rng_new(4);
    for (uint64_t i = 0; i < steps + SLOTS; i++) {
        struct object *slot = &slots[i < steps ? rng_below(&rng, SLOTS) : i - steps];
        if (slot->at) {
            touch(slot, 0);
            free(slot->at);
            slot->at = NULL;
        }
        if (i >= steps)
            continue;
        uint32_t size = rng_size(&rng, MIB, 6);
        *slot = (struct object){present(malloc(size)), size, (uint32_t)i};
        touch(slot, 1);
    }
    return steps;
}

static uint64_t small_among_large(const struct options *options) {
    enum { SLOTS = 32, STAY = 20 };
    uint64_t steps = scaled(options, 12e3, 40);
    struct object slots[SLOTS] = {{0}};
    struct object *stay = object_table(steps * STAY);
    struct rng rng = rng_new(5);
    uint32_t id = 0;
    for (uint64_t i = 0; i < steps; i++) {
        struct object *slot = &slots[rng_below(&rng, SLOTS)];
        object_end(slot);
        *slot = object_new(rng_size(&rng, 16 * KIB, 7), id++); /* 16 KiB to 2 MiB */
        for (unsigned k = 0; k < STAY; k++)
            stay[i * STAY + k] = object_new(rng_size(&rng, 16, 4), id++);
    }
    for (unsigned i = 0; i < SLOTS; i++)
        object_end(&slots[i]);
    for (uint64_t i = 0; i < steps * STAY; i++)
        object_end(&stay[i]);
    free(stay);
    return id;
}

static void *aligned_new(size_t alignment, size_t size, int posix) {
    void *at = NULL;
    if (!posix)
        return present(aligned_alloc(alignment, (size + alignment - 1) & ~(alignment - 1)));
    if (posix_memalign(&at, alignment, size) != 0)
        at = NULL;
    return present(at);
}

static uint64_t aligned(const struct options *options) {
    enum { SLOTS = 1 << 12 };
    uint64_t steps = scaled(options, 6e6, 1000);
    struct object *table = object_table(SLOTS);
    struct rng rng = rng_new(6);
    for (uint64_t i = 0; i < steps; i++) {
        struct object *slot = &table[rng_below(&rng, SLOTS)];
        object_end(slot);
        /* Cache lines mostly, a page now and then. */
        uint32_t kind = rng_below(&rng, 32);
        size_t alignment = kind < 31 ? (size_t)16 << (kind % 4) : PAGE;
        uint32_t size = rng_size(&rng, 16, 7);
        *slot = (struct object){aligned_new(alignment, size, i & 1), size, (uint32_t)i};
        if ((uintptr_t)slot->at % alignment != 0)
            die(STATUS_CORRUPT, "not aligned as asked");
        object_write(slot);
    }
    for (unsigned i = 0; i < SLOTS; i++)
        object_end(&table[i]);
    free(table);
    return steps;
}

/* Zeros are looked for where earlier objects had their stamps, and at every cache line. */
static void expect_zeros(const unsigned char *at, size_t size) {
    uint64_t found, any = 0;
    for (size_t i = 0; i + sizeof found <= size; i += 64) {
        memcpy(&found, at + i, sizeof found);
        any |= found;
    }
    memcpy(&found, at + size - sizeof found, sizeof found);
    if (any | found)
        die(STATUS_CORRUPT, "calloc gave memory that is not zero");
}

static uint64_t calloc_heavy(const struct options *options) {
    enum { SLOTS = 1 << 10 };
    uint64_t steps = scaled(options, 2e6, 1000);
    struct object *table = object_table(SLOTS);
    struct rng rng = rng_new(7);
    for (uint64_t i = 0; i < steps; i++) {
        struct object *slot = &table[rng_below(&rng, SLOTS)];
        object_end(slot);
        /* 32 bytes to 16 KiB, and a table of up to 1 MiB now and then. */
        int big = rng_below(&rng, 1024) == 0;
        uint32_t size = big ? rng_size(&rng, 256 * KIB, 2) : rng_size(&rng, 32, 9);
        *slot = (struct object){present(calloc(size / 8 + 1, 8)), size, (uint32_t)i};
        expect_zeros(slot->at, size);
        object_write(slot);
    }
    for (unsigned i = 0; i < SLOTS; i++)
        object_end(&table[i]);
    free(table);
    return steps;
}

const struct pattern size_patterns[] = {
    {"realloc-growth", realloc_growth},
    {"large-blocks", large_blocks},
    {"small-among-large", small_among_large},
    {"aligned", aligned},
    {"calloc-heavy", calloc_heavy},
    {NULL, NULL},
};
