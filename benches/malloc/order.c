/* One thread, small objects, and the order in which they die.
 *
 * churn-*       a cache with random replacement: an in-memory index, a browser's objects
 * lifo          recursion and parsers: what was made last goes first
 * fifo          queues and logs: what was made first goes first
 * random-order  a large table torn down through a hash: neighbours in time die far apart
 */
#include "common.h"

/* Replaces objects of `slots` at random. */
static uint64_t churn(const struct options *options, uint32_t low, uint32_t doublings,
                      uint32_t slots, double rounds) {
    uint64_t steps = scaled(options, rounds, 1000);
    struct object *table = object_table(slots);
    struct rng rng = rng_new(1);
    for (uint64_t i = 0; i < steps; i++) {
        struct object *slot = &table[rng_below(&rng, slots)];
        object_end(slot);
        *slot = object_new(rng_size(&rng, low, doublings), (uint32_t)i);
    }
    for (uint32_t i = 0; i < slots; i++)
        object_end(&table[i]);
    free(table);
    return steps;
}

static uint64_t churn_tiny(const struct options *options) {
    return churn(options, 8, 3, 1 << 15, 30e6); /* 8 to 64 bytes */
}

static uint64_t churn_small(const struct options *options) {
    return churn(options, 64, 4, 1 << 14, 12e6); /* 64 bytes to 1 KiB */
}

static uint64_t churn_medium(const struct options *options) {
    return churn(options, KIB, 5, 1 << 11, 2e6); /* 1 to 32 KiB */
}

enum { BATCH = 1 << 16 };

static void make_batch(struct object *batch, struct rng *rng) {
    for (uint32_t i = 0; i < BATCH; i++)
        batch[i] = object_new(rng_size(rng, 16, 5), i);
}

static uint64_t batches(const struct options *options, void (*end)(struct object *, struct rng *)) {
    uint64_t rounds = scaled(options, 160, 2);
    struct object *batch = object_table(BATCH);
    struct rng rng = rng_new(2);
    for (uint64_t i = 0; i < rounds; i++) {
        make_batch(batch, &rng);
        end(batch, &rng);
    }
    free(batch);
    return rounds * BATCH;
}

static void end_last_first(struct object *batch, struct rng *rng) {
    (void)rng;
    for (uint32_t i = BATCH; i-- > 0;)
        object_end(&batch[i]);
}

static void end_first_first(struct object *batch, struct rng *rng) {
    (void)rng;
    for (uint32_t i = 0; i < BATCH; i++)
        object_end(&batch[i]);
}

static void end_at_random(struct object *batch, struct rng *rng) {
    for (uint32_t i = BATCH; i > 1; i--) {
        uint32_t other = rng_below(rng, i);
        struct object kept = batch[i - 1];
        batch[i - 1] = batch[other];
        batch[other] = kept;
    }
    end_first_first(batch, rng);
}

static uint64_t lifo(const struct options *options) {
    return batches(options, end_last_first);
}

static uint64_t fifo(const struct options *options) {
    return batches(options, end_first_first);
}

static uint64_t random_order(const struct options *options) {
    return batches(options, end_at_random);
}

const struct pattern order_patterns[] = {
    {"churn-tiny", churn_tiny}, {"churn-small", churn_small}, {"churn-medium", churn_medium},
    {"lifo", lifo},             {"fifo", fifo},               {"random-order", random_order},
    {NULL, NULL},
};
