/* Which launches become one: see gpu/fuse.cuh, which counts them. No kernels here. */
#include "gpu/fuse.cuh"

static bool same(struct rows a, struct rows b)
{
    return a.data == b.data && a.width == b.width && a.stride == b.stride;
}

void fuse_settle(struct gpu_stream *s)
{
    const struct waiting w = s->waiting;
    s->waiting = {};
    for (int i = 0; i < w.n_products; i++) {
        q8_forget(s, w.products[i].dst, w.n_tokens);
        gpu_matmul(s, w.products[i].dst, &w.products[i].w, w.products[i].src, NULL, w.n_tokens);
    }
    if (w.is_sum) {
        q8_forget(s, w.dst, w.n_tokens);
        gpu_add3(s, w.dst, w.a, w.b, w.c, w.n_tokens);
    }
}

void fuse_reset(struct gpu_stream *s)
{
    s->waiting = {};
    q8_forget_all(s);
}

struct gpu_stream *fuse_before(struct gpu_stream *s, struct rows written, int n_tokens)
{
    fuse_settle(s);
    q8_forget(s, written, n_tokens);
    return s;
}

void fuse_matmul(struct gpu_stream *s, struct rows dst, const struct weight *w, struct rows src,
                 const float *bias, int n_tokens)
{
    struct waiting *wait = &s->waiting;
    bool second = wait->n_products == 1 && same(wait->products[0].src, src) &&
                  wait->n_tokens == n_tokens;
    if (!second)
        fuse_settle(s);
    if (bias || n_tokens > GPU_GEMV_TOKENS) {
        fuse_before(s, dst, n_tokens);
        gpu_matmul(s, dst, w, src, bias, n_tokens);
        return;
    }
    wait->n_tokens = n_tokens;
    wait->products[wait->n_products++] = { dst, src, *w };
}

void fuse_swiglu(struct gpu_stream *s, struct rows dst, struct rows gate, struct rows up,
                 int n_tokens)
{
    const struct waiting w = s->waiting;
    q8_forget(s, dst, n_tokens);
    if (w.n_products == 2 && w.n_tokens == n_tokens && same(w.products[0].dst, gate) &&
        same(w.products[1].dst, up) &&
        gpu_gemv_swiglu(s, dst, &w.products[0].w, &w.products[1].w, w.products[0].src, n_tokens)) {
        s->waiting = {};
        return;
    }
    fuse_settle(s);
    gpu_swiglu(s, dst, gate, up, n_tokens);
}

void fuse_add3(struct gpu_stream *s, struct rows dst, struct rows a, struct rows b, struct rows c,
               int n_tokens)
{
    fuse_settle(s);
    s->waiting.n_tokens = n_tokens;
    s->waiting.is_sum = true;
    s->waiting.dst = dst;
    s->waiting.a = a;
    s->waiting.b = b;
    s->waiting.c = c;
}

void fuse_rmsnorm(struct gpu_stream *s, struct rows dst, struct rows src, const float *weight,
                  int64_t n, int n_groups, float eps, int n_tokens)
{
    const struct waiting w = s->waiting;
    if (w.is_sum && w.n_tokens == n_tokens && same(w.dst, src) && n == src.width &&
        dst.data != src.data) {
        s->waiting = {};
        q8_forget(s, src, n_tokens);
        q8_forget(s, dst, n_tokens);
        gpu_sum_rmsnorm(s, dst, src, w.a, w.b, w.c, weight, eps, n_tokens);
        return;
    }
    fuse_before(s, dst, n_tokens);
    gpu_rmsnorm(s, dst, src, weight, n, n_groups, eps, n_tokens);
}
