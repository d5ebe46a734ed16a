/* Records that move: an owner with pointers of his own, and compaction. */
#include <bookend.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define RECORDS 40000

struct record {
    uint64_t number;
    char text[232];
};

/* What the owner knows of each record, found by its number. */
struct entry {
    uint64_t handle;
    struct record *at; /* the owner's own pointer */
    int isolated;
};

static struct entry entries[RECORDS];
static long migrated, put_back, reentrant;

#define CHECK(condition)                                                                    \
    do {                                                                                    \
        if (!(condition)) {                                                                 \
            fprintf(stderr, "%s:%d: %s (errno %d)\n", __FILE__, __LINE__, #condition, errno); \
            exit(1);                                                                        \
        }                                                                                   \
    } while (0)

/* Those that refuse stand in the first block; the others can be given back. */
static int is_kept(uint64_t number) {
    return number < 4000 && number % 1000 == 7;
}

static int isolate(void *context, uint64_t handle, void *at) {
    struct record *record = at;
    CHECK(context == entries && entries[record->number].handle == handle);
    CHECK(entries[record->number].at == at);
    if (is_kept(record->number))
        return 1; /* this one stays */
    if (record->number == RECORDS - 8) {
        CHECK(bookend_compact(1 << 20, 1000) == -1 && errno == EDEADLK);
        reentrant++;
    }
    entries[record->number].isolated++;
    return 0;
}

static int migrate(void *context, uint64_t handle, void *old, void *now) {
    struct record *record = now;
    (void)context;
    CHECK(((struct record *)old)->number == record->number);
    CHECK(entries[record->number].handle == handle && entries[record->number].isolated == 1);
    entries[record->number].at = now;
    migrated++;
    return 0;
}

static void over(void *context, uint64_t handle, void *at) {
    struct record *record = at;
    (void)context;
    CHECK(entries[record->number].handle == handle && entries[record->number].at == at);
    entries[record->number].isolated--;
    put_back++;
}

int main(void) {
    struct bookend_callbacks callbacks = {isolate, migrate, over};
    struct bookend_cache *cache =
        bookend_cache_create(sizeof(struct record), 16, &callbacks, entries);
    CHECK(cache != NULL);
    for (uint64_t n = 0; n < RECORDS; n++) {
        entries[n].handle = bookend_cache_alloc(cache);
        CHECK(entries[n].handle != 0);
        entries[n].at = bookend_pin(entries[n].handle);
        CHECK(entries[n].at != NULL);
        entries[n].at->number = n;
        snprintf(entries[n].at->text, sizeof entries[n].at->text, "record %lu", (unsigned long)n);
        CHECK(bookend_unpin(entries[n].handle) == 0);
    }
    /* Most go, a pinned one does not. */
    CHECK(bookend_pin(entries[10].handle) == entries[10].at);
    CHECK(bookend_cache_free(entries[10].handle) == -1 && errno == EBUSY);
    CHECK(bookend_unpin(entries[10].handle) == 0);
    for (uint64_t n = 0; n < RECORDS; n++)
        if (n % 8 != 0 && !is_kept(n)) {
            CHECK(bookend_cache_free(entries[n].handle) == 0);
            CHECK(bookend_cache_free(entries[n].handle) == -1 && errno == ENOENT);
        }
    CHECK(bookend_pin(12345) == NULL && errno == ENOENT);
    struct bookend_cache *odd = bookend_cache_create(64, 65536, NULL, NULL);
    CHECK(odd != NULL && bookend_cache_alloc(odd) == 0 && errno == EINVAL);
    bookend_cache_destroy(odd);

    void *kept = bookend_pin_long_term(entries[16].handle);
    CHECK(kept == entries[16].at);
    int64_t freed = bookend_compact(UINT64_MAX, 10 * 1000 * 1000);
    CHECK(freed >= 3 && migrated > 100 && put_back == migrated);
    CHECK(bookend_unpin(entries[16].handle) == 0);
    for (uint64_t n = 0; n < RECORDS; n += 8) {
        char text[64];
        snprintf(text, sizeof text, "record %lu", (unsigned long)n);
        CHECK(entries[n].at->number == n);
        for (int i = 0; text[i] != 0; i++)
            CHECK(entries[n].at->text[i] == text[i]);
        CHECK(bookend_cache_free(entries[n].handle) == 0);
    }
    bookend_cache_destroy(cache);
    CHECK(reentrant > 0);
    printf("migrated %ld, freed %ld blocks, %ld calls refused\n", migrated, (long)freed, reentrant);
    return 0;
}
