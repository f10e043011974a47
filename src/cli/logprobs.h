/* How likely each token of an answer was, and which others were likelier or nearly so. */
#ifndef TANDEM_CLI_LOGPROBS_H
#define TANDEM_CLI_LOGPROBS_H

#include "src/cli/json.h"
#include "src/text/tokenizer.h"

#define MAX_TOP 64

/* Natural logarithms of probabilities, of the model's own distribution: before temperature, penalties,
 * grammar. */
struct token_logprobs {
    int32_t id;
    float logprob;
    int32_t top_ids[MAX_TOP]; /* [n_top] best first */
    float top[MAX_TOP];
};

/* Zeroed with n_top set is ready; release in any case. */
struct logprobs {
    int n_top; /* 1 .. MAX_TOP */
    bool (*sink)(void *ctx, const struct token_logprobs *t, struct error *err); /* may be NULL */
    void *ctx;
    struct token_logprobs *list; /* [n] owned */
    size_t n, capacity;
    float *logits; /* [n_vocab] owned: of the next token */
    int n_vocab;
};

/* The logits from which a token will be chosen; then the token. ERR_FIT. */
bool logprobs_observe(struct logprobs *l, const float *logits, int n_vocab, struct error *err);
bool logprobs_take(struct logprobs *l, int32_t id, struct error *err);
void logprobs_release(struct logprobs *l);

/* {"token", "id", "logprob", "top": [{"token", "id", "logprob"}]} */
struct json *logprobs_json(const struct logprobs *l, const struct token_logprobs *t,
                           const struct tokenizer *tokenizer);

#endif
