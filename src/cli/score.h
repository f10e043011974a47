/* Running a text through a model window by window and scoring each token by what stood in front of
 * it: the part that perplexity and KL divergence have in common. */
#ifndef TANDEM_CLI_SCORE_H
#define TANDEM_CLI_SCORE_H

#include "src/cli/load.h"
#include "src/cli/term.h"

/* Windows of `window` tokens side by side; in each the positions from `first` on are scored by the
 * token that follows. */
struct windows {
    const int32_t *tokens; /* [n_windows * window] */
    int64_t n_windows, window, first;
};

/* Called for each scored position. log_sum: ln of the sum of exp(logits); loss: -ln p of the next
 * token. May be NULL. */
typedef bool score_sink(void *ctx, const float *logits, double log_sum, double loss,
                        struct error *err);

/* Mean and its standard error of what is added. */
struct mean {
    double sum, sum2;
    int64_t n;
};
void mean_add(struct mean *m, double x);
double mean_of(const struct mean *m, double *error);

struct score {
    struct mean loss;
    score_sink *sink;
    void *ctx;
    /* Text of the running estimate, put in front of the progress bar. */
    void (*describe)(const struct score *s, char *text, size_t size);
};

bool score_windows(struct loaded *m, const struct options *o, const struct windows *w,
                   struct score *s, struct error *err);

/* Perplexity so far and its standard error. */
double score_ppl(const struct score *s, double *error);

#endif
