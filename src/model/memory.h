/* How much memory this process may still take. */
#ifndef TANDEM_MODEL_MEMORY_H
#define TANDEM_MODEL_MEMORY_H

#include <stdint.h>

/* The smallest of: what the system calls available (free memory and page cache that can be dropped),
 * and what the limits of our control groups (versions 1 and 2, every level) leave, page cache counted
 * as free there too. UINT64_MAX when nothing can be found out. */
uint64_t memory_available(void);

/* The two apart, from /proc and /sys below `root` ("" but in tests). */
struct memory_left {
    uint64_t system, group; /* UINT64_MAX: unknown, no limit */
};
struct memory_left memory_left(const char *root);

#endif
