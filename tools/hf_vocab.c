#include "tools/hf_vocab.h"

#include <stdio.h>

#include "src/base/mem.h"
#include "src/text/presplit.h"
#include "src/text/tokenizer.h"
#include "src/text/vocab.h"
#include "tools/hf_tiktoken.h"

#define MAX_EXPRESSIONS 16
#define SPACE_IN_MERGE "\xC4\xA0" /* U+0120: how the byte alphabet spells a space */

struct hf_vocab {
    struct arena arena;
    const struct json *model, *added;
    struct str *texts; /* [n], data NULL: no token has this id */
    int32_t *types;
    int64_t n;
    struct str *merges; /* "left right" */
    size_t n_merges;
    const char *pre;    /* name of the pre-tokenizer; NULL: not recognised */
    float *scores;      /* [n] of SentencePiece; NULL: byte-level */
    bool adds_space;    /* SentencePiece: in front of a text */
};

/* ---- tokens ---- */

static bool put_token(struct hf_vocab *v, int64_t id, struct str text, int32_t type,
                      struct error *err)
{
    if (id < 0 || id >= v->n)
        return fail(err, ERR_FILE, "tokenizer.json: id %lld of \"%.*s\" is outside of the %lld "
                    "rows of "
                    "the embedding", (long long)id, (int)min_of(text.len, (size_t)40), text.data,
                    (long long)v->n);
    struct str *old = &v->texts[id];
    if (old->data && (old->len != text.len || memcmp(old->data, text.data, text.len) != 0))
        return fail(err, ERR_FILE, "tokenizer.json: id %lld is \"%.*s\" and \"%.*s\"",
                    (long long)id,
                    (int)min_of(old->len, (size_t)40), old->data,
                    (int)min_of(text.len, (size_t)40), text.data);
    *old = text;
    v->types[id] = type;
    return true;
}

static bool framed(struct str s, const char *front, const char *back)
{
    size_t f = strlen(front), b = strlen(back);
    return s.len >= f + b && memcmp(s.data, front, f) == 0 &&
           memcmp(s.data + s.len - b, back, b) == 0;
}

/* Markers are control tokens also where the file forgot to say so. */
static bool looks_special(struct str s)
{
    return framed(s, "<|", "|>") || framed(s, "<\xEF\xBD\x9C", "\xEF\xBD\x9C>") ||
           framed(s, "<unused", ">") || str_is(s, "<pad>");
}

static bool read_tokens(struct hf_vocab *v, struct error *err)
{
    const struct json *vocab = js_get(v->model, "vocab");
    struct js_cursor at = { 0 };
    if (!js_is_object(vocab))
        return fail(err, ERR_FILE, "tokenizer.json: model.vocab is not an object");
    while (js_next(vocab, &at)) {
        int64_t id;
        if (!js_as_int(at.value, &id))
            return fail(err, ERR_FILE, "tokenizer.json: the id of \"%.40s\" is not a number",
                        at.key);
        if (id >= 0 && id < v->n && v->texts[id].data)
            return fail(err, ERR_FILE, "tokenizer.json: id %lld has two tokens", (long long)id);
        if (!put_token(v, id, str_of(at.key), TOKEN_NORMAL, err))
            return false;
    }
    for (size_t i = 0; i < js_count(v->added); i++) {
        const struct json *token = js_at(v->added, i);
        struct str text;
        int64_t id, other;
        bool special = false;
        if (!js_as_int(js_get(token, "id"), &id) || !js_as_text(js_get(token, "content"), &text) ||
            text.len == 0)
            return fail(err, ERR_FILE, "tokenizer.json: added token %zu has no id or no content",
                        i);
        js_as_bool(js_get(token, "special"), &special);
        if (js_as_int(js_get(vocab, text.data), &other) && other != id)
            return fail(err, ERR_FILE, "tokenizer.json: \"%.*s\" is token %lld and added token "
                        "%lld",
                        (int)min_of(text.len, (size_t)40), text.data, (long long)other,
                        (long long)id);
        if (!put_token(v, id, text,
                       special || looks_special(text) ? TOKEN_CONTROL : TOKEN_USER_DEFINED, err))
            return false;
    }
    return true;
}

/* Rows of the embedding that no text leads to. */
static bool fill_holes(struct hf_vocab *v, struct error *err)
{
    for (int64_t id = 0; id < v->n; id++) {
        char name[32];
        if (v->texts[id].data)
            continue;
        snprintf(name, sizeof name, "[PAD%lld]", (long long)id);
        const char *kept = arena_strndup(&v->arena, name, strlen(name), err);
        if (!kept)
            return false;
        v->texts[id] = str_of(kept);
        v->types[id] = TOKEN_UNUSED;
    }
    return true;
}

static bool check_bytes(const struct hf_vocab *v, struct error *err)
{
    const struct json *vocab = js_get(v->model, "vocab");
    for (unsigned byte = 0; byte < 256; byte++) {
        char text[3] = { 0 }, one = (char)byte;
        byte_alphabet_encode((struct str){ &one, 1 }, text);
        if (!js_get(vocab, text))
            return fail(err, ERR_FILE, "tokenizer.json: byte 0x%02X has no token: not a byte-level "
                        "vocabulary", byte);
    }
    return true;
}

/* ---- merges ---- */

/* One merge into `out`, as "left right": from that form or from a pair. */
static bool read_merge(struct hf_vocab *v, const struct json *merge, struct str *out,
                       struct error *err)
{
    const struct json *vocab = js_get(v->model, "vocab");
    struct str whole, part[2];
    if (js_as_text(merge, &whole)) {
        const char *gap = whole.len > 1 ? memchr(whole.data + 1, ' ', whole.len - 1) : NULL;
        if (!gap || gap + 1 == whole.data + whole.len)
            return fail(err, ERR_FILE, "\"%.*s\" is not two parts",
                        (int)min_of(whole.len, (size_t)80), whole.data);
        part[0] = (struct str){ whole.data, (size_t)(gap - whole.data) };
        part[1] = (struct str){ gap + 1, whole.len - part[0].len - 1 };
    } else if (js_count(merge) != 2 || !js_as_text(js_at(merge, 0), &part[0]) ||
               !js_as_text(js_at(merge, 1), &part[1]) || !part[0].len || !part[1].len) {
        return fail(err, ERR_FILE, "not a pair of texts");
    }
    size_t len = part[0].len + part[1].len;
    if (len > 1 << 20)
        return fail(err, ERR_FILE, "%zu bytes", len);
    char *text = arena_alloc(&v->arena, 3 * len + 2, 1, err);
    if (!text)
        return false;

    /* parts and result, one after the other, must be tokens */
    memcpy(text, part[0].data, part[0].len);
    bool known = js_get(vocab, text);
    memcpy(text + part[0].len, part[1].data, part[1].len);
    known = known && js_get(vocab, text) && js_get(vocab, text + part[0].len);
    if (!known)
        return fail(err, ERR_FILE, "\"%.*s\" + \"%.*s\": the parts or the result are no tokens",
                    (int)min_of(part[0].len, (size_t)40), part[0].data,
                    (int)min_of(part[1].len, (size_t)40), part[1].data);
    size_t n = 0;
    for (int p = 0; p < 2; p++) {
        for (size_t i = 0; i < part[p].len; i++) {
            if (part[p].data[i] == ' ')
                memcpy(text + n, SPACE_IN_MERGE, 2), n += 2;
            else
                text[n++] = part[p].data[i];
        }
        if (p == 0)
            text[n++] = ' ';
    }
    *out = (struct str){ text, n };
    return true;
}

static bool read_merges(struct hf_vocab *v, struct error *err)
{
    const struct json *list = js_get(v->model, "merges");
    v->n_merges = js_count(list);
    if (!js_is_array(list) || v->n_merges == 0)
        return fail(err, ERR_FILE, "tokenizer.json: no merges");
    v->merges = arena_alloc(&v->arena, v->n_merges, sizeof *v->merges, err);
    for (size_t i = 0; v->merges && i < v->n_merges; i++)
        if (!read_merge(v, js_at(list, i), &v->merges[i], err))
            return error_prefix(err, "tokenizer.json: merge %zu", i);
    return v->merges != NULL;
}

/* ---- SentencePiece, as tokenizer.json spells it: BPE with byte fallback ---- */

/* "<0x0A>": the byte, or -1. */
static int byte_token(struct str s)
{
    static const char digits[] = "0123456789ABCDEF";
    if (s.len != 6 || memcmp(s.data, "<0x", 3) != 0 || s.data[5] != '>')
        return -1;
    const char *high = memchr(digits, s.data[3], 16), *low = memchr(digits, s.data[4], 16);
    return high && low ? (int)(16 * (high - digits) + (low - digits)) : -1;
}

static bool type_pieces(struct hf_vocab *v, struct error *err)
{
    bool seen[256] = { false };
    struct str unknown = { 0 };
    js_as_text(js_get(v->model, "unk_token"), &unknown);
    for (int64_t id = 0; id < v->n; id++) {
        struct str t = v->texts[id];
        int byte = v->types[id] == TOKEN_UNUSED ? -1 : byte_token(t);
        if (byte >= 0) {
            v->types[id] = TOKEN_BYTE;
            seen[byte] = true;
        } else if (unknown.len && t.len == unknown.len &&
                   memcmp(t.data, unknown.data, t.len) == 0) {
            v->types[id] = TOKEN_UNKNOWN;
        }
    }
    for (int byte = 0; byte < 256; byte++)
        if (!seen[byte])
            return fail(err, ERR_FILE, "tokenizer.json: byte fallback, but no token <0x%02X>",
                        byte);
    return true;
}

/* SentencePiece joins the neighbours whose piece has the best score; tokenizer.json lists the
 * joints in that order. So a piece's score is the place of its first merge; what no merge makes
 * comes last. */
static bool score_pieces(struct hf_vocab *v, struct error *err)
{
    const struct json *vocab = js_get(v->model, "vocab");
    v->scores = arena_alloc(&v->arena, (size_t)v->n, sizeof *v->scores, err);
    for (int64_t id = 0; v->scores && id < v->n; id++)
        v->scores[id] = v->types[id] == TOKEN_NORMAL ? -(float)(v->n_merges + (size_t)id) : 0;
    for (size_t i = v->scores ? v->n_merges : 0; i-- > 0;) { /* the first one stays */
        struct str m = v->merges[i];
        const char *gap = memchr(m.data, ' ', m.len);
        size_t left = (size_t)(gap - m.data);
        char piece[256];
        int64_t id;
        if (m.len > sizeof piece)
            return fail(err, ERR_FILE, "tokenizer.json: merge %zu: a piece of %zu bytes", i, m.len);
        memcpy(piece, m.data, left);
        memcpy(piece + left, gap + 1, m.len - left - 1);
        piece[m.len - 1] = 0;
        if (js_as_int(js_get(vocab, piece), &id) && id >= 0 && id < v->n)
            v->scores[id] = -(float)i;
    }
    return v->scores != NULL;
}

/* A normalizer that puts a space in front of every text, or a Metaspace step that does. */
static bool prepends_space(const struct json *step)
{
    static const char *const lists[] = { "normalizers", "pretokenizers" };
    struct str type = { 0 }, scheme = { 0 };
    bool flag = true;
    for (size_t l = 0; l < ARRAY_LEN(lists); l++) {
        const struct json *list = js_get(step, lists[l]);
        for (size_t i = 0; i < js_count(list); i++)
            if (prepends_space(js_at(list, i)))
                return true;
    }
    js_as_text(js_get(step, "type"), &type);
    if (str_is(type, "Prepend"))
        return true;
    js_as_bool(js_get(step, "add_prefix_space"), &flag);
    js_as_text(js_get(step, "prepend_scheme"), &scheme);
    return str_is(type, "Metaspace") && flag && !str_is(scheme, "never");
}

static bool read_pieces(struct hf_vocab *v, const struct json *tokenizer, struct error *err)
{
    v->adds_space = prepends_space(js_get(tokenizer, "normalizer")) ||
                    prepends_space(js_get(tokenizer, "pre_tokenizer"));
    return read_tokens(v, err) && fill_holes(v, err) && read_merges(v, err) &&
           type_pieces(v, err) && score_pieces(v, err);
}

static bool write_pieces(const struct hf_vocab *v, struct gguf_writer *w, struct error *err)
{
    return gguf_writer_add_str(w, "tokenizer.ggml.model", "llama", err) &&
           gguf_writer_add_str(w, "tokenizer.ggml.pre", "default", err) &&
           gguf_writer_add_strings(w, "tokenizer.ggml.tokens", v->texts, (size_t)v->n, err) &&
           gguf_writer_add_array(w, "tokenizer.ggml.scores", GGUF_F32, v->scores, (size_t)v->n,
                                 err) &&
           gguf_writer_add_array(w, "tokenizer.ggml.token_type", GGUF_I32, v->types, (size_t)v->n,
                                 err) &&
           gguf_writer_add_bool(w, "tokenizer.ggml.add_space_prefix", v->adds_space, err);
}

/* ---- pre-tokenizer ---- */

/* The expressions of one step, appended; false when this program has no such step. */
static bool read_step(const struct json *step, struct str *list, int *n, bool *byte_level)
{
    struct str type, text;
    bool flag = false;
    if (*n >= MAX_EXPRESSIONS || *byte_level || !js_as_text(js_get(step, "type"), &type))
        return false;
    if (str_is(type, "ByteLevel")) {
        bool space = true, regex = true;
        js_as_bool(js_get(step, "add_prefix_space"), &space);
        js_as_bool(js_get(step, "use_regex"), &regex);
        *byte_level = true;
        return !space && !regex;
    }
    if (str_is(type, "Digits")) {
        js_as_bool(js_get(step, "individual_digits"), &flag);
        list[(*n)++] = str_of(flag ? "\\p{N}" : "\\p{N}+");
        return true;
    }
    js_as_bool(js_get(step, "invert"), &flag);
    if (!str_is(type, "Split") || flag || !js_as_text(js_get(step, "behavior"), &text) ||
        !str_is(text, "Isolated") ||
        !js_as_text(js_get(js_get(step, "pattern"), "Regex"), &list[*n]))
        return false;
    (*n)++;
    return true;
}

static const char *recognise(const struct json *pre_tokenizer)
{
    const struct json *steps = js_get(pre_tokenizer, "pretokenizers");
    struct str list[MAX_EXPRESSIONS];
    bool byte_level = false;
    int n = 0;
    for (size_t i = 0; i < js_count(steps); i++)
        if (!read_step(js_at(steps, i), list, &n, &byte_level))
            return NULL;
    return byte_level ? presplit_match(list, n) : NULL;
}

static bool write_pre(struct hf_vocab *v, const char *wish, struct gguf_writer *w,
                      struct error *err)
{
    const char *name = wish && presplit_name(str_of(wish)) ? wish : NULL;
    if (wish && !name)
        return fail(err, ERR_USAGE, "--pre %s: unknown (deepseek-v3, deepseek-llm, deepseek-coder, "
                    "deepseek-r1-qwen, qwen2, llama-bpe, kimi-k2)", wish);
    name = name ? name : v->pre;
    if (!name)
        return fail(err, ERR_FILE, "this program has no pre-tokenizer like that of the checkpoint; "
                    "if you know that one of its own is equal, say --pre NAME");
    if (!wish && strcmp(name, "qwen2") == 0) /* the distilled models: same expressions, own name */
        for (int64_t id = 0; id < v->n; id++)
            if (str_is(v->texts[id], "<\xEF\xBD\x9CUser\xEF\xBD\x9C>"))
                name = "deepseek-r1-qwen";
    return gguf_writer_add_str(w, "tokenizer.ggml.pre", name, err);
}

/* ---- ids and flags ---- */

/* "bos_token": a text, or an object with `content`. */
static bool token_text(const struct json *j, struct str *text)
{
    return js_as_text(j, text) || js_as_text(js_get(j, "content"), text);
}

/* The id that tokenizer_config.json names by text, else config.json by number; -1: neither does. */
static bool find_id(const struct hf_vocab *v, const struct json *tokenizer_config,
                    const struct json *config, const char *name, int64_t *id, struct error *err)
{
    char key[32];
    struct str text;
    *id = -1;
    snprintf(key, sizeof key, "%s_token", name);
    if (token_text(js_get(tokenizer_config, key), &text)) {
        for (int64_t i = 0; i < v->n && *id < 0; i++)
            if (v->types[i] != TOKEN_UNUSED && v->texts[i].len == text.len &&
                memcmp(v->texts[i].data, text.data, text.len) == 0)
                *id = i;
        return *id >= 0 || fail(err, ERR_FILE, "tokenizer_config.json: %s: \"%.*s\" is not a token",
                                key,
                                (int)min_of(text.len, (size_t)40), text.data);
    }
    snprintf(key, sizeof key, "%s_token_id", name);
    const struct json *field = js_get(config, key);
    if (js_is_array(field)) /* several ends: the first one is written, others are known by text */
        field = js_at(field, 0);
    if (!js_as_int(field, id))
        return true;
    return (*id >= 0 && *id < v->n) || fail(err, ERR_FILE, "config.json: %s: %lld is outside of "
                                            "the "
                                            "vocabulary of %lld", key, (long long)*id,
                                            (long long)v->n);
}

static bool write_ids(const struct hf_vocab *v, const struct json *tokenizer_config,
                      const struct json *config, int64_t *bos, struct gguf_writer *w,
                      struct error *err)
{
    static const struct { const char *hf, *gguf; } names[] = {
        { "bos", "tokenizer.ggml.bos_token_id" }, { "eos", "tokenizer.ggml.eos_token_id" },
        { "unk", "tokenizer.ggml.unknown_token_id" }, { "pad", "tokenizer.ggml.padding_token_id" },
    };
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        int64_t id;
        if (!find_id(v, tokenizer_config, config, names[i].hf, &id, err) ||
            (id >= 0 && !gguf_writer_add_u32(w, names[i].gguf, (uint32_t)id, err)))
            return false;
        if (i == 0)
            *bos = id;
    }
    return true;
}

/* Does a TemplateProcessing step put a special token in front (or behind)? */
static bool template_adds(const struct json *post, bool in_front)
{
    const struct json *steps = js_get(post, "processors"), *single = js_get(post, "single");
    for (size_t i = 0; i < js_count(steps); i++)
        if (template_adds(js_at(steps, i), in_front))
            return true;
    size_t n = js_count(single);
    return n > 1 && js_get(js_at(single, in_front ? 0 : n - 1), "SpecialToken") != NULL;
}

static bool write_flags(const struct json *tokenizer, const struct json *tokenizer_config,
                        int64_t bos, struct gguf_writer *w, struct error *err)
{
    const struct json *post = js_get(tokenizer, "post_processor");
    bool add_bos = template_adds(post, true), add_eos = template_adds(post, false);
    js_as_bool(js_get(tokenizer_config, "add_bos_token"), &add_bos);
    js_as_bool(js_get(tokenizer_config, "add_eos_token"), &add_eos);
    return gguf_writer_add_bool(w, "tokenizer.ggml.add_bos_token", add_bos && bos >= 0, err) &&
           gguf_writer_add_bool(w, "tokenizer.ggml.add_eos_token", add_eos, err);
}

/* ---- chat template ---- */

/* A text, or a list of named ones of which "default" counts. */
static bool template_text(const struct json *j, struct str *text)
{
    struct str name;
    if (js_as_text(j, text))
        return true;
    for (size_t i = 0; i < js_count(j); i++)
        if (js_as_text(js_get(js_at(j, i), "name"), &name) && str_is(name, "default"))
            return js_as_text(js_get(js_at(j, i), "template"), text);
    return false;
}

static bool write_template(const struct checkpoint *c, const struct json *tokenizer_config,
                           struct gguf_writer *w, struct error *err)
{
    char *file;
    struct str text = { 0 };
    struct error why = { 0 };
    if (!checkpoint_text(c, "chat_template.jinja", &file, &text.len, err))
        return false;
    struct json *other = checkpoint_json(c, "chat_template.json", &why);
    bool ok = !why.code || fail(err, why.code, "%s", why.text);
    text.data = file;
    if (ok && (file || template_text(js_get(other, "chat_template"), &text) ||
               template_text(js_get(tokenizer_config, "chat_template"), &text)))
        ok = gguf_writer_add_bytes(w, "tokenizer.chat_template", text, err);
    js_free(other);
    mem_free(file);
    return ok;
}

/* ---- tokenizer.json ---- */

static bool read_json(struct hf_vocab *v, const struct json *tokenizer, struct error *err)
{
    struct str type = { 0 };
    bool fallback = false;
    v->model = js_get(tokenizer, "model");
    v->added = js_get(tokenizer, "added_tokens");
    v->pre = recognise(js_get(tokenizer, "pre_tokenizer"));
    js_as_bool(js_get(v->model, "byte_fallback"), &fallback);
    if (!js_as_text(js_get(v->model, "type"), &type) || !str_is(type, "BPE"))
        return fail(err, ERR_FILE, "tokenizer.json: model \"%.*s\": only BPE, byte-level or with "
                    "byte fallback, can be converted", (int)min_of(type.len, (size_t)20),
                    type.data ? type.data : "");
    if (fallback)
        return read_pieces(v, tokenizer, err);
    return read_tokens(v, err) && fill_holes(v, err) && check_bytes(v, err) && read_merges(v, err);
}

/* ---- tiktoken.model ---- */

/* Behind the tokens that text is made of come those that tokenizer_config.json names, and names
 * in reserve. */
static bool read_specials(struct hf_vocab *v, const struct json *tokenizer_config, int64_t first,
                          struct error *err)
{
    const struct json *named = js_get(tokenizer_config, "added_tokens_decoder");
    for (int64_t id = first; id < v->n; id++) {
        char text[48];
        struct str name;
        snprintf(text, sizeof text, "%lld", (long long)id);
        if (!js_as_text(js_get(js_get(named, text), "content"), &name) || !name.len) {
            snprintf(text, sizeof text, "<|reserved_token_%lld|>", (long long)id);
            name = str_of(text);
        }
        const char *kept = arena_strndup(&v->arena, name.data, name.len, err);
        if (!kept)
            return false;
        v->texts[id] = (struct str){ kept, name.len };
        v->types[id] = TOKEN_CONTROL;
    }
    return true;
}

static bool read_tiktoken(struct hf_vocab *v, const struct checkpoint *c, struct str text,
                          const struct json *tokenizer_config, struct error *err)
{
    struct tiktoken t;
    struct str python = { 0 };
    char *bytes;
    if (!tiktoken_read(&t, text, v->n, &v->arena, err))
        return false;
    for (int64_t id = 0; id < t.n_tokens; id++) {
        v->texts[id] = t.tokens[id];
        v->types[id] = TOKEN_NORMAL;
    }
    v->merges = t.merges;
    v->n_merges = t.n_merges;
    if (!read_specials(v, tokenizer_config, t.n_tokens, err) || !fill_holes(v, err) ||
        !checkpoint_text(c, "tokenization_kimi.py", &bytes, &python.len, err))
        return false;
    python.data = bytes;
    v->pre = bytes ? tiktoken_pre(python) : NULL;
    mem_free(bytes);
    return true;
}

/* ---- all of it ---- */

static bool write_byte_level(struct hf_vocab *v, const char *pre, struct gguf_writer *w,
                             struct error *err)
{
    return gguf_writer_add_str(w, "tokenizer.ggml.model", "gpt2", err) &&
           write_pre(v, pre, w, err) &&
           gguf_writer_add_strings(w, "tokenizer.ggml.tokens", v->texts, (size_t)v->n, err) &&
           gguf_writer_add_array(w, "tokenizer.ggml.token_type", GGUF_I32, v->types, (size_t)v->n,
                                 err) &&
           gguf_writer_add_strings(w, "tokenizer.ggml.merges", v->merges, v->n_merges, err);
}

static bool write_all(struct hf_vocab *v, const struct json *tokenizer,
                      const struct json *tokenizer_config, const struct json *config,
                      const char *pre, struct gguf_writer *w, struct error *err)
{
    int64_t bos = -1;
    bool ok = v->scores ? write_pieces(v, w, err) : write_byte_level(v, pre, w, err);
    return ok && write_ids(v, tokenizer_config, config, &bos, w, err) &&
           write_flags(tokenizer, tokenizer_config, bos, w, err);
}

/* From whichever of the two files there is. */
static bool read_vocab(struct hf_vocab *v, const struct checkpoint *c,
                       const struct json *tokenizer, const struct json *tokenizer_config,
                       struct error *err)
{
    char *bytes;
    struct str text = { 0 };
    if (tokenizer)
        return read_json(v, tokenizer, err);
    if (!checkpoint_text(c, "tiktoken.model", &bytes, &text.len, err))
        return false;
    if (!bytes)
        return fail(err, ERR_FILE, "%s: neither tokenizer.json nor tiktoken.model (tokenizer.model "
                    "alone cannot be converted)", c->folder);
    text.data = bytes;
    bool ok = read_tiktoken(v, c, text, tokenizer_config, err);
    mem_free(bytes);
    return ok;
}

bool hf_vocab_write(const struct checkpoint *c, const struct json *config, int64_t n_vocab,
                    const char *pre, struct gguf_writer *w, struct error *err)
{
    struct hf_vocab v = { .n = n_vocab };
    struct error why = { 0 };
    struct json *tokenizer = checkpoint_json(c, "tokenizer.json", &why);
    struct json *tokenizer_config = why.code ? NULL
                                             : checkpoint_json(c, "tokenizer_config.json", &why);
    bool ok = !why.code || fail(err, why.code, "%s", why.text);
    v.texts = ok ? arena_alloc(&v.arena, (size_t)n_vocab, sizeof *v.texts, err) : NULL;
    v.types = v.texts ? arena_alloc(&v.arena, (size_t)n_vocab, sizeof *v.types, err) : NULL;
    ok = ok && v.types && read_vocab(&v, c, tokenizer, tokenizer_config, err) &&
         write_all(&v, tokenizer, tokenizer_config, config, pre, w, err) &&
         write_template(c, tokenizer_config, w, err);
    js_free(tokenizer);
    js_free(tokenizer_config);
    arena_release(&v.arena);
    return ok;
}
