/* Activation buffers: sized, carved and reported from an architecture's rows.
 *
 *   [ always alive | attention's ............ ]
 *   [              | FFN's ........           ]   the two share the space behind the first       */
#include "src/base/log.h"
#include "src/base/util.h"
#include "src/model/arch.h"

#define ALIGNMENT 64

static int64_t buffer_width(const struct buffer_spec *b, const struct params *p)
{
    int64_t width = 0;
    for (size_t i = 0; i < ARRAY_LEN(b->widths); i++) {
        int64_t w = params_dim(p, b->widths[i]);
        width = max_of(width, w);
    }
    return width;
}

/* Rows are padded to whole cache lines. Widths are below 2^33 (params.c), tokens below 2^20. */
static int64_t buffer_stride(const struct buffer_spec *b, const struct params *p)
{
    return (int64_t)align_up((size_t)buffer_width(b, p), ALIGNMENT / sizeof(float));
}

static size_t buffer_bytes(const struct buffer_spec *b, const struct params *p, int n_tokens)
{
    return (size_t)buffer_stride(b, p) * (size_t)n_tokens * sizeof(float);
}

/* Where each buffer begins, by what is alive when; returns the size of all. `place` may be NULL. */
static size_t lay_out(const struct arch *arch, const struct params *p, int n_tokens, size_t *place)
{
    size_t always = 0, end[ALIVE_ALWAYS + 1];
    for (int i = 0; i < arch->n_buffers; i++) {
        if (arch->buffers[i].alive == ALIVE_ALWAYS)
            always += buffer_bytes(&arch->buffers[i], p, n_tokens);
    }
    end[ALIVE_ALWAYS] = 0;
    end[ALIVE_ATTENTION] = end[ALIVE_FFN] = always;
    for (int i = 0; i < arch->n_buffers; i++) {
        const struct buffer_spec *b = &arch->buffers[i];
        if (place)
            place[i] = end[b->alive];
        end[b->alive] += buffer_bytes(b, p, n_tokens);
    }
    return max_of(end[ALIVE_ATTENTION], end[ALIVE_FFN]);
}

size_t activations_bytes(const struct arch *arch, const struct params *p, int n_tokens)
{
    return lay_out(arch, p, n_tokens, NULL);
}

bool activations_open(struct activations *a, const struct arch *arch, const struct params *p,
                      int n_tokens, struct device *d, struct error *err)
{
    static const char *const alive[] = { "never", "in attention", "in the FFN", "always" };
    size_t place[32];
    if (arch->n_buffers > (int)ARRAY_LEN(place))
        return fail(err, ERR_INTERNAL, "%s: too many activation buffers", arch->name);
    *a = (struct activations){ 0 };
    a->bytes = lay_out(arch, p, n_tokens, place);
    a->block = d->ops->alloc(d, a->bytes, "activations", err);
    if (!a->block)
        return false;
    for (int i = 0; i < arch->n_buffers; i++) {
        const struct buffer_spec *b = &arch->buffers[i];
        struct rows *r = (struct rows *)((char *)a + b->offset);
        if (buffer_width(b, p) == 0)
            continue;
        r->data = (float *)((char *)a->block + place[i]);
        r->width = buffer_width(b, p);
        r->stride = buffer_stride(b, p);
        log_detail("activations: %-8s %8.2f MiB, alive %s", b->name,
                   (double)buffer_bytes(b, p, n_tokens) / 1048576, alive[b->alive]);
    }
    return true;
}

void activations_close(struct activations *a, struct device *d)
{
    if (a->block)
        d->ops->release(d, a->block);
    *a = (struct activations){ 0 };
}
