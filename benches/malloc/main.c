/* One allocation pattern, once: `malloc-patterns PATTERN [--scale F] [--threads N]`.
 *
 * The allocator is whatever the dynamic linker put in place: LD_PRELOAD chooses it. Prints one
 * `name value` a line: operations done, and the peak of resident memory as the kernel counted it;
 * some patterns add times of their own. Exit status: 0; 1 misuse; 2 out of memory; 3 memory was
 * corrupted; 4 the system refused something else.
 */
#include "common.h"

#include <pthread.h>
#include <time.h>

static const struct pattern *const groups[] = {
    order_patterns,  size_patterns, thread_patterns, sharing_patterns,
    server_patterns, heap_patterns, pair_patterns,
};
enum { GROUPS = sizeof groups / sizeof *groups };

double seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

uint64_t run_workers(const struct options *options, void *(*body)(void *), void *shared) {
    enum { MOST = 32 };
    pthread_t threads[MOST];
    struct worker workers[MOST];
    uint64_t operations = 0;
    for (unsigned i = 0; i < options->threads; i++) {
        workers[i] = (struct worker){options, shared, i, 0};
        if (pthread_create(&threads[i], NULL, body, &workers[i]) != 0)
            die(STATUS_SYSTEM, "no thread could be started");
    }
    for (unsigned i = 0; i < options->threads; i++) {
        pthread_join(threads[i], NULL);
        operations += workers[i].operations;
    }
    return operations;
}

/* The highest resident set of this program, in KiB. Not from getrusage: that one also knows what
 * the process was before exec. */
static void print_peak(void) {
    char line[256];
    FILE *status = fopen("/proc/self/status", "r");
    if (!status)
        return;
    while (fgets(line, sizeof line, status)) {
        unsigned long kib;
        if (sscanf(line, "VmHWM: %lu kB", &kib) == 1)
            printf("peak_kib %lu\n", kib);
    }
    fclose(status);
}

static const struct pattern *find(const char *name) {
    for (unsigned group = 0; group < GROUPS; group++)
        for (const struct pattern *pattern = groups[group]; pattern->name; pattern++)
            if (strcmp(pattern->name, name) == 0)
                return pattern;
    return NULL;
}

static int list(void) {
    for (unsigned group = 0; group < GROUPS; group++)
        for (const struct pattern *pattern = groups[group]; pattern->name; pattern++)
            puts(pattern->name);
    return 0;
}

static int usage(void) {
    fputs("malloc-patterns PATTERN [--scale F] [--threads 1..32] [--size N] [--count N]\n"
          "malloc-patterns --list\n", stderr);
    return 1;
}

int main(int argc, char **argv) {
    struct options options = {1.0, 2, 64, 1000000};
    if (argc == 2 && strcmp(argv[1], "--list") == 0)
        return list();
    const struct pattern *pattern = argc >= 2 ? find(argv[1]) : NULL;
    if (!pattern || argc % 2 != 0)
        return usage();
    for (int i = 2; i + 1 < argc; i += 2) {
        const char *value = argv[i + 1];
        if (strcmp(argv[i], "--scale") == 0)
            options.scale = strtod(value, NULL);
        else if (strcmp(argv[i], "--threads") == 0)
            options.threads = (unsigned)strtoul(value, NULL, 10);
        else if (strcmp(argv[i], "--size") == 0)
            options.size = strtoull(value, NULL, 10);
        else if (strcmp(argv[i], "--count") == 0)
            options.count = strtoull(value, NULL, 10);
        else
            return usage();
    }
    if (!(options.scale > 0) || options.threads < 1 || options.threads > 32)
        return usage();
    printf("operations %llu\n", (unsigned long long)pattern->run(&options));
    print_peak();
    return 0;
}
