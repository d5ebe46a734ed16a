/* How much of a heap the kernel keeps in huge pages. */
#ifndef BOOKEND_BENCH_COVERAGE_H
#define BOOKEND_BENCH_COVERAGE_H

#include <stddef.h>

struct coverage;

/* Reads /proc/self/smaps. NULL where it cannot be read; the others accept that. */
struct coverage *coverage_new(void);

/* These bytes are of the heap: the mappings that hold them count. */
void coverage_add(struct coverage *coverage, const void *at, size_t size);

/* The part of the resident memory of the marked mappings that is in huge pages, 0 to 1; -1 where
 * that is not known. */
double coverage_end(struct coverage *coverage);

#endif
