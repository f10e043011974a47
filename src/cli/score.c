#include "src/cli/score.h"

#include <math.h>
#include <stdio.h>

void mean_add(struct mean *m, double x)
{
    m->sum += x;
    m->sum2 += x * x;
    m->n++;
}

double mean_of(const struct mean *m, double *error)
{
    double n = (double)m->n, mean = n > 0 ? m->sum / n : 0;
    double variance = n > 0 ? m->sum2 / n - mean * mean : 0;
    *error = n > 1 && variance > 0 ? sqrt(variance / (n - 1)) : 0;
    return mean;
}

double score_ppl(const struct score *s, double *error)
{
    double ppl = exp(mean_of(&s->loss, error));
    *error *= ppl;
    return ppl;
}

struct window_rows {
    struct score *score;
    const int32_t *tokens;
    int64_t window, first, n_vocab;
};

static bool score_rows(void *ctx, int64_t first, int n_rows, const float *rows, struct error *err)
{
    struct window_rows *w = ctx;
    struct score *s = w->score;
    for (int r = 0; r < n_rows; r++) {
        const float *row = rows + (size_t)r * (size_t)w->n_vocab;
        int64_t at = first + r;
        double sum = 0;
        float top = -INFINITY;
        if (at < w->first || at + 1 >= w->window)
            continue;
        for (int64_t v = 0; v < w->n_vocab; v++)
            top = row[v] > top ? row[v] : top;
        for (int64_t v = 0; v < w->n_vocab; v++)
            sum += exp((double)(row[v] - top));
        double loss = log(sum) - (double)(row[w->tokens[at + 1]] - top);
        if (!isfinite(loss))
            return fail(err, ERR_CHECK, "the logits of token %lld are not finite", (long long)at);
        mean_add(&s->loss, loss);
        if (s->sink && !s->sink(s->ctx, row, (double)top + log(sum), loss, err))
            return false;
    }
    return true;
}

bool score_windows(struct loaded *m, const struct options *o, const struct windows *w,
                   struct score *s, struct error *err)
{
    struct window_rows rows = {
        .score = s, .window = w->window, .first = w->first, .n_vocab = m->model->params.n_vocab,
    };
    struct progress progress;
    char label[96] = "computing";
    bool ok = true;
    progress_begin(&progress, label, "windows");
    for (int64_t i = 0; ok && i < w->n_windows; i++) {
        rows.tokens = w->tokens + i * w->window;
        session_truncate(m->session, 0);
        ok = session_eval(m->session, rows.tokens, w->window, (int)o->batch, score_rows, &rows,
                          err);
        if (ok && s->describe)
            s->describe(s, label, sizeof label);
        progress_update(&progress, (double)(i + 1), (double)w->n_windows);
    }
    progress_end(&progress);
    return ok;
}
