/* tandem run --dry-run: what a prompt would take, before anybody waits for it. The prompt is rendered
 * and counted as `run` would, the model is placed as `plan` would; no weight is read. */
#include <stdio.h>

#include "src/cli/generate.h"
#include "src/cli/json.h"
#include "src/cli/plan.h"
#include "src/cli/run.h"
#include "src/cli/term.h"

struct estimate {
    const struct plan *plan;
    const struct options *o;
    const char *format;
    struct run_count count;
    int64_t n_answer;       /* tokens that an answer may have; -1: as many as there is room for */
    int64_t context_needed; /* of the longest prompt with its answer, of which one token is sure */
    struct range prefill_s; /* of all prompts */
    struct forecast speed;  /* reading a prompt of the mean length, and writing behind it */
    bool long_enough;       /* the context holds the longest prompt */
};

static void make_estimate(struct estimate *e)
{
    const struct placement *q = &e->plan->placement;
    struct run_count *c = &e->count;
    int64_t mean = c->n_prompts ? max_of(c->n_tokens / c->n_prompts, 1) : 1;
    forecast_make(&e->speed, &e->plan->model, q, &e->plan->rates, mean, mean);
    const struct range *r = &e->speed.prefill_tok_s;
    double n = (double)c->n_tokens;
    e->prefill_s = (struct range){ n / r->high, n / r->mid, n / r->low };
    e->n_answer = e->o->n_predict;
    e->context_needed = c->longest + max_of(e->n_answer, 1);
    e->long_enough = prompt_fits(c->longest, q->n_ctx, "", NULL);
}

/* ---- for people ---- */

static void seconds_text(char *text, size_t size, const struct range *s)
{
    char low[32], high[32];
    human_time(s->low, low, sizeof low);
    human_time(s->high, high, sizeof high);
    if (s->high < 1)
        snprintf(text, size, "less than 1 s");
    else if (strcmp(low, high) == 0)
        snprintf(text, size, "%s", low);
    else
        snprintf(text, size, "%s - %s", low, high);
}

static void add_memory(struct buf *out, const struct plan *p)
{
    const struct placement *q = &p->placement;
    char used[32], budget[32];
    buf_printf(out, "memory    %s", human_bytes((double)(q->ram_used + q->ram_mapped), used,
                                                sizeof used));
    if (p->rates.ram_bytes != UINT64_MAX)
        buf_printf(out, " of %s free", human_bytes((double)p->rates.ram_bytes, budget,
                                                   sizeof budget));
    if (q->vram_used)
        buf_printf(out, ", %s of %s free VRAM",
                   human_bytes((double)q->vram_used, used, sizeof used),
                   human_bytes((double)p->rates.vram_bytes, budget, sizeof budget));
    buf_puts(out, "\n");
}

static void add_answer(struct buf *out, const struct estimate *e)
{
    const struct range *r = &e->speed.decode_tok_s;
    char rate[48], time[80];
    range_text(rate, sizeof rate, r);
    buf_printf(out, "decode    %s tok/s", rate);
    if (e->n_answer > 0) {
        double n = (double)(e->n_answer * e->count.n_prompts);
        struct range s = { n / r->high, n / r->mid, n / r->low };
        seconds_text(time, sizeof time, &s);
        buf_printf(out, ", %s for %.0f tokens", time, n);
    }
    buf_puts(out, "\n");
}

static void estimate_text(struct buf *out, const struct estimate *e)
{
    const struct plan *p = e->plan;
    const struct run_count *c = &e->count;
    char name[160], rate[48], time[80];
    model_describe(&p->model, name, sizeof name);
    range_text(rate, sizeof rate, &e->speed.prefill_tok_s);
    seconds_text(time, sizeof time, &e->prefill_s);
    buf_printf(out, "%s\n", name);
    buf_printf(out, "prompt    %lld token%s", (long long)c->n_tokens, c->n_tokens == 1 ? "" : "s");
    if (e->o->batch_file)
        buf_printf(out, " in %lld prompts, the longest %lld", (long long)c->n_prompts,
                   (long long)c->longest);
    buf_printf(out, ", %s\n", e->o->raw ? "as written" : e->format);
    buf_printf(out, "context   %lld of %lld tokens%s\n", (long long)e->context_needed,
               (long long)p->placement.n_ctx,
               e->n_answer < 0 ? ", and what the answer takes" : " with an answer of -n");
    add_memory(out, p);
    buf_printf(out, "prefill   %s   (%s tok/s)\n", time, rate);
    add_answer(out, e);
    if (!e->speed.measured)
        buf_puts(out, "some rates are estimates: tandem plan --explain tells which\n");
    buf_puts(out, !p->placement.fits ? "does not fit\n"
                  : !e->long_enough  ? "the context is too short\n"
                                     : "fits; nothing was loaded\n");
}

/* ---- for scripts ---- */

static struct json *range(const struct range *r)
{
    struct json *j = js_object();
    js_set(j, "low", js_real(r->low));
    js_set(j, "mid", js_real(r->mid));
    js_set(j, "high", js_real(r->high));
    return j;
}

static bool estimate_json(const struct estimate *e, struct error *err)
{
    const struct plan *p = e->plan;
    const struct placement *q = &p->placement;
    struct json *j = js_object(), *ways = js_array();
    char name[160];
    model_describe(&p->model, name, sizeof name);
    js_set(j, "model", js_text(str_of(name)));
    js_set(j, "format", e->o->raw ? js_null() : js_text(str_of(e->format)));
    js_set(j, "prompts", js_int(e->count.n_prompts));
    js_set(j, "prompt_tokens", js_int(e->count.n_tokens));
    js_set(j, "longest_prompt_tokens", js_int(e->count.longest));
    js_set(j, "context_needed", js_int(e->context_needed));
    js_set(j, "context", js_int(q->n_ctx));
    js_set(j, "fits", js_bool(q->fits && e->long_enough));
    js_set(j, "ram_bytes", js_int((int64_t)q->ram_used));
    js_set(j, "mapped_bytes", js_int((int64_t)q->ram_mapped));
    js_set(j, "vram_bytes", js_int((int64_t)q->vram_used));
    js_set(j, "prefill_s", range(&e->prefill_s));
    js_set(j, "prefill_tok_s", range(&e->speed.prefill_tok_s));
    js_set(j, "decode_tok_s", range(&e->speed.decode_tok_s));
    js_set(j, "measured", js_bool(e->speed.measured));
    for (int i = 0; i < p->n_ways; i++)
        js_push(ways, js_text(str_of(p->ways[i].command)));
    js_set(j, "ways_out", ways);
    return js_print(j, 0, err);
}

static bool print_estimate(const struct estimate *e, struct error *err)
{
    struct buf out = { 0 };
    if (e->o->json || e->o->jsonl)
        return estimate_json(e, err);
    estimate_text(&out, e);
    bool ok = buf_ok(&out, err) && out_write(out.data, out.len, err);
    buf_release(&out);
    return ok;
}

/* ---- both ---- */

/* The failure that the run would end with. */
static bool verdict(const struct estimate *e, struct error *err)
{
    const struct plan *p = e->plan;
    struct buf ways = { 0 };
    if (!p->placement.fits) {
        placing_print_ways(&ways, p->ways, p->n_ways);
        note_later(&ways);
        buf_release(&ways);
    }
    return placement_check(&p->placement, err) &&
           prompt_fits(e->count.longest, p->placement.n_ctx, PROMPT_WAY_OUT, err);
}

bool run_dry(const struct options *o, const char *path, struct str prompt, struct error *err)
{
    struct plan p = { .o = o, .path = path };
    struct estimate e = { .plan = &p, .o = o };
    static struct run_kept kept; /* large: it holds paths */
    struct run_prompt one = { .text = prompt };
    struct run_target target = { 0 };
    struct loaded m = { 0 };
    kept.count = &e.count;
    bool ok = plan_open(&p, err) && engine_can_run(&p.model, err) &&
              loaded_open_header(&m, o, &p.model, path, err) &&
              (o->batch_file ? run_batch(&m, o, &kept, err)
                             : run_answer(&m, o, &one, &target, &kept, err));
    if (ok) {
        e.format = chat_format_name(m.format);
        make_estimate(&e);
        ok = print_estimate(&e, err) && verdict(&e, err);
    }
    loaded_close(&m);
    plan_close(&p);
    return ok;
}
