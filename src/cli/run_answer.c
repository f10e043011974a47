#include "src/cli/run.h"

#include <sys/stat.h>
#include <unistd.h>

#include "src/base/mem.h"
#include "src/cli/dialogue.h"
#include "src/cli/drafting.h"
#include "src/cli/generate.h"
#include "src/cli/logprobs.h"
#include "src/cli/recording.h"
#include "src/cli/signals.h"
#include "src/cli/term.h"
#include "src/cli/why.h"

/* ---- the prompt ------------------------------------------------------------------------------ */

/* Ids of the prompt: rendered as a chat, or raw with special tokens parsed. may_call: the model was
 * given tools. */
static bool encode_prompt(struct loaded *m, const struct options *o, const struct run_prompt *p,
                          struct tokens *ids, bool *in_thinking, bool *may_call,
                          struct error *err)
{
    *in_thinking = *may_call = false;
    if (o->raw) {
        int32_t bos = tokenizer_bos(m->tokenizer);
        if (!tokenizer_encode(m->tokenizer, p->text, true, ids, err))
            return false;
        bool has_bos = ids->n > 0 && ids->ids[0] == bos;
        if (bos >= 0 && tokenizer_add_bos(m->tokenizer) && !has_bos) {
            if (!tokens_push(ids, bos, err))
                return false;
            memmove(ids->ids + 1, ids->ids, (ids->n - 1) * sizeof *ids->ids);
            ids->ids[0] = bos;
        }
        return ids->n > 0 || fail(err, ERR_USAGE, "the prompt is empty");
    }
    struct buf system = { 0 };
    struct dialogue d = { 0 };
    bool ok = load_system(o, &system, err) && dialogue_open(&d, o, p->talk, buf_str(&system), p->text, err) &&
              chat_render(m->format, m->tokenizer, d.messages, d.n, m->think, ids, NULL,
                          in_thinking, err);
    *may_call = d.has_tools;
    dialogue_close(&d);
    buf_release(&system);
    return ok;
}

/* ---- the answer ------------------------------------------------------------------------------ */

struct output {
    bool stream;         /* answer pieces go to stdout at once */
    enum show_thinking thinking;
    bool wrote_thinking; /* the cursor stands behind thinking */
    bool may_call;       /* what could be the beginning of a call is held back */
    struct buf answer;   /* then: all of it, */
    size_t n_shown;      /* and how much went out */
    bool events;         /* --jsonl */
    const struct loaded *m;
    struct run_target *target;
    struct logprobs logprobs;
};

static bool put(struct output *out, const char *bytes, size_t len, struct error *err)
{
    struct output_file *file = out->target->file;
    return file ? output_write(file, bytes, len, err) : out_write(bytes, len, err);
}

/* One line; frees the value. */
static bool put_json(struct output *out, struct json *j, struct error *err)
{
    struct buf text = { 0 };
    bool ok = js_take_text(j, 0, &text, err) && put(out, text.data, text.len, err);
    buf_release(&text);
    return ok;
}

/* {"event": "text" or "thinking", "text": ...} */
static bool put_event(struct output *out, const char *event, const char *bytes, size_t len,
                      struct error *err)
{
    struct json *j = js_object();
    js_set(j, "event", js_text(str_of(event)));
    js_set(j, "text", js_text((struct str){ bytes, len }));
    return put_json(out, j, err);
}

static bool on_token(void *ctx, const struct token_logprobs *t, struct error *err)
{
    struct output *out = ctx;
    struct json *j = logprobs_json(&out->logprobs, t, out->m->tokenizer);
    if (!out->events) {
        js_free(j);
        return true;
    }
    js_set(j, "event", js_text(str_of("token")));
    return put_json(out, j, err);
}

/* Escaped for a terminal, as it is for a pipe. */
static bool write_answer(struct output *out, const char *bytes, size_t len, struct error *err)
{
    struct buf clean = { 0 };
    if (!term_stdout() || out->target->file)
        return put(out, bytes, len, err);
    bool ok = term_escape_to(&clean, bytes, len) ? put(out, clean.data, clean.len, err)
                                                 : buf_ok(&clean, err);
    buf_release(&clean);
    return ok;
}

static void write_thinking(const char *bytes, size_t len)
{
    struct buf clean = { 0 };
    bool grey = term_colour(STDERR_FILENO);
    buf_puts(&clean, grey ? "\033[2m" : "");
    term_escape_to(&clean, bytes, len);
    buf_puts(&clean, grey ? "\033[0m" : "");
    err_write(buf_str(&clean).data, clean.len);
    buf_release(&clean);
}

static bool stream_answer(struct output *out, const char *bytes, size_t len, struct error *err)
{
    if (!out->may_call)
        return write_answer(out, bytes, len, err);
    buf_add(&out->answer, bytes, len);
    struct str all = buf_str(&out->answer);
    size_t from = out->n_shown, ready = max_of(chat_reply_ready(all), from);
    out->n_shown = ready;
    return buf_ok(&out->answer, err) && write_answer(out, all.data + from, ready - from, err);
}

static bool on_piece(void *ctx, enum piece_kind kind, const char *bytes, size_t len,
                     struct error *err)
{
    struct output *out = ctx;
    if (out->events)
        return put_event(out, kind == PIECE_THINKING ? "thinking" : "text", bytes, len, err);
    if (kind == PIECE_THINKING) {
        if (out->thinking == THINKING_HIDDEN)
            return true;
        out->wrote_thinking = true;
        if (out->thinking == THINKING_STDOUT)
            return write_answer(out, bytes, len, err);
        write_thinking(bytes, len);
        return true;
    }
    if (out->wrote_thinking) {
        out->wrote_thinking = false;
        if (out->thinking == THINKING_STDOUT && !put(out, "\n\n", 2, err))
            return false;
        if (out->thinking != THINKING_STDOUT)
            err_write("\n\n", 2);
    }
    return !out->stream || stream_answer(out, bytes, len, err);
}

/* Routed experts on the GPU: null where there are none. */
static void put_experts(struct json *j, const struct loaded *m)
{
    struct expert_report r;
    bool any = engine_expert_report(m->engine, &r);
    js_set(j, "expert_hit_rate", any && r.n_picks ? js_real(expert_hit_rate(&r)) : js_null());
    js_set(j, "expert_copied_bytes", any ? js_int((int64_t)r.moved_bytes) : js_null());
    js_set(j, "expert_sent_bytes", any ? js_int((int64_t)r.sent_bytes) : js_null());
}

/* Nothing when this session does not draft. */
static void put_draft(struct json *j, const struct loaded *m)
{
    struct draft_report r;
    session_draft_report(m->session, &r);
    struct json *draft = drafting_json(&r);
    if (draft)
        js_set(j, "draft", draft);
}

static bool print_json(struct output *out, const struct run_prompt *p, const struct generation *g,
                       const struct chat_reply *reply, struct error *err)
{
    const struct loaded *m = out->m;
    struct json *j = js_object();
    if (out->events)
        js_set(j, "event", js_text(str_of("done")));
    if (p->id)
        js_set(j, "id", js_copy(p->id));
    const char *finish = finish_name(g->finish);
    if (reply->n_calls > 0 && g->finish == FINISH_STOP)
        finish = "tool_calls";
    js_set(j, "text", js_text(reply->content));
    if (reply->n_calls > 0)
        js_set(j, "tool_calls", dialogue_calls_json(reply));
    js_set(j, "thinking", js_text(buf_str(&g->thinking)));
    if (out->logprobs.n_top > 0 && !out->events) {
        struct json *list = js_array();
        for (size_t i = 0; i < out->logprobs.n; i++)
            js_push(list, logprobs_json(&out->logprobs, &out->logprobs.list[i], m->tokenizer));
        js_set(j, "logprobs", list);
    }
    js_set(j, "prompt_tokens", js_int(g->n_prompt));
    js_set(j, "cached_tokens", js_int(g->n_reused));
    js_set(j, "completion_tokens", js_int(g->n_generated));
    js_set(j, "thinking_tokens", js_int(g->n_thinking));
    js_set(j, "prefill_tok_s", js_real(generation_prefill_rate(g)));
    js_set(j, "decode_tok_s", js_real(generation_decode_rate(g)));
    struct json *times = why_json(g);
    if (times)
        js_set(j, "ms_per_step", times);
    put_draft(j, m);
    put_experts(j, m);
    js_set(j, "load_s", js_real(m->load_s));
    js_set(j, "finish_reason", js_text(str_of(finish)));
    js_set(j, "seed", js_int((int64_t)m->sampling.seed));
    js_set(j, "model", js_text(str_of(m->description)));
    return put_json(out, j, err);
}

static void print_stats(const struct loaded *m, const struct options *o, const struct generation *g)
{
    note("prefill %lld tok  %.0f tok/s    decode %lld tok  %.1f tok/s    seed %llu",
         (long long)(g->n_prompt - g->n_reused), generation_prefill_rate(g),
         (long long)g->n_generated, generation_decode_rate(g),
         (unsigned long long)m->sampling.seed);
    if (g->n_reused > 0)
        note("%lld of %lld tokens of the prompt came from the prefix cache",
             (long long)g->n_reused, (long long)g->n_prompt);
    struct buf why = { 0 };
    why_line(&why, g);
    if (o->stats && why.len)
        note("%s", why.data);
    buf_release(&why);
    struct draft_report r;
    struct buf drafting = { 0 };
    session_draft_report(m->session, &r);
    drafting_line(&drafting, &r);
    if (drafting.len && o->stats)
        note("guesses ahead: %s", drafting.data);
    buf_release(&drafting);
    char experts[192];
    if (*experts_text(m, experts, sizeof experts))
        note("experts on the GPU: %s", experts);
    char text[200];
    if (handoff_line(m->engine, text, sizeof text))
        note("hand-off to the CPU: %s", text);
    if (g->finish == FINISH_LENGTH)
        note("stopped at %lld tokens (-n)%s", (long long)g->n_generated,
             g->ended_in_thinking ? ", still thinking" : "");
    if (g->finish == FINISH_CONTEXT)
        note("stopped: the context of %lld tokens is full (-c N makes it larger)",
             (long long)session_n_ctx(m->session));
}

/* What reads from a pipe may show its text on the same terminal, at any time: stay out of its
 * way. */
static bool stdout_is_pipe(void)
{
    struct stat st;
    return fstat(STDOUT_FILENO, &st) == 0 && S_ISFIFO(st.st_mode);
}

/* The calls of the answer; a model that calls before it is done thinking means to answer with that.
 * What cannot be read stays text. */
static bool read_calls(const struct generation *g, bool may_call, struct chat_reply *reply,
                       struct error *err)
{
    struct error why = { 0 };
    *reply = (struct chat_reply){ .content = buf_str(&g->answer) };
    if (!may_call)
        return true;
    bool ok = chat_reply_parse(buf_str(&g->answer), reply, &why);
    if (ok && g->answer.len == 0) {
        ok = chat_reply_parse(buf_str(&g->thinking), reply, &why);
        reply->content = buf_str(&g->answer);
    }
    if (!ok && why.code == ERR_FIT)
        return fail(err, ERR_FIT, "%s", why.text);
    if (why.code != ERR_NONE)
        note("a call in this answer cannot be read (%s); it is left as text", why.text);
    return true;
}

/* What was held back, then the calls, a line each. */
static bool finish_text(struct output *out, const struct chat_reply *reply, struct error *err)
{
    struct buf calls = { 0 };
    struct str all = buf_str(&out->answer);
    size_t end = out->may_call ? max_of(reply->content.len, out->n_shown) : 0;
    bool ok = end <= out->n_shown || write_answer(out, all.data + out->n_shown, end - out->n_shown, err);
    bool bare = reply->n_calls > 0 && reply->content.len == 0;
    dialogue_write_calls(&calls, reply);
    ok = ok && (bare || put(out, "\n", 1, err)) && buf_ok(&calls, err) &&
         (calls.len == 0 || put(out, calls.data, calls.len, err));
    buf_release(&calls);
    return ok;
}

static bool count_prompt(struct loaded *m, const struct options *o, const struct run_prompt *p,
                         struct run_count *count, struct error *err)
{
    struct tokens ids = { 0 };
    bool in_thinking, may_call, ok = encode_prompt(m, o, p, &ids, &in_thinking, &may_call, err);
    count->n_prompts += ok;
    count->n_tokens += ok ? (int64_t)ids.n : 0;
    count->longest = max_of(count->longest, ok ? (int64_t)ids.n : 0);
    tokens_release(&ids);
    return ok;
}

bool run_answer(struct loaded *m, const struct options *o, const struct run_prompt *p,
                struct run_target *target, struct run_kept *kept, struct error *err)
{
    if (kept->count)
        return count_prompt(m, o, p, kept->count, err);
    bool json = o->json || o->jsonl || target->in_lines;
    struct tokens ids = { 0 };
    struct generation g = { 0 };
    struct chat_reply reply = { 0 };
    struct trace trace = { 0 };
    struct output out = { .stream = !json, .thinking = (enum show_thinking)o->show_thinking,
                          .events = o->jsonl, .m = m, .target = target };
    out.logprobs = (struct logprobs){ .n_top = (int)o->logprobs, .sink = on_token, .ctx = &out };
    struct generate_options go = {
        .n_predict = o->n_predict,
        .think_budget = o->think_budget == UNSET ? -1 : o->think_budget,
        .plain = o->raw,
        .stop = o->stop.items,
        .n_stop = o->stop.n,
        .logprobs = o->logprobs > 0 ? &out.logprobs : NULL,
        .trace = o->record ? &trace : NULL,
        .sink = on_piece,
        .sink_ctx = &out,
        .before = prefix_cache_before,
        .after = prefix_cache_after,
        .keep_ctx = &kept->cache,
    };
    if (out.thinking == THINKING_AUTO)
        out.thinking = term_stdout() && term_stderr() && !json ? THINKING_FULL : THINKING_HIDDEN;
    if (json && out.thinking == THINKING_STDOUT)
        out.thinking = THINKING_HIDDEN; /* it is a field of the object */
    bool ok = encode_prompt(m, o, p, &ids, &go.in_thinking, &out.may_call, err);
    go.shown_mark = out.may_call ? CHAT_CALL_MARK : NULL;
    ok = ok && generate(m, &ids, &go, &g, err);
    bool begun = g.n_generated > 0;
    ok = read_calls(&g, out.may_call, &reply, ok ? err : NULL) && ok;
    if (ok && json && !(target->in_lines && g.finish == FINISH_INTERRUPTED))
        ok = print_json(&out, p, &g, &reply, err);
    else if (!json && (ok || begun) && !out_broken())
        ok = finish_text(&out, &reply, ok ? err : NULL) && ok;
    if (ok && !target->in_lines && (o->stats || (term_stderr() && !stdout_is_pipe())))
        print_stats(m, o, &g);
    else if (ok && !json && g.finish == FINISH_LENGTH && g.n_generated > 0 &&
             g.n_thinking == g.n_generated)
        note("the answer is empty: all %lld tokens (-n) went into thinking; --no-think, or a larger -n",
             (long long)g.n_generated);
    ok = run_session_end(&kept->session, ok, m, o, kept->model_path, p->text, &g, err);
    if (ok && g.finish == FINISH_INTERRUPTED)
        ok = fail(err, ERR_INTERRUPTED, "interrupted");
    if (ok && o->record)
        ok = recording_write(&kept->record, m, o, kept->model_path, &ids, &go, &g, err);
    trace_release(&trace);
    chat_reply_release(&reply);
    buf_release(&out.answer);
    logprobs_release(&out.logprobs);
    generation_release(&g);
    tokens_release(&ids);
    return ok;
}
