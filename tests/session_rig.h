/* What tests of a session share: two tiny models, a text, and the logits that a fresh session
 * computes for it, token by token. */
#ifndef TANDEM_TESTS_SESSION_RIG_H
#define TANDEM_TESTS_SESSION_RIG_H

#include <math.h>

#include "src/engine/engine.h"
#include "tests/tiny_model.h"

#define N_VOCAB 320
#define N_CTX 96
#define TOLERANCE 1e-3 /* between ways of computing the same logits, F32; their deviation is 3 */

static char latent_path[256], grouped_path[256];
static int32_t text[N_CTX];

static inline bool open_engine(struct engine **e, const char *path, bool act_f32, struct error *err)
{
    struct engine_options o = { .n_threads = 2, .act_f32 = act_f32, .n_batch = 16 };
    return CHECK_MSG(engine_open(e, path, &o, err), "%s", err->text);
}

static inline bool open_session(struct session **s, struct engine *e, const atomic_int *cancel,
                         struct error *err)
{
    struct session_options o = { .n_ctx = N_CTX, .cancel = cancel };
    return CHECK_MSG(session_open(s, e, &o, err), "%s", err->text);
}

static inline double distance(const float *a, const float *b)
{
    double worst = 0;
    for (int i = 0; i < N_VOCAB; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        if (!(d <= worst))
            worst = d;
    }
    return worst;
}

/* Logits behind text[0 .. n-1] by a fresh session, token by token. */
static inline bool fresh(struct engine *e, const int32_t *tokens, int n, float *out)
{
    struct session *s;
    struct error err = { 0 };
    bool ok = open_session(&s, e, NULL, &err);
    for (int i = 0; ok && i < n; i++)
        ok = CHECK_MSG(session_decode(s, tokens[i], &err), "%s", err.text);
    if (ok)
        memcpy(out, session_logits(s), N_VOCAB * sizeof *out);
    session_close(s);
    return ok;
}

static inline void check_same(struct session *s, struct engine *e, const int32_t *tokens, int n)
{
    float wanted[N_VOCAB];
    CHECK_INT(session_n_past(s), n);
    CHECK(!memcmp(session_tokens(s), tokens, (size_t)n * sizeof *tokens));
    if (fresh(e, tokens, n, wanted)) {
        double d = distance(session_logits(s), wanted);
        CHECK_MSG(d <= TOLERANCE, "logits of %d tokens differ by %g", n, d);
    }
}

struct steps {
    int64_t done[32];
    int n, stop_at;
    atomic_int *cancel;
};

static inline bool note_step(void *ctx, int64_t done, int64_t total)
{
    struct steps *st = ctx;
    (void)total;
    st->done[st->n++] = done;
    if (st->cancel)
        atomic_store(st->cancel, 1);
    return st->n != st->stop_at;
}

/* The text, and both models: are they there? */
static inline bool session_rig_open(void)
{
    for (int i = 0; i < N_CTX; i++)
        text[i] = (i * 53 + 7) % N_VOCAB;
    tiny_path(latent_path, "latent");
    tiny_path(grouped_path, "grouped");
    check_case("the models");
    return tiny_write(latent_path, "--like tiny-v2-lite --generation a") &&
           tiny_write(grouped_path, "--arch llama --type f32");
}

static inline void session_rig_close(void)
{
    unlink(latent_path);
    unlink(grouped_path);
}

#endif
