/* What tests of caches in files share: a tiny model, the file, a text; and to save, restore and go
 * on with every failure told. */
#ifndef TANDEM_TESTS_PREFIX_RIG_H
#define TANDEM_TESTS_PREFIX_RIG_H

#include <sys/stat.h>

#include "src/engine/engine.h"
#include "src/engine/prefix_file.h"
#include "tests/fixture_model.h"
#include "tests/tiny_model.h"

#define N_CTX 96
#define N_SAVED 50
#define N_ALL 60
#define BATCH 16
#define N_VOCAB 320 /* of tiny models */
#define HEAD 48
#define SEGMENT 56

static char tiny[256], store[256];
static int32_t text[N_CTX];

static inline struct engine *engine_of(const char *path, bool act_f32, enum gpu_use gpu)
{
    struct engine *e = NULL;
    struct error err = { 0 };
    struct engine_options o = { .n_threads = 2, .n_batch = BATCH, .act_f32 = act_f32, .gpu = gpu };
    CHECK_MSG(engine_open(&e, path, &o, &err), "%s", err.text);
    return e;
}

static inline struct session *session_of(struct engine *e, int64_t n_ctx, enum draft_use draft)
{
    struct session *s = NULL;
    struct error err = { 0 };
    struct session_options o = { .n_ctx = n_ctx, .draft = draft };
    CHECK_MSG(e && session_open(&s, e, &o, &err), "%s", err.text);
    return s;
}

static inline struct prefix_file *file_of(struct session *s)
{
    struct prefix_file *f = NULL;
    struct error err = { 0 };
    CHECK_MSG(prefix_file_open(&f, store, s, &err), "%s", err.text);
    return f;
}

/* A timeline of n tokens: a prefill, then one by one from `prompt` on. */
static inline bool go_on(struct session *s, const int32_t *tokens, int prompt, int n)
{
    struct error err = { 0 };
    if (prompt > session_n_past(s) &&
        !CHECK_MSG(session_prefill(s, tokens, prompt, NULL, NULL, &err), "%s", err.text))
        return false;
    for (int i = (int)session_n_past(s); i < n; i++)
        if (!CHECK_MSG(session_decode(s, tokens[i], &err), "%s", err.text))
            return false;
    return true;
}

static inline int64_t restored(struct prefix_file *f, struct session *s, const int32_t *tokens, int n)
{
    int64_t n_read = -1;
    struct error err = { 0 };
    CHECK_MSG(prefix_file_restore(f, s, tokens, n, &n_read, NULL, NULL, &err), "%s", err.text);
    if (n_read > 0)
        CHECK(session_n_past(s) <= n &&
              !memcmp(session_tokens(s), tokens, (size_t)session_n_past(s) * sizeof *tokens));
    return n_read;
}

static inline bool save(struct prefix_file *f, struct session *s)
{
    struct error err = { 0 };
    return CHECK_MSG(prefix_file_save(f, s, 0, &err), "%s", err.text);
}

/* Do both compute the same bits from here on? */
static inline void check_alike(struct session *a, struct session *b, const int32_t *tokens, int n,
                        int64_t n_vocab)
{
    CHECK_INT(session_n_past(a), session_n_past(b));
    int before = (int)session_n_past(a);
    if (!go_on(a, tokens, 0, n) || !go_on(b, tokens, 0, n) || before == n)
        return;
    const float *x = session_logits(a), *y = session_logits(b);
    CHECK_MSG(!memcmp(x, y, (size_t)n_vocab * sizeof *x), "logits differ by %g",
              largest_difference(x, y, n_vocab));
}

static inline uint64_t file_size(void)
{
    struct stat st;
    return stat(store, &st) == 0 ? (uint64_t)st.st_size : 0;
}

/* The text and the model: is it there? */
static inline bool prefix_rig_open(void)
{
    tiny_path(tiny, "prefix");
    snprintf(store, sizeof store, "%s/tests/prefix.%d.cache", build_folder(), (int)getpid());
    for (int i = 0; i < N_CTX; i++)
        text[i] = (int32_t)(check_random() % N_VOCAB);
    check_case("a model");
    return tiny_write(tiny, "--arch deepseek2");
}

static inline void prefix_rig_close(void)
{
    unlink(tiny);
    unlink(store);
}

#endif
