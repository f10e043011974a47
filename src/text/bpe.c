#include "src/text/bpe.h"

#include "src/base/log.h"
#include "src/base/mem.h"
#include "src/text/utf8.h"

#define MOST_MERGES (1 << 22)

/* ---- Loading ---- */

/* Room for the bytes of a merge's two parts side by side. */
struct joined {
    char bytes[2 * VOCAB_TOKEN_BYTES];
};

/* Split "left right" at its one space. */
static bool split_merge(struct str merge, struct str *left, struct str *right)
{
    const char *space = merge.len < 3 ? NULL : memchr(merge.data + 1, ' ', merge.len - 2);
    if (!space || merge.data[0] == ' ' || merge.len > 2 * VOCAB_TOKEN_BYTES)
        return false;
    *left = (struct str){ merge.data, (size_t)(space - merge.data) };
    *right = (struct str){ space + 1, merge.len - left->len - 1 };
    return !memchr(right->data, ' ', right->len);
}

/* Enter merge number `rank`. False when one of the three tokens does not exist: it can never apply. */
static bool add_merge(struct bpe *b, const struct vocab *v, struct str left, struct str right,
                      uint32_t rank, struct joined *joined)
{
    bool left_pure, right_pure;
    size_t n_left = byte_alphabet_decode(left, joined->bytes, &left_pure);
    size_t n_right = byte_alphabet_decode(right, joined->bytes + n_left, &right_pure);
    int32_t left_id = vocab_find(v, (struct str){ joined->bytes, n_left });
    int32_t right_id = vocab_find(v, (struct str){ joined->bytes + n_left, n_right });
    int32_t whole_id = vocab_find(v, (struct str){ joined->bytes, n_left + n_right });
    if (!left_pure || !right_pure || left_id < 0 || right_id < 0 || whole_id < 0)
        return false;
    struct pair_slot *slot = pair_map_slot(&b->merges, (uint32_t)left_id, (uint32_t)right_id);
    if (slot->first == PAIR_NONE) /* of equal merges the first one counts */
        *slot = (struct pair_slot){ (uint32_t)left_id, (uint32_t)right_id, (uint32_t)whole_id,
                                    rank };
    return true;
}

static bool read_merges(struct bpe *b, const struct vocab *v, const struct gguf_kv *merges,
                        struct joined *joined, struct error *err)
{
    struct gguf_cursor cursor = gguf_strings(merges);
    struct str merge, left, right;
    uint32_t rank = 0, n_unknown = 0;
    for (; gguf_next_string(&cursor, &merge); rank++) {
        if (!split_merge(merge, &left, &right))
            return fail(err, ERR_FILE, "tokenizer.ggml.merges: merge %u is \"%.*s\", expected two "
                        "parts with one space between", rank, (int)min_of(merge.len, (size_t)80),
                        merge.data);
        n_unknown += !add_merge(b, v, left, right, rank, joined);
    }
    if (n_unknown > 0)
        log_warning("tokenizer: %u of %u merges name tokens that the vocabulary lacks; ignored",
                    n_unknown, rank);
    return true;
}

bool bpe_load(struct bpe *b, const struct vocab *v, const char *pre, const struct gguf *g,
              struct error *err)
{
    *b = (struct bpe){ .whole_pieces_first = strcmp(pre, "llama-bpe") == 0 };
    const struct gguf_kv *merges = gguf_array(g, "tokenizer.ggml.merges", GGUF_KIND_STRING, err);
    if (!merges)
        return fail(err, ERR_FILE, "tokenizer.ggml.merges: missing");
    if (merges->count > MOST_MERGES)
        return fail(err, ERR_FILE, "tokenizer.ggml.merges: %llu merges, at most %d",
                    (unsigned long long)merges->count, MOST_MERGES);
    if (!pair_map_init(&b->merges, (size_t)merges->count, &b->arena, err))
        return false;
    struct joined *joined = mem_alloc(1, sizeof *joined, "tokenizer", err);
    bool ok = joined && read_merges(b, v, merges, joined, err);
    mem_free(joined);
    return ok && presplit_open(&b->presplit, pre, err);
}

void bpe_release(struct bpe *b)
{
    presplit_close(b->presplit);
    arena_release(&b->arena);
    *b = (struct bpe){ 0 };
}

/* ---- Encoding ---- */

static bool find_merge(const void *ctx, struct str piece, const struct symbol *left,
                       const struct symbol *right, uint32_t *rank, int32_t *id)
{
    (void)piece;
    const struct bpe *b = ctx;
    if (left->id < 0 || right->id < 0)
        return false;
    const struct pair_slot *slot =
        pair_map_slot(&b->merges, (uint32_t)left->id, (uint32_t)right->id);
    if (slot->first == PAIR_NONE)
        return false;
    *id = (int32_t)slot->first;
    *rank = slot->second;
    return true;
}

static bool merge_piece(const struct bpe *b, const struct vocab *v, struct str piece,
                        struct encoder *e, struct error *err)
{
    struct merger *m = &e->merger;
    if (piece.len > MERGE_PIECE_BYTES)
        return fail(err, ERR_FIT, "a word of %zu bytes is too long to tokenize", piece.len);
    if (!merger_start(m, piece.len, err))
        return false;
    for (size_t i = 0; i < piece.len; i++)
        merger_add(m, (uint32_t)i, 1, v->byte_ids[(unsigned char)piece.data[i]]);
    if (!merger_run(m, piece, find_merge, b, err))
        return false;
    for (int32_t i = 0; i >= 0; i = m->symbols[i].next)
        if (m->symbols[i].id >= 0 && !tokens_push(e->out, m->symbols[i].id, err))
            return false; /* a byte without a token has no id to give */
    return true;
}

static bool encode_piece(const struct bpe *b, const struct vocab *v, struct str piece,
                         struct encoder *e, struct error *err)
{
    if (piece.len == 1 || b->whole_pieces_first) {
        int32_t id = piece.len == 1 ? v->byte_ids[(unsigned char)piece.data[0]]
                                    : vocab_find(v, piece);
        if (id >= 0)
            return tokens_push(e->out, id, err);
    }
    struct encoded_piece *entry;
    bool ok;
    if (encoder_recall(e, piece, &entry, &ok, err))
        return ok;
    size_t first = e->out->n;
    if (!merge_piece(b, v, piece, e, err))
        return false;
    if (entry)
        *entry = (struct encoded_piece){ piece, first, (uint32_t)(e->out->n - first), e->epoch };
    return true;
}

/* The regex engine reads `subject`, merging reads `text`: the same bytes but for surrogates. */
struct walk {
    const struct bpe *b;
    const struct vocab *v;
    struct encoder *e;
    const char *text, *subject;
};

static bool on_piece(void *ctx, struct str piece, struct error *err)
{
    const struct walk *w = ctx;
    piece.data = w->text + (piece.data - w->subject);
    return encode_piece(w->b, w->v, piece, w->e, err);
}

bool bpe_encode(const struct bpe *b, const struct vocab *v, struct str text, struct encoder *e,
                struct error *err)
{
    struct walk w = { b, v, e, text.data, text.data };
    if (utf8_is_strict(text))
        return presplit_run(b->presplit, text, on_piece, &w, err);

    char *repaired = mem_alloc_aligned(text.len, 3, "repaired text", err);
    char *subject = mem_alloc_aligned(text.len, 3, "repaired text", err);
    bool ok = repaired && subject;
    if (ok) {
        size_t len = utf8_repair(text, repaired, subject);
        w.text = repaired;
        w.subject = subject;
        ok = presplit_run(b->presplit, (struct str){ subject, len }, on_piece, &w, err);
    }
    encoder_forget(e);
    mem_free(repaired);
    mem_free(subject);
    return ok;
}
