/* tandem replay: compute a recorded answer again, and say whether it is the same to the bit. */
#include <stdio.h>

#include "cpu/features.h"
#include "gpu/gpu.h"
#include "src/cli/command.h"
#include "src/cli/export.h"
#include "src/cli/paths.h"
#include "src/cli/recording.h"
#include "src/cli/repair.h"
#include "src/cli/term.h"
#include "src/cli/version.h"
#include "src/engine/prefix_file.h"
#include "src/text/grammar.h"

/* ---- the model ---- */

/* Ids of tokens are limited by the vocabulary, whose size stands in the header. */
static bool check_ids(const struct recording *r, const struct gguf *g, struct error *err)
{
    const struct gguf_kv *kv = gguf_find(g, "tokenizer.ggml.tokens");
    int64_t n = kv ? (int64_t)kv->count : 0;
    for (size_t i = 0; i < r->prompt.n; i++)
        if (r->prompt.ids[i] >= n)
            return fail(err, ERR_FILE, "a damaged record: token %d in the prompt, the vocabulary has %lld",
                        r->prompt.ids[i], (long long)n);
    for (size_t i = 0; i < r->answer.n; i++)
        if (r->answer.steps[i].id >= n)
            return fail(err, ERR_FILE, "a damaged record: token %d in the answer, the vocabulary has %lld",
                        r->answer.steps[i].id, (long long)n);
    return true;
}

/* Before weights are loaded, which may take minutes: is it the model that the record tells of? */
static bool check_model(const struct recording *r, const char *path, struct error *err)
{
    struct gguf g = { 0 };
    bool ok = gguf_open(&g, path, err);
    uint64_t hash = ok ? file_fingerprint(&g) : 0;
    if (ok && hash != r->model_hash)
        ok = fail(err, ERR_FILE, "%s is another model than the recorded one: its hash is %016llx, not "
                  "%016llx (-m FILE names the right one)", path, (unsigned long long)hash,
                  (unsigned long long)r->model_hash);
    ok = ok && check_ids(r, &g, err);
    gguf_close(&g);
    return ok;
}

/* Where it was, unless -m says where it is now. */
static bool find_model(const struct recording *r, struct options *o, char *path, size_t size,
                       struct error *err)
{
    o->n_positional = 0;
    if (o->model_given)
        return resolve_model(o, false, path, size, err);
    o->model = r->model;
    return resolve_model(o, false, path, size, err) ||
           error_prefix(err, "the record's model (-m FILE names another place)");
}

/* The same kernels on the same devices, unless the command line has others. */
static void place_as_recorded(const struct recording *r, struct options *o)
{
    bool said = o->gpu != GPU_AUTO || o->gpu_layers > 0;
    if (!o->isa_given)
        o->isa_given = cpu_isa_cap(r->isa, &o->isa);
    if (said)
        return;
    o->gpu = r->gpu ? GPU_MUST : GPU_NEVER;
    if (!r->gpu)
        return;
    o->gpu_layers = r->gpu_layers;
    o->cpu_moe = r->cpu_moe;
    o->overrides = r->overrides;
}

/* Biases and grammar, which the model has to know. */
static bool bind(struct loaded *m, const struct recording *r, struct options *o, struct grammar **g,
                 struct error *err)
{
    for (int i = 0; i < r->n_bias; i++)
        if (r->bias[i].id >= m->model->params.n_vocab)
            return fail(err, ERR_FILE, "a damaged record: a bias for token %d, the vocabulary has %lld",
                        r->bias[i].id, (long long)m->model->params.n_vocab);
    memcpy(o->bias, r->bias, sizeof o->bias);
    o->n_bias = r->n_bias;
    struct grammar *taken = *g;
    *g = NULL;
    return loaded_resample(m, o, err) && (!taken || loaded_constrain(m, taken, err));
}

/* ---- the answer ---- */

struct outcome {
    const struct recording *r;
    const struct loaded *m;
    struct trace now;
    const char *finish;      /* how it ended now; "" where it was stopped for another token */
    int64_t n_tokens;        /* of the answer, without the end mark */
    int64_t token, bits;     /* the first that differs; -1: none */
};

static bool compute(struct loaded *m, const struct recording *r, const struct options *o,
                    struct outcome *out, struct error *err)
{
    struct generation g = { 0 };
    struct generate_options go = {
        .n_predict = o->n_predict,
        .think_budget = o->think_budget == UNSET ? -1 : o->think_budget,
        .in_thinking = r->in_thinking,
        .plain = o->raw,
        .shown_mark = r->calls ? CHAT_CALL_MARK : NULL,
        .stop = o->stop.items,
        .n_stop = o->stop.n,
        .trace = &out->now,
    };
    out->now.wanted = &r->answer;
    bool ok = generate(m, &r->prompt, &go, &g, err);
    if (!ok && out->now.differs) {
        error_clear(err);
        ok = true;
    } else if (ok && g.finish == FINISH_INTERRUPTED) {
        ok = fail(err, ERR_INTERRUPTED, "interrupted");
    }
    out->finish = out->now.differs ? "" : finish_name(g.finish);
    out->n_tokens = g.n_generated;
    out->token = trace_other_token(&out->now, &r->answer);
    out->bits = trace_other_bits(&out->now, &r->answer);
    generation_release(&g);
    return ok;
}

/* ---- telling ---- */

static void add_token(struct buf *text, const struct outcome *out, const struct trace *t)
{
    if ((size_t)out->token < t->n)
        buf_add_repaired(text, tokenizer_bytes(out->m->tokenizer, t->steps[out->token].id, true));
}

/* A token between quotes, or that there is none. */
static void quote(struct buf *text, const struct outcome *out, const struct trace *t)
{
    struct buf token = { 0 };
    add_token(&token, out, t);
    buf_printf(text, (size_t)out->token < t->n ? "\"%.80s\"" : "the end of the answer",
               buf_str(&token).data);
    buf_release(&token);
}

/* The card that computes now; NULL: none does. */
static const char *gpu_name(const struct outcome *out)
{
    const struct gpu_info *gpu = engine_gpu(out->m->engine);
    return gpu ? gpu->name : NULL;
}

static void add_devices(struct buf *text, const char *isa, const char *gpu)
{
    buf_printf(text, ", %.20s%s%.60s", isa, gpu ? " and " : "", gpu ? gpu : "");
}

static void describe(struct buf *text, const struct outcome *out)
{
    bool same_end = strcmp(out->finish, out->r->finish) == 0;
    char when[32];
    if (out->token >= 0) {
        buf_printf(text, "other from token %lld on: recorded ", (long long)out->token + 1);
        quote(text, out, &out->r->answer);
        buf_puts(text, ", here ");
        quote(text, out, &out->now);
        if (out->bits >= 0 && out->bits < out->token)
            buf_printf(text, ", after other bits from token %lld on", (long long)out->bits + 1);
    } else if (out->bits >= 0) {
        buf_printf(text, "same: %lld tokens, but other bits from token %lld on",
                   (long long)out->n_tokens, (long long)out->bits + 1);
    } else if (!same_end) {
        buf_printf(text, "same: %lld tokens, same bits, but another end: recorded %s, here %s",
                   (long long)out->n_tokens, out->r->finish, out->finish);
    } else {
        buf_printf(text, "same: %lld tokens, same bits", (long long)out->n_tokens);
    }
    export_time(when, out->r->time_s);
    buf_printf(text, " (recorded by version %.20s (%.20s) on %s", out->r->version,
               out->r->commit, when);
    add_devices(text, out->r->isa, out->r->gpu);
    if (out->token >= 0 || out->bits >= 0) {
        buf_printf(text, "; here %s (%s)", version_number(), version_commit());
        add_devices(text, cpu_isa_name(engine_isa(out->m->engine)), gpu_name(out));
    }
    buf_puts(text, ")");
}

/* Positions count from 1. */
static struct json *position(int64_t at)
{
    return at < 0 ? js_null() : js_int(at + 1);
}

static struct json *token_json(const struct outcome *out, const struct trace *t)
{
    struct buf text = { 0 };
    if (out->token < 0 || (size_t)out->token >= t->n)
        return js_null();
    add_token(&text, out, t);
    struct json *j = js_text(buf_str(&text));
    buf_release(&text);
    return j;
}

static bool print_json(const struct outcome *out, bool same, struct error *err)
{
    struct json *j = js_object();
    js_set(j, "same", js_bool(same));
    js_set(j, "same_tokens", js_bool(out->token < 0));
    js_set(j, "same_bits", js_bool(out->token < 0 && out->bits < 0));
    js_set(j, "tokens", js_int(out->n_tokens));
    js_set(j, "prompt_tokens", js_int((int64_t)out->r->prompt.n));
    js_set(j, "first_other_token", position(out->token));
    js_set(j, "first_other_bits", position(out->bits));
    js_set(j, "recorded_token", token_json(out, &out->r->answer));
    js_set(j, "token", token_json(out, &out->now));
    js_set(j, "recorded_finish_reason", js_text(str_of(out->r->finish)));
    js_set(j, "finish_reason", *out->finish ? js_text(str_of(out->finish)) : js_null());
    js_set(j, "recorded_version", js_text(str_of(out->r->version)));
    js_set(j, "recorded_commit", js_text(str_of(out->r->commit)));
    js_set(j, "recorded_time", js_int(out->r->time_s));
    js_set(j, "recorded_cpu_isa", js_text(str_of(out->r->isa)));
    js_set(j, "recorded_gpu", out->r->gpu ? js_text(str_of(out->r->gpu)) : js_null());
    js_set(j, "version", js_text(str_of(version_number())));
    js_set(j, "commit", js_text(str_of(version_commit())));
    js_set(j, "cpu_isa", js_text(str_of(cpu_isa_name(engine_isa(out->m->engine)))));
    js_set(j, "gpu", gpu_name(out) ? js_text(str_of(gpu_name(out))) : js_null());
    js_set(j, "model", js_text(str_of(out->m->description)));
    return js_print(j, 0, err);
}

/* One line; what is not the same is an error. */
static bool tell(const struct outcome *out, const struct options *o, struct error *err)
{
    bool same = out->token < 0 && out->bits < 0 && strcmp(out->finish, out->r->finish) == 0;
    struct buf line = { 0 }, clean = { 0 };
    describe(&line, out);
    bool ok = buf_ok(&line, err) && (!o->json || print_json(out, same, err));
    if (ok && !same)
        ok = fail(err, ERR_CHECK, "%s", line.data);
    if (ok && !o->json) {
        term_escape_to(&clean, line.data, line.len);
        buf_puts(&clean, "\n");
        ok = buf_ok(&clean, err) && out_write(clean.data, clean.len, err);
    }
    buf_release(&line);
    buf_release(&clean);
    return ok;
}

/* ---- the command ---- */

static bool replay(const struct recording *r, struct options *o, const char *path, struct error *err)
{
    struct loaded m = { 0 };
    struct outcome out = { .r = r, .m = &m };
    struct grammar *g = NULL;
    struct error why = { 0 };
    if (r->grammar && !grammar_parse(&g, str_of(r->grammar), &why))
        return fail(err, ERR_FILE, "a damaged record: its grammar: %s", why.text);
    bool ok = check_model(r, path, err) && loaded_open(&m, o, path, WANT_TEXT, UNSET, err) &&
              bind(&m, r, o, &g, err) && compute(&m, r, o, &out, err) && tell(&out, o, err);
    grammar_close(g);
    trace_release(&out.now);
    loaded_close(&m);
    return ok;
}

bool cmd_replay(struct options *o, struct error *err)
{
    char path[PATH_SIZE];
    struct recording r = { 0 };
    if (o->n_positional != 1)
        return fail(err, ERR_USAGE, "replay wants one file of run --record: tandem replay FILE");
    bool ok = js_available(err) && recording_read(&r, o->positional[0], o, err);
    if (ok) {
        place_as_recorded(&r, o);
        ok = find_model(&r, o, path, sizeof path, err) && replay(&r, o, path, err);
    }
    recording_release(&r);
    return ok;
}
