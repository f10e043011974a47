#include "src/engine/card_weights.h"

#include "src/base/mem.h"
#include "src/base/util.h"

#define ALIGNMENT ((size_t)256)

static size_t weight_bytes(const struct weight *w)
{
    return w->matrix_bytes * (size_t)(w->n_matrices - 1) + w->row_bytes * (size_t)w->rows;
}

/* The seam has no operation that reads these two: they are used by the host. */
static bool is_hosts(const struct model *m, const struct model_tensor *t)
{
    return t->weight == &m->output_bias || t->weight == &m->rope_freqs;
}

static void list(struct card_weights *c, struct weight *w)
{
    c->moved[c->n_moved++] = (struct moved_weight){ w, w->data };
    c->bytes += align_up(weight_bytes(w), ALIGNMENT);
}

bool card_weights_list(struct card_weights *c, struct model *m, const struct placement *p,
                       struct error *err)
{
    int n_layers = m->params.n_layers, n_blocks = n_layers + m->params.n_mtp;
    size_t most = (size_t)m->n_tensors + (size_t)n_blocks + 1;
    c->model = m;
    c->moved = mem_alloc(most, sizeof *c->moved, "list of weights", err);
    if (!c->moved)
        return false;
    for (int i = 0; i < m->n_tensors; i++) {
        const struct model_tensor *t = &m->tensors[i];
        if (is_hosts(m, t))
            continue;
        if (p->homes[i] == HOME_GPU)
            list(c, t->weight);
        else if (t->role == ROLE_TRUNK || t->role == ROLE_HEAD ||
                 (t->role == ROLE_EMBED && t->layer >= 0))
            c->partial = true;
    }
    bool has_block = p->drafts && p->head_on_gpu;
    for (int i = n_layers - p->gpu_layers; i < (has_block ? n_blocks : n_layers); i++) {
        if (m->layers[i].kv_b.data && m->layers[i].k_b.data)
            list(c, &m->layers[i].k_b);
    }
    if (m->params.tied_output && p->head_on_gpu)
        list(c, &m->output);
    c->partial = c->partial || (m->params.tied_output && !p->head_on_gpu);
    return true;
}

/* What is built from weights follows their addresses. */
static bool rebuild(struct model *m, struct error *err)
{
    for (int i = 0; i < m->params.n_layers + m->params.n_mtp; i++) {
        if (!m->arch->assemble(m, i, err))
            return false;
    }
    return true;
}

bool card_weights_upload(struct card_weights *c, const struct gpu_launchers *gpu,
                         struct gpu_stream *s, struct error *err)
{
    c->gpu = gpu;
    c->s = s;
    c->block = gpu->alloc(s, c->bytes, "weights", err);
    if (!c->block)
        return false;
    char *to = c->block;
    for (int i = 0; i < c->n_moved; i++) {
        size_t bytes = weight_bytes(c->moved[i].weight);
        gpu->write(s, to, c->moved[i].host, bytes);
        if (!gpu->finish(s, err)) /* one at a time: the file may be read for it */
            return false;
        c->moved[i].weight->data = to;
        to += align_up(bytes, ALIGNMENT);
    }
    return rebuild(c->model, err);
}

void card_weights_close(struct card_weights *c)
{
    for (int i = 0; i < c->n_moved; i++)
        c->moved[i].weight->data = c->moved[i].host;
    if (c->n_moved)
        rebuild(c->model, NULL); /* succeeded on these addresses before */
    if (c->block)
        c->gpu->release(c->s, c->block);
    mem_free(c->moved);
    *c = (struct card_weights){ 0 };
}

bool card_weights_hold(const struct card_weights *c, const void *data)
{
    return (const char *)data >= (const char *)c->block &&
           (const char *)data < (const char *)c->block + c->bytes;
}

const void *card_weights_host(const struct card_weights *c, const void *data)
{
    for (int i = 0; i < c->n_moved; i++) {
        const struct moved_weight *m = &c->moved[i];
        size_t at = (size_t)((const char *)data - (const char *)m->weight->data);
        if ((const char *)data >= (const char *)m->weight->data && at < weight_bytes(m->weight))
            return (const char *)m->host + at;
    }
    return NULL;
}
