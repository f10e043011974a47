/* tandem eval --ppl: the perplexity of a text, and with --kl-base a file for comparisons. */
#include <math.h>
#include <stdio.h>

#include "src/cli/eval.h"
#include "src/cli/json.h"
#include "src/cli/kl_file.h"
#include "src/cli/score.h"

#define DEFAULT_WINDOW 512 /* tokens, as other programs use for comparable figures */

/* In each window the second half is scored, so that every scored token has at least half a window
 * in front. BOS, where the model wants one, replaces the first token of each. A text shorter than a
 * window is scored whole. Comparable with llama-perplexity. */
static void cut_windows(const struct loaded *m, const struct options *o, struct tokens *ids,
                        int64_t window, struct windows *w)
{
    bool bos = tokenizer_add_bos(m->tokenizer) && tokenizer_bos(m->tokenizer) >= 0;
    bool whole = (int64_t)ids->n < window;
    w->tokens = ids->ids;
    w->n_windows = whole ? 1 : (int64_t)ids->n / window;
    if (o->chunks)
        w->n_windows = min_of(w->n_windows, o->chunks);
    w->window = whole ? (int64_t)ids->n : window;
    w->first = whole ? 0 : window / 2;
    for (int64_t i = 0; bos && !whole && i < w->n_windows; i++)
        ids->ids[i * window] = tokenizer_bos(m->tokenizer);
}

static bool keep_row(void *ctx, const float *logits, double log_sum, double loss,
                     struct error *err)
{
    return kl_append(ctx, logits, log_sum, loss, err);
}

static void describe(const struct score *s, char *text, size_t size)
{
    double error, ppl = score_ppl(s, &error);
    snprintf(text, size, "perplexity %.4f ± %.4f", ppl, error);
}

/* Score, and write the rows on the way where they are wanted. */
static bool score_text(struct loaded *m, const struct options *o, const struct windows *w,
                       size_t n_text, struct score *s, struct error *err)
{
    struct kl_writer base = { .file.fd = -1 };
    s->describe = describe;
    if (!o->kl_base)
        return score_windows(m, o, w, s, err);
    struct kl_head head = {
        .n_vocab = (int32_t)m->model->params.n_vocab, .window = (int32_t)w->window,
        .first = (int32_t)w->first, .n_windows = w->n_windows, .n_text = (int64_t)n_text,
    };
    kl_identify(&m->model->gguf, &head.model_crc, &head.vocab_crc);
    s->sink = keep_row;
    s->ctx = &base;
    bool ok = kl_create(&base, o->kl_base, &head, w->tokens, err) &&
              score_windows(m, o, w, s, err);
    ok = kl_finish(&base, ok, err);
    if (ok)
        note("%lld rows of %d probabilities in %s", (long long)s->loss.n, (int)head.n_vocab,
             o->kl_base);
    return ok;
}

static bool print_ppl(const struct options *o, const struct loaded *m, const struct score *s,
                      size_t n_tokens, const struct windows *w, struct error *err)
{
    double error, ppl = score_ppl(s, &error);
    char line[256];
    if (o->json) {
        struct json *j = js_object();
        js_set(j, "ppl", js_real(ppl));
        js_set(j, "ppl_error", js_real(error));
        js_set(j, "mean_nll", js_real(s->loss.sum / (double)s->loss.n));
        js_set(j, "n_tokens", js_int((int64_t)n_tokens));
        js_set(j, "n_scored", js_int(s->loss.n));
        js_set(j, "n_windows", js_int(w->n_windows));
        js_set(j, "window", js_int(w->window));
        js_set(j, "model", js_text(str_of(m->description)));
        return js_print(j, 0, err);
    }
    snprintf(line, sizeof line,
             "perplexity %.4f ± %.4f   (%lld of %zu tokens scored, %lld window%s of %lld)\n", ppl,
             error, (long long)s->loss.n, n_tokens, (long long)w->n_windows,
             w->n_windows == 1 ? "" : "s", (long long)w->window);
    return out_puts(line, err);
}

bool eval_perplexity(const struct options *o, const char *path, struct error *err)
{
    struct loaded m = { 0 };
    struct tokens ids = { 0 };
    struct buf text = { 0 };
    struct score s = { 0 };
    struct windows w = { 0 };
    int64_t window = o->ctx_size > 1 ? o->ctx_size : DEFAULT_WINDOW;
    bool ok = buf_read_file(&text, o->ppl, err) && buf_ok(&text, err) &&
              loaded_open(&m, o, path, WANT_TEXT, window, err);
    if (ok && tokenizer_add_bos(m.tokenizer) && tokenizer_bos(m.tokenizer) >= 0)
        ok = tokens_push(&ids, tokenizer_bos(m.tokenizer), err);
    ok = ok && tokenizer_encode(m.tokenizer, buf_str(&text), false, &ids, err);
    if (ok && ids.n < 2)
        ok = fail(err, ERR_FILE, "%s: too short: %zu tokens", o->ppl, ids.n);
    if (ok) {
        cut_windows(&m, o, &ids, window, &w);
        ok = score_text(&m, o, &w, ids.n, &s, err) && print_ppl(o, &m, &s, ids.n, &w, err);
    }
    double error, ppl = ok ? score_ppl(&s, &error) : 0;
    if (ok && ppl > o->max_ppl)
        ok = fail(err, ERR_CHECK, "perplexity %.4f is above --max-ppl %g", ppl, o->max_ppl);
    buf_release(&text);
    tokens_release(&ids);
    loaded_close(&m);
    return ok;
}
