/* The indexer of V3.2 and V4: which cached positions a token attends to. */
#include "src/arch/blocks.h"

bool indexer_solve(struct model *m, struct error *err)
{
    const struct keys *k = &m->keys;
    struct params *p = &m->params;
    if (k->index_heads < 1 || k->index_dim < 1 || k->index_top_k < 1)
        return fail(err, ERR_FILE, "%s.attention.indexer.*: head_count, key_length or top_k is "
                    "missing", m->arch->name);
    if (k->index_dim % 4 || k->index_dim > INDEX_KEY_MAX)
        return fail(err, ERR_FILE, "%s.attention.indexer.key_length: %lld, expected a multiple of 4 "
                    "up to %d", m->arch->name, (long long)k->index_dim, INDEX_KEY_MAX);
    p->index_heads = (int)k->index_heads;
    p->index_dim = (int)k->index_dim;
    p->index_top_k = (int)k->index_top_k;
    return true;
}

int indexer_cache_parts(const struct params *p, enum tensor_type type, int64_t n_rows, int span,
                        int layer, struct cache_part *parts)
{
    bool floats = type == TYPE_F32;
    size_t key = (size_t)p->index_dim * (floats ? sizeof(float) : 1);
    parts[0] = (struct cache_part){ .name = "index", .layer = layer, .kind = CACHE_ROWS,
                                    .row_bytes = key, .n_rows = n_rows, .span = span };
    parts[1] = (struct cache_part){ .name = "index_scale", .layer = layer, .kind = CACHE_ROWS,
                                    .row_bytes = sizeof(float), .n_rows = n_rows, .span = span };
    return floats ? 1 : 2;
}
