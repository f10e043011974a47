#include "src/text/constraint.h"

#include <math.h>
#include <stdlib.h>

#include "src/base/mem.h"

#define MASKS 256                  /* kept, the oldest gives way */
#define ACCEPTOR_BYTES (64u << 20) /* of states, before all but the current one are forgotten */

/* A node of the trie. In the order of the walk the children of a node follow it at once. */
struct node {
    uint32_t end;   /* the first node behind its subtree */
    int32_t token;  /* the first token that ends here; -1: none */
    uint32_t depth; /* bytes up to here, 1 and more */
    unsigned char byte;
};

struct mask {
    int32_t state;   /* ACCEPTOR_DEAD: free */
    int32_t n;       /* tokens allowed, end marks left out */
    uint64_t *words; /* one bit for each token */
};

struct constraint {
    struct grammar *grammar;
    struct acceptor *acceptor;
    const struct tokenizer *tokenizer;
    int32_t n_usable;
    size_t n_words;

    struct node *nodes;
    uint32_t n_nodes;
    int32_t *same;  /* [n_usable] the next token with the same bytes; -1: none */
    int32_t *ends;  /* the end marks */
    int32_t n_ends;
    int32_t *path;  /* [longest + 1] state at each depth of the walk */

    struct mask masks[MASKS];
    int next_mask;
    int32_t state;
};

/* ---- the trie -------------------------------------------------------------------------------- */

struct spelled {
    struct str bytes;
    int32_t id;
};

static int by_bytes(const void *a, const void *b)
{
    const struct spelled *x = a, *y = b;
    int order = memcmp(x->bytes.data, y->bytes.data, min_of(x->bytes.len, y->bytes.len));
    if (order == 0)
        order = (x->bytes.len > y->bytes.len) - (x->bytes.len < y->bytes.len);
    return order ? order : (x->id > y->id) - (x->id < y->id);
}

/* Tokens that text may be made of, sorted by their bytes. */
static size_t spell_tokens(const struct constraint *c, struct spelled *list)
{
    size_t n = 0;
    for (int32_t id = 0; id < c->n_usable; id++) {
        enum token_type type = tokenizer_type(c->tokenizer, id);
        struct str bytes = tokenizer_bytes(c->tokenizer, id, false);
        bool text = type == TOKEN_NORMAL || type == TOKEN_BYTE;
        if (text && bytes.len && !tokenizer_is_end(c->tokenizer, id))
            list[n++] = (struct spelled){ bytes, id };
    }
    qsort(list, n, sizeof *list, by_bytes);
    return n;
}

static size_t common_prefix(struct str a, struct str b)
{
    size_t n = 0;
    while (n < a.len && n < b.len && a.data[n] == b.data[n])
        n++;
    return n;
}

static bool build_trie(struct constraint *c, const struct spelled *list, size_t n,
                       struct error *err)
{
    size_t n_nodes = 0, longest = 0;
    for (size_t i = 0; i < n; i++) {
        n_nodes += list[i].bytes.len;
        n_nodes -= i ? common_prefix(list[i - 1].bytes, list[i].bytes) : 0;
        longest = max_of(longest, list[i].bytes.len);
    }
    if (n_nodes > UINT32_MAX)
        return fail(err, ERR_FIT, "the vocabulary spells too many bytes for a grammar");
    uint32_t *open = mem_alloc(longest + 1, sizeof *open, "trie", err); /* node at each depth */
    if (!open)
        return false;
    c->nodes = mem_alloc(n_nodes, sizeof *c->nodes, "trie of the vocabulary", err);
    c->path = mem_alloc(longest + 1, sizeof *c->path, "trie of the vocabulary", err);
    bool ok = c->nodes && c->path;
    size_t depth = 0;
    for (size_t i = 0; ok && i < n; i++) {
        struct str bytes = list[i].bytes;
        size_t shared = i ? common_prefix(list[i - 1].bytes, bytes) : 0;
        for (; depth > shared; depth--)
            c->nodes[open[depth]].end = c->n_nodes;
        for (; depth < bytes.len; c->n_nodes++) {
            unsigned char byte = (unsigned char)bytes.data[depth++];
            c->nodes[c->n_nodes] = (struct node){ 0, -1, (uint32_t)depth, byte };
            open[depth] = c->n_nodes;
        }
        struct node *last = &c->nodes[open[depth]];
        c->same[list[i].id] = last->token;
        last->token = list[i].id;
    }
    for (; ok && depth > 0; depth--)
        c->nodes[open[depth]].end = c->n_nodes;
    mem_free(open);
    return ok;
}

static bool load_vocabulary(struct constraint *c, struct error *err)
{
    size_t n = (size_t)c->n_usable;
    struct spelled *list = mem_alloc(n, sizeof *list, "trie of the vocabulary", err);
    c->same = mem_alloc(n, sizeof *c->same, "trie of the vocabulary", err);
    c->ends = mem_alloc(n, sizeof *c->ends, "end marks", err);
    bool ok = list && c->same && c->ends && build_trie(c, list, spell_tokens(c, list), err);
    mem_free(list);
    for (int32_t id = 0; ok && id < c->n_usable; id++)
        if (tokenizer_is_end(c->tokenizer, id))
            c->ends[c->n_ends++] = id;
    return ok;
}

bool constraint_open(struct constraint **out, struct grammar *g, const struct tokenizer *t,
                     int32_t n_usable, struct error *err)
{
    struct constraint *c = mem_alloc(1, sizeof *c, "grammar", err);
    *out = NULL;
    if (!c) {
        grammar_close(g);
        return false;
    }
    c->grammar = g;
    c->tokenizer = t;
    c->n_usable = n_usable;
    c->n_words = ((size_t)n_usable + 63) / 64;
    if (!load_vocabulary(c, err) || !acceptor_open(&c->acceptor, g, err)) {
        constraint_close(c);
        return false;
    }
    constraint_reset(c);
    *out = c;
    return true;
}

void constraint_close(struct constraint *c)
{
    if (!c)
        return;
    for (int i = 0; i < MASKS; i++)
        mem_free(c->masks[i].words);
    acceptor_close(c->acceptor);
    grammar_close(c->grammar);
    mem_free(c->nodes);
    mem_free(c->same);
    mem_free(c->ends);
    mem_free(c->path);
    mem_free(c);
}

void constraint_reset(struct constraint *c)
{
    c->state = acceptor_start(c->acceptor);
}

/* ---- masks ----------------------------------------------------------------------------------- */

/* Walk the trie with the grammar; where the grammar stops, a whole subtree is skipped. */
static bool fill_mask(struct constraint *c, struct mask *m, struct error *err)
{
    memset(m->words, 0, c->n_words * sizeof *m->words);
    m->n = 0;
    c->path[0] = c->state;
    for (uint32_t i = 0; i < c->n_nodes;) {
        const struct node *node = &c->nodes[i];
        int32_t *state = &c->path[node->depth];
        if (!acceptor_step(c->acceptor, state[-1], node->byte, state, err))
            return false;
        if (*state == ACCEPTOR_DEAD) {
            i = node->end;
            continue;
        }
        for (int32_t id = node->token; id >= 0; id = c->same[id], m->n++)
            m->words[id / 64] |= (uint64_t)1 << (id % 64);
        i++;
    }
    for (int32_t i = 0; acceptor_may_end(c->acceptor, c->state) && i < c->n_ends; i++)
        m->words[c->ends[i] / 64] |= (uint64_t)1 << (c->ends[i] % 64);
    return true;
}

/* States get new numbers when too many are kept: masks are found by them, so they go too. */
static bool bound_memory(struct constraint *c, struct error *err)
{
    if (acceptor_bytes(c->acceptor) <= ACCEPTOR_BYTES)
        return true;
    for (int i = 0; i < MASKS; i++)
        c->masks[i].state = ACCEPTOR_DEAD;
    return acceptor_shrink(c->acceptor, &c->state, err);
}

/* The mask of the current state; NULL on failure. */
static const struct mask *current_mask(struct constraint *c, struct error *err)
{
    if (c->state == ACCEPTOR_DEAD) {
        fail(err, ERR_INTERNAL, "the text has left the grammar");
        return NULL;
    }
    for (int i = 0; i < MASKS; i++)
        if (c->masks[i].state == c->state)
            return &c->masks[i];
    if (!bound_memory(c, err))
        return NULL;
    struct mask *m = &c->masks[c->next_mask];
    c->next_mask = (c->next_mask + 1) % MASKS;
    m->state = ACCEPTOR_DEAD;
    if (!m->words && !(m->words = mem_alloc(c->n_words, sizeof *m->words, "token mask", err)))
        return NULL;
    if (!fill_mask(c, m, err))
        return NULL;
    m->state = c->state;
    return m;
}

static void forbid(const struct constraint *c, const struct mask *m, float *logits)
{
    for (size_t w = 0; w < c->n_words; w++) {
        int32_t first = (int32_t)(64 * w), n = min_of(64, c->n_usable - first);
        if (m->words[w] == UINT64_MAX)
            continue;
        for (int32_t i = 0; i < n; i++)
            logits[first + i] = m->words[w] >> i & 1 ? logits[first + i] : -INFINITY;
    }
}

bool constraint_apply(struct constraint *c, float *logits, struct error *err)
{
    const struct mask *m = current_mask(c, err);
    if (!m)
        return false;
    if (m->n == 0 && !(constraint_may_end(c) && c->n_ends))
        return fail(err, ERR_RUN, "no token of the vocabulary goes on as the grammar wants");
    forbid(c, m, logits);
    return true;
}

/* States must keep their numbers here, so nothing may be forgotten to bound memory. */
bool constraint_foresee(struct constraint *c, const int32_t *ahead, int n, float *logits)
{
    int32_t now = c->state;
    bool follows = true;
    for (int i = 0; i < n && follows; i++)
        follows = constraint_accept(c, ahead[i], NULL);
    bool known = follows && acceptor_bytes(c->acceptor) <= ACCEPTOR_BYTES;
    const struct mask *m = known ? current_mask(c, NULL) : NULL;
    c->state = now;
    if (!m || m->n == 0)
        return false;
    forbid(c, m, logits);
    return true;
}

void constraint_forbid_end(const struct constraint *c, float *logits)
{
    for (int32_t i = 0; i < c->n_ends; i++)
        logits[c->ends[i]] = -INFINITY;
}

bool constraint_accept(struct constraint *c, int32_t token, struct error *err)
{
    struct str bytes = tokenizer_bytes(c->tokenizer, token, false);
    for (size_t i = 0; i < bytes.len; i++)
        if (!acceptor_step(c->acceptor, c->state, (unsigned char)bytes.data[i], &c->state, err))
            return false;
    return c->state != ACCEPTOR_DEAD ||
           fail(err, ERR_INTERNAL, "token %d does not follow the grammar", token);
}

bool constraint_may_end(const struct constraint *c)
{
    return acceptor_may_end(c->acceptor, c->state);
}

bool constraint_is_complete(struct constraint *c, bool *complete, struct error *err)
{
    *complete = false;
    if (!constraint_may_end(c))
        return true;
    const struct mask *m = current_mask(c, err);
    *complete = m && m->n == 0;
    return m != NULL;
}
