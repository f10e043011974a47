/* The indexer of V3.2 and V4: which cached positions a token attends to. */
#include "src/arch/blocks.h"

bool indexer_solve(struct model *m, struct error *err)
{
    const struct keys *k = &m->keys;
    struct params *p = &m->params;
    if (k->index_heads < 1 || k->index_dim < 1 || k->index_top_k < 1)
        return fail(err, ERR_FILE, "%s.attention.indexer.*: head_count, key_length or top_k is "
                    "missing", m->arch->name);
    p->index_heads = (int)k->index_heads;
    p->index_dim = (int)k->index_dim;
    p->index_top_k = (int)k->index_top_k;
    return true;
}
