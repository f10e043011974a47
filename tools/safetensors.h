/* A Hugging Face checkpoint: a folder of safetensors files, read and checked as a whole.
 *
 * A safetensors file is
 *
 *     u64 N | N bytes of JSON | tensor bytes to the end of the file
 *
 * where the JSON maps names to {"dtype", "shape", "data_offsets": [begin, end]}, offsets relative
 * to the tensor bytes. Large checkpoints are cut into files that model.safetensors.index.json
 * lists. Nothing in these files is trusted: after checkpoint_open every tensor lies inside its
 * file, has as many bytes as its shape and type need, and overlaps no other; names are unique; the
 * index and the files agree in both directions; no file outside of the folder was opened (links of
 * the Hugging Face cache are followed). Bytes are read with pread, so that a bad disk is an
 * ordinary error.
 *
 * Source: huggingface/safetensors, README.md and safetensors/src/tensor.rs. */
#ifndef TANDEM_TOOLS_SAFETENSORS_H
#define TANDEM_TOOLS_SAFETENSORS_H

#include <sys/types.h>

#include "src/base/arena.h"
#include "src/base/util.h"
#include "src/cli/json.h"

#define ST_MAX_DIMS 4

enum st_dtype {
    ST_F32, ST_F16, ST_BF16, ST_F8_E4M3, ST_F8_E8M0,
    ST_BYTE,  /* I8 or U8: here two FP4 numbers */
    ST_I32, ST_I64,
    ST_OTHER, /* other integers, booleans, F64, F8_E5M2: may lie in a file, is never converted */
};

struct st_tensor {
    const char *name;
    const char *dtype_name;
    enum st_dtype dtype;
    int rank;
    uint64_t shape[ST_MAX_DIMS]; /* as stored: the last one is the fastest */
    uint64_t offset, bytes;      /* in the file */
    int file;
    bool used; /* for the caller: something is made of it */
};

struct st_file {
    const char *name;
    int fd;
    uint64_t size;
    dev_t device;
    ino_t inode;
    int64_t changed_ns;
};

struct checkpoint {
    struct arena arena;
    const char *folder;
    int folder_fd;
    struct st_file *files;
    int n_files;
    uint64_t bytes; /* of all files */
    struct st_tensor *tensors; /* sorted by name */
    size_t n_tensors;
};

/* ERR_FILE naming file, tensor and rule; a zeroed struct is closed, a half-opened one can be. */
bool checkpoint_open(struct checkpoint *c, const char *folder, struct error *err);
void checkpoint_close(struct checkpoint *c);

/* NULL when there is none. */
struct st_tensor *checkpoint_find(const struct checkpoint *c, const char *name);

/* Bytes of one element. */
size_t st_dtype_bytes(enum st_dtype dtype);

/* n bytes from byte `at` of a tensor. Thread-safe. What is read of a large checkpoint does not stay
 * in the page cache: 700 GB should not evict everybody else's files. */
bool checkpoint_read(const struct checkpoint *c, const struct st_tensor *t, uint64_t at,
                     void *bytes, size_t n, struct error *err);

/* Are the files still those that were opened: same size, same time of change? ERR_RUN naming the
 * first that is not. */
bool checkpoint_unchanged(const struct checkpoint *c, struct error *err);

/* A JSON file of the folder (at most 64 MiB). NULL without error when it does not exist; the caller
 * frees. */
struct json *checkpoint_json(const struct checkpoint *c, const char *name, struct error *err);
/* A text file of the folder, likewise; *text is freed with mem_free. False only with an error. */
bool checkpoint_text(const struct checkpoint *c, const char *name, char **text, size_t *len,
                     struct error *err);

#endif
