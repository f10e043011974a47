/* Which pages a range of memory really got.
 *
 * Asking for huge pages (madvise) is a wish; the system tells in /proc/self/smaps what came of it. */
#ifndef TANDEM_BASE_PAGES_H
#define TANDEM_BASE_PAGES_H

#include <stdbool.h>
#include <stddef.h>

struct pages {
    size_t resident_bytes; /* in memory now, of all mappings that touch the range */
    size_t huge_bytes;     /* of those, in pages of 2 MiB or more */
};

/* False when the system does not tell (then both are 0). */
bool pages_of(const void *at, size_t bytes, struct pages *p);

/* The same from another file of that form, for tests. */
bool pages_read(const char *path, size_t at, size_t bytes, struct pages *p);

#endif
