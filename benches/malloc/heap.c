/* A heap of 4 GiB, where huge pages count.
 *
 * heap-reads-large   a column or a hash table in one allocation, looked up at random
 * heap-reads-small   a database of records of 64 to 960 bytes, each allocated by itself, looked up at
 *                    random through a table of pointers
 * heap-chase-large   a graph in one allocation: each read tells where the next one is
 * heap-chase-small   a graph of records, each allocated by itself
 * first-touch        a program that takes 4 GiB and writes to every page of it for the first time
 *
 * bring-online       not of any allocator: touches nine tenths of the machine's free memory, so that what
 *                    a virtual machine has never touched does not cost whoever gets it first
 *
 * Looked up, the processor has several reads under way; chased, one. Prints `seconds`, the time of the reads or of the first touch alone, and
 * `coverage`, the part of the heap's resident memory in huge pages.
 */
#include "common.h"

#include "coverage.h"

#include <sys/mman.h>

#define HEAP_BYTES (4096.0 * 1048576.0)

/* The power of two that is not above `wanted`, at least `least` (a power of two itself). */
static uint64_t power_below(double wanted, uint64_t least) {
    uint64_t power = least;
    while ((double)(power * 2) <= wanted)
        power *= 2;
    return power;
}

/* The order of reads: one cycle through all of `count` (a power of two) indices, in which neighbours
 * are far apart. A linear congruential generator has such a cycle (Hull and Dobell 1962), but with
 * regular low bits; mixing before and undoing the mixing after keeps the cycle and loses the regularity. */
struct order {
    uint64_t mask;
    unsigned half; /* at least half of the index's bits, so that the shift undoes itself */
};

static struct order order_new(uint64_t count) {
    unsigned bits = (unsigned)__builtin_ctzll(count);
    return (struct order){count - 1, (bits + 1) / 2};
}

#define ODD UINT64_C(0xd1342543de82ef95)

static uint64_t inverse_of_odd(void) {
    uint64_t inverse = ODD; /* right in three bits; each step of Newton's doubles them */
    for (int i = 0; i < 5; i++)
        inverse *= 2 - ODD * inverse;
    return inverse;
}

static uint64_t after(struct order order, uint64_t index) {
    uint64_t x = (index ^ (index >> order.half)) & order.mask;
    x = (x * inverse_of_odd()) & order.mask;
    x ^= x >> order.half;
    x = (x * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407)) & order.mask;
    x ^= x >> order.half;
    x = (x * ODD) & order.mask;
    return x ^ (x >> order.half);
}

static void print_times(double seconds, double coverage) {
    printf("seconds %.6f\n", seconds);
    if (coverage >= 0)
        printf("coverage %.4f\n", coverage);
}

struct line {
    uint64_t next;
    uint64_t unused[7];
};

/* Links every line to the one read after it, in order of address. */
static struct line *linked_lines(uint64_t lines) {
    struct order order = order_new(lines);
    struct line *heap = present(malloc(lines * sizeof *heap));
    for (uint64_t i = 0; i < lines; i++)
        heap[i].next = after(order, i);
    return heap;
}

static void end_lines(struct line *heap, uint64_t lines, double seconds) {
    struct coverage *coverage = coverage_new();
    coverage_add(coverage, heap, lines * sizeof *heap);
    print_times(seconds, coverage_end(coverage));
    free(heap);
}

static uint64_t reads_large(const struct options *options) {
    uint64_t lines = power_below(HEAP_BYTES / sizeof(struct line) * options->scale, 1 << 12);
    uint64_t reads = scaled(options, 30e6, 1 << 12);
    struct order order = order_new(lines);
    struct line *heap = linked_lines(lines);
    struct rng rng = rng_new(9), again = rng;
    uint64_t sum = 0, expected = 0;
    double begun = seconds_now();
    for (uint64_t i = 0; i < reads; i++)
        sum += heap[rng_below(&rng, (uint32_t)lines)].next;
    double seconds = seconds_now() - begun;
    for (uint64_t i = 0; i < reads; i++)
        expected += after(order, rng_below(&again, (uint32_t)lines));
    if (sum != expected)
        die(STATUS_CORRUPT, "the lines were written by somebody else");
    end_lines(heap, lines, seconds);
    return reads;
}

static uint64_t chase_large(const struct options *options) {
    uint64_t lines = power_below(HEAP_BYTES / sizeof(struct line) * options->scale, 1 << 12);
    uint64_t reads = scaled(options, 6e6, 1 << 12);
    struct order order = order_new(lines);
    struct line *heap = linked_lines(lines);
    uint64_t at = 0, expected = 0;
    double begun = seconds_now();
    for (uint64_t i = 0; i < reads; i++)
        at = heap[at].next;
    double seconds = seconds_now() - begun;
    for (uint64_t i = 0; i < reads; i++)
        expected = after(order, expected);
    if (at != expected)
        die(STATUS_CORRUPT, "the links were written by somebody else");
    end_lines(heap, lines, seconds);
    return reads;
}

struct record {
    struct record *next;
    uint64_t index;
};

/* 64 to 960 bytes in steps of 16, 512 on average. */
static struct record **linked_records(uint64_t count) {
    struct order order = order_new(count);
    struct record **records = present(malloc(count * sizeof *records));
    struct rng rng = rng_new(8);
    for (uint64_t i = 0; i < count; i++) {
        size_t size = 64 + 16 * rng_below(&rng, 57);
        records[i] = present(malloc(size));
        memset(records[i], 0, size);
        records[i]->index = i;
    }
    for (uint64_t i = 0; i < count; i++)
        records[i]->next = records[after(order, i)];
    return records;
}

static void end_records(struct record **records, uint64_t count, double seconds) {
    struct coverage *coverage = coverage_new();
    for (uint64_t i = 0; i < count; i++)
        coverage_add(coverage, records[i], sizeof *records[i]);
    print_times(seconds, coverage_end(coverage));
    for (uint64_t i = 0; i < count; i++)
        free(records[i]);
    free(records);
}

/* Through the table of pointers, which is read at random as well: as a hash table is. */
static uint64_t reads_small(const struct options *options) {
    uint64_t count = power_below(HEAP_BYTES / 512 * options->scale, 1 << 12);
    uint64_t reads = scaled(options, 20e6, 1 << 12);
    struct record **records = linked_records(count);
    struct rng rng = rng_new(10), again = rng;
    uint64_t sum = 0, expected = 0;
    double begun = seconds_now();
    for (uint64_t i = 0; i < reads; i++)
        sum += records[rng_below(&rng, (uint32_t)count)]->index;
    double seconds = seconds_now() - begun;
    for (uint64_t i = 0; i < reads; i++)
        expected += rng_below(&again, (uint32_t)count);
    if (sum != expected)
        die(STATUS_CORRUPT, "the records were written by somebody else");
    end_records(records, count, seconds);
    return reads;
}

static uint64_t chase_small(const struct options *options) {
    uint64_t count = power_below(HEAP_BYTES / 512 * options->scale, 1 << 12);
    uint64_t reads = scaled(options, 6e6, 1 << 12);
    struct order order = order_new(count);
    struct record **records = linked_records(count);
    const struct record *at = records[0];
    uint64_t expected = 0;
    double begun = seconds_now();
    for (uint64_t i = 0; i < reads; i++)
        at = at->next;
    double seconds = seconds_now() - begun;
    for (uint64_t i = 0; i < reads; i++)
        expected = after(order, expected);
    if (at->index != expected)
        die(STATUS_CORRUPT, "the records were written by somebody else");
    end_records(records, count, seconds);
    return reads;
}

static uint64_t first_touch(const struct options *options) {
    enum { PAGE = 4096 };
    uint64_t size = power_below(HEAP_BYTES * options->scale, 1 << 20);
    double begun = seconds_now();
    volatile unsigned char *heap = present(malloc(size));
    for (uint64_t at = 0; at < size; at += PAGE)
        heap[at] = 1;
    double seconds = seconds_now() - begun;
    struct coverage *coverage = coverage_new();
    coverage_add(coverage, (const void *)heap, size);
    print_times(seconds, coverage_end(coverage));
    free((void *)heap);
    return size / PAGE;
}

static uint64_t bring_online(const struct options *options) {
    enum { PAGE = 4096 };
    size_t size = (size_t)(HEAP_BYTES * 1.1 * options->scale);
    unsigned char *at =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED)
        die(STATUS_NO_MEMORY, "no room for what the patterns take");
    madvise(at, size, MADV_HUGEPAGE);
    for (size_t i = 0; i < size; i += PAGE)
        at[i] = 1;
    munmap(at, size);
    return size / PAGE;
}

const struct pattern heap_patterns[] = {
    {"heap-reads-large", reads_large},
    {"heap-reads-small", reads_small},
    {"heap-chase-large", chase_large},
    {"heap-chase-small", chase_small},
    {"first-touch", first_touch},
    {"bring-online", bring_online},
    {NULL, NULL},
};
