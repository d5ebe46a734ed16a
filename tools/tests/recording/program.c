/* Allocates and frees known numbers of known sizes: before main, in threads that free each other's, in a
 * child after fork, in one after vfork and exec, while exiting, and until it is killed.
 *
 * Sizes tell what is what: 1001 constructor, 1002 main, 1003 threads, 1004 child, 1005 destructor,
 * 1006 kept until the end, 1007 realloc, 1008 calloc, 1009 aligned, 3000000 huge.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MANY = 20000, THREADS = 3 };

static void *volatile sink;

static void pair(size_t size) {
    sink = malloc(size);
    free(sink);
}

__attribute__((constructor)) static void before(void) { pair(1001); }
__attribute__((destructor)) static void after(void) { pair(1005); }

static void *ring[THREADS][MANY];
static pthread_barrier_t barrier;

static void *thread(void *number) {
    long own = (long)number, other = (own + 1) % THREADS;
    for (int i = 0; i < MANY; i++) ring[own][i] = malloc(1003);
    pthread_barrier_wait(&barrier);
    for (int i = 0; i < MANY; i++) free(ring[other][i]);
    return NULL;
}

int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "exit")) return 7;
    for (int i = 0; i < MANY; i++) pair(1002);
    pthread_t threads[THREADS];
    pthread_barrier_init(&barrier, NULL, THREADS);
    for (long i = 0; i < THREADS; i++) pthread_create(&threads[i], NULL, thread, (void *)i);
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    char *kept = malloc(1006);
    if (fork() == 0) {
        for (int i = 0; i < MANY; i++) pair(1004);
        free(kept); /* the parent's: unknown to the child's recording */
        _exit(0);
    }
    wait(NULL);
    if (vfork() == 0) {
        execl(argv[0], argv[0], "exit", NULL);
        _exit(1);
    }
    wait(NULL);
    void *grown = realloc(malloc(16), 1007);
    void *zeroed = calloc(1, 1008), *aligned = NULL;
    if (posix_memalign(&aligned, 256, 1009)) return 1;
    void *huge = realloc(malloc(2000000), 3000000);
    free(grown), free(zeroed), free(aligned), free(huge);
    if (argc > 1 && !strcmp(argv[1], "killed")) kill(getpid(), SIGKILL);
    return 0;
}
