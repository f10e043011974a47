/* The engine behind quantize and convert: tensors in, tensors of other types out, in bounded
 * memory.
 *
 * The caller announces every tensor to a gguf_writer, begins it, and describes each one here: a
 * source that yields rows as floats (or, where nothing changes, bytes), the wanted type, and the
 * importance of the columns. The tensors are cut into chunks of whole rows, about a million
 * elements each; every worker of the pool takes the next chunk, reads, checks, encodes, checks
 * again, and writes it at its place:
 *
 *     source.rows -> f32 [n, cols] -> finite? -> quantize per row -> valid blocks? -> write_at
 *
 * A row is encoded whole by one worker from nothing but itself, so the bytes depend neither on the
 * number of threads nor on the chunks. Memory: transcode_memory bytes, whatever the
 * size of the tensors (C-01).
 *
 * With a journal the job can be stopped at any moment, even by SIGKILL, and taken up again: see
 * tools/journal.h. */
#ifndef TANDEM_TOOLS_TRANSCODE_H
#define TANDEM_TOOLS_TRANSCODE_H

#include <stdatomic.h>

#include "src/base/pool.h"
#include "src/format/gguf_write.h"
#include "tools/imatrix.h"
#include "tools/journal.h"

#define TRANSCODE_CHUNK (1 << 20)         /* elements, or one row where rows are longer */
#define TRANSCODE_MAX_COLS (64ll << 20)   /* longest row, because a worker holds it whole */

/* Where a tensor comes from. Both functions are called by many workers at once, each for other
 * rows; `scratch` is the worker's own. */
struct transcode_source {
    /* Rows [row, row + n) over all matrices, as n * cols floats. */
    bool (*rows)(const void *ctx, int64_t row, int64_t n, float *out, void *scratch,
                 struct error *err);
    /* n finished bytes of the tensor from byte `at`, whole rows; only for tensors that are
     * copied. */
    bool (*bytes)(const void *ctx, uint64_t at, size_t n, void *out, void *scratch,
                  struct error *err);
    const void *ctx;
    size_t scratch_per_element; /* bytes of scratch wanted for each element asked for … */
    size_t scratch_bytes;       /* … and beside them, however few are asked for */
};

struct transcode_tensor {
    const char *name;            /* for messages; borrowed */
    size_t index;                /* number in the writer */
    enum tensor_type type;
    int64_t cols, rows;          /* rows over all matrices */
    int64_t matrix_rows;         /* rows of one matrix: row r belongs to matrix r / matrix_rows */
    bool copy;                   /* take source.bytes as they are */
    const struct imatrix_entry *importance; /* NULL: none */
    struct transcode_source source;
};

struct transcode {
    struct gguf_writer *writer; /* begun */
    struct pool *pool;
    struct transcode_tensor *tensors;
    size_t n_tensors;
    bool replace_nonfinite;     /* NaN becomes 0, an infinity the row's largest finite value */
    struct journal *journal;    /* open; NULL: cannot be resumed */
    double sync_s;              /* between flushes of the journal; 0: two seconds */
    bool verify;                /* read all of it back from the disk at the end and compare */
    int64_t chunk_elements;     /* 0: TRANSCODE_CHUNK */

    /* Called by the calling thread about once per chunk of its own; may be NULL. */
    void (*progress)(void *ctx, uint64_t done_bytes, uint64_t total_bytes);
    void *progress_ctx;
    const atomic_int *cancel;   /* non-zero: stop between chunks, ERR_INTERRUPTED; may be NULL */

    /* Results. */
    uint64_t n_replaced;        /* values that were not finite */
    uint64_t n_chunks, n_taken_up; /* all, and those that an earlier run had finished */
    uint64_t n_verified;           /* chunks read back */
    uint64_t safe_bytes, all_bytes; /* on the disk and in the journal; when all is done */
};

/* A tensor of an open GGUF file as a source. Reads with pread, so that the file does not count as
 * memory of ours. Borrows both structs; `slot` must live as long as the source. */
struct gguf_source {
    const struct gguf *gguf;
    const struct tensor *tensor;
};
struct transcode_source transcode_gguf_source(struct gguf_source *slot, const struct gguf *g,
                                              const struct tensor *t);

/* Write every tensor. The writer is left to the caller to finish, or to release after a failure.
 * ERR_CHECK naming tensor, row and column for a value that is not finite, or for a block
 * that cannot hold its values. */
bool transcode_run(struct transcode *t, struct error *err);

/* Bytes that transcode_run allocates for buffers with this many threads. */
uint64_t transcode_memory(const struct transcode *t, int n_threads);

#endif
