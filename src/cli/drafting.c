#include "src/cli/drafting.h"

enum draft_use draft_wish(int choice)
{
    return (enum draft_use)(choice + DRAFT_AUTO);
}

/* "3 now: 1.42 times as fast as none" */
static void put_decision(struct buf *out, const struct draft_report *r)
{
    switch (r->reason) {
    case DRAFT_FIXED:
        buf_printf(out, "%d at a time, as told", r->length);
        break;
    case DRAFT_MEASURES:
        buf_puts(out, "none yet, plain steps are measured first");
        break;
    case DRAFT_PAYS:
        buf_printf(out, "%d at a time now", r->length);
        if (r->gain > 0)
            buf_printf(out, ", %.2f times as fast as none", r->gain);
        break;
    case DRAFT_LOSES:
        buf_puts(out, "none now");
        if (r->gain > 0)
            buf_printf(out, ", with guesses decoding would be %.2f times as fast", r->gain);
        if (r->n_off > 0)
            buf_printf(out, "; given up %lld time%s", (long long)r->n_off, r->n_off > 1 ? "s" : "");
        break;
    case DRAFT_RECOVERS:
        buf_puts(out, "none for a while, trials have cost their share");
        break;
    }
}

void drafting_line(struct buf *out, const struct draft_report *r)
{
    if (!r->available)
        return;
    if (r->n_guesses > 0)
        buf_printf(out, "%.2f tokens a step, %lld of %lld guesses right (", draft_tokens_per_step(r),
                   (long long)r->n_accepted, (long long)r->n_guesses);
    for (int i = 0; i < DRAFT_MOST && r->guesses[i] > 0; i++)
        buf_printf(out, "%s%s %.0f %%", i ? ", " : "",
                   (const char *[]){ "first", "second", "third" }[i],
                   100 * (double)r->accepted[i] / (double)r->guesses[i]);
    buf_puts(out, r->n_guesses > 0 ? "); " : "");
    put_decision(out, r);
}

struct json *drafting_json(const struct draft_report *r)
{
    static const char *const reasons[] = { "fixed", "measuring", "pays", "does not pay",
                                           "recovering" };
    if (!r->available)
        return NULL;
    struct json *j = js_object(), *guesses = js_array(), *accepted = js_array();
    struct json *steps = js_array(), *ms = js_array();
    for (int i = 0; i < DRAFT_MOST; i++) {
        js_push(guesses, js_int(r->guesses[i]));
        js_push(accepted, js_int(r->accepted[i]));
    }
    for (int k = 0; k <= DRAFT_MOST; k++) {
        js_push(steps, js_int(r->n_steps[k]));
        js_push(ms, r->step_s[k] > 0 ? js_real(1e3 * r->step_s[k]) : js_null());
    }
    js_set(j, "length", js_int(r->length));
    js_set(j, "reason", js_text(str_of(reasons[r->reason])));
    js_set(j, "gain", r->gain > 0 ? js_real(r->gain) : js_null());
    js_set(j, "turned_off", js_int(r->n_off));
    js_set(j, "tokens_per_step", js_real(draft_tokens_per_step(r)));
    js_set(j, "guesses", guesses);
    js_set(j, "accepted", accepted);
    js_set(j, "steps", steps);
    js_set(j, "ms_per_step", ms);
    return j;
}
