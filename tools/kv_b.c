#include "tools/kv_b.h"

#include "src/base/util.h"

/* A head's key part is read whole into the front of the scratch memory and handed out by columns. */
static bool key_rows(const void *ctx, int64_t row, int64_t n, float *out, void *scratch,
                     struct error *err)
{
    const struct kv_b_view *v = ctx;
    const struct kv_b_shape *s = &v->shape;
    float *head = scratch;
    void *rest = head + s->nope * s->rank;
    while (n > 0) {
        int64_t h = row / s->rank, first = row % s->rank, some = min_of(n, s->rank - first);
        if (!v->kv_b.rows(v->kv_b.ctx, h * (s->nope + s->value), s->nope, head, rest, err))
            return false;
        for (int64_t r = first; r < first + some; r++)
            for (int64_t i = 0; i < s->nope; i++)
                *out++ = head[i * s->rank + r];
        row += some;
        n -= some;
    }
    return true;
}

struct transcode_source kv_b_keys(struct kv_b_view *view, const struct transcode_source *kv_b,
                                  const struct kv_b_shape *shape)
{
    *view = (struct kv_b_view){ *kv_b, *shape, 0 };
    size_t elements = (size_t)(shape->nope * shape->rank);
    return (struct transcode_source){
        .rows = key_rows, .ctx = view,
        .scratch_bytes = elements * (sizeof(float) + kv_b->scratch_per_element) +
                         kv_b->scratch_bytes };
}

/* Row of kv_b behind row `row` of v_b, and how many follow in the same head. */
static int64_t value_row(const struct kv_b_shape *s, int64_t row, int64_t n, int64_t *some)
{
    int64_t h = row / s->value, in_head = row % s->value;
    *some = min_of(n, s->value - in_head);
    return h * (s->nope + s->value) + s->nope + in_head;
}

static bool value_rows(const void *ctx, int64_t row, int64_t n, float *out, void *scratch,
                       struct error *err)
{
    const struct kv_b_view *v = ctx;
    for (int64_t some; n > 0; row += some, n -= some) {
        int64_t from = value_row(&v->shape, row, n, &some);
        if (!v->kv_b.rows(v->kv_b.ctx, from, some, out, scratch, err))
            return false;
        out += some * v->shape.rank;
    }
    return true;
}

/* transcode asks for whole rows. */
static bool value_bytes(const void *ctx, uint64_t at, size_t size, void *out, void *scratch,
                        struct error *err)
{
    const struct kv_b_view *v = ctx;
    int64_t row = (int64_t)(at / v->row_bytes), n = (int64_t)(size / v->row_bytes);
    uint8_t *to = out;
    for (int64_t some; n > 0; row += some, n -= some) {
        int64_t from = value_row(&v->shape, row, n, &some);
        size_t bytes = (size_t)some * v->row_bytes;
        if (!v->kv_b.bytes(v->kv_b.ctx, (uint64_t)from * v->row_bytes, bytes, to, scratch, err))
            return false;
        to += bytes;
    }
    return true;
}

struct transcode_source kv_b_values(struct kv_b_view *view, const struct transcode_source *kv_b,
                                    const struct kv_b_shape *shape, size_t row_bytes)
{
    *view = (struct kv_b_view){ *kv_b, *shape, row_bytes };
    return (struct transcode_source){
        .rows = value_rows, .bytes = kv_b->bytes ? value_bytes : NULL, .ctx = view,
        .scratch_per_element = kv_b->scratch_per_element, .scratch_bytes = kv_b->scratch_bytes };
}
