#include "src/text/vocab.h"

#include "src/text/utf8.h"

/* ---- The byte alphabet ----
 * Printable bytes 21..7E, A1..AC, AE..FF spell themselves as U+0021..U+00FF; the other 68 take
 * U+0100, U+0101, ... in rising order. Source: the GPT-2 encoder. */

static bool spells_itself(uint32_t byte)
{
    return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xFF && byte != 0xAD);
}

/* The byte that `code` spells; -1: none. */
static int alphabet_byte(uint32_t code)
{
    if (code < 0x100)
        return spells_itself(code) ? (int)code : -1;
    uint32_t rank = code - 0x100; /* 00..20, 7F..A0, AD */
    if (rank <= 0x20)
        return (int)rank;
    rank -= 0x21;
    if (rank <= 0xA0 - 0x7F)
        return (int)(0x7F + rank);
    return rank == 0xA0 - 0x7F + 1 ? 0xAD : -1;
}

size_t byte_alphabet_decode(struct str spelled, char *out, bool *pure)
{
    size_t n = 0;
    *pure = true;
    while (spelled.len > 0) {
        uint32_t code;
        size_t len = utf8_decode(spelled, &code);
        int byte = alphabet_byte(code);
        if (byte >= 0) {
            out[n++] = (char)byte;
        } else {
            memcpy(out + n, spelled.data, len);
            n += len;
            *pure = false;
        }
        spelled.data += len;
        spelled.len -= len;
    }
    return n;
}

size_t byte_alphabet_encode(struct str bytes, char *out)
{
    size_t n = 0;
    for (size_t i = 0; i < bytes.len; i++) {
        uint32_t byte = (uint8_t)bytes.data[i];
        uint32_t code = spells_itself(byte) ? byte
                        : byte <= 0x20      ? 0x100 + byte
                        : byte <= 0xA0      ? 0x121 + (byte - 0x7F)
                                            : 0x143; /* AD, the last of them */
        if (code < 0x80) {
            out[n++] = (char)code;
        } else {
            out[n++] = (char)(0xC0 | code >> 6);
            out[n++] = (char)(0x80 | (code & 0x3F));
        }
    }
    return n;
}

/* ---- Reading ---- */

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                  : -1;
}

/* The byte of "<0xHH>"; -1 for any other text. */
static int byte_token_value(struct str s)
{
    if (s.len != 6 || memcmp(s.data, "<0x", 3) != 0 || s.data[5] != '>')
        return -1;
    int high = hex_digit(s.data[3]), low = hex_digit(s.data[4]);
    return high < 0 || low < 0 ? -1 : high << 4 | low;
}

static bool is_special(const struct vocab_token *t)
{
    return t->type == TOKEN_CONTROL || t->type == TOKEN_USER_DEFINED || t->type == TOKEN_UNKNOWN;
}

static bool read_texts(struct vocab *v, const struct gguf_kv *texts, struct error *err)
{
    struct gguf_cursor cursor = gguf_strings(texts);
    struct str s;
    for (int32_t id = 0; id < v->n_tokens; id++) {
        if (!gguf_next_string(&cursor, &s))
            return fail(err, ERR_FILE, "tokenizer.ggml.tokens: ends before token %d", id);
        if (s.len > VOCAB_TOKEN_BYTES)
            return fail(err, ERR_FILE, "tokenizer.ggml.tokens: token %d has %zu bytes, at most %d",
                        id, s.len, VOCAB_TOKEN_BYTES);
        v->tokens[id] = (struct vocab_token){ .text = s, .bytes = s, .type = TOKEN_NORMAL };
    }
    return true;
}

static bool read_types(struct vocab *v, const struct gguf *g, struct error *err)
{
    const char *key = "tokenizer.ggml.token_type";
    if (!gguf_has(g, key)) { /* the oldest files: byte tokens are known by their spelling */
        for (int32_t id = 0; v->kind == VOCAB_SPM && id < v->n_tokens; id++)
            if (byte_token_value(v->tokens[id].text) >= 0)
                v->tokens[id].type = TOKEN_BYTE;
        return true;
    }
    const struct gguf_kv *types = gguf_array(g, key, GGUF_KIND_INT, err);
    if (!types)
        return false;
    if (types->count != (uint64_t)v->n_tokens)
        return fail(err, ERR_FILE, "%s: %llu entries, expected %d (one per token)", key,
                    (unsigned long long)types->count, v->n_tokens);
    for (int32_t id = 0; id < v->n_tokens; id++) {
        int64_t type = gguf_int_at(types, (uint64_t)id);
        if (type < TOKEN_NORMAL || type > TOKEN_BYTE)
            return fail(err, ERR_FILE, "%s: token %d has type %lld, expected 1..6", key, id,
                        (long long)type);
        v->tokens[id].type = (uint8_t)type;
    }
    return true;
}

static bool read_id(const struct vocab *v, const struct gguf *g, const char *key, int32_t *id,
                    struct error *err)
{
    if (!gguf_has(g, key))
        return true;
    uint64_t value = 0;
    if (!gguf_get_u64(g, key, &value, err))
        return false;
    if (value >= (uint64_t)v->n_tokens)
        return fail(err, ERR_FILE, "%s: %llu, but the vocabulary has %d tokens", key,
                    (unsigned long long)value, v->n_tokens);
    *id = (int32_t)value;
    return true;
}

/* Every key of the form tokenizer.ggml.*_token_id lies inside the vocabulary, read here or not. */
static bool check_ids(const struct vocab *v, const struct gguf *g, struct error *err)
{
    static const char head[] = "tokenizer.ggml.", tail[] = "_token_id";
    char name[80];
    for (uint64_t i = 0; i < g->n_kv; i++) {
        struct str key = g->kv[i].key;
        if (key.len < sizeof head + sizeof tail - 2 || key.len >= sizeof name ||
            memcmp(key.data, head, sizeof head - 1) != 0 ||
            memcmp(key.data + key.len - (sizeof tail - 1), tail, sizeof tail - 1) != 0)
            continue;
        memcpy(name, key.data, key.len);
        name[key.len] = 0;
        int32_t id;
        if (!read_id(v, g, name, &id, err))
            return false;
    }
    return true;
}

static bool read_ids(struct vocab *v, const struct gguf *g, struct error *err)
{
    struct vocab_ids *ids = &v->ids;
    *ids = (struct vocab_ids){ -1, -1, -1, -1, -1, -1, -1 };
    if (v->kind == VOCAB_SPM) { /* what SentencePiece writes unless told otherwise */
        ids->unknown = 0;
        ids->bos = v->n_tokens > 1 ? 1 : -1;
        ids->eos = v->n_tokens > 2 ? 2 : -1;
    }
    return read_id(v, g, "tokenizer.ggml.bos_token_id", &ids->bos, err) &&
           read_id(v, g, "tokenizer.ggml.eos_token_id", &ids->eos, err) &&
           read_id(v, g, "tokenizer.ggml.eot_token_id", &ids->eot, err) &&
           read_id(v, g, "tokenizer.ggml.eom_token_id", &ids->eom, err) &&
           read_id(v, g, "tokenizer.ggml.unknown_token_id", &ids->unknown, err) &&
           read_id(v, g, "tokenizer.ggml.seperator_token_id", &ids->separator, err) &&
           read_id(v, g, "tokenizer.ggml.padding_token_id", &ids->padding, err) &&
           check_ids(v, g, err);
}

/* ---- Which tokens are control tokens, and which end a generation ---- */

static bool any_of(struct str s, const char *const *names)
{
    for (; *names; names++)
        if (str_is(s, *names))
            return true;
    return false;
}

/* Files disagree on the type of markers; these are control tokens whatever their file says, or a
 * user could type them into a role's content. DeepSeek's are those with full-width bars. */
static bool is_marker(struct str s)
{
    static const char *const names[] = { "<|im_start|>", "<|im_end|>", "<|im_middle|>",
        "<|im_user|>", "<|im_assistant|>", "<|im_system|>", "<|eot_id|>", "<|eom_id|>",
        "<|start_header_id|>", "<|end_header_id|>", "<|end_of_text|>", "<|endoftext|>", NULL };
    static const char bar[] = "\xEF\xBD\x9C"; /* U+FF5C */
    return any_of(s, names) || (s.len > 3 && memmem(s.data, s.len, bar, 3));
}

static bool ends_by_name(struct str s)
{
    static const char *const names[] = {
        "<\xEF\xBD\x9C" "end" SPM_SPACE "of" SPM_SPACE "sentence\xEF\xBD\x9C>",
        "<|EOT|>", "<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end_of_text|>", "<|endoftext|>",
        "</s>", "[EOS]", "[EOT]", NULL };
    return any_of(s, names);
}

static void settle_types(struct vocab *v, bool types_known)
{
    const struct vocab_ids *ids = &v->ids;
    const int32_t named[] = { ids->bos, ids->eos, ids->eot, ids->eom, ids->unknown,
                              ids->separator, ids->padding };
    for (size_t i = 0; !types_known && i < ARRAY_LEN(named); i++)
        if (named[i] >= 0)
            v->tokens[named[i]].type = TOKEN_CONTROL;
    for (int32_t id = 0; id < v->n_tokens; id++) {
        struct vocab_token *t = &v->tokens[id];
        if (t->type == TOKEN_USER_DEFINED && is_marker(t->text))
            t->type = TOKEN_CONTROL;
        bool added = t->type == TOKEN_CONTROL || t->type == TOKEN_USER_DEFINED;
        t->is_end = id == ids->eos || id == ids->eot || id == ids->eom ||
                    (added && ends_by_name(t->text));
    }
}

/* ---- Texts to bytes ---- */

/* U+2581 to space; returns the length. */
static size_t spaces_decode(struct str text, char *out)
{
    size_t n = 0;
    for (size_t i = 0; i < text.len; n++) {
        bool space = text.len - i >= 3 && memcmp(text.data + i, SPM_SPACE, 3) == 0;
        out[n] = space ? ' ' : text.data[i];
        i += space ? 3 : 1;
    }
    return n;
}

/* Settle what token `id` stands for, writing decoded bytes to *at. */
static bool settle_token(struct vocab *v, int32_t id, char **at, struct error *err)
{
    struct vocab_token *t = &v->tokens[id];
    if (t->type == TOKEN_BYTE) {
        int byte = byte_token_value(t->text);
        if (byte < 0)
            return fail(err, ERR_FILE, "token %d: byte token \"%.*s\", expected <0xHH>", id,
                        (int)min_of(t->text.len, (size_t)40), t->text.data);
        **at = (char)byte;
        t->bytes = (struct str){ (*at)++, 1 };
        if (v->byte_ids[byte] < 0)
            v->byte_ids[byte] = id;
    } else if (t->type == TOKEN_NORMAL) {
        t->is_plain = t->text.len > 0;
        bool pure = true;
        t->bytes = (struct str){ *at, v->kind == VOCAB_BPE
                                          ? byte_alphabet_decode(t->text, *at, &pure)
                                          : spaces_decode(t->text, *at) };
        *at += t->bytes.len;
        if (v->kind == VOCAB_BPE)
            t->text = t->bytes;
        if (!pure) /* merging never makes such a character */
            t->is_plain = false;
    }
    return true;
}

static bool settle_bytes(struct vocab *v, struct error *err)
{
    size_t total = 0;
    for (int32_t id = 0; id < v->n_tokens; id++)
        total += v->tokens[id].type == TOKEN_NORMAL ? v->tokens[id].text.len : 1;
    char *at = arena_alloc(&v->arena, total, 1, err);
    bool ok = at != NULL;
    for (int32_t id = 0; ok && id < v->n_tokens; id++)
        ok = settle_token(v, id, &at, err);
    return ok;
}

/* ---- Plain tokens by text ---- */

static int32_t *find_slot(const struct vocab *v, struct str text)
{
    size_t i = hash_bytes(text, v->seed) & v->mask;
    for (; v->slots[i] >= 0; i = (i + 1) & v->mask) {
        struct str found = v->tokens[v->slots[i]].text;
        if (found.len == text.len && memcmp(found.data, text.data, text.len) == 0)
            break;
    }
    return &v->slots[i];
}

int32_t vocab_find(const struct vocab *v, struct str text)
{
    return text.len == 0 || text.len > v->longest_plain ? -1 : *find_slot(v, text);
}

static bool index_plain(struct vocab *v, struct error *err)
{
    size_t n = 0;
    for (int32_t id = 0; id < v->n_tokens; id++)
        n += v->tokens[id].is_plain;
    size_t slots = hash_slots(n);
    v->slots = arena_alloc(&v->arena, slots, sizeof *v->slots, err);
    if (!v->slots)
        return false;
    memset(v->slots, 0xFF, slots * sizeof *v->slots); /* all -1 */
    v->mask = slots - 1;
    v->seed = hash_seed();
    for (int32_t id = 0; id < v->n_tokens; id++) {
        const struct vocab_token *t = &v->tokens[id];
        if (!t->is_plain)
            continue;
        int32_t *slot = find_slot(v, t->text);
        if (*slot < 0) /* of equal tokens the first one counts */
            *slot = id;
        v->longest_plain = max_of(v->longest_plain, t->text.len);
    }
    for (int byte = 0; v->kind == VOCAB_BPE && byte < 256; byte++) {
        int32_t id = vocab_find(v, (struct str){ (const char[]){ (char)byte }, 1 });
        v->byte_ids[byte] = id >= 0 ? id : v->byte_ids[byte];
    }
    return true;
}

/* ---- Special tokens: a trie over their bytes ---- */

/* The edge (node, byte), or the empty slot where it belongs. */
static struct pair_slot *edge(const struct vocab *v, uint32_t node, char byte)
{
    return pair_map_slot(&v->special, node, (unsigned char)byte);
}

static void add_special(struct vocab *v, int32_t id)
{
    const struct vocab_token *t = &v->tokens[id];
    struct pair_slot *last = NULL;
    uint32_t node = 0;
    for (size_t i = 0; i < t->text.len; i++) {
        last = edge(v, node, t->text.data[i]);
        if (last->first == PAIR_NONE)
            *last = (struct pair_slot){ node, (unsigned char)t->text.data[i], ++v->n_nodes,
                                        PAIR_NONE };
        node = last->first;
    }
    if (last->second == PAIR_NONE) /* of equal tokens the first one counts */
        last->second = (uint32_t)id;
    v->may_start[1][(unsigned char)t->text.data[0]] = true;
    if (t->type == TOKEN_USER_DEFINED)
        v->may_start[0][(unsigned char)t->text.data[0]] = true;
}

static bool index_special(struct vocab *v, struct error *err)
{
    size_t total = 0;
    for (int32_t id = 0; id < v->n_tokens; id++) {
        const struct vocab_token *t = &v->tokens[id];
        if (!is_special(t))
            continue;
        if (t->text.len > VOCAB_SPECIAL_BYTES)
            return fail(err, ERR_FILE, "token %d: special token of %zu bytes, at most %d", id,
                        t->text.len, VOCAB_SPECIAL_BYTES);
        total += t->text.len;
    }
    if (total > VOCAB_SPECIAL_NODES)
        return fail(err, ERR_FILE, "special tokens have %zu bytes together, at most %d", total,
                    VOCAB_SPECIAL_NODES);
    if (!pair_map_init(&v->special, total, &v->arena, err))
        return false;
    for (int32_t id = 0; id < v->n_tokens; id++)
        if (is_special(&v->tokens[id]) && v->tokens[id].text.len > 0)
            add_special(v, id);
    return true;
}

int32_t vocab_special_at(const struct vocab *v, struct str text, bool control)
{
    int32_t longest = -1;
    uint32_t node = 0;
    for (size_t i = 0; i < text.len; i++) {
        const struct pair_slot *e = edge(v, node, text.data[i]);
        if (e->first == PAIR_NONE)
            break;
        if (e->second != PAIR_NONE &&
            (control || v->tokens[e->second].type == TOKEN_USER_DEFINED))
            longest = (int32_t)e->second;
        node = e->first;
    }
    return longest;
}

/* ---- Whole ---- */

bool vocab_load(struct vocab *v, enum vocab_kind kind, const struct gguf *g, struct error *err)
{
    *v = (struct vocab){ .kind = kind };
    memset(v->byte_ids, 0xFF, sizeof v->byte_ids); /* all -1 */
    const struct gguf_kv *texts = gguf_array(g, "tokenizer.ggml.tokens", GGUF_KIND_STRING, err);
    if (!texts)
        return fail(err, ERR_FILE, "tokenizer.ggml.tokens: missing");
    if (texts->count < 1 || texts->count > VOCAB_TOKENS)
        return fail(err, ERR_FILE, "tokenizer.ggml.tokens: %llu tokens, expected 1..%d",
                    (unsigned long long)texts->count, VOCAB_TOKENS);
    v->n_tokens = (int32_t)texts->count;
    v->tokens = arena_alloc(&v->arena, (size_t)v->n_tokens, sizeof *v->tokens, err);
    if (!v->tokens || !read_texts(v, texts, err) || !read_types(v, g, err) || !read_ids(v, g, err))
        return false;
    settle_types(v, gguf_has(g, "tokenizer.ggml.token_type"));
    return settle_bytes(v, err) && index_plain(v, err) && index_special(v, err);
}

void vocab_release(struct vocab *v)
{
    arena_release(&v->arena);
    *v = (struct vocab){ 0 };
}
