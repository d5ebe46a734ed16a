/* Memory that cannot be had: a limited address space, and system calls that are refused. */
#define _GNU_SOURCE
#include "check.h"
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

static void exhaust(size_t size) {
    static void *live[200000];
    size_t count = 0;
    errno = 0;
    while (count < 200000 && (live[count] = malloc(size))) memset(live[count++], 1, 1);
    if (!count) fprintf(stderr, "not one of %zu bytes\n", size);
    CHECK(count > 0);
    if (count < 200000) CHECK(errno == ENOMEM);
    for (size_t i = 0; i < count; i += 2) free(live[i]);
    if (size < (1 << 20)) {
        void *again = malloc(size);
        CHECK(again);
        free(again);
    }
    for (size_t i = 1; i < count; i += 2) free(live[i]);
}

/* Holds 48 MiB, half of it in one piece, and ends as it should where it can be had. */
static int hold(void) {
    enum { PIECES = 384, PIECE = 64 << 10 };
    size_t large = (size_t)24 << 20;
    char *pieces[PIECES], *whole = malloc(large);
    if (!whole) return 1;
    memset(whole, 1, large);
    for (int i = 0; i < PIECES; i++) {
        if (!(pieces[i] = malloc(PIECE))) return 1;
        memset(pieces[i], i, PIECE);
    }
    for (int i = 0; i < PIECES; i++) CHECK(pieces[i][PIECE - 1] == (char)i);
    CHECK(whole[large - 1] == 1);
    return 0;
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    if (!strcmp(argv[1], "hold")) return hold();
    if (!strcmp(argv[1], "limit")) {
        /* Set by the shell that began this program, so that it holds from the start. */
        struct rlimit limit;
        getrlimit(RLIMIT_AS, &limit);
        CHECK(limit.rlim_cur != RLIM_INFINITY);
        for (size_t size = 64; size <= (size_t)64 << 20; size *= 16) exhaust(size);
        return 0;
    }
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_madvise, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    CHECK(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    CHECK(!prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
    for (int round = 0; round < 40; round++) {
        char *p = calloc(1, (size_t)(round % 7 + 1) << 20);
        CHECK(p);
        for (size_t i = 0; i < ((size_t)(round % 7 + 1) << 20); i += 4096) CHECK(p[i] == 0);
        memset(p, 1, (size_t)(round % 7 + 1) << 20);
        errno = 77;
        free(p);
        CHECK(errno == 77);
        usleep(30000);
    }
    return 0;
}
