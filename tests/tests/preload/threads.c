/* Threads that come and go, objects that cross them, forks in the middle of it, destructors that
 * allocate, and signals: with one argument each, the name of the part to run. */
#define _GNU_SOURCE
#include "check.h"
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>

static long resident_kib(void) {
    char line[200];
    long kib = -1;
    FILE *status = fopen("/proc/self/status", "r");
    while (fgets(line, sizeof line, status))
        if (sscanf(line, "VmRSS: %ld", &kib) == 1) break;
    fclose(status);
    return kib;
}

static void use(unsigned seed, int count) {
    void *live[64] = {0};
    for (int i = 0; i < count; i++) {
        seed = seed * 1103515245 + 12345;
        int k = (seed >> 8) % 64;
        size_t size = (seed >> 16) % 3000 + 1;
        if (live[k]) CHECK(*(unsigned char *)live[k] == (unsigned char)k);
        free(live[k]);
        live[k] = malloc(size);
        CHECK(live[k]);
        memset(live[k], k, size);
    }
    for (int k = 0; k < 64; k++) free(live[k]);
}

static void *short_life(void *arg) {
    use((unsigned)(uintptr_t)arg, 50);
    return NULL;
}

/* A hundred thousand threads, eight at a time. */
static void come_and_go(void) {
    long before = 0;
    for (int round = 0; round < 12500; round++) {
        pthread_t threads[8];
        for (long i = 0; i < 8; i++) CHECK(!pthread_create(&threads[i], 0, short_life, (void *)i));
        for (int i = 0; i < 8; i++) pthread_join(threads[i], 0);
        if (round == 6000) before = resident_kib();
    }
    CHECK(resident_kib() < before + 4096);
}

static _Atomic int stop;

static void *until_stopped(void *arg) {
    for (unsigned seed = (unsigned)(uintptr_t)arg; !atomic_load(&stop); seed++) use(seed, 100);
    return NULL;
}

/* Forks while other threads allocate; both processes go on. */
static void forks(void) {
    pthread_t threads[3];
    for (long i = 0; i < 3; i++) pthread_create(&threads[i], 0, until_stopped, (void *)i);
    for (int i = 0; i < 500; i++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            use(i, 200);
            pthread_t thread;
            CHECK(!pthread_create(&thread, 0, short_life, (void *)7));
            pthread_join(thread, 0);
            free(malloc(10 << 20));
            _exit(0);
        }
        use(i, 200);
        int status;
        CHECK(waitpid(child, &status, 0) == child);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    atomic_store(&stop, 1);
    for (int i = 0; i < 3; i++) pthread_join(threads[i], 0);
}

static pthread_key_t keys[3];
static void at_thread_end(void *value) {
    static _Atomic int rounds;
    free(value);
    /* Allocates after the thread's heap may have gone; and once more in the next round. */
    if (atomic_fetch_add(&rounds, 1) % 2 == 0) pthread_setspecific(keys[0], malloc(200));
    use(3, 20);
}

static void *with_keys(void *arg) {
    for (int i = 0; i < 3; i++) pthread_setspecific(keys[i], malloc(100 + i));
    return short_life(arg);
}

static void destructors(void) {
    for (int i = 0; i < 3; i++) pthread_key_create(&keys[i], at_thread_end);
    for (int i = 0; i < 3000; i++) {
        pthread_t thread;
        CHECK(!pthread_create(&thread, 0, with_keys, NULL));
        pthread_join(thread, 0);
    }
}

static volatile sig_atomic_t ticks;
static void tick(int signal) {
    (void)signal;
    ticks++;
}

static void signals(void) {
    signal(SIGALRM, tick);
    struct itimerval every = {{0, 1000}, {0, 1000}};
    setitimer(ITIMER_REAL, &every, NULL);
    pthread_t threads[2];
    for (long i = 0; i < 2; i++) pthread_create(&threads[i], 0, until_stopped, (void *)i);
    while (ticks < 500) use(ticks, 200);
    atomic_store(&stop, 1);
    for (int i = 0; i < 2; i++) pthread_join(threads[i], 0);
    CHECK(ticks >= 500);
}

/* One thread allocates, another frees. */
#define PLACES 1024
static _Atomic(unsigned char *) places[PLACES];
static void *consume(void *arg) {
    (void)arg;
    for (long i = 0; i < 2000000; i++) {
        unsigned char *p;
        while (!(p = atomic_exchange(&places[i % PLACES], NULL))) {}
        CHECK(p[0] == (unsigned char)i);
        free(p);
    }
    return NULL;
}

static void hand_over(void) {
    pthread_t consumer;
    pthread_create(&consumer, 0, consume, NULL);
    for (long i = 0; i < 2000000; i++) {
        unsigned char *p = malloc(i % 500 + 1);
        p[0] = (unsigned char)i;
        while (atomic_load(&places[i % PLACES])) {}
        atomic_store(&places[i % PLACES], p);
    }
    pthread_join(consumer, 0);
    CHECK(resident_kib() < 65536);
}

int main(int argc, char **argv) {
    struct { const char *name; void (*run)(void); } parts[] = {
        {"come-and-go", come_and_go}, {"forks", forks}, {"destructors", destructors},
        {"signals", signals}, {"hand-over", hand_over},
    };
    for (size_t i = 0; argc == 2 && i < sizeof parts / sizeof *parts; i++)
        if (!strcmp(argv[1], parts[i].name)) return parts[i].run(), 0;
    return 2;
}
