#include "src/text/spm.h"

#include <math.h>
#include <stdlib.h>

#include "src/base/mem.h"
#include "src/text/utf8.h"

#define SPACE_LEN (sizeof SPM_SPACE - 1)

/* ---- Loading ---- */

struct scored {
    float score;
    int32_t id;
};

static int by_score_falling(const void *a, const void *b)
{
    const struct scored *x = a, *y = b;
    return x->score != y->score ? (x->score < y->score ? 1 : -1) : x->id < y->id ? -1 : 1;
}

static bool rank_by_score(struct spm *s, const struct gguf_kv *scores, struct scored *sorted,
                          struct error *err)
{
    size_t n = (size_t)scores->count;
    for (size_t i = 0; i < n; i++) {
        double score = gguf_float_at(scores, i);
        if (!isfinite(score))
            return fail(err, ERR_FILE, "tokenizer.ggml.scores: token %zu: not a finite number", i);
        sorted[i] = (struct scored){ (float)score, (int32_t)i };
    }
    qsort(sorted, n, sizeof *sorted, by_score_falling);
    uint32_t rank = 0;
    for (size_t i = 0; i < n; i++) {
        rank += i > 0 && sorted[i].score != sorted[i - 1].score;
        s->ranks[sorted[i].id] = rank;
    }
    return true;
}

/* Does the token have a space behind another character? */
static bool spans_words(struct str token)
{
    for (size_t i = 1; i + SPACE_LEN <= token.len; i++)
        if (memcmp(token.data + i, SPM_SPACE, SPACE_LEN) == 0 &&
            (i < SPACE_LEN || memcmp(token.data + i - SPACE_LEN, SPM_SPACE, SPACE_LEN) != 0))
            return true;
    return false;
}

bool spm_load(struct spm *s, const struct vocab *v, const struct gguf *g, struct error *err)
{
    *s = (struct spm){ .words_apart = true };
    const struct gguf_kv *scores = gguf_array(g, "tokenizer.ggml.scores", GGUF_KIND_FLOAT, err);
    if (!scores)
        return fail(err, ERR_FILE, "tokenizer.ggml.scores: missing");
    if (scores->count != (uint64_t)v->n_tokens)
        return fail(err, ERR_FILE, "tokenizer.ggml.scores: %llu entries, expected %d",
                    (unsigned long long)scores->count, v->n_tokens);
    for (int32_t id = 0; s->words_apart && id < v->n_tokens; id++)
        s->words_apart = !v->tokens[id].is_plain || !spans_words(v->tokens[id].text);
    s->ranks = arena_alloc(&s->arena, (size_t)v->n_tokens, sizeof *s->ranks, err);
    struct scored *sorted = mem_alloc((size_t)v->n_tokens, sizeof *sorted, "token scores", err);
    bool ok = s->ranks && sorted && rank_by_score(s, scores, sorted, err);
    mem_free(sorted);
    return ok;
}

void spm_release(struct spm *s)
{
    arena_release(&s->arena);
    *s = (struct spm){ 0 };
}

/* ---- Encoding ---- */

struct finder {
    const struct spm *s;
    const struct vocab *v;
};

static bool find_merge(const void *ctx, struct str piece, const struct symbol *left,
                       const struct symbol *right, uint32_t *rank, int32_t *id)
{
    const struct finder *f = ctx;
    *id = vocab_find(f->v, (struct str){ piece.data + left->start, left->len + right->len });
    if (*id < 0)
        return false;
    *rank = f->s->ranks[*id];
    return true;
}

/* A character that is no token: its bytes, each as a byte token, else as a token of that one byte,
 * else the unknown token. */
static bool push_bytes(const struct vocab *v, struct str bytes, struct encoder *e,
                       struct error *err)
{
    for (size_t i = 0; i < bytes.len; i++) {
        struct str one = { bytes.data + i, 1 };
        int32_t id = v->byte_ids[(unsigned char)*one.data];
        if (id < 0)
            id = vocab_find(v, one);
        if (id < 0)
            id = v->ids.unknown;
        if (id >= 0 && !tokens_push(e->out, id, err))
            return false;
    }
    return true;
}

/* Bytes of the symbol that `text` begins with: the lead byte alone decides, whatever follows. */
static size_t symbol_length(struct str text)
{
    return min_of(utf8_lead_length((unsigned char)text.data[0]), text.len);
}

static bool merge_piece(const struct spm *s, const struct vocab *v, struct str piece,
                        struct encoder *e, struct error *err)
{
    struct merger *m = &e->merger;
    struct finder f = { s, v };
    if (piece.len > MERGE_PIECE_BYTES)
        return fail(err, ERR_FIT, "a word of %zu bytes is too long to tokenize", piece.len);
    if (!merger_start(m, piece.len, err))
        return false;
    for (size_t i = 0, len; i < piece.len; i += len) {
        struct str rest = { piece.data + i, piece.len - i };
        len = symbol_length(rest);
        merger_add(m, (uint32_t)i, (uint32_t)len, vocab_find(v, (struct str){ rest.data, len }));
    }
    if (!merger_run(m, piece, find_merge, &f, err))
        return false;
    for (int32_t i = 0; i >= 0; i = m->symbols[i].next) {
        const struct symbol *y = &m->symbols[i];
        if (!(y->id >= 0 ? tokens_push(e->out, y->id, err)
                         : push_bytes(v, (struct str){ piece.data + y->start, y->len }, e, err)))
            return false;
    }
    return true;
}

static bool encode_piece(const struct spm *s, const struct vocab *v, struct str piece,
                         struct encoder *e, struct error *err)
{
    struct encoded_piece *entry;
    bool ok;
    if (encoder_recall(e, piece, &entry, &ok, err))
        return ok;
    size_t first = e->out->n;
    if (!merge_piece(s, v, piece, e, err))
        return false;
    if (entry)
        *entry = (struct encoded_piece){ piece, first, (uint32_t)(e->out->n - first), e->epoch };
    return true;
}

/* Length of the first word: up to a space that follows something else. */
static size_t first_word(struct str text)
{
    size_t i = 0, len;
    for (bool was_space = true; i < text.len; i += len) {
        struct str rest = { text.data + i, text.len - i };
        len = symbol_length(rest);
        bool space = len == SPACE_LEN && memcmp(rest.data, SPM_SPACE, SPACE_LEN) == 0;
        if (space && !was_space)
            break;
        was_space = space;
    }
    return i;
}

/* Copy with each space spelled U+2581; returns the length. */
static size_t spell_spaces(struct str text, bool add_space, char *out)
{
    size_t n = 0;
    if (add_space) {
        memcpy(out, SPM_SPACE, SPACE_LEN);
        n = SPACE_LEN;
    }
    for (size_t i = 0; i < text.len; i++) {
        if (text.data[i] == ' ') {
            memcpy(out + n, SPM_SPACE, SPACE_LEN);
            n += SPACE_LEN;
        } else {
            out[n++] = text.data[i];
        }
    }
    return n;
}

bool spm_encode(const struct spm *s, const struct vocab *v, struct str text, bool add_space,
                struct encoder *e, struct error *err)
{
    if (text.len > SIZE_MAX / SPACE_LEN - 1)
        return fail(err, ERR_FIT, "text of %zu bytes", text.len);
    char *spelled = mem_alloc_aligned(text.len + 1, SPACE_LEN, "text", err);
    if (!spelled)
        return false;
    struct str rest = { spelled, spell_spaces(text, add_space, spelled) };
    bool ok = true;
    while (ok && rest.len > 0) {
        size_t len = s->words_apart ? first_word(rest) : rest.len;
        ok = encode_piece(s, v, (struct str){ rest.data, len }, e, err);
        rest.data += len;
        rest.len -= len;
    }
    encoder_forget(e);
    mem_free(spelled);
    return ok;
}
