#include "src/engine/observe.h"

#include "cpu/experts.h"
#include "src/base/mem.h"

/* The table of an observed device, and behind it what its operations need. */
struct tap {
    struct device_ops ops;          /* first: the device points here */
    const struct device_ops *inner; /* what it pointed to before */
    const struct observer *observer;
    int n_tokens;
    struct rows latent;             /* of the layer at hand: latents, normalised */
    float *mixed;                   /* [n_tokens, n_heads, rank] latents weighted by attention */
    size_t n_mixed;
    float *identity;                /* [rank, rank] */
    int rank;                       /* of the identity */
    struct error err;               /* the first failure; reported at the end of the step */
    const struct experts *experts;  /* between begin and end */
    struct rows src;
};

static struct tap *tap_of(struct device *d)
{
    return (struct tap *)d->ops;
}

static void tell(const struct tap *t, const struct weight *w, const struct weight *also,
                 int64_t matrix, const float *inputs, int64_t stride, int n)
{
    if (w->data && n > 0 && t->observer->inputs)
        t->observer->inputs(t->observer->ctx, w, also, matrix, inputs, stride, n);
}

static void tap_begin(struct device *d, const struct step *s)
{
    tap_of(d)->n_tokens = s->n_tokens;
    tap_of(d)->inner->begin(d, s);
}

static void tap_matmul(struct device *d, struct rows dst, const struct weight *w, struct rows src,
                       const struct weight *bias)
{
    struct tap *t = tap_of(d);
    tell(t, w, NULL, 0, src.data, src.stride, t->n_tokens);
    t->inner->matmul(d, dst, w, src, bias);
}

static void pause_at(const struct tap *t)
{
    if (t->observer->pause)
        t->observer->pause(t->observer->ctx);
}

static void tap_cache_gqa(struct device *d, struct kvcache *c, int layer, struct rows k,
                          struct rows v)
{
    pause_at(tap_of(d));
    tap_of(d)->inner->cache_gqa(d, c, layer, k, v);
}

static void tap_cache_mla(struct device *d, struct kvcache *c, int layer, struct rows latent_rope)
{
    tap_of(d)->latent = latent_rope;
    pause_at(tap_of(d));
    tap_of(d)->inner->cache_mla(d, c, layer, latent_rope);
}

static bool make_room(struct tap *t, const struct mla *m)
{
    size_t n = (size_t)t->n_tokens * (size_t)m->n_heads * (size_t)m->rank, rank = (size_t)m->rank;
    if (n > t->n_mixed) {
        mem_free(t->mixed);
        t->mixed = mem_alloc(n, sizeof *t->mixed, "attention of an observer", &t->err);
        t->n_mixed = t->mixed ? n : 0;
    }
    if (t->rank != m->rank) {
        mem_free(t->identity);
        t->identity = mem_alloc(rank * rank, sizeof *t->identity, "identity", &t->err);
        for (size_t i = 0; t->identity && i < rank; i++)
            t->identity[i * (rank + 1)] = 1;
        t->rank = t->identity ? m->rank : 0;
    }
    return t->mixed && t->identity;
}

/* What the value half sees is inside the operation: ask for the same attention with an identity in
 * its place. */
static void tell_values(struct device *d, struct rows q, const struct kvcache *c, int layer,
                        const struct mla *m)
{
    struct tap *t = tap_of(d);
    struct mla through = *m;
    if (!make_room(t, m))
        return;
    size_t row_bytes = (size_t)m->rank * sizeof(float);
    through.value = m->rank;
    through.v_b = (struct weight){
        .data = t->identity, .type = TYPE_F32, .cols = m->rank, .rows = m->rank,
        .n_matrices = m->n_heads, .row_bytes = row_bytes, .matrix_bytes = 0, .name = m->v_b.name,
    };
    int64_t width = (int64_t)m->n_heads * m->rank;
    t->inner->attention_mla(d, (struct rows){ t->mixed, width, width }, q, c, layer, &through);
    for (int head = 0; head < m->n_heads; head++)
        tell(t, &m->v_b, NULL, head, t->mixed + head * m->rank, width, t->n_tokens);
}

/* Old files hold both halves in one matrix of as many rows as they have together: it sees
 * latents. */
static void tap_attention_mla(struct device *d, struct rows dst, struct rows q,
                              const struct kvcache *c, int layer, const struct mla *m)
{
    struct tap *t = tap_of(d);
    bool folded = m->k_b.name == m->v_b.name;
    for (int head = 0; head < m->n_heads && !folded; head++)
        tell(t, &m->k_b, NULL, head, q.data + head * (m->nope + m->rope), q.stride, t->n_tokens);
    if (!folded && t->observer->inputs)
        tell_values(d, q, c, layer, m);
    if (folded) {
        struct weight whole = m->v_b;
        whole.n_matrices = 1;
        tell(t, &whole, NULL, 0, t->latent.data, t->latent.stride, t->n_tokens);
    }
    t->inner->attention_mla(d, dst, q, c, layer, m);
}

static void tap_experts_begin(struct device *d, const struct experts *e, struct rows src)
{
    pause_at(tap_of(d));
    tap_of(d)->experts = e;
    tap_of(d)->src = src;
    tap_of(d)->inner->experts_begin(d, e, src);
}

/* The pairs by expert and the inputs of `down` are known when the work is done; src is still there,
 * because dst may not overlap it. */
static void tap_experts_end(struct device *d, struct rows dst)
{
    struct tap *t = tap_of(d);
    const struct experts *e = t->experts;
    bool fused = e->gate_up.data != NULL;
    t->inner->experts_end(d, dst);
    struct experts_last last = experts_last((struct device_cpu *)d);
    for (int x = 0; x < e->n_routed; x++) {
        for (int i = last.first[x]; i < last.first[x + 1]; i++) {
            const float *in = t->src.data + last.order[i] / e->top_k * t->src.stride;
            tell(t, fused ? &e->gate_up : &e->gate, fused ? NULL : &e->up, x, in, 0, 1);
        }
        tell(t, &e->down, NULL, x, last.h + last.first[x] * e->expert_size, e->expert_size,
             last.first[x + 1] - last.first[x]);
    }
}

static bool tap_end(struct device *d, struct error *err)
{
    const struct tap *t = tap_of(d);
    return t->inner->end(d, err) && (!t->err.code || fail(err, t->err.code, "%s", t->err.text));
}

static void tap_close(struct device *d)
{
    struct tap *t = tap_of(d);
    d->ops = t->inner;
    mem_free(t->mixed);
    mem_free(t->identity);
    mem_free(t);
    d->ops->close(d);
}

bool observe_device(struct device *d, const struct observer *o, struct error *err)
{
    struct tap *t = mem_alloc(1, sizeof *t, "observer", err);
    if (!t)
        return false;
    t->ops = *d->ops;
    t->inner = d->ops;
    t->observer = o;
    t->ops.begin = tap_begin;
    t->ops.matmul = tap_matmul;
    t->ops.cache_gqa = tap_cache_gqa;
    t->ops.cache_mla = tap_cache_mla;
    t->ops.attention_mla = tap_attention_mla;
    t->ops.experts_begin = tap_experts_begin;
    t->ops.experts_end = tap_experts_end;
    t->ops.end = tap_end;
    t->ops.close = tap_close;
    d->ops = &t->ops;
    return true;
}
