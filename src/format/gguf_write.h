/* Write a GGUF file, version 3.
 *
 *     struct gguf_writer w = { 0 };
 *     bool ok = gguf_writer_add_str(&w, "general.architecture", "deepseek2", err) &&
 *               gguf_writer_add_tensor(&w, "token_embd.weight", TYPE_F32, 2, ne, err) &&
 *               gguf_writer_begin(&w, path, err) &&
 *               gguf_writer_data(&w, floats, bytes, err) &&      (tensors in the order added)
 *               gguf_writer_finish(&w, err);
 *     gguf_writer_release(&w);
 *
 * All metadata and all tensors are announced before gguf_writer_begin, so the header is complete
 * and final before the first tensor byte. Until gguf_writer_finish the file has a hidden name
 * beside its target (".NAME.part"); a file with the name asked for is always whole and checked by
 * our own reader. Equal input gives equal bytes: keys are put in one order, padding is zero,
 * nothing records the time.
 *
 * A zeroed struct is an empty writer. Adding is single-threaded; gguf_writer_write_at may be called
 * from many threads. Failures: ERR_USAGE for entries that the format forbids, ERR_RUN for the
 * system's, ERR_FIT without memory. */
#ifndef TANDEM_FORMAT_GGUF_WRITE_H
#define TANDEM_FORMAT_GGUF_WRITE_H

#include <stdatomic.h>

#include "src/format/gguf.h"

struct gguf_writer_kv;
struct gguf_writer_tensor;
struct gguf_writer_shard;

struct gguf_writer {
    struct arena arena;
    struct gguf_writer_kv *kv;
    size_t n_kv, room_kv;
    struct gguf_writer_tensor *tensors;
    size_t n_tensors, room_tensors;
    int want_shards;         /* see gguf_writer_split */
    uint64_t max_shard_bytes;
    uint64_t max_shard_tensors;
    struct gguf_writer_shard *shards; /* from begin on */
    int n_shards;
    size_t data_tensor; /* where gguf_writer_data goes on */
    uint64_t data_at;
    atomic_uint_least64_t written_bytes;
    bool keep_parts; /* see gguf_writer_keep */
    bool sparse;     /* see gguf_writer_sparse */
};

/* Metadata. A key is [a-z0-9_.-], at most 65535 bytes; a key given again replaces its value. Empty
 * strings and empty arrays are left out, because several readers choke on them (W-06). */
bool gguf_writer_add_u32(struct gguf_writer *w, const char *key, uint32_t value, struct error *err);
bool gguf_writer_add_u64(struct gguf_writer *w, const char *key, uint64_t value, struct error *err);
bool gguf_writer_add_i32(struct gguf_writer *w, const char *key, int32_t value, struct error *err);
bool gguf_writer_add_f32(struct gguf_writer *w, const char *key, float value, struct error *err);
bool gguf_writer_add_bool(struct gguf_writer *w, const char *key, bool value, struct error *err);
bool gguf_writer_add_str(struct gguf_writer *w, const char *key, const char *value,
                         struct error *err);
bool gguf_writer_add_bytes(struct gguf_writer *w, const char *key, struct str value,
                           struct error *err); /* a string that may contain 0 */
/* `values` are `count` numbers of type `elem` (not string, not array) as C holds them. */
bool gguf_writer_add_array(struct gguf_writer *w, const char *key, enum gguf_type elem,
                           const void *values, size_t count, struct error *err);
bool gguf_writer_add_strings(struct gguf_writer *w, const char *key, const struct str *values,
                             size_t count, struct error *err);

/* Copy one entry, or all but split.*, of an open file unchanged. */
bool gguf_writer_copy_kv(struct gguf_writer *w, const struct gguf_kv *kv, struct error *err);
bool gguf_writer_copy_all_kv(struct gguf_writer *w, const struct gguf *g, struct error *err);
void gguf_writer_remove(struct gguf_writer *w, const char *key);

/* The value of this key, an array of numbers, is a guess: gguf_writer_fill brings the right one when
 * the data is there. gguf_writer_resume does not compare it. */
void gguf_writer_later(struct gguf_writer *w, const char *key);
/* As many numbers of the same type as were added; after gguf_writer_begin. */
bool gguf_writer_fill(struct gguf_writer *w, const char *key, enum gguf_type elem,
                      const void *values, size_t count, struct error *err);

/* Announce a tensor: name of 1 to 63 bytes, 1 to 4 dimensions, rows of whole blocks. */
bool gguf_writer_add_tensor(struct gguf_writer *w, const char *name, enum tensor_type type,
                            int n_dims, const uint64_t *ne, struct error *err);

/* Write a set NAME-00001-of-0000N.gguf instead of one file: `n_shards` of about equal size, or as
 * many as keep each within max_bytes of tensors and max_tensors; 0 means "no such wish". A tensor
 * is never divided, so one larger than max_bytes has a shard for itself. */
void gguf_writer_split(struct gguf_writer *w, int n_shards, uint64_t max_bytes,
                       uint64_t max_tensors);

/* Tensors that nobody writes are holes: the file has its exact size and header but takes no space.
 * For what is read by its header only. */
void gguf_writer_sparse(struct gguf_writer *w);

/* Lay out, create the hidden files, write the headers, reserve the space. An existing target stays
 * as it is until gguf_writer_finish replaces it. */
bool gguf_writer_begin(struct gguf_writer *w, const char *path, struct error *err);

/* The next n bytes of tensor data; tensors follow each other in the order added, padding is not the
 * caller's business. */
bool gguf_writer_data(struct gguf_writer *w, const void *bytes, size_t n, struct error *err);
/* n bytes of tensor number `tensor` (in the order added) from byte `at` of it. Each byte must be
 * written once. Thread-safe. */
bool gguf_writer_write_at(struct gguf_writer *w, size_t tensor, uint64_t at, const void *bytes,
                          size_t n, struct error *err);

/* ---- long jobs that survive a kill ----
 *
 * The caller notes elsewhere what it has written, flushes with gguf_writer_sync before it believes
 * its own notes, and asks for the unfinished files to be kept. The next run adds the same metadata
 * and tensors, calls gguf_writer_resume in place of gguf_writer_begin, checks what it has noted
 * with gguf_writer_read_at and reports it with gguf_writer_trust. */

/* Like gguf_writer_begin; *found tells whether unfinished files of this very layout were there (the
 * same headers, byte for byte, and sizes) and their data is still in place. Others
 * begin anew. */
bool gguf_writer_resume(struct gguf_writer *w, const char *path, bool *found, struct error *err);
/* n bytes of a tensor as they are in the file now. Thread-safe. */
bool gguf_writer_read_at(struct gguf_writer *w, size_t tensor, uint64_t at, void *bytes, size_t n,
                         struct error *err);
/* Count n bytes as written that an earlier run wrote. Thread-safe. */
void gguf_writer_trust(struct gguf_writer *w, uint64_t n);
/* Everything written so far is on the disk when this returns. Thread-safe. */
bool gguf_writer_sync(struct gguf_writer *w, struct error *err);
/* Drop what was written from the system's cache, so that reading it back asks the disk. */
void gguf_writer_forget(struct gguf_writer *w);
/* From now on gguf_writer_release leaves unfinished files for a later gguf_writer_resume. */
void gguf_writer_keep(struct gguf_writer *w);

/* Name of file `shard` (0 .. n_shards - 1), from gguf_writer_begin on. */
const char *gguf_writer_path(const struct gguf_writer *w, int shard);

/* Check that every byte was written, flush, read the tables back, rename; shard 1 gets its name
 * last. */
bool gguf_writer_finish(struct gguf_writer *w, struct error *err);

/* Free everything; unfinished files are removed unless gguf_writer_keep was called. */
void gguf_writer_release(struct gguf_writer *w);

#endif
