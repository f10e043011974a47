/* The public boundary: an engine is a loaded model on its devices, a session is one timeline that
 * owns a cache. Callers hand over whole token prefixes; the session decides what to reuse.
 *
 * One engine may serve several sessions, one call at a time (a session borrows the engine's working
 * memory during a call). Nothing is allocated after session_open returned, except that session_eval
 * holds the logits of one batch while it runs, and a GPU records the first steps. After these decoding takes no page fault
 * either, unless the weights are mapped and do not fit. */
#ifndef TANDEM_ENGINE_ENGINE_H
#define TANDEM_ENGINE_ENGINE_H

#include <stdatomic.h>

#include "src/model/placement.h"

struct engine;
struct session;
struct gpu_info; /* gpu/gpu.h */
struct observer; /* src/engine/observe.h */

/* How the GPU hands routed experts to the CPU: src/engine/hybrid.h. */
enum handoff_way { HANDOFF_AUTO, HANDOFF_STOP, HANDOFF_CALLBACK, HANDOFF_FLAGS };

/* What each way takes per layer, in microseconds; 0: not measured, or it does not work here. */
struct handoff_rates {
    double stop_us, callback_us; /* queued one by one ... */
    double recorded_us, flags_us; /* ... and as one graph per token: callbacks, flags */
};

/* Whether the trunk goes to a GPU: never; when there is one that can hold it; or else fail. */
enum gpu_use { GPU_NEVER, GPU_AUTO, GPU_MUST };

/* Whether routed experts are sent to the GPU while a prompt is read: where the rates say that it pays. */
enum upload_use { UPLOAD_AUTO, UPLOAD_NEVER, UPLOAD_ALWAYS };

struct engine_options {
    int n_threads;          /* 0: cpu_usable_cores() */
    unsigned isa;           /* allowed kernels, bits of cpu/features.h; 0 with isa_given: plain C */
    bool isa_given;         /* false: everything this CPU has */
    enum numerics numerics;
    bool act_f32;           /* reference path: F32 activations and cache */
    int n_batch;            /* most tokens per step, 0: 512 to 2048 by experts and memory */
    enum load_mode load;
    int n_nodes;            /* parts for NUMA nodes that routed experts are copied to; 0: as the
                             * machine has; more than it has: for tests */
    bool lazy;              /* of LOAD_MMAP: nothing is read before it is used */
    const char *draft_model; /* file of a block for multi-token prediction; NULL: what the model has */
    bool unfinished;        /* the path is a name to be: gguf_open_unfinished */
    bool lock;              /* keep the weights from being paged out, where the system allows it */
    enum gpu_use gpu;
    int gpu_index;          /* which card */
    int gpu_layers;         /* with GPU_MUST: trunk of so many layers there, the last ones; 0: all */
    uint64_t max_vram_bytes; /* most of the card's memory to take; 0: what is free */
    int expert_moves;       /* experts copied to the card per step at most; 0: by the rates */
    enum upload_use upload;
    const struct rates *rates; /* of this machine; borrowed during engine_open; NULL: nobody knows */
    enum handoff_way handoff; /* HANDOFF_AUTO: the fastest here, by a short probe */
    double gpu_patience_s;  /* a card that is silent for longer is given up; 0: two minutes */
    int64_t n_ctx;          /* what the first session will ask for: refused before loading when it
                               does not fit; 0: nobody knows, CONTEXT_TRAINED: as trained */
    uint64_t max_ram_bytes; /* most main memory to take; 0: what is free */
    const struct observer *observer; /* told what every matrix is multiplied with; then without a
                               GPU, whatever `gpu` says; borrowed; may be NULL */
    const struct placement_wishes *wishes; /* what the options above do not say; borrowed
                               during engine_open; NULL: nothing */
    load_progress *progress; /* may be NULL */
    void *progress_ctx;
};

#define CONTEXT_TRAINED (-1)

/* The wishes that these options come to: what engine_open would place by, for `plan`. Borrows
 * *o and the rules. */
struct placement_wishes engine_wishes(const struct engine_options *o, const struct model *m);

/* Some architectures can be planned and inspected only: ERR_FILE. */
bool engine_can_run(const struct model *m, struct error *err);

/* Load a model. ERR_FILE, ERR_INTERRUPTED, with GPU_MUST ERR_DEVICE; ERR_FIT before anything is read when its placement does
 * not fit. engine_close accepts NULL. */
bool engine_open(struct engine **out, const char *path, const struct engine_options *o,
                 struct error *err);
void engine_close(struct engine *e);
const struct model *engine_model(const struct engine *e);
const struct placement *engine_placement(const struct engine *e); /* the table it was loaded by */
int engine_threads(const struct engine *e);
int engine_batch(const struct engine *e); /* most tokens per step */
int engine_nodes(const struct engine *e); /* memory nodes that share the routed experts; at least 1 */
unsigned engine_isa(const struct engine *e);
/* Instruction sets that nearly every machine has, for numbers that another one shall reproduce to the
 * bit where it can. */
unsigned engine_common_isa(void);
/* The card that computes the trunk; NULL: the CPU does. With GPU_AUTO a card that fails is given up:
 * one warning, and sessions go on on the CPU, whose cache they fill from their tokens first. */
const struct gpu_info *engine_gpu(const struct engine *e);
/* How it hands experts to the CPU: HANDOFF_AUTO when there is nothing to hand over. *rates: what was
 * measured to choose it. */
enum handoff_way engine_handoff(const struct engine *e, struct handoff_rates *rates);

/* Go on with other numbers of threads and tokens per step (0: as in engine_options); no session may
 * be open. ERR_USAGE, ERR_FIT: only engine_close may follow. */
bool engine_retune(struct engine *e, int n_threads, int n_batch, struct error *err);

/* Guesses by the model's block for multi-token prediction: up to DRAFT_MOST tokens are computed
 * together with the one before them, and used when the caller chooses just those. As many as given,
 * or as many as the measured times say that pay, which may be none (src/engine/break_even.h). */
enum draft_use { DRAFT_AUTO = -1, DRAFT_OFF, DRAFT_ONE, DRAFT_TWO, DRAFT_THREE };
#define DRAFT_MOST DRAFT_THREE

/* What the caller would choose next, were these the logits [n_vocab] (they may be overwritten), behind
 * the timeline, the token that is just appended, and `ahead` [n_ahead], which are guesses too; negative:
 * nothing would be appended there, so that there is nothing to guess. The closer to what it will choose,
 * the better the guess: nothing else depends on it. */
typedef int32_t draft_chooser(void *ctx, float *logits, const int32_t *ahead, int n_ahead);

struct session_options {
    int64_t n_ctx;             /* positions; 0: the largest that fits, at most 32768 and the trained length */
    const atomic_int *cancel;  /* non-zero stops a running call soon: ERR_INTERRUPTED; may be NULL */
    enum mla_form mla_form;
    enum draft_use draft;      /* DRAFT_AUTO: nothing where model, device or memory do not allow it;
                                  a number: then ERR_USAGE or ERR_FIT */
    draft_chooser *choose;     /* NULL: the highest logit */
    void *choose_ctx;
};

/* Why a session drafts as it does: told to; still measures plain steps; it pays; no length pays; trials
 * have cost their share, and plain steps make up for it. */
enum draft_reason { DRAFT_FIXED, DRAFT_MEASURES, DRAFT_PAYS, DRAFT_LOSES, DRAFT_RECOVERS };

/* What drafting has done since session_open. */
struct draft_report {
    bool available;            /* this session can draft */
    enum draft_use use;        /* as asked for */
    int length;                /* guesses per step, now */
    enum draft_reason reason;
    int64_t n_guesses, n_accepted;
    int64_t guesses[DRAFT_MOST], accepted[DRAFT_MOST]; /* the same, of the first, second .. in a step */
    int64_t n_steps[DRAFT_MOST + 1]; /* of decode, with 0, 1 .. guesses */
    double step_s[DRAFT_MOST + 1];   /* per step, recent; 0: there was none */
    int64_t n_off; /* times that DRAFT_AUTO has given guessing up because it did not pay */
    double gain; /* speed of the best length against plain decoding by these; 0: not known */
};
void session_draft_report(const struct session *s, struct draft_report *r);
/* Tokens per step so far; 1 without guesses. */
double draft_tokens_per_step(const struct draft_report *r);

/* ERR_FIT with the needed and available bytes when the cache does not fit. */
bool session_open(struct session **out, struct engine *e, const struct session_options *o,
                  struct error *err);
void session_close(struct session *s);

/* By the plan: would there be room for a session of n_ctx positions if s were closed, and with a GPU
 * the engine opened anew for it? ERR_FIT with the numbers (err may be NULL). */
bool session_could_hold(const struct session *s, int64_t n_ctx, struct error *err);
/* The sessions of an engine on the CPU are of n_ctx positions from now on: engine_placement tells
 * of that. ERR_FIT without memory for the table. With a GPU the table stays. */
bool engine_replan(struct engine *e, int64_t n_ctx, struct error *err);
int64_t session_n_ctx(const struct session *s);
int64_t session_n_past(const struct session *s);         /* tokens in the cache */
const int32_t *session_tokens(const struct session *s);  /* [n_past] */

/* Called after each batch of a long prefill; return false to cancel. */
typedef bool prefill_progress(void *ctx, int64_t done, int64_t total);

/* Bring the timeline to exactly tokens[0 .. n-1], keeping the longest common prefix of what is
 * cached (at least the last token is computed), and leave the logits of the last token.
 * ERR_USAGE when n is 0, exceeds n_ctx or an id is outside the vocabulary; ERR_INTERRUPTED when
 * cancelled: the session then holds the tokens that were completed (session_n_past). */
bool session_prefill(struct session *s, const int32_t *tokens, int64_t n,
                     prefill_progress *progress, void *ctx, struct error *err);

/* For measuring: bring the timeline to tokens[0 .. n-1], of which only the first n_real are read. What
 * the others would have left in the cache are copies of those' rows (kvcache_repeat), so that a step
 * behind them costs what it costs behind a real context while its logits mean nothing. Drafts do not
 * see them. Errors as session_prefill. */
bool session_pretend(struct session *s, const int32_t *tokens, int64_t n, int64_t n_real,
                     prefill_progress *progress, void *ctx, struct error *err);

/* Append one token and compute its logits. ERR_USAGE when the context is full. A session that drafts
 * may compute guessed successors in the same step: they stay invisible until the next calls append
 * just those tokens, which then costs nothing. */
bool session_decode(struct session *s, int32_t token, struct error *err);

/* [n_vocab] of the last token, writable (samplers overwrite them); valid until the next call. */
float *session_logits(struct session *s);

/* Forget everything from position n on. */
void session_truncate(struct session *s, int64_t n);

/* Append tokens in batches of n_batch (0: the engine's) and hand over the logits of every one, in
 * order: rows [n_rows, n_vocab]. The sink returns false to stop (ERR_INTERRUPTED unless it set err). */
typedef bool logits_sink(void *ctx, int64_t first, int n_rows, const float *rows,
                         struct error *err);
bool session_eval(struct session *s, const int32_t *tokens, int64_t n, int n_batch,
                  logits_sink *sink, void *ctx, struct error *err);

/* Ask the weights' file once: ERR_RUN when it shrank or became unreadable under us. Called by the
 * functions above after every step. */
bool engine_check_files(const struct engine *e, struct error *err);

/* Routed experts on the GPU beside those of the CPU, since engine_open. */
struct expert_report {
    int64_t n_slots;          /* experts per layer that it can hold */
    uint64_t n_picks, n_hits; /* of the router in layers with slots, and those that were there */
    uint64_t n_moves, moved_bytes; /* copied there while decoding */
    uint64_t n_sent, sent_bytes;   /* sent for one step each, while reading prompts */
    uint64_t n_sent_picks;         /* that those answered */
    uint64_t n_cpu_picks;          /* that the CPU answered, in layers of the GPU */
};
/* False: no expert was there. */
bool engine_expert_report(const struct engine *e, struct expert_report *r);
/* Share of the picks that the slots answered; NAN: there were none. */
double expert_hit_rate(const struct expert_report *r);

/* How often the router has chosen each routed expert since engine_open. What was computed and then
 * dropped, such as a wrong guess, counts too. Layers whose experts all lie on a card stay 0: nobody
 * here sees their picks. Borrowed from the engine; read it between calls. */
struct pick_counts {
    int n_layers, n_routed; /* layers that have routed experts; 0: none does */
    const int *layers;      /* [n_layers]: their numbers in the model */
    const uint32_t *n;      /* [n_layers, n_routed] */
};
struct pick_counts engine_picks(const struct engine *e);

/* Where the time of a session's steps has gone since it was opened. */
struct session_times {
    struct phase_clock decode, prefill;
    double draft_s;  /* of decode: guessing, before the steps that carry the guesses */
    int64_t n_steps; /* of decode, each for one token and its guesses */
    int64_t n_read;  /* tokens of prefill */
};
const struct session_times *session_times(const struct session *s);

/* Memory for people and for plan. */
struct memory_report {
    uint64_t mapped_bytes;     /* weights read from the file */
    uint64_t copied_bytes;     /* weights in our own memory */
    uint64_t gpu_bytes;        /* weights in the GPU's memory; cache and work are there too, then */
    uint64_t expert_bytes;     /* room for copies of routed experts there */
    uint64_t cache_bytes, work_bytes;
};
void session_memory(const struct session *s, struct memory_report *r);

#endif
