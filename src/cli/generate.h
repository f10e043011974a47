/* From a prompt to streamed text: prefill, then sample, split thinking from answer, hold back what
 * may become a stop string or the rest of a character, hand over whole pieces. Shared by chat, run,
 * eval. */
#ifndef TANDEM_CLI_GENERATE_H
#define TANDEM_CLI_GENERATE_H

#include "src/cli/load.h"
#include "src/cli/logprobs.h"
#include "src/cli/trace.h"

enum piece_kind { PIECE_THINKING, PIECE_ANSWER };

/* Whole characters only (bytes that can never become one pass as they are). Return false to stop,
 * with err set or not. */
typedef bool piece_sink(void *ctx, enum piece_kind kind, const char *bytes, size_t len,
                        struct error *err);

/* What to do after a Ctrl-C in the middle of thinking. */
enum interrupt_choice { INTERRUPT_STOP, INTERRUPT_GO_ON, INTERRUPT_ANSWER };

struct generate_options {
    int64_t n_predict;     /* -1: no limit */
    int64_t think_budget;  /* -1: no limit */
    bool in_thinking;      /* the prompt opened a thinking block */
    bool plain;            /* no thinking is looked for: everything is answer */
    const char *shown_mark; /* a control token whose text is shown all the same; NULL: none is */
    const char *const *stop;
    int n_stop;
    /* Before the prompt is read, to bring what is kept of it (an error ends the answer), and after
     * every few hundred tokens of it, and all, to keep that. NULL: nothing. */
    bool (*before)(void *keep_ctx, const struct tokens *prompt, struct error *err);
    void (*after)(void *keep_ctx);
    void *keep_ctx;
    struct logprobs *logprobs; /* NULL: nobody asks */
    struct trace *trace;       /* likewise; one that differs from what it wants ends with ERR_CHECK */
    piece_sink *sink;      /* may be NULL */
    enum interrupt_choice (*ask)(void *sink_ctx); /* Ctrl-C during thinking; NULL: it stops */
    void *sink_ctx;
    bool ways_follow;      /* the caller names the ways out of a prompt that is too long */
};

enum finish { FINISH_STOP, FINISH_LENGTH, FINISH_CONTEXT, FINISH_INTERRUPTED };

/* Zeroed is empty; release frees the texts. */
struct generation {
    struct buf answer;   /* what was shown, stop string left out */
    struct buf stored;   /* the answer as generated, for the next turn's prompt */
    struct buf thinking;
    int64_t n_prompt, n_reused, n_generated, n_thinking;
    double prefill_s, decode_s; /* decode: from the first token to the last */
    double loop_s;              /* decode with its last step and everything around the steps */
    struct session_times times; /* of this answer's steps */
    struct draft_report drafted; /* counts of this answer's steps; the rest as it is now */
    enum finish finish;
    bool ended_in_thinking;
};

#define PROMPT_WAY_OUT " (-c N makes it larger)"
/* Does a prompt of n tokens leave room for an answer? ERR_USAGE with the counts, and the way out behind
 * them. */
bool prompt_fits(int64_t n, int64_t n_ctx, const char *way_out, struct error *err);

/* Generate after `prompt`. ERR_USAGE when it does not fit the context; ERR_INTERRUPTED only when
 * cancelled before the first token: later the answer so far is kept and finish says so. */
bool generate(struct loaded *m, const struct tokens *prompt, const struct generate_options *o,
              struct generation *g, struct error *err);
void generation_release(struct generation *g);

/* A draft_chooser, whose ctx is the struct loaded: what would be chosen next in the answer that is being
 * generated, by the rules of its sampler, its grammar and its thinking. -1: the answer would end. */
int32_t generate_foresee(void *loaded, float *logits, const int32_t *ahead, int n_ahead);

double generation_prefill_rate(const struct generation *g); /* tok/s, 0: nothing to measure */
double generation_decode_rate(const struct generation *g);
const char *finish_name(enum finish f); /* "stop", "length", "context", "interrupted" */

#endif
