/* tandem quantize IN OUT TYPE: the same model in fewer bits.
 *
 * Plan (tools/quantize_plan.c), then fill (tools/transcode.c), then finish: the output has a hidden
 * name until it is whole. What is not finished can be taken up again with --resume. */
#include <stdlib.h>
#include <string.h>

#include "src/cli/command.h"
#include "src/cli/term.h"
#include "tools/calibrate.h"
#include "tools/canary.h"
#include "tools/estimate.h"
#include "tools/fit.h"
#include "tools/output.h"
#include "tools/quantize_plan.h"

/* ---- arguments ---- */

struct job {
    const char *in, *out, *type;
    int threads;
};

static bool is_number(const char *text)
{
    return *text && text[strspn(text, "0123456789")] == 0;
}

/* IN OUT TYPE, and the number of threads behind it as other programs take it. With --recipe the
 * type may be missing. */
static bool read_arguments(struct job *job, const struct options *o, struct error *err)
{
    int n = o->n_positional;
    job->threads = (int)max_of(o->threads, 0);
    if (n > 2 && is_number(o->positional[n - 1]) && strlen(o->positional[n - 1]) < 6) {
        job->threads = atoi(o->positional[--n]);
        if (job->threads > 4096)
            return fail(err, ERR_USAGE, "%d threads, at most 4096", job->threads);
    }
    if (n > 3)
        return fail(err, ERR_USAGE, "unexpected argument \"%s\"", o->positional[3]);
    if (n < 2 || (n == 2 && !o->recipe && !fit_wanted(o)))
        return fail(err, ERR_USAGE, "wants tandem quantize IN OUT TYPE; types: %s", recipe_names());
    const char *configured = options_configured_model(o, o->positional[0]);
    job->in = configured ? configured : o->positional[0];
    job->out = o->positional[1];
    job->type = n > 2 ? o->positional[2] : NULL;
    return true;
}

/* ---- the work ---- */

static bool is_input(const void *ctx, dev_t device, ino_t inode)
{
    const struct gguf *g = &((const struct quantize_plan *)ctx)->gguf;
    for (int i = 0; i < g->n_shards; i++)
        if (device == g->shards[i].device && inode == g->shards[i].inode)
            return true;
    return false;
}

static bool unchanged(const void *ctx, struct error *err)
{
    return quantize_plan_unchanged(ctx, err);
}

/* Room for a canary, where the model can be run; the older one speaks of another file. */
static bool announce_canary(struct gguf_writer *w, const char *in, const struct options *o,
                            bool *canary, struct error *err)
{
    struct error why = { 0 };
    int64_t n_vocab = 0;
    *canary = !o->canary_off && canary_possible(in, &n_vocab, &why);
    if (*canary)
        return canary_reserve(w, n_vocab, err);
    if (why.code)
        note("no canary: %s", why.text);
    canary_remove(w);
    return true;
}

static bool quantize(const struct job *job, const struct options *o, struct quantize_plan *p,
                     struct error *err)
{
    struct gguf_writer w = { 0 };
    struct buf plan = { 0 };
    struct output_job out = {
        .path = job->out, .verb = "quantizing", .options = o, .threads = job->threads,
        .writer = &w, .tensors = p->tensors, .n_tensors = p->types.n,
        .bytes_before = p->types.bytes_before, .bytes_after = p->types.bytes_after,
        .weights = p->types.weights, .is_input = is_input, .unchanged = unchanged, .ctx = p,
        .reworks = p->older.n_shards > 0,
    };
    bool ok = output_check(&out, err) && quantize_plan_announce(p, &w, err) &&
              announce_canary(&w, job->in, o, &out.canary, err) &&
              quantize_plan_describe(p, o, &plan, err) &&
              output_run(&out, buf_str(&plan).data, err);
    gguf_writer_release(&w);
    buf_release(&plan);
    return ok;
}

static bool print_plan(const struct options *o, struct quantize_plan *p, int n_threads,
                       struct error *err)
{
    struct buf out = { 0 };
    buf_puts(&out, buf_str(&p->explanation).data);
    type_plan_table(&p->types, o->verbose > 0, &out);
    bool ok = estimate_describe(&p->types, n_threads ? n_threads : cpu_usable_cores(), &out, err) &&
              out_write(out.data, out.len, err);
    buf_release(&out);
    return ok;
}

bool cmd_quantize(struct options *o, struct error *err)
{
    struct job job = { 0 };
    struct quantize_plan p = { 0 };
    if (o->collect_imatrix)
        return calibrate(o, err);
    bool ok = read_arguments(&job, o, err) &&
              quantize_plan_open(&p, o, job.in, job.out, job.type, err);
    if (ok)
        ok = o->dry_run ? print_plan(o, &p, job.threads, err) : quantize(&job, o, &p, err);
    quantize_plan_close(&p);
    return ok;
}
