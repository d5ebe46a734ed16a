/* malloc and free of one size, to count their instructions.
 *
 * pairs          one object at a time
 * pairs-batch    64 at a time, freed in the order in which they were made, while 100 stay
 * *-empty        the same loops around functions that do nothing
 * *-stepped      the same loops in a child that its parent has executed one instruction after the
 *                other; prints how many `instructions` that were. Slow, but it counts allocators
 *                that do not run under valgrind.
 */
#include "common.h"

#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

static void *take_nothing(size_t size) {
    (void)size;
    return NULL;
}

static void give_nothing(void *at) {
    (void)at;
}

typedef void *take_fn(size_t size);
typedef void give_fn(void *at);

/* No stamps: the instructions between the calls are to be few and always the same. */
static uint64_t call_pairs(const struct options *options, take_fn *volatile take,
                           give_fn *volatile give) {
    for (uint64_t i = 0; i < options->count; i++)
        give(take(options->size));
    return options->count;
}

enum { STAY = 100, TOGETHER = 64 };

/* Some stay, as in a real program, so that nothing becomes empty between two calls. */
static uint64_t call_batches(const struct options *options, take_fn *volatile take,
                             give_fn *volatile give) {
    void *stay[STAY], *together[TOGETHER];
    for (int i = 0; i < STAY; i++)
        stay[i] = take(options->size);
    for (uint64_t round = 0; round < options->count / TOGETHER; round++) {
        for (int i = 0; i < TOGETHER; i++)
            together[i] = take(options->size);
        for (int i = 0; i < TOGETHER; i++)
            give(together[i]);
    }
    for (int i = 0; i < STAY; i++)
        give(stay[i]);
    return options->count;
}

static uint64_t pairs(const struct options *options) {
    return call_pairs(options, malloc, free);
}

static uint64_t pairs_empty(const struct options *options) {
    return call_pairs(options, take_nothing, give_nothing);
}

static uint64_t pairs_batch(const struct options *options) {
    return call_batches(options, malloc, free);
}

static uint64_t pairs_batch_empty(const struct options *options) {
    return call_batches(options, take_nothing, give_nothing);
}

/* Runs a loop in a child, step by step. */
static uint64_t stepped(const struct options *options, pattern_fn *loop) {
    int status;
    uint64_t steps = 0;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        raise(SIGSTOP);
        loop(options);
        _exit(0);
    }
    if (child < 0 || waitpid(child, &status, 0) != child || !WIFSTOPPED(status))
        die(STATUS_SYSTEM, "no child could be traced");
    for (;;) {
        /* What stops it now is a step, or a signal that kills it if it is passed on. */
        int signal = WSTOPSIG(status) == SIGTRAP || WSTOPSIG(status) == SIGSTOP ? 0 : WSTOPSIG(status);
        if (ptrace(PTRACE_SINGLESTEP, child, NULL, (void *)(intptr_t)signal) != 0 ||
            waitpid(child, &status, 0) != child)
            die(STATUS_SYSTEM, "the child could not be stepped");
        if (!WIFSTOPPED(status))
            break;
        steps++;
    }
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        die(STATUS_CORRUPT, "the child did not come to its end");
    printf("instructions %llu\n", (unsigned long long)steps);
    return options->count;
}

static uint64_t pairs_stepped(const struct options *options) {
    return stepped(options, pairs);
}

static uint64_t pairs_batch_stepped(const struct options *options) {
    return stepped(options, pairs_batch);
}

static uint64_t pairs_empty_stepped(const struct options *options) {
    return stepped(options, pairs_empty);
}

static uint64_t pairs_batch_empty_stepped(const struct options *options) {
    return stepped(options, pairs_batch_empty);
}

const struct pattern pair_patterns[] = {
    {"pairs", pairs},
    {"pairs-empty", pairs_empty},
    {"pairs-batch", pairs_batch},
    {"pairs-batch-empty", pairs_batch_empty},
    {"pairs-stepped", pairs_stepped},
    {"pairs-empty-stepped", pairs_empty_stepped},
    {"pairs-batch-stepped", pairs_batch_stepped},
    {"pairs-batch-empty-stepped", pairs_batch_empty_stepped},
    {NULL, NULL},
};
