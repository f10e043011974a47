#include "src/text/tokenizer.h"

#include "src/base/log.h"
#include "src/base/mem.h"
#include "src/text/bpe.h"
#include "src/text/spm.h"
#include "src/text/vocab.h"

struct tokenizer {
    struct vocab vocab;
    struct bpe bpe; /* one of the two, by vocab.kind */
    struct spm spm;
    const char *pre;
    bool add_bos, add_eos, adds_space;
};

/* ---- Token lists ---- */

static bool tokens_reserve(struct tokens *t, size_t more, struct error *err)
{
    if (more <= t->capacity - t->n)
        return true;
    size_t wanted = max_of(t->n + more, t->capacity + t->capacity / 2);
    if (wanted < t->n)
        return fail(err, ERR_FIT, "out of memory: %zu + %zu tokens", t->n, more);
    wanted = max_of(wanted, (size_t)64);
    int32_t *ids = mem_resize(t->ids, wanted, sizeof *ids, "tokens", err);
    if (!ids)
        return false;
    t->ids = ids;
    t->capacity = wanted;
    return true;
}

bool tokens_push(struct tokens *t, int32_t id, struct error *err)
{
    if (t->n == t->capacity && !tokens_reserve(t, 1, err))
        return false;
    t->ids[t->n++] = id;
    return true;
}

bool tokens_append(struct tokens *t, const int32_t *ids, size_t n, struct error *err)
{
    if (!tokens_reserve(t, n, err))
        return false;
    if (n > 0)
        memcpy(t->ids + t->n, ids, n * sizeof *ids);
    t->n += n;
    return true;
}

void tokens_clear(struct tokens *t)
{
    t->n = 0;
}

void tokens_release(struct tokens *t)
{
    mem_free(t->ids);
    *t = (struct tokens){ 0 };
}

/* ---- Opening ---- */

/* Old files name no pre-tokenizer. The published vocabularies have sizes of their own; failing
 * that, the architecture tells the family. */
static const char *guess_pre(const struct vocab *v, const struct gguf *g)
{
    static const struct { int32_t n_tokens; const char *pre; } sizes[] = {
        { 102400, "deepseek-llm" }, { 129280, "deepseek-v3" }, { 32256, "deepseek-coder" },
        { 151936, "qwen2" }, { 152064, "qwen2" }, { 128256, "llama-bpe" },
    };
    static const struct { const char *arch, *pre; } families[] = {
        { "deepseek", "deepseek-llm" }, { "deepseek2", "deepseek-v3" },
        { "deepseek32", "deepseek-v3" }, { "deepseek4", "deepseek-v3" },
        { "qwen2", "qwen2" }, { "qwen3", "qwen2" }, { "qwen3moe", "qwen2" },
        { "llama", "llama-bpe" },
    };
    struct str arch = { 0 };
    gguf_get_str(g, "general.architecture", &arch, NULL);
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++)
        if (v->n_tokens == sizes[i].n_tokens)
            return sizes[i].pre;
    for (size_t i = 0; i < ARRAY_LEN(families); i++)
        if (str_is(arch, families[i].arch))
            return families[i].pre;
    return NULL;
}

static bool choose_pre(struct tokenizer *t, const struct gguf *g, struct error *err)
{
    struct str pre = { 0 };
    if (!gguf_get_str(g, "tokenizer.ggml.pre", &pre, err))
        return false;
    if (pre.len > 0 && !str_is(pre, "default")) {
        t->pre = presplit_name(pre);
        return t->pre || fail(err, ERR_FILE, "tokenizer.ggml.pre: unknown pre-tokenizer \"%.*s\"",
                              (int)min_of(pre.len, (size_t)80), pre.data);
    }
    t->pre = guess_pre(&t->vocab, g);
    if (!t->pre)
        return fail(err, ERR_FILE, "tokenizer.ggml.pre: missing, and neither the architecture nor "
                    "%d tokens tell which pre-tokenizer is meant", t->vocab.n_tokens);
    log_warning("tokenizer.ggml.pre is missing: taking %s, which fits this model; if it is wrong, "
                "answers get worse without further notice", t->pre);
    return true;
}

static bool load(struct tokenizer *t, enum vocab_kind kind, const struct gguf *g,
                 struct error *err)
{
    if (!vocab_load(&t->vocab, kind, g, err))
        return false;
    if (kind == VOCAB_SPM) {
        t->pre = "spm";
        t->add_bos = t->adds_space = true;
        if (!spm_load(&t->spm, &t->vocab, g, err) ||
            !gguf_get_bool(g, "tokenizer.ggml.add_space_prefix", &t->adds_space, err))
            return false;
    } else {
        if (!choose_pre(t, g, err) || !bpe_load(&t->bpe, &t->vocab, t->pre, g, err))
            return false;
        t->add_bos = strcmp(t->pre, "llama-bpe") == 0;
    }
    return gguf_get_bool(g, "tokenizer.ggml.add_bos_token", &t->add_bos, err) &&
           gguf_get_bool(g, "tokenizer.ggml.add_eos_token", &t->add_eos, err);
}

bool tokenizer_open(struct tokenizer **out, const struct gguf *g, struct error *err)
{
    *out = NULL;
    struct str model = str_of("no_vocab");
    if (!gguf_get_str(g, "tokenizer.ggml.model", &model, err))
        return false;
    if (str_is(model, "no_vocab"))
        return true;
    bool is_bpe = str_is(model, "gpt2");
    if (!is_bpe && !str_is(model, "llama"))
        return fail(err, ERR_FILE, "tokenizer.ggml.model: \"%.*s\", expected gpt2 or llama",
                    (int)min_of(model.len, (size_t)80), model.data);
    struct tokenizer *t = mem_alloc(1, sizeof *t, "tokenizer", err);
    if (!t)
        return false;
    if (!load(t, is_bpe ? VOCAB_BPE : VOCAB_SPM, g, err)) {
        tokenizer_close(t);
        return false;
    }
    *out = t;
    return true;
}

void tokenizer_close(struct tokenizer *t)
{
    if (!t)
        return;
    bpe_release(&t->bpe);
    spm_release(&t->spm);
    vocab_release(&t->vocab);
    mem_free(t);
}

/* ---- Encoding ---- */

static bool encode_plain(const struct tokenizer *t, struct str text, struct encoder *e,
                         struct error *err)
{
    if (text.len == 0)
        return true;
    return t->vocab.kind == VOCAB_BPE
               ? bpe_encode(&t->bpe, &t->vocab, text, e, err)
               : spm_encode(&t->spm, &t->vocab, text, t->adds_space, e, err);
}

/* Cut out special tokens, leftmost first, the longest of those that start there; encode what lies
 * between. Source: HF tokenizers, added vocabulary. */
static bool encode(const struct tokenizer *t, struct str text, bool control, struct encoder *e,
                   struct error *err)
{
    const bool *may_start = t->vocab.may_start[control];
    size_t done = 0;
    for (size_t i = 0; i < text.len; i++) {
        if (!may_start[(unsigned char)text.data[i]])
            continue;
        int32_t id = vocab_special_at(&t->vocab, (struct str){ text.data + i, text.len - i },
                                      control);
        if (id < 0)
            continue;
        if (!encode_plain(t, (struct str){ text.data + done, i - done }, e, err) ||
            !tokens_push(e->out, id, err))
            return false;
        done = i + t->vocab.tokens[id].text.len;
        i = done - 1;
    }
    return encode_plain(t, (struct str){ text.data + done, text.len - done }, e, err);
}

bool tokenizer_encode(const struct tokenizer *t, struct str text, bool parse_special,
                      struct tokens *out, struct error *err)
{
    struct encoder e;
    size_t n_before = out->n;
    bool ok = encoder_init(&e, out, text.len, err) && encode(t, text, parse_special, &e, err);
    encoder_release(&e);
    if (!ok)
        out->n = n_before;
    return ok;
}

/* ---- Looking up ---- */

static bool is_token(const struct tokenizer *t, int32_t id)
{
    return id >= 0 && id < t->vocab.n_tokens;
}

int32_t tokenizer_find(const struct tokenizer *t, const char *text)
{
    struct str s = str_of(text);
    int32_t id = vocab_special_at(&t->vocab, s, true);
    if (id >= 0 && t->vocab.tokens[id].text.len == s.len)
        return id;
    return vocab_find(&t->vocab, s);
}

int32_t tokenizer_n_tokens(const struct tokenizer *t)
{
    return t->vocab.n_tokens;
}

enum token_type tokenizer_type(const struct tokenizer *t, int32_t id)
{
    return is_token(t, id) ? t->vocab.tokens[id].type : TOKEN_UNKNOWN;
}

struct str tokenizer_bytes(const struct tokenizer *t, int32_t id, bool special)
{
    if (!is_token(t, id))
        return (struct str){ "", 0 };
    enum token_type type = t->vocab.tokens[id].type;
    bool hidden = type == TOKEN_CONTROL || type == TOKEN_UNKNOWN || type == TOKEN_UNUSED;
    return hidden && !special ? (struct str){ "", 0 } : t->vocab.tokens[id].bytes;
}

int32_t tokenizer_bos(const struct tokenizer *t)
{
    return t->vocab.ids.bos;
}

int32_t tokenizer_eos(const struct tokenizer *t)
{
    return t->vocab.ids.eos;
}

bool tokenizer_add_bos(const struct tokenizer *t)
{
    return t->add_bos;
}

bool tokenizer_add_eos(const struct tokenizer *t)
{
    return t->add_eos;
}

bool tokenizer_adds_space(const struct tokenizer *t)
{
    return t->adds_space;
}

bool tokenizer_is_end(const struct tokenizer *t, int32_t id)
{
    return is_token(t, id) && t->vocab.tokens[id].is_end;
}

struct str tokenizer_pre(const struct tokenizer *t)
{
    return str_of(t->pre);
}
