#include "tools/calibrate.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "src/cli/paths.h"
#include "src/cli/signals.h"
#include "src/cli/term.h"
#include "src/engine/engine.h"
#include "src/text/tokenizer.h"
#include "tools/collect.h"

#define DEFAULT_WINDOW 512

struct job {
    struct engine *engine;
    struct session *session;
    struct tokens ids;
    int64_t window, n_windows;
    struct collection collection;
};

static bool check_arguments(const struct options *o, struct error *err)
{
    if (!o->output || o->files.n == 0 || o->n_positional > 0)
        return fail(err, ERR_USAGE, "wants tandem quantize --collect-imatrix -m MODEL -f TEXT "
                    "-o FILE");
    if (!o->force && access(o->output, F_OK) == 0)
        return fail(err, ERR_USAGE, "%s exists; --force replaces it (add to it: --imatrix %s)",
                    o->output, o->output);
    return true;
}

static bool on_load(void *ctx, uint64_t done_bytes, uint64_t total_bytes)
{
    progress_update(ctx, (double)done_bytes, (double)total_bytes);
    return !signals_cancelled();
}

static bool load(struct job *j, const struct options *o, const char *path,
                 const struct observer *observer, struct error *err)
{
    struct progress progress;
    struct engine_options eo = {
        .n_threads = (int)o->threads, .numerics = (enum numerics)o->numerics, .n_ctx = j->window,
        .n_batch = (int)o->batch, .observer = observer, .progress = on_load,
        .progress_ctx = &progress,
    };
    struct session_options so = { .n_ctx = j->window, .cancel = signals_cancel_flag() };
    progress_begin(&progress, "loading", NULL);
    bool ok = engine_open(&j->engine, path, &eo, err);
    progress_end(&progress);
    return ok && session_open(&j->session, j->engine, &so, err);
}

/* All texts as tokens, cut to whole windows; a text shorter than one is a window of its own. */
static bool read_texts(struct job *j, const struct options *o, struct error *err)
{
    struct tokenizer *t = NULL;
    struct buf text = { 0 };
    const struct gguf *g = &engine_model(j->engine)->gguf;
    bool ok = tokenizer_open(&t, g, err);
    if (ok && !t)
        ok = fail(err, ERR_FILE, "%s: the file has no vocabulary", g->shards[0].path);
    for (int i = 0; ok && i < o->files.n; i++)
        ok = buf_read_file(&text, o->files.items[i], err);
    bool bos = ok && tokenizer_add_bos(t) && tokenizer_bos(t) >= 0;
    ok = ok && (!bos || tokens_push(&j->ids, tokenizer_bos(t), err)) &&
         tokenizer_encode(t, buf_str(&text), false, &j->ids, err);
    int64_t n = (int64_t)j->ids.n;
    if (ok && n < 2)
        ok = fail(err, ERR_FILE, "the text is too short: %lld tokens", (long long)n);
    j->window = min_of(j->window, n);
    j->n_windows = ok ? n / j->window : 0;
    if (o->chunks)
        j->n_windows = min_of(j->n_windows, o->chunks);
    for (int64_t i = 0; bos && i < j->n_windows; i++)
        j->ids.ids[i * j->window] = tokenizer_bos(t);
    buf_release(&text);
    tokenizer_close(t);
    return ok;
}

static bool run_windows(struct job *j, struct error *err)
{
    struct collection *c = &j->collection;
    struct progress progress;
    bool ok = true;
    progress_begin(&progress, "calibrating", "windows");
    for (int64_t i = 0; ok && i < j->n_windows; i++) {
        session_truncate(j->session, 0);
        ok = session_prefill(j->session, j->ids.ids + i * j->window, j->window, NULL, NULL, err);
        if (ok && c->err.code)
            ok = fail(err, c->err.code, "%s", c->err.text);
        progress_update(&progress, (double)(i + 1), (double)j->n_windows);
    }
    progress_end(&progress);
    c->n_chunks = (uint64_t)j->n_windows;
    c->chunk_size = (uint64_t)j->window;
    return ok;
}

static bool add_older(struct job *j, const char *path, struct error *err)
{
    struct imatrix m;
    if (!path)
        return true;
    bool ok = imatrix_open(&m, path, err) && collection_add(&j->collection, &m, err);
    imatrix_close(&m);
    return ok;
}

static struct str base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return str_of(slash ? slash + 1 : path);
}

/* Tensors of the model that no token met: blocks for multi-token prediction, mostly. */
static void note_tensors(const struct job *j)
{
    const struct model *m = engine_model(j->engine);
    if (m->params.n_mtp)
        note("blocks for multi-token prediction are not run: their weights have no importance");
    note("%lld windows of %lld tokens; importance of %zu matrices", (long long)j->n_windows,
         (long long)j->window, j->collection.n_entries);
}

bool calibrate(struct options *o, struct error *err)
{
    char path[PATH_SIZE];
    struct job j = { .window = o->ctx_size > 1 ? o->ctx_size : DEFAULT_WINDOW };
    struct observer observer = collection_observer(&j.collection);
    struct buf out = { 0 };
    bool ok = check_arguments(o, err) && resolve_model(o, false, path, sizeof path, err) &&
              load(&j, o, path, &observer, err) && read_texts(&j, o, err) &&
              collection_open(&j.collection, (size_t)engine_model(j.engine)->n_tensors, err);
    j.collection.dataset = base_name(o->files.n ? o->files.items[0] : "");
    ok = ok && run_windows(&j, err) && add_older(&j, o->imatrix, err) &&
         collection_write(&j.collection, o->output, err);
    if (ok) {
        note_tensors(&j);
        collection_coverage(&j.collection, &out);
        ok = buf_ok(&out, err) && out_write(buf_str(&out).data, out.len, err);
    }
    buf_release(&out);
    collection_close(&j.collection);
    tokens_release(&j.ids);
    session_close(j.session);
    engine_close(j.engine);
    return ok;
}
