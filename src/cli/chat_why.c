/* /why and /plan: where the time went, and where everything lies. */
#include "src/cli/chat_actions.h"
#include "src/cli/chat_keep.h"
#include "src/cli/plan.h"
#include "src/cli/rates.h"
#include "src/cli/term.h"
#include "src/cli/why.h"

static bool print(struct buf *text, struct error *err)
{
    bool ok = buf_ok(text, err);
    if (ok && text->len)
        err_lines(buf_str(text));
    buf_release(text);
    return ok;
}

/* Rates that are known without measuring now. */
static struct rates known_rates(const struct chat *c)
{
    struct rates r = { 0 };
    struct error ignored = { 0 };
    rates_here(&r, c->o, false, &ignored);
    return r;
}

bool chat_do_why(struct chat *c, const char *argument, struct error *err)
{
    struct buf text = { 0 };
    (void)argument;
    if (!c->answered) {
        note("no answer yet");
        return true;
    }
    why_text(&text, &c->m, &c->last, known_rates(c).dram_gb_s, term_columns());
    return print(&text, err);
}

/* The plan that the model was loaded by. What it points to is the engine's. */
static struct plan current_plan(const struct chat *c)
{
    struct plan p = {
        .o = c->o, .path = c->keep ? c->keep->path : "", .rates = known_rates(c), .met = true,
        .model = *c->m.model, .placement = *engine_placement(c->m.engine),
    };
    forecast_make(&p.forecast, &p.model, &p.placement, &p.rates, 0, p.placement.n_batch);
    forecast_make(&p.full, &p.model, &p.placement, &p.rates, p.placement.n_ctx,
                  p.placement.n_batch);
    return p;
}

double chat_expected_prefill(const struct chat *c)
{
    return current_plan(c).forecast.prefill_tok_s.mid;
}

bool chat_do_plan(struct chat *c, const char *argument, struct error *err)
{
    struct buf text = { 0 };
    struct plan p = current_plan(c);
    (void)argument;
    plan_text(&text, &p, term_columns());
    return print(&text, err);
}
