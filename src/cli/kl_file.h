/* What a model expects of a text, token by token, kept in a file for comparison with other models
 * (tandem eval --kl-base and --kl).
 *
 * All numbers are little-endian.
 *
 *   at  bytes  head
 *    0      8  "TANDEMKL"
 *    8      4  version of this layout: 1
 *   12      4  n_vocab
 *   16      4  window: tokens that were read at a time, beginning with an empty cache
 *   20      4  first: position in a window from which on the next token is scored
 *   24      8  n_windows
 *   32      8  n_text: tokens of the text, of which the windows are the beginning
 *   40      4  CRC-32C of the header (all before the tensors' data) of the model's first file
 *   44      4  CRC-32C of its vocabulary, tokenizer.ggml.tokens as stored; 0: none
 *   48      4  CRC-32C of the token ids
 *   52      4  CRC-32C of bytes 0 .. 51
 *   56         token ids, i32 [n_windows][window]
 *
 *              then a row for each scored position, n_windows * (window - 1 - first) of them
 *    0      4  f32 low
 *    4      4  f32 step: ln p of token v is low + step * q[v], up to rounding by step / 2
 *    8      4  u32 the token with the largest p, the first of equals
 *   12      4  f32 loss: -ln p of the token that follows in the text, not rounded
 *   16      4  CRC-32C of the row without these four bytes
 *   20         u16 q[n_vocab], 0 for the least likely token, 65535 for the likeliest
 *
 * The scale spans all the tokens of a row, so no tail is cut off. Over a span of 40 the step is
 * 6e-4 and the KL divergence of a row from its unrounded self about 2e-8; a mean of 0.15 over 124
 * rows was found 2.4e-6 from that of unrounded rows. */
#ifndef TANDEM_CLI_KL_FILE_H
#define TANDEM_CLI_KL_FILE_H

#include "src/cli/output_file.h"
#include "src/format/gguf.h"

struct kl_head {
    int32_t n_vocab, window, first;
    int64_t n_windows, n_text;
    uint32_t model_crc, vocab_crc;
};

/* One position: ln p over the vocabulary, as stored. */
struct kl_row {
    float low, step, loss;
    int32_t top;
    const uint16_t *q; /* [n_vocab] */
};

/* The two checksums of a model file. */
void kl_identify(const struct gguf *g, uint32_t *model_crc, uint32_t *vocab_crc);

/* Writing: head and ids at once, then the rows in order. Zeroed with file.fd -1 is closed. */
struct kl_writer {
    struct output_file file;
    int32_t n_vocab;
    uint8_t *row;
};
bool kl_create(struct kl_writer *w, const char *path, const struct kl_head *head,
               const int32_t *ids, struct error *err);
/* log_sum: ln of the sum of exp(logits). */
bool kl_append(struct kl_writer *w, const float *logits, double log_sum, double loss,
               struct error *err);
bool kl_finish(struct kl_writer *w, bool ok, struct error *err); /* see output_close */

/* Reading, a row at a time. ERR_FILE when it is another kind of file, cut short, too long or
 * damaged. Zeroed is closed for kl_close. */
struct kl_reader {
    const char *path; /* borrowed */
    int fd;
    bool open;
    struct kl_head head;
    int32_t *ids;     /* [n_windows * window] */
    int64_t n_rows, next;
    uint8_t *row;
};
bool kl_open(struct kl_reader *r, const char *path, struct error *err);
bool kl_next(struct kl_reader *r, struct kl_row *row, struct error *err);
void kl_close(struct kl_reader *r);

/* KL divergence in nats of a model with these logits from the one that wrote the row:
 * sum of p * (ln p - ln q), p of the row, q of the logits; both made to add up to 1. */
double kl_divergence(const struct kl_row *base, const float *logits, double log_sum,
                     int32_t n_vocab);

#endif
