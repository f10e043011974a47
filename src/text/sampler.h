/* Choose the next token from logits: penalties, bias, temperature, top-k, top-p, min-p; seeded.
 *
 * Order: bias, penalties, (temperature 0: arg-max, lowest id on ties), top-k, top-p, min-p,
 * temperature, draw. Same logits, options and seed give the same token on every machine.
 * Nothing is allocated after sampler_open. */
#ifndef TANDEM_TEXT_SAMPLER_H
#define TANDEM_TEXT_SAMPLER_H

#include <stddef.h>
#include <stdint.h>

#include "src/base/error.h"

struct logit_bias {
    int32_t id;
    float bias; /* -INFINITY forbids the token */
};

struct sampler_options {
    float temperature; /* 0: greedy */
    int top_k;         /* 0: off */
    float top_p;       /* 1: off */
    float min_p;       /* 0: off */
    float repeat_penalty;    /* 1: off; divides positive and multiplies negative logits */
    float presence_penalty;  /* 0: off; subtracted once per seen token */
    float frequency_penalty; /* 0: off; subtracted per occurrence */
    int penalty_window;      /* last tokens that count, 64 */
    uint64_t seed;
    const struct logit_bias *bias; /* borrowed until sampler_close */
    int n_bias;
};

struct sampler;

/* Options of a plain run: temperature 0.8 is nobody's; callers fill from file and flags.
 * This gives greedy with everything off. */
struct sampler_options sampler_options_default(void);

/* ERR_USAGE naming the option that is out of range or not finite. */
bool sampler_open(struct sampler **out, const struct sampler_options *o, int n_vocab,
                  struct error *err);
void sampler_close(struct sampler *s);

/* logits [n_vocab] are overwritten. ERR_CHECK when one is NaN or +inf or none is finite; -inf is a
 * token that a grammar forbids. At least one candidate always survives the filters.
 * n_usable: ids from here on are never chosen (padding rows of the output matrix). */
bool sampler_choose(struct sampler *s, float *logits, int n_usable, int32_t *token,
                    struct error *err);

/* What the n_ahead'th sampler_choose from now on would choose from these logits, were `ahead` [n_ahead]
 * appended until then: by the same filters, penalties and random number, so that a guess made with
 * the logits of a draft is right as often as the draft's probabilities are. Nothing is remembered,
 * choices to come are not changed. logits are overwritten; n_ahead is at most SAMPLER_AHEAD. Where
 * sampler_choose would fail, some token. */
#define SAMPLER_AHEAD 8
int32_t sampler_foresee(struct sampler *s, float *logits, int n_usable, const int32_t *ahead,
                        int n_ahead);

/* Tell the sampler what was really appended (prompt tokens too), for the penalties. */
void sampler_accept(struct sampler *s, int32_t token);
void sampler_reset(struct sampler *s); /* forget the history, restart the generator from the seed */

/* Stop strings that may span tokens. Feed bytes; what is returned may be shown: bytes that could
 * still become a stop string are held back. */
struct stop_matcher;
bool stop_open(struct stop_matcher **out, const char *const *strings, int n, struct error *err);
void stop_close(struct stop_matcher *m);
/* Append `len` bytes; *ready borrows the bytes that are now safe to show until the next call.
 * Returns true when a stop string is complete (*ready then ends before it), and from then on.
 * Feeds of up to 4096 bytes never allocate; a longer one that finds no memory ends the text. */
bool stop_feed(struct stop_matcher *m, const char *bytes, size_t len, const char **ready,
               size_t *n_ready);
/* End of the text: everything held back becomes ready. */
void stop_flush(struct stop_matcher *m, const char **ready, size_t *n_ready);

#endif
