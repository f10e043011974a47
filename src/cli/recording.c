#include "src/cli/recording.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "cpu/features.h"
#include "gpu/gpu.h"
#include "src/cli/grammar_option.h"
#include "src/cli/version.h"
#include "src/engine/prefix_file.h"

#define FORM 1

static const char *const think_names[] = { "auto", "off", "on", "high", "max" };

/* Numbers of struct options with their ranges. */
static const struct {
    const char *name;
    size_t offset;
    double low, high;
} reals[] = {
    { "temp", offsetof(struct options, temperature), 0, 1000 },
    { "top_p", offsetof(struct options, top_p), 0, 1 },
    { "min_p", offsetof(struct options, min_p), 0, 1 },
    { "repeat_penalty", offsetof(struct options, repeat_penalty), 0.001, 1000 },
    { "presence_penalty", offsetof(struct options, presence_penalty), -1000, 1000 },
    { "frequency_penalty", offsetof(struct options, frequency_penalty), -1000, 1000 },
};

static const struct {
    const char *name;
    size_t offset;
    int64_t low, high;
} ints[] = {
    { "ctx_size", offsetof(struct options, ctx_size), 1, 1 << 30 },
    { "top_k", offsetof(struct options, top_k), 0, INT32_MAX },
    { "seed", offsetof(struct options, seed), 0, INT64_MAX },
    { "predict", offsetof(struct options, n_predict), -1, 1000000000 },
    { "think_budget", offsetof(struct options, think_budget), -1, 1000000000 },
};

/* ---- writing ---- */

static struct json *texts(const struct text_list *list)
{
    struct json *a = js_array();
    for (int i = 0; i < list->n; i++)
        js_push(a, js_text(str_of(list->items[i])));
    return a;
}

static void add_machine(struct json *j, const struct loaded *m, const struct options *o)
{
    const struct gpu_info *gpu = engine_gpu(m->engine);
    const struct placement *p = engine_placement(m->engine);
    js_set(j, "record", js_int(FORM));
    js_set(j, "version", js_text(str_of(version_number())));
    js_set(j, "commit", js_text(str_of(version_commit())));
    js_set(j, "time", js_int((int64_t)time(NULL)));
    js_set(j, "cpu_isa", js_text(str_of(cpu_isa_name(engine_isa(m->engine)))));
    js_set(j, "gpu", gpu ? js_text(str_of(gpu->name)) : js_null());
    js_set(j, "gpu_layers", js_int(p->gpu_layers + p->head_on_gpu));
    js_set(j, "n_cpu_moe", js_int(min_of(p->cpu_moe, m->model->params.n_layers)));
    js_set(j, "overrides", texts(&o->overrides));
}

static void add_model(struct json *j, const struct loaded *m, const struct options *o, const char *path)
{
    char hash[24], *whole = realpath(path, NULL);
    snprintf(hash, sizeof hash, "%016llx", (unsigned long long)file_fingerprint(&m->model->gguf));
    js_set(j, "model", js_text(str_of(whole ? whole : path)));
    js_set(j, "model_hash", js_text(str_of(hash)));
    js_set(j, "numerics", js_text(str_of(numerics_name(m->model->params.numerics))));
    js_set(j, "act", js_text(str_of(o->act_f32 ? "f32" : "fast")));
    js_set(j, "cache_type", js_text(str_of(o->cache_type ? "f32" : "f16")));
    js_set(j, "ctx_size", js_int(session_n_ctx(m->session)));
    free(whole);
}

static void add_sampling(struct json *j, const struct sampler_options *s)
{
    struct json *bias = js_array();
    js_set(j, "temp", js_real((double)s->temperature));
    js_set(j, "top_k", js_int(s->top_k));
    js_set(j, "top_p", js_real((double)s->top_p));
    js_set(j, "min_p", js_real((double)s->min_p));
    js_set(j, "repeat_penalty", js_real((double)s->repeat_penalty));
    js_set(j, "presence_penalty", js_real((double)s->presence_penalty));
    js_set(j, "frequency_penalty", js_real((double)s->frequency_penalty));
    js_set(j, "seed", js_int((int64_t)s->seed));
    for (int i = 0; i < s->n_bias; i++) {
        struct json *pair = js_array();
        js_push(pair, js_int(s->bias[i].id));
        js_push(pair, js_real((double)s->bias[i].bias)); /* minus infinity: null */
        js_push(bias, pair);
    }
    js_set(j, "logit_bias", bias);
}

static void add_rules(struct json *j, const struct loaded *m, const struct options *o,
                      const struct generate_options *go, const struct buf *grammar)
{
    js_set(j, "predict", js_int(go->n_predict));
    js_set(j, "think", js_text(str_of(think_names[o->think])));
    js_set(j, "think_budget", js_int(go->think_budget));
    js_set(j, "template", js_text(str_of(chat_format_name(m->format))));
    js_set(j, "raw", js_bool(go->plain));
    js_set(j, "stop", texts(&o->stop));
    js_set(j, "grammar", m->constraint ? js_text(buf_str(grammar)) : js_null());
    js_set(j, "in_thinking", js_bool(go->in_thinking));
    js_set(j, "calls", js_bool(go->shown_mark != NULL));
}

static void add_tokens(struct json *j, const struct tokens *prompt, const struct trace *t)
{
    struct json *ids = js_array(), *answer = js_array(), *logits = js_array();
    char hash[24];
    for (size_t i = 0; i < prompt->n; i++)
        js_push(ids, js_int(prompt->ids[i]));
    for (size_t i = 0; i < t->n; i++) {
        snprintf(hash, sizeof hash, "%016llx", (unsigned long long)t->steps[i].bits);
        js_push(answer, js_int(t->steps[i].id));
        js_push(logits, js_text(str_of(hash)));
    }
    js_set(j, "prompt", ids);
    js_set(j, "answer", answer);
    js_set(j, "logits", logits);
}

bool recording_write(struct output_file *file, const struct loaded *m, const struct options *o,
                     const char *model_path, const struct tokens *prompt,
                     const struct generate_options *go, const struct generation *g,
                     struct error *err)
{
    struct buf text = { 0 }, grammar = { 0 };
    if (!grammar_text(o->grammar, o->json_schema, &grammar, err))
        return buf_release(&grammar), false;
    struct json *j = js_object();
    add_machine(j, m, o);
    add_model(j, m, o, model_path);
    add_sampling(j, &m->sampling);
    add_rules(j, m, o, go, &grammar);
    add_tokens(j, prompt, go->trace);
    js_set(j, "finish_reason", js_text(str_of(finish_name(g->finish))));
    bool ok = js_take_text(j, 0, &text, err) && output_write(file, text.data, text.len, err);
    buf_release(&text);
    buf_release(&grammar);
    return ok;
}

/* ---- reading ---- */

/* The first thing that is wrong ends it. */
struct reader {
    const struct json *j;
    struct error *err;
    bool ok;
};

static void wrong(struct reader *r, const char *key)
{
    if (r->ok)
        r->ok = fail(r->err, ERR_FILE, "a damaged record, or none of run --record: \"%s\"", key);
}

static int64_t get_int(struct reader *r, const char *key, int64_t low, int64_t high)
{
    int64_t n = low;
    if (!js_as_int(js_get(r->j, key), &n) || n < low || n > high)
        wrong(r, key);
    return n;
}

static double get_real(struct reader *r, const char *key, double low, double high)
{
    double x = low;
    if (!js_as_real(js_get(r->j, key), &x) || !(x >= low && x <= high))
        wrong(r, key);
    return x;
}

static bool get_bool(struct reader *r, const char *key)
{
    bool value = false;
    if (!js_as_bool(js_get(r->j, key), &value))
        wrong(r, key);
    return value;
}

/* Terminated, without a 0 inside. */
static const char *as_c_text(const struct json *j)
{
    struct str s;
    return js_as_text(j, &s) && memchr(s.data, 0, s.len) == NULL ? s.data : NULL;
}

static const char *get_text(struct reader *r, const char *key)
{
    const char *text = as_c_text(js_get(r->j, key));
    if (!text)
        wrong(r, key);
    return text ? text : "";
}

static const char *get_text_or_null(struct reader *r, const char *key)
{
    const struct json *j = js_get(r->j, key);
    return j && js_is_null(j) ? NULL : get_text(r, key);
}

static int get_word(struct reader *r, const char *key, const char *const *words, int n)
{
    const char *text = get_text(r, key);
    for (int i = 0; i < n; i++)
        if (strcmp(text, words[i]) == 0)
            return i;
    wrong(r, key);
    return 0;
}

static void get_texts(struct reader *r, const char *key, struct text_list *list)
{
    const struct json *a = js_get(r->j, key);
    size_t n = js_count(a);
    *list = (struct text_list){ .n = 0 };
    if (!js_is_array(a) || n > MAX_LIST)
        return wrong(r, key);
    for (size_t i = 0; i < n; i++) {
        const char *text = as_c_text(js_at(a, i));
        if (!text || !*text)
            return wrong(r, key);
        list->items[list->n++] = text;
    }
}

/* 16 hexadecimal digits. */
static bool as_hash(const struct json *j, uint64_t *hash)
{
    const char *text = as_c_text(j);
    if (!text || strlen(text) != 16 || strspn(text, "0123456789abcdef") != 16)
        return false;
    *hash = strtoull(text, NULL, 16);
    return true;
}

static bool as_id(const struct json *j, int32_t *id)
{
    int64_t n;
    if (!js_as_int(j, &n) || n < 0 || n > INT32_MAX)
        return false;
    *id = (int32_t)n;
    return true;
}

static void get_bias(struct reader *r, struct recording *rec)
{
    const struct json *a = js_get(r->j, "logit_bias");
    size_t n = js_count(a);
    if (!js_is_array(a) || n > MAX_LIST)
        return wrong(r, "logit_bias");
    for (size_t i = 0; i < n; i++) {
        const struct json *pair = js_at(a, i);
        struct logit_bias *b = &rec->bias[i];
        double x = -INFINITY;
        bool is_pair = js_is_array(pair) && js_count(pair) == 2 && as_id(js_at(pair, 0), &b->id);
        if (!is_pair || (!js_is_null(js_at(pair, 1)) && !js_as_real(js_at(pair, 1), &x)) ||
            (isfinite(x) && fabs(x) > 1e9))
            return wrong(r, "logit_bias");
        b->bias = (float)x;
        rec->n_bias++;
    }
}

static void get_tokens(struct reader *r, struct recording *rec, int64_t n_ctx)
{
    const struct json *prompt = js_get(r->j, "prompt"), *answer = js_get(r->j, "answer");
    const struct json *logits = js_get(r->j, "logits");
    size_t n_prompt = js_count(prompt), n = js_count(answer);
    int32_t id;
    uint64_t bits;
    if (!js_is_array(prompt) || n_prompt == 0 || (int64_t)n_prompt >= n_ctx)
        return wrong(r, "prompt");
    if (!js_is_array(answer) || (int64_t)n > n_ctx)
        return wrong(r, "answer");
    if (!js_is_array(logits) || js_count(logits) != n)
        return wrong(r, "logits");
    for (size_t i = 0; r->ok && i < n_prompt; i++) {
        if (!as_id(js_at(prompt, i), &id))
            return wrong(r, "prompt");
        r->ok = tokens_push(&rec->prompt, id, r->err);
    }
    for (size_t i = 0; r->ok && i < n; i++) {
        if (!as_id(js_at(answer, i), &id))
            return wrong(r, "answer");
        if (!as_hash(js_at(logits, i), &bits))
            return wrong(r, "logits");
        r->ok = trace_add(&rec->answer, id, bits, r->err);
    }
}

static void get_options(struct reader *r, struct options *o)
{
    static const char *const forms[] = { "f16", "f32" }, *const acts[] = { "fast", "f32" };
    const char *numerics[] = { numerics_name((enum numerics)0), numerics_name((enum numerics)1),
                               numerics_name((enum numerics)2) };
    for (size_t i = 0; i < ARRAY_LEN(reals); i++)
        *(double *)((char *)o + reals[i].offset) =
            get_real(r, reals[i].name, reals[i].low, reals[i].high);
    for (size_t i = 0; i < ARRAY_LEN(ints); i++)
        *(int64_t *)((char *)o + ints[i].offset) = get_int(r, ints[i].name, ints[i].low, ints[i].high);
    if (o->think_budget < 0)
        o->think_budget = UNSET;
    o->numerics = get_word(r, "numerics", numerics, ARRAY_LEN(numerics));
    o->act_f32 = get_word(r, "act", acts, ARRAY_LEN(acts)) == 1;
    o->cache_type = get_word(r, "cache_type", forms, ARRAY_LEN(forms));
    o->think = get_word(r, "think", think_names, ARRAY_LEN(think_names));
    o->template_name = get_text(r, "template");
    o->raw = get_bool(r, "raw");
    get_texts(r, "stop", &o->stop);
    if (!chat_format_find(o->template_name))
        wrong(r, "template");
}

static void get_all(struct reader *r, struct recording *rec, struct options *o)
{
    static const char *const finishes[] = { "stop", "length", "context" };
    get_int(r, "record", FORM, FORM);
    rec->version = get_text(r, "version");
    rec->commit = get_text(r, "commit");
    rec->time_s = get_int(r, "time", 0, INT64_MAX);
    rec->isa = get_text(r, "cpu_isa");
    rec->gpu = get_text_or_null(r, "gpu");
    rec->gpu_layers = get_int(r, "gpu_layers", 0, 100000);
    rec->cpu_moe = get_int(r, "n_cpu_moe", 0, 100000);
    get_texts(r, "overrides", &rec->overrides);
    rec->model = get_text(r, "model");
    if (!as_hash(js_get(r->j, "model_hash"), &rec->model_hash))
        wrong(r, "model_hash");
    rec->grammar = get_text_or_null(r, "grammar");
    rec->in_thinking = get_bool(r, "in_thinking");
    rec->calls = get_bool(r, "calls");
    rec->finish = finishes[get_word(r, "finish_reason", finishes, ARRAY_LEN(finishes))];
    get_options(r, o);
    get_bias(r, rec);
    get_tokens(r, rec, o->ctx_size);
}

bool recording_read(struct recording *rec, const char *path, struct options *o, struct error *err)
{
    struct buf text = { 0 };
    *rec = (struct recording){ 0 };
    bool ok = buf_read_file(&text, path, err) && buf_ok(&text, err);
    if (ok) {
        rec->json = js_parse(buf_str(&text), err);
        struct reader r = { .j = rec->json, .err = err, .ok = rec->json != NULL };
        if (r.ok && !js_is_object(r.j))
            wrong(&r, "{");
        if (r.ok)
            get_all(&r, rec, o);
        ok = r.ok || error_prefix(err, "%s", path);
    }
    buf_release(&text);
    return ok;
}

void recording_release(struct recording *r)
{
    tokens_release(&r->prompt);
    trace_release(&r->answer);
    js_free(r->json);
    *r = (struct recording){ 0 };
}
