/* tandem eval --kl: how far a model is from the one that wrote a file with --kl-base, on the same
 * tokens. The loss of a quantization is this, measured from the unquantized model. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "src/base/mem.h"
#include "src/cli/eval.h"
#include "src/cli/json.h"
#include "src/cli/kl_file.h"
#include "src/cli/score.h"

/* Sums over positions; each one's divergence is kept (4 bytes) for the median and its like. */
struct comparison {
    struct kl_reader *base;
    struct mean kl, base_loss;
    struct mean difference; /* of -ln p of the next token: this model less the base */
    int64_t n_same;         /* positions with the same top token */
    float *each;            /* [n rows] */
};

static bool compare_row(void *ctx, const float *logits, double log_sum, double loss,
                        struct error *err)
{
    struct comparison *c = ctx;
    struct kl_row row;
    int32_t n_vocab = c->base->head.n_vocab, top = 0;
    if (!kl_next(c->base, &row, err))
        return false;
    double kl = kl_divergence(&row, logits, log_sum, n_vocab);
    if (!isfinite(kl))
        return fail(err, ERR_CHECK, "the logits are not finite");
    for (int32_t v = 1; v < n_vocab; v++)
        top = logits[v] > logits[top] ? v : top;
    kl = max_of(kl, 0); /* of two equal distributions the sum may round below 0 */
    c->each[c->kl.n] = (float)kl;
    c->n_same += top == row.top;
    mean_add(&c->kl, kl);
    mean_add(&c->base_loss, (double)row.loss);
    mean_add(&c->difference, loss - (double)row.loss);
    return true;
}

static void describe(const struct score *s, char *text, size_t size)
{
    const struct comparison *c = s->ctx;
    double error, kl = mean_of(&c->kl, &error);
    snprintf(text, size, "KL %.5f ± %.5f, same top %.2f %%", kl, error,
             100 * (double)c->n_same / (double)c->kl.n);
}

static int ascending(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Of ascending values; between two of them on a straight line. */
static double quantile(const float *values, int64_t n, double part)
{
    double at = part * (double)(n - 1);
    int64_t i = (int64_t)at, next = min_of(i + 1, n - 1);
    double rest = at - (double)i;
    return (double)values[i] * (1 - rest) + (double)values[next] * rest;
}

/* What is shown, in the order of the table; the same names in JSON. */
struct figures {
    double kl, kl_error, median, p90, p99, max;
    double same, same_error;
    double ppl, ppl_error, base_ppl, ratio, ratio_error;
};

static void sum_up(struct comparison *c, const struct score *s, struct figures *f)
{
    double n = (double)c->kl.n, error;
    qsort(c->each, (size_t)c->kl.n, sizeof *c->each, ascending);
    f->kl = mean_of(&c->kl, &f->kl_error);
    f->median = quantile(c->each, c->kl.n, 0.5);
    f->p90 = quantile(c->each, c->kl.n, 0.9);
    f->p99 = quantile(c->each, c->kl.n, 0.99);
    f->max = (double)c->each[c->kl.n - 1];
    f->same = (double)c->n_same / n;
    f->same_error = n > 1 ? sqrt(f->same * (1 - f->same) / (n - 1)) : 0;
    f->ppl = score_ppl(s, &f->ppl_error);
    f->base_ppl = exp(mean_of(&c->base_loss, &error));
    f->ratio = exp(mean_of(&c->difference, &error));
    f->ratio_error = f->ratio * error; /* the losses go together: less than that of the two */
}

static bool print_json(const struct loaded *m, const struct kl_reader *base,
                       const struct windows *w, const struct figures *f, struct error *err)
{
    const struct {
        const char *name;
        double value;
    } reals[] = {
        { "kl", f->kl }, { "kl_error", f->kl_error }, { "kl_median", f->median },
        { "kl_p90", f->p90 }, { "kl_p99", f->p99 }, { "kl_max", f->max },
        { "same_top", f->same }, { "same_top_error", f->same_error },
        { "ppl", f->ppl }, { "ppl_error", f->ppl_error }, { "ppl_base", f->base_ppl },
        { "ppl_ratio", f->ratio }, { "ppl_ratio_error", f->ratio_error },
    };
    struct json *j = js_object();
    char crc[16];
    for (size_t i = 0; i < ARRAY_LEN(reals); i++)
        js_set(j, reals[i].name, js_real(reals[i].value));
    js_set(j, "n_scored", js_int(base->next));
    js_set(j, "n_windows", js_int(w->n_windows));
    js_set(j, "window", js_int(w->window));
    js_set(j, "model", js_text(str_of(m->description)));
    snprintf(crc, sizeof crc, "%08x", (unsigned)base->head.model_crc);
    js_set(j, "base_header_crc32c", js_text(str_of(crc)));
    return js_print(j, 0, err);
}

static bool print_text(const struct kl_reader *base, const struct windows *w,
                       const struct figures *f, struct error *err)
{
    struct buf out = { 0 };
    buf_printf(&out, "KL divergence    %.6f ± %.6f   median %.6f, 90 %% %.6f, 99 %% %.6f, "
               "maximum %.6f\n", f->kl, f->kl_error, f->median, f->p90, f->p99, f->max);
    buf_printf(&out, "same top token   %.2f %% ± %.2f %%\n", 100 * f->same, 100 * f->same_error);
    buf_printf(&out, "perplexity       %.4f ± %.4f, base %.4f, ratio %.5f ± %.5f\n", f->ppl,
               f->ppl_error, f->base_ppl, f->ratio, f->ratio_error);
    buf_printf(&out, "over             %lld tokens in %lld window%s of %lld\n",
               (long long)base->next, (long long)w->n_windows, w->n_windows == 1 ? "" : "s",
               (long long)w->window);
    bool ok = buf_ok(&out, err) && out_write(out.data, out.len, err);
    buf_release(&out);
    return ok;
}

/* The same tokens mean the same texts? */
static bool check_vocabulary(const struct loaded *m, const struct kl_reader *base,
                             struct error *err)
{
    uint32_t model_crc, vocab_crc;
    kl_identify(&m->model->gguf, &model_crc, &vocab_crc);
    if (m->model->params.n_vocab != base->head.n_vocab)
        return fail(err, ERR_FILE, "%s: for a vocabulary of %d, that of the model has %lld",
                    base->path, (int)base->head.n_vocab, (long long)m->model->params.n_vocab);
    if (vocab_crc != base->head.vocab_crc)
        return fail(err, ERR_FILE, "%s: was written with another vocabulary than the model's",
                    base->path);
    return true;
}

bool eval_kl(const struct options *o, const char *path, struct error *err)
{
    struct loaded m = { 0 };
    struct kl_reader base = { 0 };
    struct comparison c = { .base = &base };
    struct score s = { .sink = compare_row, .ctx = &c, .describe = describe };
    struct figures f;
    if (!kl_open(&base, o->kl, err))
        return false;
    struct windows w = { base.ids, base.head.n_windows, base.head.window, base.head.first };
    if (o->chunks)
        w.n_windows = min_of(w.n_windows, o->chunks);
    c.each = mem_alloc((size_t)(w.n_windows * (w.window - 1 - w.first)), sizeof *c.each,
                       "divergences", err);
    bool ok = c.each && loaded_open(&m, o, path, WANT_SESSION, w.window, err) &&
              check_vocabulary(&m, &base, err) && score_windows(&m, o, &w, &s, err);
    if (ok) {
        sum_up(&c, &s, &f);
        ok = o->json ? print_json(&m, &base, &w, &f, err) : print_text(&base, &w, &f, err);
    }
    if (ok && f.kl > o->max_kl)
        ok = fail(err, ERR_CHECK, "the mean KL divergence %.6f is above --max-kl %g", f.kl,
                  o->max_kl);
    mem_free(c.each);
    kl_close(&base);
    loaded_close(&m);
    return ok;
}
