/* Importance matrices: how much each input column of a weight matters, from calibration runs.
 *
 * An entry holds, per matrix of a tensor (an expert, a head), the mean over tokens of the squared
 * input per column. Two formats are read, told apart by the GGUF magic: the older .dat and GGUF
 * with NAME.in_sum2 and NAME.counts. The file is untrusted: every count and length is bounded by
 * the bytes that remain, and values must be finite and not negative. It is mapped, not copied.
 * Source of the formats: ggml-org/llama.cpp tools/imatrix. */
#ifndef TANDEM_TOOLS_IMATRIX_H
#define TANDEM_TOOLS_IMATRIX_H

#include "src/format/gguf.h"

struct imatrix_entry {
    struct str name;          /* of the tensor, ".weight" included; borrowed from the file */
    const uint8_t *sums;      /* f32 [n_matrices][cols], unaligned */
    const uint8_t *counts;    /* f32 [n_counts], unaligned, or NULL: `divisor` for all */
    uint64_t n_values;        /* n_matrices * cols */
    uint64_t n_counts;
    float divisor;
    uint64_t n_matrices;      /* set by imatrix_fit; 1 may serve a tensor of many */
    uint64_t n_unseen;        /* matrices without a single token (experts never routed) */
};

/* Zeroed is closed. */
struct imatrix {
    struct gguf gguf;         /* of the newer format */
    const void *bytes;        /* of the older one */
    uint64_t n_bytes;
    int fd;                   /* behind a mapping; -1: the bytes are the caller's */
    struct imatrix_entry *entries; /* sorted by name */
    size_t n_entries;
    struct str dataset;       /* empty when not told */
    uint64_t n_chunks;
    uint32_t crc;             /* of all names and values: which matrix is it? */
};

/* ERR_FILE naming entry and reason. imatrix_close accepts a half-built one. */
bool imatrix_open(struct imatrix *m, const char *path, struct error *err);
/* The same with a file's bytes, borrowed until imatrix_close (tests, fuzzing). */
bool imatrix_open_memory(struct imatrix *m, const void *bytes, size_t size, struct error *err);
void imatrix_close(struct imatrix *m);

/* The entry for a tensor, or for one that sees the same input (attn_v_b and attn_kv_b, gate and up
 * experts); NULL when there is none. *exact tells which. */
const struct imatrix_entry *imatrix_find(const struct imatrix *m, const char *tensor, bool *exact);

/* Does the entry fit n_matrices matrices of `cols` columns? One vector for all of them is accepted,
 * too. Sets n_matrices and n_unseen of *fitted. ERR_FILE with both sizes otherwise. */
bool imatrix_fit(const struct imatrix_entry *e, const char *tensor, uint64_t cols,
                 uint64_t n_matrices, struct imatrix_entry *fitted, struct error *err);

/* Importance of the columns of one matrix; all ones when it was never used. */
void imatrix_row(const struct imatrix_entry *e, uint64_t matrix, int64_t cols, float *out);

#endif
