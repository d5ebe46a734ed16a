/* A server and a worker in C: what each writes the other sees; the end of either shows. */
#include "bookend_share.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(condition)                                                                                    \
    do {                                                                                                    \
        if (!(condition)) {                                                                                 \
            fprintf(stderr, "line %d: %s (%s)\n", __LINE__, #condition, bookend_share_error());             \
            exit(1);                                                                                        \
        }                                                                                                   \
    } while (0)

static void worker(const char *path) {
    bookend_share_worker *worker;
    bookend_share_keys keys;
    CHECK(bookend_share_connect(path, &worker) == 0);
    CHECK(bookend_share_worker_bytes(worker) == 4u << 20);
    volatile char *base = bookend_share_worker_base(worker);
    CHECK(base[5] == 'a' && bookend_share_worker_check(worker) == 0);
    base[6] = 'b';
    CHECK(bookend_share_worker_keys(worker, 0, 5u << 20, &keys) == ENOENT);
    CHECK(strstr(bookend_share_error(), "not registered") != NULL);
    bookend_share_disconnect(worker);
    exit(0);
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    bookend_share_worker *nobody;
    CHECK(bookend_share_connect(argv[1], &nobody) == ENOENT);
    CHECK(strstr(bookend_share_error(), "connect to the server") != NULL);
    bookend_share_server *server;
    CHECK(bookend_share_open(argv[1], 4u << 20, 0, "no_such_device", &server) == EOPNOTSUPP);
    CHECK(bookend_share_open(argv[1], 4u << 20, 0, BOOKEND_SHARE_NO_DEVICE, &server) == 0);
    volatile char *base = bookend_share_base(server);
    CHECK(bookend_share_bytes(server) == 4u << 20 && bookend_share_descriptor(server) >= 0);
    base[5] = 'a';
    pid_t child = fork();
    if (child == 0)
        worker(argv[1]);
    bookend_share_guest *guest;
    CHECK(bookend_share_accept(server, &guest) == 0);
    CHECK(bookend_share_guest_process(guest) == child);
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(bookend_share_guest_gone(guest) && base[6] == 'b');
    bookend_share_guest_close(guest);
    bookend_share_close(server);
    CHECK(access(argv[1], F_OK) != 0);
    return 0;
}
