/* tandem eval: which figure is wanted; logits for comparison with other programs. */
#include "src/cli/eval.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "src/cli/command.h"
#include "src/cli/json.h"
#include "src/cli/output_file.h"
#include "src/cli/term.h"

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
            ok = fail(err, ERR_FILE, "%s: \"%.*s\" is not a token id", path,
                      min_of((int)strcspn(at, " \t\r\n"), 20), at);
        else
            ok = tokens_push(ids, (int32_t)id, err);
        at = end;
    }
    buf_release(&text);
    return ok && (ids->n > 0 || fail(err, ERR_FILE, "%s: no token ids", path));
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

bool cmd_eval(struct options *o, struct error *err)
{
    char path[PATH_SIZE];
    int jobs = (o->ids || o->logits) + (o->ppl != NULL) + (o->kl != NULL) + (o->tasks != NULL);
    if (o->kl_base && !o->ppl)
        return fail(err, ERR_USAGE, "--kl-base FILE wants a text beside it: --ppl TEXT");
    if (jobs != 1)
        return fail(err, ERR_USAGE, "eval wants one of: --ids FILE --logits FILE, --ppl FILE, "
                    "--kl FILE, --tasks FILE");
    if ((o->json && !js_available(err)) || !resolve_model(o, false, path, sizeof path, err))
        return false;
    return o->ppl ? eval_perplexity(o, path, err)
         : o->kl ? eval_kl(o, path, err)
         : o->tasks ? eval_tasks(o, path, err)
                    : eval_logits(o, path, err);
}
