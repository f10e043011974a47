/* tandem inspect: what is in a model file, read from its header alone (all of it for --verify, --hash
 * and --diff, in files of their own). */
#include <stdio.h>

#include "src/base/mem.h"
#include "src/base/pattern.h"
#include "src/cli/command.h"
#include "src/cli/dialogue.h"
#include "src/cli/inspect.h"
#include "src/cli/load.h"
#include "src/cli/paths.h"
#include "src/cli/term.h"
#include "src/format/quant.h"

#define KEY_SHOWN 64 /* bytes of a key that a hint looks at */

static const char *type_name(enum tensor_type type)
{
    const char *name = quant_traits(type)->name;
    return name ? name : "unknown";
}

void inspect_add_shown(struct buf *out, const char *text, size_t len)
{
    if (term_stdout())
        term_escape_to(out, text, len);
    else
        buf_add(out, text, len);
}

static bool print(struct buf *text, struct error *err)
{
    bool ok = buf_ok(text, err) && out_write(buf_str(text).data, text->len, err);
    buf_release(text);
    return ok;
}

/* ---- --tokens and --prompt ------------------------------------------------------------------- */

static void add_ids(struct buf *out, const struct tokens *ids)
{
    for (size_t i = 0; i < ids->n; i++)
        buf_printf(out, "%s%d", i ? " " : "", ids->ids[i]);
    buf_puts(out, "\n");
}

static struct json *ids_json(const struct tokens *ids)
{
    struct json *a = js_array();
    for (size_t i = 0; i < ids->n; i++)
        js_push(a, js_int(ids->ids[i]));
    return a;
}

static bool open_tokenizer(struct tokenizer **t, const struct gguf *g, const char *path,
                           struct error *err)
{
    return (tokenizer_open(t, g, err) || error_prefix(err, "%s", path)) &&
           (*t || fail(err, ERR_FILE, "%s: the file has no vocabulary", path));
}

static bool show_tokens(const struct options *o, const struct gguf *g, const char *path,
                        struct error *err)
{
    struct tokenizer *t = NULL;
    struct tokens ids = { 0 };
    struct buf text = { 0 }, out = { 0 };
    bool from_stdin = strcmp(o->tokens, "-") == 0;
    bool ok = open_tokenizer(&t, g, path, err) && (!from_stdin || buf_read_file(&text, "-", err)) &&
              tokenizer_encode(t, from_stdin ? buf_str(&text) : str_of(o->tokens), !o->no_special,
                               &ids, err);
    if (ok && o->json) {
        struct json *j = js_object();
        js_set(j, "ids", ids_json(&ids));
        ok = js_print(j, 0, err);
    } else if (ok) {
        add_ids(&out, &ids);
        ok = print(&out, err);
    }
    buf_release(&text);
    buf_release(&out);
    tokens_release(&ids);
    tokenizer_close(t);
    return ok;
}

static bool show_prompt(const struct options *o, const struct gguf *g, const char *path,
                        struct error *err)
{
    struct tokenizer *t = NULL;
    struct tokens ids = { 0 };
    struct buf system = { 0 }, out = { 0 };
    struct dialogue dialogue = { 0 };
    const struct chat_format *format;
    const char *why;
    char *text = NULL;
    bool ok = open_tokenizer(&t, g, path, err) && loaded_format(o, g, &format, &why, err) &&
              load_system(o, &system, err) &&
              dialogue_open(&dialogue, o, NULL, buf_str(&system),
                            str_of(o->prompt ? o->prompt : ""), err);
    ok = ok && chat_render(format, t, dialogue.messages, dialogue.n,
                           chat_format_think_mode(format, g, (enum think_mode)o->think), &ids,
                           &text, NULL, err);
    if (ok && o->json) {
        struct json *j = js_object();
        js_set(j, "prompt", js_text(str_of(text)));
        js_set(j, "ids", ids_json(&ids));
        js_set(j, "format", js_text(str_of(chat_format_name(format))));
        ok = js_print(j, 0, err);
    } else if (ok) {
        inspect_add_shown(&out, text, strlen(text));
        buf_puts(&out, "\n");
        add_ids(&out, &ids);
        ok = print(&out, err);
        note("%zu tokens, format %s (%s)", ids.n, chat_format_name(format), why);
    }
    mem_free(text);
    dialogue_close(&dialogue);
    buf_release(&system);
    buf_release(&out);
    tokens_release(&ids);
    tokenizer_close(t);
    return ok;
}

/* ---- --metadata and --tensors ---------------------------------------------------------------- */

static void add_element(struct buf *out, const struct gguf_kv *kv, uint64_t i)
{
    enum gguf_type type = kv->type == GGUF_ARRAY ? kv->elem : kv->type;
    if (type == GGUF_F32 || type == GGUF_F64)
        buf_printf(out, "%.9g", gguf_float_at(kv, i));
    else if (type == GGUF_BOOL)
        buf_puts(out, kv->data[i] ? "true" : "false");
    else if (type == GGUF_U64 && gguf_int_at(kv, i) < 0)
        buf_printf(out, "%llu", (unsigned long long)gguf_int_at(kv, i));
    else
        buf_printf(out, "%lld", (long long)gguf_int_at(kv, i));
}

void inspect_add_value(struct buf *out, const struct gguf_kv *kv, uint64_t limit)
{
    bool is_string = (kv->type == GGUF_ARRAY ? kv->elem : kv->type) == GGUF_STRING;
    struct gguf_cursor c = is_string ? gguf_strings(kv) : (struct gguf_cursor){ 0 };
    uint64_t n = limit ? min_of(limit, kv->count) : kv->count;
    if (kv->type == GGUF_ARRAY)
        buf_puts(out, "[");
    for (uint64_t i = 0; i < n; i++) {
        struct str s;
        if (i)
            buf_puts(out, ", ");
        if (!is_string) {
            add_element(out, kv, i);
        } else if (gguf_next_string(&c, &s)) {
            size_t shown = limit ? min_of(s.len, (size_t)60) : s.len;
            inspect_add_shown(out, s.data, shown);
            if (shown < s.len)
                buf_printf(out, "… (%zu bytes)", s.len);
        }
    }
    if (kv->type == GGUF_ARRAY)
        buf_printf(out, n < kv->count ? ", … %llu in all]" : "]", (unsigned long long)kv->count);
}

static void add_type(struct buf *out, const struct gguf_kv *kv)
{
    if (kv->type == GGUF_ARRAY)
        buf_printf(out, "array of %s", gguf_type_name(kv->elem));
    else
        buf_puts(out, gguf_type_name(kv->type));
}

static bool unknown_key(const struct gguf *g, const char *key, struct error *err)
{
    const char *near = NULL;
    const char **names = mem_alloc((size_t)g->n_kv, sizeof *names, "names of metadata", err);
    char *copies = mem_alloc((size_t)g->n_kv, KEY_SHOWN, "names of metadata", err);
    if (names && copies) {
        for (uint64_t i = 0; i < g->n_kv; i++) {
            char *copy = copies + i * KEY_SHOWN;
            snprintf(copy, KEY_SHOWN, "%.*s", (int)min_of(g->kv[i].key.len, (size_t)KEY_SHOWN - 1),
                     g->kv[i].key.data);
            names[i] = copy;
        }
        near = nearest_name(key, names, (int)g->n_kv);
        fail(err, ERR_USAGE, near ? "no metadata \"%s\" (did you mean %s?)"
                                  : "no metadata \"%s\" (--metadata lists the keys)", key, near);
    }
    mem_free(names);
    mem_free(copies);
    return false;
}

static bool show_metadata(const struct options *o, const struct gguf *g, struct error *err)
{
    struct buf out = { 0 };
    if (o->metadata_key) {
        const struct gguf_kv *kv = gguf_find(g, o->metadata_key);
        if (!kv)
            return unknown_key(g, o->metadata_key, err);
        inspect_add_value(&out, kv, 0);
        buf_puts(&out, "\n");
        return print(&out, err);
    }
    for (uint64_t i = 0; i < g->n_kv; i++) {
        const struct gguf_kv *kv = &g->kv[i];
        struct buf line = { 0 };
        inspect_add_shown(&line, kv->key.data, kv->key.len);
        buf_printf(&out, "%-44s ", buf_str(&line).data);
        buf_clear(&line);
        add_type(&line, kv);
        buf_printf(&out, "%-16s ", buf_str(&line).data);
        buf_release(&line);
        inspect_add_value(&out, kv, 6);
        buf_puts(&out, "\n");
    }
    return print(&out, err);
}

/* The pattern of --tensors: *re is NULL without one, else `room`, for regfree. */
static bool open_pattern(const struct options *o, regex_t *room, regex_t **re, struct error *err)
{
    *re = NULL;
    if (!o->tensors_pattern)
        return true;
    if (!pattern_open(room, o->tensors_pattern, err))
        return error_prefix(err, "option --tensors");
    *re = room;
    return true;
}

static bool show_tensors(const struct gguf *g, const regex_t *re, struct error *err)
{
    struct buf out = { 0 };
    for (uint64_t i = 0; i < g->n_tensors; i++) {
        const struct tensor *t = &g->tensors[i];
        char shape[96], size[32];
        int n = 0;
        if (re && regexec(re, t->name, 0, NULL, 0) != 0)
            continue;
        for (int d = 0; d < t->n_dims; d++)
            n += snprintf(shape + n, sizeof shape - (size_t)n, "%s%llu", d ? " x " : "",
                          (unsigned long long)t->ne[d]);
        struct buf name = { 0 };
        inspect_add_shown(&name, t->name, strlen(t->name));
        buf_printf(&out, "%-36s %-8s %-24s %10s", buf_str(&name).data, type_name(t->type), shape,
                   human_bytes((double)t->bytes, size, sizeof size));
        buf_release(&name);
        if (g->n_shards > 1)
            buf_printf(&out, "  file %d", t->shard + 1);
        buf_puts(&out, "\n");
    }
    if (re && out.len == 0)
        note("no tensor has a name that matches");
    return print(&out, err);
}

/* ---- summary --------------------------------------------------------------------------------- */

void inspect_types(const struct gguf *g, struct type_share of[N_TENSOR_TYPES])
{
    memset(of, 0, N_TENSOR_TYPES * sizeof *of);
    for (uint64_t i = 0; i < g->n_tensors; i++) {
        of[g->tensors[i].type].n++;
        of[g->tensors[i].type].bytes += g->tensors[i].bytes;
    }
}

/* "F32 12, Q4_K 310 (5.2 GiB), …": how the bytes are spread over types. */
static void add_types(struct buf *out, const struct gguf *g)
{
    struct type_share of[N_TENSOR_TYPES];
    const char *separator = "";
    char size[32];
    inspect_types(g, of);
    for (int type = 0; type < N_TENSOR_TYPES; type++) {
        if (!of[type].n)
            continue;
        buf_printf(out, "%s%s %llu (%s)", separator, type_name((enum tensor_type)type),
                   (unsigned long long)of[type].n,
                   human_bytes((double)of[type].bytes, size, sizeof size));
        separator = ", ";
    }
}

static void add_string(struct buf *out, const struct gguf *g, const char *label, const char *key)
{
    struct str s = { 0 };
    if (!gguf_get_str(g, key, &s, NULL) || !s.len)
        return;
    buf_printf(out, "%-14s ", label);
    inspect_add_shown(out, s.data, min_of(s.len, (size_t)200));
    buf_puts(out, "\n");
}

static void add_file(struct buf *out, const struct gguf *g)
{
    char size[32];
    double bytes = 0;
    for (int i = 0; i < g->n_shards; i++)
        bytes += (double)g->shards[i].size;
    add_string(out, g, "name", "general.name");
    add_string(out, g, "architecture", "general.architecture");
    buf_printf(out, "%-14s %s in %d file%s, GGUF version %u, %llu tensors, %llu metadata entries\n",
               "file", human_bytes(bytes, size, sizeof size), g->n_shards,
               g->n_shards == 1 ? "" : "s", g->version, (unsigned long long)g->n_tensors,
               (unsigned long long)g->n_kv);
    buf_printf(out, "%-14s ", "types");
    add_types(out, g);
    buf_puts(out, "\n");
}

static void add_params(struct buf *out, const struct model *m)
{
    const struct params *p = &m->params;
    char description[160], all[32], routed[32], token[32];
    model_describe(m, description, sizeof description);
    buf_printf(out, "%-14s ", "model");
    inspect_add_shown(out, description, strlen(description));
    buf_printf(out, "\n%-14s %d%s, width %lld, vocabulary %lld, context %lld\n", "layers",
               p->n_layers, p->n_mtp ? " and multi-token prediction" : "", (long long)p->hidden_size,
               (long long)p->n_vocab, (long long)p->context_length);
    if (p->kv_lora_rank)
        buf_printf(out, "%-14s latent, %d heads, cache %d per token and layer\n", "attention",
                   p->n_heads, p->kv_lora_rank + p->qk_rope_dim);
    else
        buf_printf(out, "%-14s %d heads, %d for keys and values, of %d\n", "attention", p->n_heads,
                   p->n_kv_heads, p->head_dim);
    if (p->n_routed)
        buf_printf(out, "%-14s %d of %d per token, %d shared, %lld wide, after %d dense layers\n",
                   "experts", p->top_k, p->n_routed, p->n_shared, (long long)p->expert_size,
                   p->n_dense_lead);
    buf_printf(out, "%-14s %s, of which routed experts %s; read per token %s\n", "weights",
               human_bytes((double)m->weight_bytes, all, sizeof all),
               human_bytes((double)m->routed_bytes, routed, sizeof routed),
               human_bytes((double)m->bytes_per_token, token, sizeof token));
}

static void add_text_side(struct buf *out, const struct gguf *g)
{
    struct tokenizer *t = NULL;
    struct error why_not = { 0 };
    const char *why = "";
    if (!tokenizer_open(&t, g, &why_not)) {
        buf_printf(out, "%-14s unusable: %s\n", "tokenizer", why_not.text);
        return;
    }
    if (!t) {
        buf_printf(out, "%-14s none\n", "tokenizer");
        return;
    }
    struct str pre = tokenizer_pre(t);
    const struct chat_format *f = chat_format_detect(g, &why);
    buf_printf(out, "%-14s %.*s, %d tokens\n", "tokenizer", (int)pre.len, pre.data,
               tokenizer_n_tokens(t));
    buf_printf(out, "%-14s %s (%s)\n", "chat format", chat_format_name(f), why);
    tokenizer_close(t);
}

/* What cannot be run is still shown; the exit code and the last line on stderr say why. A
 * vocabulary by itself, without tensors, is a complete file of its kind. */
static bool show_summary(const struct options *o, const struct gguf *g, const char *path,
                         const regex_t *pattern, struct error *err)
{
    struct buf out = { 0 };
    struct model m = { 0 };
    struct error why = { 0 };
    bool ok = true, known = model_open(&m, path, (enum numerics)o->numerics, &why);
    if (o->json) {
        ok = inspect_json(g, known ? &m : NULL, pattern, err);
    } else {
        add_file(&out, g);
        if (known)
            add_params(&out, &m);
        add_text_side(&out, g);
        ok = print(&out, err);
    }
    model_close(&m);
    return ok && (known || g->n_tensors == 0 || fail(err, why.code, "%s", why.text));
}

bool cmd_inspect(struct options *o, struct error *err)
{
    char path[PATH_SIZE];
    struct gguf g = { 0 };
    regex_t room, *pattern;
    bool ok = (!o->json || js_available(err)) && resolve_model(o, false, path, sizeof path, err) &&
              gguf_open(&g, path, err);
    if (!ok || !open_pattern(o, &room, &pattern, err)) {
        gguf_close(&g);
        return false;
    }
    if (o->diff)
        ok = inspect_diff(o, &g, path, err);
    else if (o->verify || o->hash)
        ok = inspect_verify(o, &g, path, err);
    else if (o->tokens)
        ok = show_tokens(o, &g, path, err);
    else if (o->prompt || o->messages)
        ok = show_prompt(o, &g, path, err);
    else if (o->metadata && !o->json)
        ok = show_metadata(o, &g, err);
    else if (o->tensors && !o->json)
        ok = show_tensors(&g, pattern, err);
    else
        ok = show_summary(o, &g, path, pattern, err);
    if (pattern)
        regfree(pattern);
    gguf_close(&g);
    return ok;
}
