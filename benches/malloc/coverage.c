/* Coverage by smaps: of every mapping its resident bytes, and of these how many are in transparent
 * huge pages (of anonymous or shared memory) or in hugetlb pages, which `Rss` does not count.
 *
 * The table lies in a mapping of its own, since what the allocator holds is what is being measured.
 */
#include "coverage.h"

#include "common.h"

#include <sys/mman.h>

enum { MOST = 1 << 16 };

struct mapping {
    uintptr_t start, end;
    uint64_t resident_kib, huge_kib;
    int marked;
};

struct coverage {
    size_t count, latest;
    struct mapping mappings[MOST];
};

static void read_line(struct coverage *coverage, const char *line) {
    unsigned long start, end, kib;
    char key[64];
    if (sscanf(line, "%lx-%lx ", &start, &end) == 2) {
        if (coverage->count < MOST)
            coverage->mappings[coverage->count++] = (struct mapping){start, end, 0, 0, 0};
        return;
    }
    if (coverage->count == 0 || sscanf(line, "%63[^:]: %lu kB", key, &kib) != 2)
        return;
    struct mapping *mapping = &coverage->mappings[coverage->count - 1];
    int hugetlb = !strcmp(key, "Private_Hugetlb") || !strcmp(key, "Shared_Hugetlb");
    if (hugetlb || !strcmp(key, "Rss"))
        mapping->resident_kib += kib;
    if (hugetlb || !strcmp(key, "AnonHugePages") || !strcmp(key, "ShmemPmdMapped"))
        mapping->huge_kib += kib;
}

struct coverage *coverage_new(void) {
    struct coverage *coverage = mmap(NULL, sizeof *coverage, PROT_READ | PROT_WRITE,
                                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    FILE *smaps = fopen("/proc/self/smaps", "r");
    if (coverage == MAP_FAILED || !smaps)
        return NULL;
    char line[4096];
    while (fgets(line, sizeof line, smaps))
        read_line(coverage, line);
    fclose(smaps);
    return coverage;
}

/* The first mapping that ends after `at`; neighbours in time are neighbours in space. */
static size_t mapping_after(const struct coverage *coverage, uintptr_t at) {
    const struct mapping *latest = &coverage->mappings[coverage->latest];
    if (latest->start <= at && at < latest->end)
        return coverage->latest;
    size_t low = 0, high = coverage->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (coverage->mappings[middle].end <= at)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

void coverage_add(struct coverage *coverage, const void *at, size_t size) {
    if (!coverage)
        return;
    uintptr_t start = (uintptr_t)at, end = start + size;
    size_t i = mapping_after(coverage, start);
    if (i < coverage->count)
        coverage->latest = i;
    for (; i < coverage->count && coverage->mappings[i].start < end; i++)
        coverage->mappings[i].marked = 1;
}

double coverage_end(struct coverage *coverage) {
    if (!coverage)
        return -1;
    uint64_t resident = 0, huge = 0;
    for (size_t i = 0; i < coverage->count; i++) {
        const struct mapping *mapping = &coverage->mappings[i];
        if (!mapping->marked)
            continue;
        resident += mapping->resident_kib;
        huge += mapping->huge_kib;
    }
    munmap(coverage, sizeof *coverage);
    return resident == 0 ? -1 : (double)huge / (double)resident;
}
