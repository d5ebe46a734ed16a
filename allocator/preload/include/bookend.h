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

#ifdef __cplusplus
}
#endif

#endif
