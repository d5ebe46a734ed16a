/* Objects that cross threads.
 *
 * producer-consumer      a pipeline: one thread makes messages, another reads and frees them
 * threads-come-and-go    a server with a thread a connection, which leaves results behind
 * larson                 a server whose sessions outlive their threads (Larson and Krishnan 1998):
 *                        a thread replaces objects at random, ends, and its successor inherits them
 * xmalloc                a work queue without owners (Lever and Boreham 2000): all threads make
 *                        batches, any thread frees them
 */
#include "common.h"

#include <pthread.h>

enum { BATCH = 128, DEPTH = 32 };

struct batch {
    struct object objects[BATCH];
};

/* A bounded queue of batches between one pair of threads, as in a channel. */
struct channel {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned first, held;
    struct batch ring[DEPTH];
};

static void channel_send(struct channel *channel, const struct batch *batch) {
    pthread_mutex_lock(&channel->lock);
    while (channel->held == DEPTH)
        pthread_cond_wait(&channel->changed, &channel->lock);
    channel->ring[(channel->first + channel->held++) % DEPTH] = *batch;
    pthread_cond_signal(&channel->changed);
    pthread_mutex_unlock(&channel->lock);
}

static void channel_receive(struct channel *channel, struct batch *batch) {
    pthread_mutex_lock(&channel->lock);
    while (channel->held == 0)
        pthread_cond_wait(&channel->changed, &channel->lock);
    *batch = channel->ring[channel->first];
    channel->first = (channel->first + 1) % DEPTH;
    channel->held--;
    pthread_cond_signal(&channel->changed);
    pthread_mutex_unlock(&channel->lock);
}

struct pipeline {
    uint64_t batches;
    struct channel *channels;
};

static void *produce_or_consume(void *argument) {
    struct worker *worker = argument;
    struct pipeline *pipeline = worker->shared;
    struct channel *channel = &pipeline->channels[worker->index / 2];
    struct rng rng = rng_new(worker->index);
    struct batch batch;
    uint32_t id = first_id(worker->index);
    for (uint64_t i = 0; i < pipeline->batches; i++) {
        if (worker->index % 2 == 0) {
            for (unsigned k = 0; k < BATCH; k++)
                batch.objects[k] = object_new(rng_size(&rng, 16, 6), id++);
            channel_send(channel, &batch);
        } else {
            channel_receive(channel, &batch);
            for (unsigned k = 0; k < BATCH; k++)
                object_end(&batch.objects[k]);
            worker->operations += BATCH;
        }
    }
    return NULL;
}

static uint64_t producer_consumer(const struct options *options) {
    struct options even = *options;
    even.threads += even.threads % 2;
    unsigned pairs = even.threads / 2;
    struct pipeline pipeline = {scaled(options, 50e3, 16), NULL};
    pipeline.channels = present(calloc(pairs, sizeof(struct channel)));
    for (unsigned i = 0; i < pairs; i++) {
        pthread_mutex_init(&pipeline.channels[i].lock, NULL);
        pthread_cond_init(&pipeline.channels[i].changed, NULL);
    }
    uint64_t operations = run_workers(&even, produce_or_consume, &pipeline);
    free(pipeline.channels);
    return operations;
}

enum { SHORT_LIVED = 1000, LEFT_BEHIND = 100 };

struct visit {
    struct object left[LEFT_BEHIND];
    unsigned index;
};

/* One connection: works, frees most of it, and leaves something for whoever joins it. */
static void *visitor(void *argument) {
    struct visit *visit = argument;
    struct rng rng = rng_new(visit->index);
    uint32_t id = visit->index * (SHORT_LIVED + LEFT_BEHIND);
    struct object held[16] = {{0}};
    for (unsigned i = 0; i < SHORT_LIVED; i++) {
        struct object *slot = &held[rng_below(&rng, 16)];
        object_end(slot);
        *slot = object_new(rng_size(&rng, 16, 7), id++);
    }
    for (unsigned i = 0; i < LEFT_BEHIND; i++)
        visit->left[i] = object_new(rng_size(&rng, 16, 5), id++);
    for (unsigned i = 0; i < 16; i++)
        object_end(&held[i]);
    return NULL;
}

static uint64_t threads_come_and_go(const struct options *options) {
    uint64_t rounds = scaled(options, 6e3, 8);
    unsigned index = 0;
    pthread_t threads[32];
    struct visit *visits = present(calloc(options->threads, sizeof *visits));
    for (uint64_t round = 0; round < rounds; round++) {
        for (unsigned i = 0; i < options->threads; i++) {
            visits[i].index = index++;
            if (pthread_create(&threads[i], NULL, visitor, &visits[i]) != 0)
                die(STATUS_SYSTEM, "no thread could be started");
        }
        for (unsigned i = 0; i < options->threads; i++) {
            pthread_join(threads[i], NULL);
            for (unsigned k = 0; k < LEFT_BEHIND; k++)
                object_end(&visits[i].left[k]);
        }
    }
    free(visits);
    return (uint64_t)index * (SHORT_LIVED + LEFT_BEHIND);
}

enum { SESSIONS = 5000, GENERATIONS = 100 };

struct heritage {
    struct object *sessions;
    uint64_t steps;
    unsigned generation, line;
    uint32_t id;
};

static void *heir(void *argument) {
    struct heritage *heritage = argument;
    struct rng rng = rng_new(heritage->generation * 64 + heritage->line);
    for (uint64_t i = 0; i < heritage->steps; i++) {
        struct object *session = &heritage->sessions[rng_below(&rng, SESSIONS)];
        object_end(session);
        *session = object_new(rng_size(&rng, 16, 6), heritage->id++);
    }
    return NULL;
}

/* One line of succession; the lines run side by side. */
static void *dynasty(void *argument) {
    struct worker *worker = argument;
    struct heritage heritage = {object_table(SESSIONS), *(uint64_t *)worker->shared, 0,
                                worker->index, first_id(worker->index)};
    for (; heritage.generation < GENERATIONS; heritage.generation++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, heir, &heritage) != 0)
            die(STATUS_SYSTEM, "no thread could be started");
        pthread_join(thread, NULL);
        worker->operations += heritage.steps;
    }
    for (unsigned i = 0; i < SESSIONS; i++)
        object_end(&heritage.sessions[i]);
    free(heritage.sessions);
    return NULL;
}

static uint64_t larson(const struct options *options) {
    uint64_t steps = scaled(options, 100e3, 100);
    return run_workers(options, dynasty, &steps);
}

enum { STACKED = 64 };

struct stack {
    pthread_mutex_t lock;
    unsigned held;
    struct batch batches[STACKED];
    uint64_t rounds;
};

/* Swaps one's own batch for any other; for none while the stack fills. */
static void exchange(struct stack *stack, struct batch *batch, struct rng *rng) {
    pthread_mutex_lock(&stack->lock);
    struct batch mine = *batch;
    if (stack->held < STACKED) {
        stack->batches[stack->held++] = mine;
        memset(batch, 0, sizeof *batch);
    } else {
        struct batch *theirs = &stack->batches[rng_below(rng, STACKED)];
        *batch = *theirs;
        *theirs = mine;
    }
    pthread_mutex_unlock(&stack->lock);
}

static void *exchanger(void *argument) {
    struct worker *worker = argument;
    struct stack *stack = worker->shared;
    struct rng rng = rng_new(worker->index);
    uint32_t id = first_id(worker->index);
    struct batch batch;
    for (uint64_t i = 0; i < stack->rounds; i++) {
        for (unsigned k = 0; k < BATCH; k++)
            batch.objects[k] = object_new(rng_size(&rng, 16, 5), id++);
        exchange(stack, &batch, &rng);
        for (unsigned k = 0; k < BATCH; k++)
            object_end(&batch.objects[k]);
        worker->operations += BATCH;
    }
    return NULL;
}

static uint64_t xmalloc(const struct options *options) {
    struct stack *stack = present(calloc(1, sizeof *stack));
    pthread_mutex_init(&stack->lock, NULL);
    stack->rounds = scaled(options, 80e3, 100);
    uint64_t operations = run_workers(options, exchanger, stack);
    for (unsigned i = 0; i < stack->held; i++)
        for (unsigned k = 0; k < BATCH; k++)
            object_end(&stack->batches[i].objects[k]);
    free(stack);
    return operations;
}

const struct pattern thread_patterns[] = {
    {"producer-consumer", producer_consumer},
    {"threads-come-and-go", threads_come_and_go},
    {"larson", larson},
    {"xmalloc", xmalloc},
    {NULL, NULL},
};
