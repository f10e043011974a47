/* tandem plan: where a model would go, whether it fits, how fast it would be. Loads nothing. */
#include "src/cli/plan.h"

#include <stdio.h>

#include "src/cli/command.h"
#include "src/cli/json.h"
#include "src/cli/rates.h"
#include "src/cli/paths.h"
#include "src/cli/term.h"

/* Those of another machine are not measured here, unless its cores are said to be like ours. */
static bool find_rates(struct plan *p, struct error *err)
{
    const struct options *o = p->o;
    bool other = o->what_if && strstr(o->what_if, "bw=") && !strstr(o->what_if, "cores=");
    return rates_here(&p->rates, o, !other, err) &&
           (!o->what_if || rates_what_if(&p->rates, o->what_if, err));
}

/* What the user allows is an upper limit for another machine, too. */
static void keep_limits(struct plan *p)
{
    const struct options *o = p->o;
    if (o->vram_bytes != UNSET)
        p->rates.vram_bytes = min_of(p->rates.vram_bytes, (uint64_t)o->vram_bytes);
    if (o->ram_bytes != UNSET)
        p->rates.ram_bytes = min_of(p->rates.ram_bytes, (uint64_t)o->ram_bytes);
}

static bool place(struct plan *p, struct error *err)
{
    const struct goals goals = { p->o->min_tok_s, p->o->max_joules };
    keep_limits(p);
    if (!placing_open(&p->placing, p->o, err))
        return false;
    placing_tell_idle(&p->placing, p->o, &p->model);
    p->placing.engine.wishes = &p->placing.wishes;
    p->placing.engine.max_ram_bytes = p->rates.ram_bytes;
    p->wishes = engine_wishes(&p->placing.engine, &p->model);
    p->wishes.n_threads = p->rates.n_cores;
    if (!forecast_choose(&p->placement, &p->forecast, &p->model, &p->rates, &p->wishes, &goals,
                         &p->met, err))
        return false;
    struct placement *q = &p->placement;
    forecast_make(&p->forecast, &p->model, q, &p->rates, 0, q->n_batch);
    forecast_make(&p->full, &p->model, q, &p->rates, q->n_ctx, q->n_batch);
    if (!q->fits)
        p->n_ways = placing_ways(p->ways, &p->model, q, &p->rates, &p->wishes, p->o, p->path);
    return true;
}

static bool print(struct plan *p, struct error *err)
{
    struct buf out = { 0 };
    const struct options *o = p->o;
    bool ok = true;
    if (o->json)
        return plan_json(p, err);
    if (o->emit) {
        plan_flags(&out, p);
        buf_puts(&out, "\n");
    } else if (o->compare_types) {
        ok = plan_compare(&out, NULL, p, err);
    } else {
        plan_text(&out, p, 0);
        if (o->explain || o->verbose)
            plan_explain(&out, p);
    }
    ok = ok && buf_ok(&out, err) && out_write(out.data, out.len, err);
    buf_release(&out);
    return ok;
}

/* A wish for a GPU where one is that will not do: why. */
static bool name_gpu(const struct plan *p, struct error *err)
{
    if (err->code == ERR_DEVICE && *p->rates.no_gpu)
        error_prefix(err, "%s", p->rates.no_gpu);
    return false;
}

bool plan_open(struct plan *p, struct error *err)
{
    const char *block = p->o->draft_model;
    return model_open(&p->model, p->path, (enum numerics)p->o->numerics, err) &&
           (!block || model_add_block(&p->model, block, err)) &&
           find_rates(p, err) && (place(p, err) || name_gpu(p, err));
}

void plan_close(struct plan *p)
{
    placement_free(&p->placement);
    placing_close(&p->placing);
    model_close(&p->model);
}

static bool check_goals(const struct plan *p, struct error *err)
{
    if (p->met)
        return true;
    const struct options *o = p->o;
    if (o->max_joules > 0 && p->full.joules <= 0)
        return fail(err, ERR_FIT, "nobody knows the joules per token here: this machine's counters "
                    "cannot be read (tandem bench measures them where they can)");
    return fail(err, ERR_FIT, "no context that fits decodes as asked: %.1f tokens per second with "
                "%lld tokens", p->full.decode_tok_s.mid, (long long)p->placement.n_ctx);
}

/* What the table says already is not said again on the same screen. */
static bool check_fit(const struct plan *p, struct error *err)
{
    const struct options *o = p->o;
    bool shown = !o->json && !o->emit && !o->compare_types && term_stdout() && term_stderr();
    if (p->placement.fits || !shown)
        return placement_check(&p->placement, err);
    return fail(err, ERR_FIT, "%s", "");
}

bool cmd_plan(struct options *o, struct error *err)
{
    char path[PATH_SIZE];
    struct plan p = { .o = o, .path = path };
    bool ok = (!o->json || js_available(err)) && resolve_model(o, false, path, sizeof path, err) &&
              plan_open(&p, err) && print(&p, err) && check_fit(&p, err) &&
              check_goals(&p, err);
    plan_close(&p);
    return ok;
}
