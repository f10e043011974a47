/* What tests of drafting with a GPU share: engines and sessions of a tiny model whose guesses are
 * often right, the answer that the CPU gives without guesses, and comparing another session's with
 * it. */
#ifndef TANDEM_TESTS_GPU_DRAFT_RIG_H
#define TANDEM_TESTS_GPU_DRAFT_RIG_H

#include "src/base/util.h"
#include "tests/draft_model.h"
#include "tests/fixture_model.h"
#include "tests/gpu_test.h"

#define N_VOCAB 320
#define N_CTX 96
#define N_PROMPT 21
#define N_ANSWER 30
#define TOLERANCE 1e-3 /* F32 on both sides; the logits' deviation is 3 */

static void (*set_order)(uint64_t);

static int32_t prompt[N_PROMPT];
static int32_t wanted_tokens[N_ANSWER];
static float wanted[N_ANSWER][N_VOCAB], found[N_ANSWER][N_VOCAB];

/* What the block's logits were when it guessed, one time after the other. */
#define MOST_SEEN 80
struct seen {
    int n;
    float logits[MOST_SEEN][N_VOCAB];
};
static struct seen seen, on_cpu[DRAFT_MOST + 1]; /* of sessions with so many guesses */

static inline int32_t see(void *ctx, float *logits, const int32_t *ahead, int n_ahead)
{
    struct seen *s = ctx;
    (void)ahead, (void)n_ahead;
    if (s->n < MOST_SEEN)
        memcpy(s->logits[s->n++], logits, sizeof s->logits[0]);
    return (int32_t)best(logits, N_VOCAB);
}

static inline void next_order(void)
{
    static uint64_t order;
    if (set_order)
        set_order(order = (order + 1) % 3);
}

static inline struct placement_wishes wishes(bool draft)
{
    struct placement_wishes w = *cpu_experts();
    w.gpu_experts = 0;
    w.draft = draft;
    return w;
}

static inline struct engine *open_engine(const char *path, struct engine_options o)
{
    struct engine *e = NULL;
    struct error err = { 0 };
    o.n_threads = 1;
    o.act_f32 = true;
    o.n_batch = 16;
    o.n_ctx = N_CTX;
    next_order();
    CHECK_MSG(engine_open(&e, path, &o, &err), "%s", err.text);
    return e;
}

static inline struct session *open_session(struct engine *e, enum draft_use use)
{
    struct session *s = NULL;
    struct error err = { 0 };
    struct session_options o = { .n_ctx = N_CTX, .draft = use, .choose = see, .choose_ctx = &seen };
    seen.n = 0;
    CHECK_MSG(e && session_open(&s, e, &o, &err), "%s", err.text);
    return s;
}

/* The prompt and what follows it greedily, but for every seventh token, which is another. Before
 * token `at`, `accident` happens. */
static inline bool answer(struct session *s, float logits[][N_VOCAB], int32_t *tokens, int at,
                   void (*accident)(void))
{
    struct error err = { 0 };
    bool ok = s && CHECK_MSG(session_prefill(s, prompt, N_PROMPT, NULL, NULL, &err), "%s", err.text);
    for (int i = 0; ok && i < N_ANSWER; i++) {
        memcpy(logits[i], session_logits(s), sizeof logits[i]);
        tokens[i] = (int32_t)best(logits[i], N_VOCAB);
        if (i % 7 == 6)
            tokens[i] = (tokens[i] + 11) % N_VOCAB;
        if (accident && i == at)
            accident();
        ok = CHECK_MSG(session_decode(s, tokens[i], &err), "token %d: %s", i, err.text);
    }
    return ok;
}

static inline void check_answer(struct session *s, int at, void (*accident)(void))
{
    int32_t tokens[N_ANSWER];
    if (!answer(s, found, tokens, at, accident))
        return;
    double worst = largest_difference(&found[0][0], &wanted[0][0], N_ANSWER * N_VOCAB);
    CHECK_MSG(worst <= TOLERANCE, "largest logit difference %.3g, allowed %.3g", worst, TOLERANCE);
    CHECK(memcmp(tokens, wanted_tokens, sizeof tokens) == 0);
}

static inline void check_guesses(const struct session *s)
{
    struct draft_report r;
    session_draft_report(s, &r);
    CHECK_MSG(r.n_accepted >= 5 && r.n_accepted < r.n_guesses, "%lld of %lld guesses accepted",
              (long long)r.n_accepted, (long long)r.n_guesses);
}

/* What the block sees follows from the states that steps leave, and shows in its logits. */
static inline void check_like_cpu(int use)
{
    if (!CHECK(seen.n == on_cpu[use].n && seen.n > 10))
        return;
    double worst = largest_difference(seen.logits[0], on_cpu[use].logits[0], seen.n * N_VOCAB);
    CHECK_MSG(worst <= TOLERANCE, "the block's logits differ by %.3g, allowed %.3g", worst, TOLERANCE);
}

/* Write the model to `path` and let the CPU answer, without guesses and with. */
static inline bool gpu_draft_begin(char path[256], const char *name, const char *like, int n_layers)
{
    check_case("%s: a model whose guesses are often right", like);
    tiny_path(path, name);
    if (!draft_model_write(path, like, n_layers))
        return false;
    struct engine *e = open_engine(path, (struct engine_options){ .gpu = GPU_NEVER });
    struct session *s = open_session(e, DRAFT_OFF);
    bool ok = answer(s, wanted, wanted_tokens, 0, NULL);
    session_close(s);
    for (int use = DRAFT_ONE; ok && use <= DRAFT_MOST; use++) {
        s = open_session(e, (enum draft_use)use);
        check_answer(s, 0, NULL);
        on_cpu[use] = seen;
        session_close(s);
    }
    engine_close(e);
    return ok;
}

/* False: the program ends (after a skip or a failure). */
static inline bool gpu_draft_load(void)
{
    if (!gpu_test_load())
        return false;
    gpu_test_hook("cuda_host_order", &set_order);
    for (int i = 0; i < N_PROMPT; i++)
        prompt[i] = (i * 29 + 5) % N_VOCAB;
    return true;
}

#endif
