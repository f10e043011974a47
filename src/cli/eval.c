/* tandem eval: logits for comparison with other programs, and the perplexity of a text. */
#include "src/cli/eval.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/base/mem.h"
#include "src/cli/command.h"
#include "src/cli/json.h"
#include "src/cli/paths.h"
#include "src/cli/signals.h"
#include "src/cli/term.h"

#define DEFAULT_WINDOW 512 /* tokens, as other programs use for comparable figures */

/* ---- --ids, --logits ------------------------------------------------------------------------- */

static bool read_ids(const char *path, struct tokens *ids, struct error *err)
{
    struct buf text = { 0 };
    bool ok = buf_read_file(&text, path, err);
    for (const char *at = buf_str(&text).data; ok; ) {
        char *end;
        at += strspn(at, " \t\r\n");
        if (!*at)
            break;
        errno = 0;
        long long id = strtoll(at, &end, 10);
        if (end == at || errno || id < 0 || id > INT32_MAX || (*end && !strchr(" \t\r\n", *end)))
            ok = fail(err, ERR_FILE, "%s: \"%.20s\" is not a token id", path, at);
        else
            ok = tokens_push(ids, (int32_t)id, err);
        at = end;
    }
    buf_release(&text);
    return ok && (ids->n > 0 || fail(err, ERR_FILE, "%s: no token ids", path));
}

/* A file that appears under its name only when it is complete. */
struct output_file {
    const char *path;
    char temporary[PATH_SIZE]; /* empty: written in place (a device or a pipe) */
    int fd;
};

static bool output_open(struct output_file *f, const char *path, struct error *err)
{
    struct stat st;
    f->path = path;
    f->temporary[0] = 0;
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) {
        f->fd = open(path, O_WRONLY | O_CLOEXEC);
    } else {
        int n = snprintf(f->temporary, sizeof f->temporary, "%s.%ld.part", path, (long)getpid());
        if (n < 0 || (size_t)n >= sizeof f->temporary)
            return fail(err, ERR_USAGE, "option --logits: the path is too long");
        f->fd = open(f->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    }
    return f->fd >= 0 || fail(err, ERR_RUN, "%s: cannot write: %s", path, strerror(errno));
}

static bool output_write(struct output_file *f, const void *bytes, size_t len, struct error *err)
{
    const char *at = bytes;
    while (len > 0) {
        ssize_t n = write(f->fd, at, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return fail(err, ERR_RUN, "%s: cannot write: %s", f->path, strerror(errno));
        at += n;
        len -= (size_t)n;
    }
    return true;
}

static bool output_close(struct output_file *f, bool ok, struct error *err)
{
    if (f->fd < 0)
        return ok;
    if (close(f->fd) != 0 && ok)
        ok = fail(err, ERR_RUN, "%s: cannot write: %s", f->path, strerror(errno));
    if (ok && f->temporary[0] && rename(f->temporary, f->path) != 0)
        ok = fail(err, ERR_RUN, "%s: cannot rename: %s", f->path, strerror(errno));
    if (!ok && f->temporary[0])
        unlink(f->temporary);
    return ok;
}

struct logits_writer {
    struct output_file file;
    int64_t n_vocab, n_tokens;
    struct progress progress;
};

static bool write_rows(void *ctx, int64_t first, int n_rows, const float *rows, struct error *err)
{
    struct logits_writer *w = ctx;
    progress_update(&w->progress, (double)(first + n_rows), (double)w->n_tokens);
    return output_write(&w->file, rows, (size_t)n_rows * (size_t)w->n_vocab * sizeof *rows, err);
}

bool eval_logits(const struct options *o, const char *path, struct error *err)
{
    struct loaded m = { 0 };
    struct tokens ids = { 0 };
    struct logits_writer w = { .file.fd = -1 };
    if (!o->ids || !o->logits)
        return fail(err, ERR_USAGE, "--ids FILE and --logits FILE belong together");
    bool ok = read_ids(o->ids, &ids, err);
    int64_t n = (int64_t)ids.n;
    ok = ok && loaded_open(&m, o, path, WANT_SESSION, max_of(n, o->ctx_size), err);
    for (size_t i = 0; ok && i < ids.n; i++)
        if (ids.ids[i] >= m.model->params.n_vocab)
            ok = fail(err, ERR_FILE, "%s: token %d, but the vocabulary has %lld", o->ids,
                      ids.ids[i], (long long)m.model->params.n_vocab);
    if (ok && output_open(&w.file, o->logits, err)) {
        w.n_vocab = m.model->params.n_vocab;
        w.n_tokens = n;
        progress_begin(&w.progress, "computing", "tok");
        ok = session_eval(m.session, ids.ids, n, (int)o->batch, write_rows, &w, err);
        progress_end(&w.progress);
        ok = output_close(&w.file, ok, err);
    } else {
        ok = false;
    }
    if (ok)
        note("%lld x %lld logits in %s", (long long)n, (long long)w.n_vocab, o->logits);
    tokens_release(&ids);
    loaded_close(&m);
    return ok;
}

/* ---- --ppl ----------------------------------------------------------------------------------- */

/* Sums over scored tokens of -ln p and its square. */
struct scorer {
    const int32_t *tokens;
    int64_t n, first, n_vocab; /* tokens of the window; the first whose successor is scored */
    double sum, sum2;
    int64_t n_scored;
};

static bool score_rows(void *ctx, int64_t first, int n_rows, const float *rows, struct error *err)
{
    struct scorer *s = ctx;
    for (int r = 0; r < n_rows; r++) {
        const float *row = rows + (size_t)r * (size_t)s->n_vocab;
        int64_t at = first + r;
        double sum = 0;
        float top = -INFINITY;
        if (at < s->first || at + 1 >= s->n)
            continue;
        for (int64_t v = 0; v < s->n_vocab; v++)
            top = row[v] > top ? row[v] : top;
        for (int64_t v = 0; v < s->n_vocab; v++)
            sum += exp((double)(row[v] - top));
        double loss = log(sum) - (double)(row[s->tokens[at + 1]] - top);
        if (!isfinite(loss))
            return fail(err, ERR_CHECK, "the logits of token %lld are not finite", (long long)at);
        s->sum += loss;
        s->sum2 += loss * loss;
        s->n_scored++;
    }
    return true;
}

static double ppl_of(const struct scorer *s, double *error)
{
    double n = (double)s->n_scored, mean = s->sum / n, variance = s->sum2 / n - mean * mean;
    *error = n > 1 && variance > 0 ? exp(mean) * sqrt(variance / (n - 1)) : 0;
    return exp(mean);
}

/* Windows of `window` tokens side by side; in each the second half is scored, so that every scored
 * token has at least half a window in front. BOS, where the model wants one, replaces the first
 * token of each. A text shorter than a window is scored whole. Comparable with llama-perplexity. */
static bool score_text(struct loaded *m, const struct options *o, struct tokens *ids,
                       int64_t window, struct scorer *s, int64_t *n_windows, struct error *err)
{
    bool bos = tokenizer_add_bos(m->tokenizer) && tokenizer_bos(m->tokenizer) >= 0;
    bool whole = (int64_t)ids->n < window;
    struct progress progress;
    *n_windows = whole ? 1 : (int64_t)ids->n / window;
    if (o->chunks)
        *n_windows = min_of(*n_windows, o->chunks);
    s->n = whole ? (int64_t)ids->n : window;
    s->first = whole ? 0 : window / 2;
    s->n_vocab = m->model->params.n_vocab;
    progress_begin(&progress, "computing", "windows");
    bool ok = true;
    for (int64_t i = 0; ok && i < *n_windows; i++) {
        int32_t *tokens = ids->ids + i * s->n;
        if (bos && !whole)
            tokens[0] = tokenizer_bos(m->tokenizer);
        s->tokens = tokens;
        session_truncate(m->session, 0);
        ok = session_eval(m->session, tokens, s->n, (int)o->batch, score_rows, s, err);
        progress_update(&progress, (double)(i + 1), (double)*n_windows);
    }
    progress_end(&progress);
    return ok;
}

static bool print_ppl(const struct options *o, const struct loaded *m, const struct scorer *s,
                      size_t n_tokens, int64_t n_windows, struct error *err)
{
    double error, ppl = ppl_of(s, &error);
    char line[256];
    if (o->json) {
        struct json *j = js_object();
        js_set(j, "ppl", js_real(ppl));
        js_set(j, "ppl_error", js_real(error));
        js_set(j, "mean_nll", js_real(s->sum / (double)s->n_scored));
        js_set(j, "n_tokens", js_int((int64_t)n_tokens));
        js_set(j, "n_scored", js_int(s->n_scored));
        js_set(j, "n_windows", js_int(n_windows));
        js_set(j, "window", js_int(s->n));
        js_set(j, "model", js_text(str_of(m->description)));
        return js_print(j, 0, err);
    }
    snprintf(line, sizeof line,
             "perplexity %.4f ± %.4f   (%lld of %zu tokens scored, %lld window%s of %lld)\n", ppl,
             error, (long long)s->n_scored, n_tokens, (long long)n_windows,
             n_windows == 1 ? "" : "s", (long long)s->n);
    return out_puts(line, err);
}

bool eval_perplexity(const struct options *o, const char *path, struct error *err)
{
    struct loaded m = { 0 };
    struct tokens ids = { 0 };
    struct buf text = { 0 };
    struct scorer s = { 0 };
    int64_t window = o->ctx_size > 1 ? o->ctx_size : DEFAULT_WINDOW, n_windows = 0;
    bool ok = buf_read_file(&text, o->ppl, err) && buf_ok(&text, err) &&
              loaded_open(&m, o, path, WANT_TEXT, window, err);
    if (ok && tokenizer_add_bos(m.tokenizer) && tokenizer_bos(m.tokenizer) >= 0)
        ok = tokens_push(&ids, tokenizer_bos(m.tokenizer), err);
    ok = ok && tokenizer_encode(m.tokenizer, buf_str(&text), false, &ids, err);
    if (ok && ids.n < 2)
        ok = fail(err, ERR_FILE, "%s: too short: %zu tokens", o->ppl, ids.n);
    ok = ok && score_text(&m, o, &ids, window, &s, &n_windows, err) &&
         print_ppl(o, &m, &s, ids.n, n_windows, err);
    double error, ppl = ok ? ppl_of(&s, &error) : 0;
    if (ok && ppl > o->max_ppl)
        ok = fail(err, ERR_CHECK, "perplexity %.4f is above --max-ppl %g", ppl, o->max_ppl);
    buf_release(&text);
    tokens_release(&ids);
    loaded_close(&m);
    return ok;
}

bool cmd_eval(struct options *o, struct error *err)
{
    char path[PATH_SIZE];
    int jobs = (o->ids || o->logits) + (o->ppl != NULL) + (o->tasks != NULL);
    if (jobs != 1)
        return fail(err, ERR_USAGE, "eval wants one of: --ids FILE --logits FILE, --ppl FILE, "
                    "--tasks FILE");
    if ((o->json && !js_available(err)) || !resolve_model(o, false, path, sizeof path, err))
        return false;
    return o->ppl ? eval_perplexity(o, path, err)
         : o->tasks ? eval_tasks(o, path, err)
                    : eval_logits(o, path, err);
}
