/* bookend.h: what libbookend.so has beyond malloc and its family.
 *
 * The family itself is declared in <stdlib.h> and <malloc.h>, as ever: link with -lbookend, or
 * preload the library under a program that is there already.
 */
#ifndef BOOKEND_H
#define BOOKEND_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The heap at one moment, in bytes. */
struct bookend_stats {
    uint64_t reserved;  /* address space for objects */
    uint64_t committed; /* blocks with memory behind them, used or not */
    uint64_t hugetlb;   /* of these, on hugetlb pages */
    uint64_t small;     /* in slabs, free objects included */
    uint64_t runs;      /* allocations of more than 256 KiB up to 1 MiB */
    uint64_t huge;      /* longer allocations, in whole blocks of 2 MiB */
    uint64_t failures;  /* requests for which there was no memory; a count */
};

/* Fills in the first `size` bytes of `stats`: pass sizeof(struct bookend_stats). */
void bookend_stats(struct bookend_stats *stats, size_t size);

/* Gives free memory back to the system; 1 where there was any, else 0. */
int bookend_trim(void);

/* The library's version, as "0.1.0". */
const char *bookend_version(void);

/* Objects that can be moved, so that memory can be given back in whole blocks.
 *
 * An object is known by a handle, never 0. Its address is had by pinning it, and is good until it is
 * unpinned. An owner with pointers of his own gives callbacks instead, and is asked before his objects
 * move. Functions that fail return NULL, 0 or -1 and set errno: ENOENT where no object has the
 * handle (freed already, or never one), EBUSY where it is pinned, EDEADLK in a callback that would
 * wait for itself, EINVAL for sizes and alignments that cannot be, ENOMEM.
 *
 * Callbacks run on the thread that compacts, one at a time, any thread that calls bookend_compact or
 * bookend_pin_long_term. They may allocate, free and pin; they may not compact, nor leave by longjmp
 * or an exception. Left out ones (NULL) agree. */
struct bookend_callbacks {
    /* May the object move? 0: yes, and nobody follows your pointers to it until put_back. */
    int (*isolate)(void *context, uint64_t handle, void *at);
    /* Its bytes stand at both places; redirect your pointers. Other than 0: it stays at `old`. */
    int (*migrate)(void *context, uint64_t handle, void *old, void *now);
    /* It is over, and the object is at `at`. Once for each isolate that agreed. An object that was
     * freed since then ends when this returns. */
    void (*put_back)(void *context, uint64_t handle, void *at);
};

struct bookend_cache;

/* Objects of `size` bytes, aligned to `align` (a power of two up to 32768). `callbacks` may be NULL;
 * what it points to is copied. They and `context` are to be good for as long as there are objects. */
struct bookend_cache *bookend_cache_create(size_t size, size_t align,
                                           const struct bookend_callbacks *callbacks,
                                           void *context);

/* The objects live on until they are freed. */
void bookend_cache_destroy(struct bookend_cache *cache);

/* A new object of zeros. */
uint64_t bookend_cache_alloc(struct bookend_cache *cache);

/* Frees an object that is not pinned. */
int bookend_cache_free(uint64_t handle);

/* Where the object is, and stays until it is unpinned as often as pinned. */
void *bookend_pin(uint64_t handle);

/* The same, for long: the object goes where it spoils no movable memory first. */
void *bookend_pin_long_term(uint64_t handle);

int bookend_unpin(uint64_t handle);

/* Moves objects together, at most so many bytes and microseconds, and gives blocks of 2 MiB that have
 * become free back to the system. How many these were. */
int64_t bookend_compact(uint64_t bytes_max, uint64_t microseconds_max);

#ifdef __cplusplus
}
#endif

#endif
