/* What gguf_write.c (tables and headers) and gguf_write_file.c (files) share. */
#ifndef TANDEM_FORMAT_GGUF_WRITE_INTERNAL_H
#define TANDEM_FORMAT_GGUF_WRITE_INTERNAL_H

#include "src/format/gguf_write.h"

#define WRITE_ALIGNMENT 32 /* W-01 */

struct gguf_writer_kv {
    struct str key;
    struct str value; /* as it will stand in the file, from the value type on */
    bool later;       /* see gguf_writer_later */
    uint64_t at;      /* of the value in the first shard, once there is a header */
};

struct gguf_writer_tensor {
    const char *name;
    enum tensor_type type;
    int n_dims;
    uint64_t ne[TENSOR_MAX_DIMS];
    uint64_t bytes;
    int shard;
    uint64_t offset; /* relative to the shard's data */
};

struct gguf_writer_shard {
    int fd;
    const char *path, *part_path; /* target and hidden name */
    size_t first_tensor, n_tensors;
    uint64_t data_start, size;
    bool renamed;
};

/* Write the value of an entry to its place in the first shard. */
bool gguf_writer_put_value(struct gguf_writer *w, const struct gguf_writer_kv *kv,
                           struct error *err);

/* Divide the tensors into shards and compute every offset. */
bool gguf_writer_layout(struct gguf_writer *w, struct error *err);
/* Header, metadata and tensor table of one shard, padded up to its data; caller frees (mem_free).
 * Sets data_start and size of the shard. */
uint8_t *gguf_writer_header(struct gguf_writer *w, int shard, struct error *err);

#endif
