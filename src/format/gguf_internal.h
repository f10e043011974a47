/* What the files of the GGUF reader share; nobody else includes this.
 *
 *   gguf_file.c   a path becomes mapped bytes: kinds of file, mmap, SIGBUS
 *   gguf_parse.c  bytes become tables: header, metadata, tensors, each check of rules G-10 .. G-35
 *   gguf.c        tables become a model: split sets, directories, lookup
 *   gguf_get.c    typed access to metadata */
#ifndef TANDEM_FORMAT_GGUF_INTERNAL_H
#define TANDEM_FORMAT_GGUF_INTERNAL_H

#include "src/format/gguf.h"

/* Limits on what a file may claim (G-20 .. G-31); beyond them it is refused, whatever its size. */
#define GGUF_MAX_FILE_BYTES (1ull << 62)
#define GGUF_MAX_KV 65536u
#define GGUF_MAX_TENSORS 131072u
#define GGUF_MAX_KEY_BYTES 65535u
#define GGUF_MAX_NAME_BYTES 64u
#define GGUF_MAX_STRING_BYTES (16u << 20)
#define GGUF_MAX_ARRAY_ELEMENTS (1u << 26)
#define GGUF_MAX_DIM (1ull << 40)
#define GGUF_MAX_ELEMENTS (1ull << 46)
#define GGUF_MIN_ALIGNMENT 8u
#define GGUF_MAX_ALIGNMENT 65536u
#define GGUF_MAX_SHARDS 9999

/* The tables of one shard, in its gguf's arena. */
struct gguf_part {
    uint32_t version;
    uint64_t alignment;
    struct gguf_kv *kv;
    uint32_t *kv_index; /* sorted by key */
    uint64_t n_kv;
    struct tensor *tensors;
    uint64_t n_tensors;
};

/* Open and map the file of shard->path into *shard. ERR_FILE with a sentence that says what the
 * file is when it is no regular file or cannot be read. */
bool gguf_file_open(struct gguf_shard *shard, struct error *err);
/* Bytes of fd from the start into anonymous memory, for file systems that refuse to map (G-54). */
void *gguf_file_read_whole(int fd, const char *path, uint64_t size, struct error *err);
void gguf_file_close(struct gguf_shard *shard);
/* True when a page of the shard could not be read; *offset is the first such page. */
bool gguf_file_lost(const struct gguf_shard *shard, uint64_t *offset);

/* Parse the mapped bytes of `shard`, which is number `shard_no`; sets shard->data_start too. */
bool gguf_parse(struct arena *arena, struct gguf_shard *shard, int shard_no, struct gguf_part *part,
                struct error *err);

/* Sorted index over tensor names; false and ERR_FILE when a name occurs twice (G-30). */
bool gguf_index_tensors(struct gguf *g, struct error *err);

/* Little-endian values at any address. */
static inline uint16_t gguf_u16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static inline uint32_t gguf_u32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static inline uint64_t gguf_u64(const uint8_t *p)
{
    return (uint64_t)gguf_u32(p) | (uint64_t)gguf_u32(p + 4) << 32;
}

/* Bytes of one value; 0 for strings and arrays, whose size is in the file. */
uint64_t gguf_type_bytes(enum gguf_type type);

#endif
