/* Bookend: one pool of memory, and its registration with an RDMA device, for many processes.
 *
 * A server owns the pool; workers get it over a Unix socket. Who trusts whom: a worker can read and write all
 * of the pool, use every key of the protection domain and destroy every object in it. Pass it to programs that
 * would be threads of the server if they could. Whoever is killed leaves nothing behind; what is shared is freed
 * with its last user.
 *
 * Functions that can fail return 0 or a number of errno.h; bookend_share_error() has the reason in words, for
 * the calling thread. No function may be called with a pointer that was closed. Link with -lbookend_share. */
#ifndef BOOKEND_SHARE_H
#define BOOKEND_SHARE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Why the last call of this thread failed; good until its next one. Never null. */
const char *bookend_share_error(void);

/* The owner's side. */

typedef struct bookend_share_server bookend_share_server;
typedef struct bookend_share_guest bookend_share_guest;

/* No RDMA device: the memory alone is shared. */
#define BOOKEND_SHARE_NO_DEVICE ((const char *)0)
/* The first RDMA device there is; an error where there is none. */
#define BOOKEND_SHARE_ANY_DEVICE ""

/* Makes a pool of at least that many bytes, of huge pages as far as the machine's pools have them if `huge` is
 * not 0, registers it with the named device (remote reads and writes allowed), and listens at a path, which is
 * removed by bookend_share_close. Who may connect is a matter of the path's permissions. */
int bookend_share_open(const char *path, size_t bytes, int huge, const char *device,
                       bookend_share_server **server);
void *bookend_share_base(const bookend_share_server *server);
size_t bookend_share_bytes(const bookend_share_server *server);
/* Readable when a worker has come; for poll(2). */
int bookend_share_descriptor(const bookend_share_server *server);
/* Waits for the next worker and passes it the pool. ECONNABORTED: it was gone before it had everything. */
int bookend_share_accept(const bookend_share_server *server, bookend_share_guest **guest);
/* Lets go; guests hold the pool and its registration on. Null is nothing. */
void bookend_share_close(bookend_share_server *server);

/* The worker's process, as the kernel says. */
int32_t bookend_share_guest_process(const bookend_share_guest *guest);
/* Whether it has ended or let go. */
int bookend_share_guest_gone(const bookend_share_guest *guest);
/* POLLRDHUP when it has ended; for poll(2). */
int bookend_share_guest_descriptor(const bookend_share_guest *guest);
/* Lets go of what it held. Null is nothing. */
void bookend_share_guest_close(bookend_share_guest *guest);

/* The worker's side. */

typedef struct bookend_share_worker bookend_share_worker;

/* Keys of shared memory. Work requests name memory by the server's address, not by the worker's. */
typedef struct {
    uint32_t lkey;
    uint32_t rkey;
    uint64_t address;
} bookend_share_keys;

/* Takes the pool from the server that listens at a path. ECONNRESET: it did not admit this process. */
int bookend_share_connect(const char *path, bookend_share_worker **worker);
void *bookend_share_worker_base(const bookend_share_worker *worker);
size_t bookend_share_worker_bytes(const bookend_share_worker *worker);
/* 0 while the server is there; ECONNRESET when it is gone. The memory stays mapped all the same. */
int bookend_share_worker_check(const bookend_share_worker *worker);
/* The keys of `bytes` bytes from `start` on, counted from the pool's first; ENOENT where they are not registered
 * together. */
int bookend_share_worker_keys(const bookend_share_worker *worker, size_t start, size_t bytes,
                              bookend_share_keys *keys);
/* Unmaps the pool and lets go of the device. Null is nothing. */
void bookend_share_disconnect(bookend_share_worker *worker);

#ifdef __cplusplus
}
#endif
#endif
