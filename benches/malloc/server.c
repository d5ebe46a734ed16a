/* A server that ages.
 *
 * ageing-server: threads answer requests. A request makes a few short-lived objects and a buffer;
 * one in eight replaces an entry of a cache that all threads share, so that entries are mostly freed
 * by another thread than made them. Work comes in phases: in each, entries have other sizes than in
 * the phase before, and the cache shrinks and grows, so that what one phase left behind is no fit
 * for the next. What stays resident shows how well the leftovers are reused.
 */
#include "common.h"

#include <pthread.h>

enum { SHARDS = 64, SHARD_ENTRIES = 2048, PHASES = 10, REQUEST_OBJECTS = 12 };

struct shard {
    pthread_mutex_t lock;
    struct object entries[SHARD_ENTRIES];
};

struct server {
    pthread_barrier_t phase_end;
    uint64_t requests; /* a phase and a thread */
    struct shard shards[SHARDS];
};

/* Sizes of this phase's entries: small, large, mixed, in turn. */
static uint32_t entry_size(struct rng *rng, unsigned phase) {
    switch (phase % 3) {
    case 0:
        return rng_size(rng, 32, 3);
    case 1:
        return rng_size(rng, 512, 4);
    default:
        return rng_size(rng, 48, 7);
    }
}

static void replace_entry(struct server *server, struct rng *rng, unsigned phase, uint32_t id) {
    struct object made = object_new(entry_size(rng, phase), id);
    struct shard *shard = &server->shards[rng_below(rng, SHARDS)];
    /* Every other phase uses half of the cache. */
    uint32_t at = rng_below(rng, phase % 2 ? SHARD_ENTRIES / 2 : SHARD_ENTRIES);
    pthread_mutex_lock(&shard->lock);
    struct object old = shard->entries[at];
    shard->entries[at] = made;
    pthread_mutex_unlock(&shard->lock);
    object_end(&old);
}

static void answer(struct server *server, struct rng *rng, unsigned phase, uint32_t *id) {
    struct object parts[REQUEST_OBJECTS];
    for (unsigned i = 0; i < REQUEST_OBJECTS; i++)
        parts[i] = object_new(rng_size(rng, 16, 5), (*id)++);
    struct object buffer = object_new(rng_size(rng, KIB, 6), (*id)++);
    if (rng_below(rng, 8) == 0)
        replace_entry(server, rng, phase, (*id)++);
    object_end(&buffer);
    for (unsigned i = 0; i < REQUEST_OBJECTS; i++)
        object_end(&parts[i]);
}

/* At the end of odd phases each thread drops its share of the cache's second half. */
static void shrink(struct server *server, const struct worker *worker) {
    for (unsigned s = worker->index; s < SHARDS; s += worker->options->threads)
        for (unsigned i = SHARD_ENTRIES / 2; i < SHARD_ENTRIES; i++)
            object_end(&server->shards[s].entries[i]);
}

static void *serve(void *argument) {
    struct worker *worker = argument;
    struct server *server = worker->shared;
    struct rng rng = rng_new(worker->index);
    uint32_t id = first_id(worker->index);
    for (unsigned phase = 0; phase < PHASES; phase++) {
        for (uint64_t i = 0; i < server->requests; i++)
            answer(server, &rng, phase, &id);
        worker->operations += server->requests * (REQUEST_OBJECTS + 1);
        pthread_barrier_wait(&server->phase_end);
        if (phase % 2 == 0)
            shrink(server, worker);
        pthread_barrier_wait(&server->phase_end);
    }
    return NULL;
}

static uint64_t ageing_server(const struct options *options) {
    struct server *server = present(calloc(1, sizeof *server));
    server->requests = scaled(options, 50e3, 50);
    pthread_barrier_init(&server->phase_end, NULL, options->threads);
    for (unsigned i = 0; i < SHARDS; i++)
        pthread_mutex_init(&server->shards[i].lock, NULL);
    uint64_t operations = run_workers(options, serve, server);
    for (unsigned s = 0; s < SHARDS; s++)
        for (unsigned i = 0; i < SHARD_ENTRIES; i++)
            object_end(&server->shards[s].entries[i]);
    free(server);
    return operations;
}

const struct pattern server_patterns[] = {{"ageing-server", ageing_server}, {NULL, NULL}};
