#include "src/cli/generate.h"

#include <math.h>

#include "src/cli/rates.h"
#include "src/cli/record.h"
#include "src/cli/signals.h"
#include "src/cli/term.h"
#include "src/text/think.h"

#define REPLACEMENT "\xef\xbf\xbd" /* U+FFFD, for a character that the answer's end cut in two */

/* The way of the bytes from tokens to the reader. */
struct stream {
    const struct generate_options *o;
    struct generation *g;
    const struct tokenizer *tokenizer;
    struct think think;
    struct stop_matcher *stop;
    struct buf pending; /* bytes of a character that is not complete yet */
    enum piece_kind kind;
    int32_t shown_mark; /* -1: none */
    bool drop_space;    /* SPM: the space that encoding put in front */
    bool stopped;
    double asked_s;     /* time that the user took to answer a question */
    bool constrained;   /* the token that is taken was chosen under a grammar */
};

/* Show what is complete; at the end of a part the rest is replaced. */
static bool show(struct stream *s, const char *bytes, size_t len, bool at_end, struct error *err)
{
    buf_add(&s->pending, bytes, len);
    if (!buf_ok(&s->pending, err))
        return false;
    struct str all = buf_str(&s->pending);
    size_t ready = utf8_complete(all);
    struct buf *text = s->kind == PIECE_ANSWER ? &s->g->answer : &s->g->thinking;
    bool ok = true;
    buf_add(text, all.data, ready);
    if (ready && s->o->sink)
        ok = s->o->sink(s->o->sink_ctx, s->kind, all.data, ready, err);
    bool cut = at_end && ready < all.len;
    if (cut)
        buf_puts(text, REPLACEMENT);
    if (cut && ok && s->o->sink)
        ok = s->o->sink(s->o->sink_ctx, s->kind, REPLACEMENT, strlen(REPLACEMENT), err);
    size_t rest = at_end ? 0 : all.len - ready;
    if (s->pending.data)
        memmove(s->pending.data, s->pending.data + ready, rest);
    s->pending.len = rest;
    return ok;
}

static bool flush(struct stream *s, struct error *err)
{
    const char *ready = "";
    size_t n = 0;
    if (s->stop && s->kind == PIECE_ANSWER && !s->stopped)
        stop_flush(s->stop, &ready, &n);
    return show(s, ready, n, true, err);
}

/* One token of the reply. */
static bool take(struct stream *s, int32_t id, struct error *err)
{
    enum think_part part = s->o->plain ? PART_ANSWER : think_token(&s->think, id);
    enum piece_kind kind = part == PART_THINK ? PIECE_THINKING : PIECE_ANSWER;
    struct str bytes = tokenizer_bytes(s->tokenizer, id, id == s->shown_mark);

    s->g->n_generated++;
    s->g->n_thinking += part != PART_ANSWER;
    s->g->ended_in_thinking = !s->o->plain && s->think.thinking;
    if (part == PART_MARK)
        return true;
    if (kind != s->kind && !flush(s, err))
        return false;
    s->kind = kind;
    if (s->drop_space && bytes.len && bytes.data[0] == ' ')
        bytes = (struct str){ bytes.data + 1, bytes.len - 1 };
    s->drop_space = s->drop_space && !bytes.len;
    if (kind == PIECE_ANSWER)
        buf_add(&s->g->stored, bytes.data, bytes.len);
    /* What a grammar wants is shown as it is, line ends at its beginning too. */
    struct str shown = s->o->plain || s->constrained ? bytes : think_show(&s->think, bytes);
    if (kind == PIECE_THINKING || !s->stop)
        return show(s, shown.data, shown.len, false, err);
    const char *ready;
    size_t n;
    s->stopped = stop_feed(s->stop, shown.data, shown.len, &ready, &n);
    return show(s, ready, n, s->stopped, err);
}


#define ENOUGH_TOKENS 16 /* to tell how fast decoding is */

#define KEEP_TOKENS 512 /* of a prompt, that are worth keeping before it ends */

struct reading {
    const struct generate_options *o;
    struct progress progress;
    int64_t kept;
};

static bool on_prefill(void *ctx, int64_t done, int64_t total)
{
    struct reading *r = ctx;
    progress_update(&r->progress, (double)done, (double)total);
    if (r->o->after && (done == total || done - r->kept >= KEEP_TOKENS)) {
        r->o->after(r->o->keep_ctx);
        r->kept = done;
    }
    return !signals_cancelled();
}

bool prompt_fits(int64_t n, int64_t n_ctx, const char *way_out, struct error *err)
{
    return n < n_ctx ||
           fail(err, ERR_USAGE, "the prompt has %lld tokens, the context holds %lld and an answer "
                "needs room too%s", (long long)n, (long long)n_ctx, way_out);
}

static bool prefill(struct loaded *m, const struct tokens *prompt,
                    const struct generate_options *o, struct generation *g, struct error *err)
{
    struct reading reading = { .o = o };
    int64_t n = (int64_t)prompt->n, n_ctx = session_n_ctx(m->session);
    if (!prompt_fits(n, n_ctx, o->ways_follow ? "" : PROMPT_WAY_OUT, err))
        return false;
    if (o->before && !o->before(o->keep_ctx, prompt, err))
        return false;
    int64_t past = session_n_past(m->session);
    const int32_t *cached = session_tokens(m->session);
    while (g->n_reused < past && g->n_reused < n && cached[g->n_reused] == prompt->ids[g->n_reused])
        g->n_reused++;
    g->n_reused = min_of(g->n_reused, n - 1);
    g->n_prompt = n;
    sampler_reset(m->sampler);
    for (int64_t i = max_of(0, n - m->sampling.penalty_window); i < n; i++)
        sampler_accept(m->sampler, prompt->ids[i]);
    double start = now_s();
    progress_begin(&reading.progress, "reading", "tok");
    bool ok = session_prefill(m->session, prompt->ids, n, on_prefill, &reading, err);
    progress_end(&reading.progress);
    g->prefill_s = now_s() - start;
    return ok;
}

static int usable_tokens(const struct loaded *m)
{
    return min_of(tokenizer_n_tokens(m->tokenizer), (int32_t)m->model->params.n_vocab);
}

static bool is_constrained(const struct loaded *m, const struct stream *s, const struct think *think)
{
    return m->constraint && (s->o->plain || !think->thinking);
}

/* The marks of thinking are no part of an answer, unless it may open with one. */
static void forbid_marks(const struct stream *s, float *logits, int usable, float open_logit)
{
    int32_t open = s->think.open_id, close = s->think.close_id;
    if (s->o->plain)
        return;
    if (close >= 0 && close < usable)
        logits[close] = -INFINITY;
    if (open >= 0 && open < usable)
        logits[open] = open_logit;
}

/* Let the grammar forbid tokens. Thinking goes free, but the answer must come after it. A model
 * that may think can open its thinking with the first token. *complete: the answer ends here. */
static bool constrain(struct loaded *m, struct stream *s, int usable, bool *complete,
                      struct error *err)
{
    float *logits = session_logits(m->session);
    *complete = false;
    s->constrained = is_constrained(m, s, &s->think);
    if (!m->constraint)
        return true;
    if (!s->constrained) {
        constraint_forbid_end(m->constraint, logits);
        return true;
    }
    int32_t open = s->o->plain ? -1 : s->think.open_id;
    bool may_open = m->thinks && s->g->n_generated == 0 && open >= 0 && open < usable;
    float open_logit = may_open ? logits[open] : -INFINITY;
    if (!constraint_is_complete(m->constraint, complete, err))
        return false;
    if (*complete)
        return true;
    if (!constraint_apply(m->constraint, logits, err))
        return false;
    forbid_marks(s, logits, usable, open_logit);
    return true;
}

/* What constrain would do behind tokens that are guessed. False: the answer would end. */
static bool constrain_ahead(struct loaded *m, const struct stream *s, struct think *think,
                            float *logits, int usable, const int32_t *ahead, int n_ahead)
{
    int32_t bound[SAMPLER_AHEAD]; /* those that the grammar looks at */
    int n_bound = 0;
    for (int i = 0; i < n_ahead && !s->o->plain; i++) {
        bool injected = think_due(think);
        if (injected)
            think_inject(think);
        if (!injected && !think->thinking && ahead[i] != think->open_id)
            bound[n_bound++] = ahead[i];
        think_token(think, ahead[i]);
    }
    if (!m->constraint || (!s->o->plain && think_due(think)))
        return true;
    if (!is_constrained(m, s, think)) {
        constraint_forbid_end(m->constraint, logits);
        return true;
    }
    if (!constraint_foresee(m->constraint, s->o->plain ? ahead : bound,
                            s->o->plain ? n_ahead : n_bound, logits))
        return false;
    forbid_marks(s, logits, usable, -INFINITY);
    return true;
}

int32_t generate_foresee(void *loaded, float *logits, const int32_t *ahead, int n_ahead)
{
    struct loaded *m = loaded;
    const struct stream *s = m->answering;
    int usable = usable_tokens(m);
    if (!s)
        return sampler_foresee(m->sampler, logits, usable, ahead, n_ahead);
    struct think think = s->think;
    int64_t most = s->o->n_predict; /* the last token of an answer is never computed */
    if ((most >= 0 && s->g->n_generated + n_ahead + 1 >= most) ||
        !constrain_ahead(m, s, &think, logits, usable, ahead, n_ahead))
        return -1;
    if (!s->o->plain && think_due(&think))
        return think_inject(&think);
    int32_t id = sampler_foresee(m->sampler, logits, usable, ahead, n_ahead);
    return tokenizer_is_end(m->tokenizer, id) ? -1 : id;
}

/* After Ctrl-C: during thinking the user may choose. */
static bool goes_on(struct stream *s)
{
    if (signals_leave() || !s->o->ask || s->o->plain || !s->think.thinking)
        return false;
    signals_rearm();
    double start = now_s();
    enum interrupt_choice choice = s->o->ask(s->o->sink_ctx);
    s->asked_s += now_s() - start;
    if (choice == INTERRUPT_ANSWER)
        think_stop(&s->think);
    return choice != INTERRUPT_STOP && !signals_leave();
}

/* For SIGUSR1. */
static void note_status(const struct loaded *m, const struct generation *g)
{
    note("%lld tokens written%s, %.1f tok/s, context %d %% of %lld", (long long)g->n_generated,
         g->ended_in_thinking ? " (thinking)" : "", generation_decode_rate(g),
         (int)(100 * session_n_past(m->session) / session_n_ctx(m->session)),
         (long long)session_n_ctx(m->session));
}

/* Append the token to the timeline. *stop: Ctrl-C, and it was meant so. */
static bool advance(struct loaded *m, struct stream *s, int32_t id, bool *stop, struct error *err)
{
    *stop = signals_cancelled() && !goes_on(s);
    while (!*stop && !session_decode(m->session, id, err)) {
        if (!err || err->code != ERR_INTERRUPTED)
            return false;
        error_clear(err);
        *stop = !goes_on(s);
    }
    return true;
}

/* Sample until the end mark, a stop string, the limit, a full context, or Ctrl-C. */
static bool decode(struct loaded *m, struct stream *s, struct error *err)
{
    const struct generate_options *o = s->o;
    struct generation *g = s->g;
    int usable = usable_tokens(m);
    double first_s = now_s();
    g->finish = FINISH_STOP;
    while (!s->stopped) {
        int32_t id;
        bool complete;
        if (o->n_predict >= 0 && g->n_generated >= o->n_predict) {
            g->finish = FINISH_LENGTH;
            break;
        }
        s->constrained = false;
        uint64_t bits = o->trace ? logits_hash(session_logits(m->session), m->model->params.n_vocab) : 0;
        if (o->logprobs &&
            !logprobs_observe(o->logprobs, session_logits(m->session), usable, err))
            return false;
        if (!o->plain && think_due(&s->think)) {
            id = think_inject(&s->think);
        } else {
            if (!constrain(m, s, usable, &complete, err))
                return false;
            if (complete)
                break;
            if (!sampler_choose(m->sampler, session_logits(m->session), usable, &id, err))
                return false;
        }
        if (g->n_generated == 0)
            first_s = now_s();
        if (o->trace && !trace_add(o->trace, id, bits, err))
            return false;
        if (tokenizer_is_end(m->tokenizer, id))
            break;
        if (o->logprobs && !logprobs_take(o->logprobs, id, err))
            return false;
        sampler_accept(m->sampler, id);
        bool opens = !o->plain && id == s->think.open_id;
        if (s->constrained && !opens && !constraint_accept(m->constraint, id, err))
            return false;
        if (!take(s, id, err))
            return false;
        g->decode_s = now_s() - first_s - s->asked_s;
        if (s->stopped)
            break;
        if (signals_status())
            note_status(m, g);
        if (o->n_predict >= 0 && g->n_generated >= o->n_predict)
            continue; /* the limit is reached: no step for a token that nobody wants */
        if (session_n_past(m->session) >= session_n_ctx(m->session)) {
            g->finish = FINISH_CONTEXT;
            break;
        }
        bool stop;
        if (!advance(m, s, id, &stop, err))
            return false;
        if (stop) {
            g->finish = FINISH_INTERRUPTED;
            break;
        }
    }
    return true;
}

/* What the session's steps took between the two. */
static void times_between(struct session_times *t, const struct session_times *before,
                          const struct session_times *after)
{
    *t = *after;
    for (int i = 0; i < N_PHASES; i++) {
        t->decode.seconds[i] -= before->decode.seconds[i];
        t->prefill.seconds[i] -= before->prefill.seconds[i];
    }
    t->draft_s -= before->draft_s;
    t->n_steps -= before->n_steps;
    t->n_read -= before->n_read;
}

static void guesses_between(struct draft_report *r, const struct draft_report *before,
                            const struct loaded *m)
{
    session_draft_report(m->session, r);
    r->n_guesses -= before->n_guesses;
    r->n_accepted -= before->n_accepted;
    for (int i = 0; i < DRAFT_MOST; i++) {
        r->guesses[i] -= before->guesses[i];
        r->accepted[i] -= before->accepted[i];
    }
    for (int k = 0; k <= DRAFT_MOST; k++)
        r->n_steps[k] -= before->n_steps[k];
    r->n_off -= before->n_off;
}

bool generate(struct loaded *m, const struct tokens *prompt, const struct generate_options *o,
              struct generation *g, struct error *err)
{
    struct stream s = { .o = o, .g = g, .tokenizer = m->tokenizer, .kind = PIECE_ANSWER };
    s.shown_mark = o->shown_mark ? tokenizer_find(m->tokenizer, o->shown_mark) : -1;
    s.drop_space = tokenizer_adds_space(m->tokenizer) && !m->constraint;
    if (m->constraint)
        constraint_reset(m->constraint);
    const char *close_text = chat_format_think_close(m->format);
    struct session_times before = *session_times(m->session);
    struct draft_report drafted;
    session_draft_report(m->session, &drafted);
    bool ok = think_start(&s.think, m->tokenizer, o->in_thinking, close_text, o->think_budget,
                          err) &&
              (o->n_stop == 0 || stop_open(&s.stop, o->stop, o->n_stop, err)) &&
              prefill(m, prompt, o, g, err);
    double start = now_s();
    m->answering = &s;
    ok = ok && decode(m, &s, err);
    m->answering = NULL;
    g->loop_s = now_s() - start - s.asked_s;
    times_between(&g->times, &before, session_times(m->session));
    guesses_between(&g->drafted, &drafted, m);
    /* What was held back is still the reader's, also when a step failed. */
    bool flushed = flush(&s, ok ? err : NULL);
    stop_close(s.stop);
    buf_release(&s.pending);
    if (ok) {
        record_answer(m, g);
        if (g->n_generated > ENOUGH_TOKENS)
            rates_check(m->engine, (double)(g->times.n_steps - 1) / g->decode_s,
                        session_n_past(m->session));
    }
    return ok && flushed && buf_ok(&g->answer, err) && buf_ok(&g->stored, err) &&
           buf_ok(&g->thinking, err);
}

void generation_release(struct generation *g)
{
    buf_release(&g->answer);
    buf_release(&g->stored);
    buf_release(&g->thinking);
    memset(g, 0, sizeof *g);
}

double generation_prefill_rate(const struct generation *g)
{
    return g->prefill_s > 0 ? (double)(g->n_prompt - g->n_reused) / g->prefill_s : 0;
}

double generation_decode_rate(const struct generation *g)
{
    return g->decode_s > 0 && g->n_generated > 1 ? (double)(g->n_generated - 1) / g->decode_s : 0;
}

const char *finish_name(enum finish f)
{
    static const char *const names[] = { "stop", "length", "context", "interrupted" };
    return names[f];
}
