/* False sharing: two threads' objects on one cache line.
 *
 * false-sharing-active   counters that each thread makes for itself: an allocator that gives
 *                        neighbouring objects to different threads slows all of them
 * false-sharing-passive  counters made by one thread and given to others, which free them and make
 *                        new ones: an allocator that reuses the given ones spreads the sharing
 * (Berger and others, Hoard, 2000: cache-thrash and cache-scratch.)
 */
#include "common.h"

enum { WRITES = 2000, SIZE = 16 };

struct counters {
    uint64_t rounds;
    struct object given[32];
};

/* Counts in the object's second word; the first stays what it was. */
static void count_in(struct object *object) {
    volatile uint64_t *counter = (volatile uint64_t *)(void *)object->at + 1;
    *counter = 0;
    for (uint64_t i = 0; i < WRITES; i++)
        *counter += 1;
    if (*counter != WRITES)
        die(STATUS_CORRUPT, "a counter was written by somebody else");
    object_write(object);
}

static void *counter(void *argument) {
    struct worker *worker = argument;
    struct counters *counters = worker->shared;
    uint32_t id = first_id(worker->index) + 1;
    object_end(&counters->given[worker->index]);
    for (uint64_t i = 0; i < counters->rounds; i++) {
        struct object object = object_new(SIZE, id++);
        count_in(&object);
        object_end(&object);
        worker->operations++;
    }
    return NULL;
}

static uint64_t active(const struct options *options) {
    struct counters counters = {scaled(options, 300e3, 10), {{0}}};
    return run_workers(options, counter, &counters);
}

static uint64_t passive(const struct options *options) {
    struct counters counters = {scaled(options, 300e3, 10), {{0}}};
    for (unsigned i = 0; i < options->threads; i++)
        counters.given[i] = object_new(SIZE, first_id(i));
    return run_workers(options, counter, &counters);
}

const struct pattern sharing_patterns[] = {
    {"false-sharing-active", active},
    {"false-sharing-passive", passive},
    {NULL, NULL},
};
