/* Bytes of a model's files into memory, by several threads.
 *
 * A copy into fresh memory costs a page fault, the kernel's zeroes and the copy itself for each page,
 * and a disk answers many requests at a time faster than one; so the work, a list of extents, is
 * dealt out in pieces of some MiB to a team of readers. The calling thread reads nothing: it tells
 * how far they are and carries the wish to stop, however slow the disk is. */
#ifndef TANDEM_MODEL_READER_H
#define TANDEM_MODEL_READER_H

#include "src/model/model.h"

/* Direct reads want offset, length and address to be multiples of this. */
#define DIRECT_ALIGN ((size_t)4096)

/* `bytes` from `offset` of a shard. Read to `to`, or where `to` is NULL made present in the mapping
 * of the shard. */
struct extent {
    int shard;
    uint64_t offset;
    size_t bytes;
    char *to;
};

struct reading {
    const struct gguf *gguf;
    const struct extent *extents;
    size_t n_extents;
    bool direct;     /* past the page cache; where a file system refuses, through it, with a note */
    bool drop_cache; /* give the page cache behind a copy back */
    load_progress *progress; /* may be NULL; called in the calling thread */
    void *ctx;
    uint64_t done, total; /* what progress is told: bytes before this reading, and in all */
};

/* Direct reads go straight to their place where `to` and `offset` agree modulo DIRECT_ALIGN, else
 * through a small buffer. ERR_INTERRUPTED when progress returned false, ERR_RUN when a file is
 * shorter than it was or cannot be read, ERR_FIT. All readers have stopped on return; r->done counts
 * what was read. */
bool reading_run(struct reading *r, struct error *err);

#endif
