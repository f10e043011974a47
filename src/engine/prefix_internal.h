/* What the three files of prefix_file.h share: prefix_file.c (heads, list), prefix_restore.c,
 * prefix_save.c. */
#ifndef TANDEM_ENGINE_PREFIX_INTERNAL_H
#define TANDEM_ENGINE_PREFIX_INTERNAL_H

#include <string.h>

#include "src/engine/draft.h"
#include "src/engine/internal.h"
#include "src/engine/prefix_file.h"
#include "src/engine/prefix_stream.h"

#define PREFIX_HEAD 48
#define PREFIX_SEGMENT 56
#define PREFIX_TAIL 4

struct segment {
    uint64_t at, bytes; /* in the file */
    int64_t from, to;
    int parent;         /* -1: none */
    uint32_t draft;     /* sum of its draft parts; 0: none */
    bool state;
    int64_t newest;     /* of the cache when it was written: what of a ring was overwritten */
    bool damaged;       /* or a segment on its way is */
    int32_t *tokens;    /* [to - from] */
};

struct prefix_file {
    int fd;
    char *path;
    bool writes; /* we hold the lock */
    bool damaged;
    uint64_t end; /* behind the last whole segment */
    uint64_t fingerprint;
    uint32_t parts_sum;
    struct segment *segments;
    int n_segments, capacity;
    uint8_t *buffer; /* [PREFIX_STREAM_BYTES] */
};

static inline void put32(uint8_t *p, uint32_t v)
{
    memcpy(p, &v, 4);
}

static inline void put64(uint8_t *p, uint64_t v)
{
    memcpy(p, &v, 8);
}

static inline uint32_t get32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

static inline uint64_t get64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, 8);
    return v;
}

/* What a row is, and of states and rings how many there are: such parts can take over each other's
 * bytes. Never 0. */
uint32_t prefix_sum(const struct cache_part *parts, int n);

bool prefix_write_head(const struct prefix_file *f, int fd, struct error *err);
void prefix_pack(uint8_t h[PREFIX_SEGMENT], const struct segment *s);

/* List a segment that is in the file; the list owns its tokens then. And forget all of them. */
bool prefix_list(struct prefix_file *f, const struct segment *s, struct error *err);
void prefix_forget(struct prefix_file *f);

/* What of a part a segment holds. A ring is written whole (from 0) where the segment does not go on
 * from the end of another. */
int64_t prefix_ring_from(const struct prefix_file *f, const struct segment *s);
struct cache_range prefix_range(const struct prefix_file *f, const struct segment *s,
                                const struct cache_part *part);

/* The segment whose way holds the longest prefix of tokens, and how long that is; to be restored, it
 * must be where the cache can be brought. -1: none. */
int prefix_longest(const struct prefix_file *f, const struct session_cache *c,
                   const int32_t *tokens, int64_t n, bool restore, int64_t *length,
                   struct error *err);

#endif
