#include "src/cli/inspect.h"

#include "src/cli/repair.h"
#include "src/format/quant.h"
#include "src/text/chat.h"
#include "src/text/tokenizer.h"

#define LONGEST_ARRAY 64 /* longer ones (vocabularies) are told by type and count */

static struct json *element(const struct gguf_kv *kv, uint64_t i)
{
    enum gguf_type type = kv->type == GGUF_ARRAY ? kv->elem : kv->type;
    if (type == GGUF_F32 || type == GGUF_F64)
        return js_real(gguf_float_at(kv, i));
    if (type == GGUF_BOOL)
        return js_bool(kv->data[i] != 0);
    return js_int(gguf_int_at(kv, i));
}

static struct json *value(const struct gguf_kv *kv)
{
    bool is_string = (kv->type == GGUF_ARRAY ? kv->elem : kv->type) == GGUF_STRING;
    struct gguf_cursor c = is_string ? gguf_strings(kv) : (struct gguf_cursor){ 0 };
    struct str s = { "", 0 };
    if (kv->type != GGUF_ARRAY) {
        if (is_string)
            gguf_next_string(&c, &s);
        return is_string ? js_text(s) : element(kv, 0);
    }
    if (kv->count > LONGEST_ARRAY || kv->elem == GGUF_ARRAY) {
        struct json *j = js_object();
        js_set(j, "array_of", js_text(str_of(gguf_type_name(kv->elem))));
        js_set(j, "count", js_int((int64_t)kv->count));
        return j;
    }
    struct json *a = js_array();
    for (uint64_t i = 0; i < kv->count; i++) {
        if (is_string && !gguf_next_string(&c, &s))
            break;
        js_push(a, is_string ? js_text(s) : element(kv, i));
    }
    return a;
}

static struct json *metadata(const struct gguf *g)
{
    struct json *j = js_object();
    for (uint64_t i = 0; i < g->n_kv; i++) {
        struct buf key = { 0 };
        buf_add_repaired(&key, g->kv[i].key);
        js_set(j, buf_str(&key).data, value(&g->kv[i]));
        buf_release(&key);
    }
    return j;
}

static struct json *hyper_parameters(const struct model *m)
{
    const struct params *p = &m->params;
    const struct {
        const char *name;
        int64_t value;
    } rows[] = {
        { "n_layers", p->n_layers }, { "n_mtp", p->n_mtp }, { "hidden_size", p->hidden_size },
        { "ffn_size", p->ffn_size }, { "n_vocab", p->n_vocab },
        { "context_length", p->context_length }, { "n_heads", p->n_heads },
        { "n_kv_heads", p->n_kv_heads }, { "head_dim", p->head_dim },
        { "value_dim", p->value_dim }, { "q_lora_rank", p->q_lora_rank },
        { "kv_lora_rank", p->kv_lora_rank }, { "qk_nope_dim", p->qk_nope_dim },
        { "qk_rope_dim", p->qk_rope_dim }, { "n_routed", p->n_routed }, { "top_k", p->top_k },
        { "n_shared", p->n_shared }, { "n_dense_lead", p->n_dense_lead },
        { "expert_size", p->expert_size }, { "weight_bytes", (int64_t)m->weight_bytes },
        { "routed_bytes", (int64_t)m->routed_bytes },
        { "bytes_per_token", (int64_t)m->bytes_per_token },
        { "n_elements", (int64_t)m->n_elements },
        { "n_elements_active", (int64_t)m->n_elements_active },
    };
    struct json *j = js_object();
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        js_set(j, rows[i].name, js_int(rows[i].value));
    js_set(j, "rms_eps", js_real((double)p->rms_eps));
    js_set(j, "rope_base", js_real((double)p->rope_base));
    js_set(j, "rope_factor", js_real((double)p->rope_factor));
    js_set(j, "attention_scale", js_real((double)p->attention_scale));
    js_set(j, "tied_output", js_bool(p->tied_output));
    return j;
}

static struct json *tensors(const struct gguf *g, const regex_t *pattern)
{
    struct json *a = js_array();
    for (uint64_t i = 0; i < g->n_tensors; i++) {
        const struct tensor *t = &g->tensors[i];
        const char *type = quant_traits(t->type)->name;
        if (pattern && regexec(pattern, t->name, 0, NULL, 0) != 0)
            continue;
        struct json *j = js_object(), *shape = js_array();
        for (int d = 0; d < t->n_dims; d++)
            js_push(shape, js_int((int64_t)t->ne[d]));
        js_set(j, "name", js_text(str_of(t->name)));
        js_set(j, "type", js_text(str_of(type ? type : "unknown")));
        js_set(j, "shape", shape);
        js_set(j, "offset", js_int((int64_t)t->file_offset));
        js_set(j, "bytes", js_int((int64_t)t->bytes));
        js_set(j, "file", js_int(t->shard));
        js_push(a, j);
    }
    return a;
}

static struct json *types(const struct gguf *g)
{
    struct type_share of[N_TENSOR_TYPES];
    struct json *a = js_array();
    inspect_types(g, of);
    for (int type = 0; type < N_TENSOR_TYPES; type++) {
        const char *name = quant_traits((uint32_t)type)->name;
        if (!of[type].n)
            continue;
        struct json *j = js_object();
        js_set(j, "type", js_text(str_of(name ? name : "unknown")));
        js_set(j, "n_tensors", js_int((int64_t)of[type].n));
        js_set(j, "bytes", js_int((int64_t)of[type].bytes));
        js_push(a, j);
    }
    return a;
}

/* The tokenizer and the format of chats, or null; why it cannot be used stands in "error". */
static void add_text_side(struct json *j, const struct gguf *g)
{
    struct tokenizer *t = NULL;
    struct error why_not = { 0 };
    const char *why = "";
    bool usable = tokenizer_open(&t, g, &why_not);
    struct json *tokenizer = t || !usable ? js_object() : js_null(), *format = js_null();
    if (t) {
        const struct chat_format *f = chat_format_detect(g, &why);
        js_set(tokenizer, "pre", js_text(tokenizer_pre(t)));
        js_set(tokenizer, "n_tokens", js_int(tokenizer_n_tokens(t)));
        format = js_object();
        js_set(format, "name", js_text(str_of(chat_format_name(f))));
        js_set(format, "why", js_text(str_of(why)));
    } else if (!usable) {
        js_set(tokenizer, "error", js_text(str_of(why_not.text)));
    }
    js_set(j, "tokenizer", tokenizer);
    js_set(j, "chat_format", format);
    tokenizer_close(t);
}

bool inspect_json(const struct gguf *g, const struct model *m, const regex_t *pattern,
                  struct error *err)
{
    struct json *j = js_object(), *files = js_array();
    struct str architecture = { "", 0 };
    gguf_get_str(g, "general.architecture", &architecture, NULL);
    for (int i = 0; i < g->n_shards; i++) {
        struct json *file = js_object();
        js_set(file, "path", js_text(str_of(g->shards[i].path)));
        js_set(file, "bytes", js_int((int64_t)g->shards[i].size));
        js_push(files, file);
    }
    js_set(j, "architecture", js_text(architecture));
    if (m)
        js_set(j, "numerics", js_text(str_of(numerics_name(m->params.numerics))));
    js_set(j, "gguf_version", js_int(g->version));
    js_set(j, "files", files);
    js_set(j, "hyper_parameters", m ? hyper_parameters(m) : js_null());
    js_set(j, "metadata", metadata(g));
    js_set(j, "types", types(g));
    add_text_side(j, g);
    js_set(j, "tensors", tensors(g, pattern));
    return js_print(j, 1, err);
}
