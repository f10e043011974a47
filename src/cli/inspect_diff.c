/* tandem inspect A --diff B: what changed from A to B, in metadata, tensor table and values. */
#include <math.h>
#include <stdio.h>

#include "src/base/mem.h"
#include "src/cli/inspect.h"
#include "src/cli/inspect_scan.h"
#include "src/format/quant.h"

#define STEP (1u << 20) /* elements between two reports of progress */

/* A tensor of both files with the same shape. */
struct pair {
    const struct tensor *a, *b;
    bool same;       /* type and bytes */
    bool has_values; /* false: one of them is of an integer type */
    double rms, of_a; /* root mean square of the differences, and of A's values */
};

struct comparison {
    const struct gguf *a, *b;
    struct pair *pairs;
    int64_t n_pairs;
    uint64_t n_changes;
    struct buf out;                   /* text, or … */
    struct json *metadata, *tensors;  /* … lists; NULL: text */
};

/* ---- values ---- */

static void compare_pair(struct scan *s, int64_t item, int worker)
{
    const struct comparison *c = s->ctx;
    struct pair *p = &c->pairs[item];
    float x[SCAN_ELEMENTS], y[SCAN_ELEMENTS];
    uint64_t n = scan_elements(p->a), told = 0;
    double sum = 0, sum_a = 0, per_element = (double)(p->a->bytes + p->b->bytes) / (double)n;
    p->has_values = quant_traits(p->a->type)->dequantize && quant_traits(p->b->type)->dequantize;
    p->same = p->a->type == p->b->type && memcmp(p->a->data, p->b->data, p->a->bytes) == 0;
    if (p->same || !p->has_values) {
        scan_step(s, p->a->bytes + p->b->bytes, worker);
        return;
    }
    for (uint64_t at = 0, k; at < n; at += k) {
        k = min_of(n - at, (uint64_t)SCAN_ELEMENTS);
        scan_decode(p->a, at, k, x);
        scan_decode(p->b, at, k, y);
        for (uint64_t i = 0; i < k; i++) {
            double d = (double)y[i] - (double)x[i];
            sum += d * d;
            sum_a += (double)x[i] * (double)x[i];
        }
        if (at + k - told >= STEP || at + k == n) {
            if (!scan_step(s, (uint64_t)(per_element * (double)(at + k - told)), worker))
                return;
            told = at + k;
        }
    }
    p->rms = sqrt(sum / (double)n);
    p->of_a = sqrt(sum_a / (double)n);
}

/* ---- what is told ---- */

static void add_key(struct comparison *c, char sign, const char *change, const struct gguf_kv *kv,
                    const struct gguf_kv *other)
{
    c->n_changes++;
    if (c->metadata) {
        struct json *j = js_object();
        js_set(j, "key", js_text(kv->key));
        js_set(j, "change", js_text(str_of(change)));
        js_push(c->metadata, j);
        return;
    }
    buf_printf(&c->out, "%c ", sign);
    inspect_add_shown(&c->out, kv->key.data, kv->key.len);
    buf_puts(&c->out, " = ");
    inspect_add_value(&c->out, kv, 6);
    if (other) {
        buf_puts(&c->out, " -> ");
        inspect_add_value(&c->out, other, 6);
    }
    buf_puts(&c->out, "\n");
}

static bool same_value(const struct gguf_kv *a, const struct gguf_kv *b)
{
    return a->type == b->type && a->elem == b->elem && a->count == b->count &&
           a->bytes == b->bytes && memcmp(a->data, b->data, a->bytes) == 0;
}

static const struct gguf_kv *find_key(const struct gguf *g, struct str key)
{
    for (uint64_t i = 0; i < g->n_kv; i++)
        if (g->kv[i].key.len == key.len && memcmp(g->kv[i].key.data, key.data, key.len) == 0)
            return &g->kv[i];
    return NULL;
}

static void compare_metadata(struct comparison *c)
{
    for (uint64_t i = 0; i < c->a->n_kv; i++) {
        const struct gguf_kv *kv = &c->a->kv[i], *other = find_key(c->b, kv->key);
        if (!other)
            add_key(c, '-', "removed", kv, NULL);
        else if (!same_value(kv, other))
            add_key(c, '~', "changed", kv, other);
    }
    for (uint64_t i = 0; i < c->b->n_kv; i++)
        if (!find_key(c->a, c->b->kv[i].key))
            add_key(c, '+', "added", &c->b->kv[i], NULL);
}

static void add_form(struct buf *out, const struct tensor *t)
{
    buf_printf(out, "%s", quant_traits(t->type)->name);
    for (int d = 0; d < t->n_dims; d++)
        buf_printf(out, "%s%llu", d ? " x " : " ", (unsigned long long)t->ne[d]);
}

/* `b` NULL: removed; `a` NULL: added; `p`: of the same shape, values compared. */
static void add_tensor(struct comparison *c, const struct tensor *a, const struct tensor *b,
                       const struct pair *p)
{
    const char *name = a ? a->name : b->name;
    c->n_changes++;
    if (c->tensors) {
        struct json *j = js_object();
        js_set(j, "name", js_text(str_of(name)));
        js_set(j, "change", js_text(str_of(!b ? "removed" : !a ? "added" : !p ? "shape"
                                           : a->type != b->type ? "type" : "values")));
        js_set(j, "type_a", a ? js_text(str_of(quant_traits(a->type)->name)) : js_null());
        js_set(j, "type_b", b ? js_text(str_of(quant_traits(b->type)->name)) : js_null());
        if (p && p->has_values) {
            js_set(j, "rms_difference", js_real(p->rms));
            js_set(j, "rms_a", js_real(p->of_a));
        }
        js_push(c->tensors, j);
        return;
    }
    buf_puts(&c->out, !b ? "- " : !a ? "+ " : "~ ");
    inspect_add_shown(&c->out, name, strlen(name));
    buf_puts(&c->out, ": ");
    add_form(&c->out, a ? a : b);
    if (a && b && (!p || a->type != b->type)) {
        buf_puts(&c->out, " -> ");
        add_form(&c->out, b);
    }
    if (p && p->has_values) {
        buf_printf(&c->out, ", rms difference %.4g", p->rms);
        if (p->of_a > 0)
            buf_printf(&c->out, ", %.3g %% of the values'", 100 * p->rms / p->of_a);
    }
    buf_puts(&c->out, "\n");
}

static bool same_shape(const struct tensor *a, const struct tensor *b)
{
    return memcmp(a->ne, b->ne, sizeof a->ne) == 0;
}

static void compare_tensors(struct comparison *c)
{
    const struct pair *p = c->pairs;
    for (uint64_t i = 0; i < c->a->n_tensors; i++) {
        const struct tensor *a = &c->a->tensors[i], *b = gguf_tensor(c->b, a->name);
        if (!b || !same_shape(a, b)) {
            add_tensor(c, a, b, NULL);
            continue;
        }
        if (!p->same)
            add_tensor(c, a, b, p);
        p++;
    }
    for (uint64_t i = 0; i < c->b->n_tensors; i++)
        if (!gguf_tensor(c->a, c->b->tensors[i].name))
            add_tensor(c, NULL, &c->b->tensors[i], NULL);
}

/* Read the values of all tensors that both have. */
static bool compare_values(struct comparison *c, struct error *err)
{
    struct scan s = { .item = compare_pair, .ctx = c, .label = "comparing" };
    int shard;
    uint64_t offset;
    for (uint64_t i = 0; i < c->a->n_tensors; i++) {
        const struct tensor *a = &c->a->tensors[i], *b = gguf_tensor(c->b, a->name);
        if (!b || !same_shape(a, b))
            continue;
        c->pairs[c->n_pairs++] = (struct pair){ .a = a, .b = b };
        s.total_bytes += a->bytes + b->bytes;
    }
    s.n_items = c->n_pairs;
    if (!scan_run(&s, err))
        return false;
    for (int i = 0; i < 2; i++) {
        const struct gguf *g = i ? c->b : c->a;
        if (gguf_lost(g, &shard, &offset))
            return fail(err, ERR_RUN, "%s: cannot be read at %llu", g->shards[shard].path,
                        (unsigned long long)offset);
    }
    return true;
}

static bool print(struct comparison *c, struct error *err)
{
    if (c->tensors) {
        struct json *j = js_object();
        js_set(j, "same", js_bool(c->n_changes == 0));
        js_set(j, "metadata", c->metadata);
        js_set(j, "tensors", c->tensors);
        return js_print(j, 1, err);
    }
    return buf_ok(&c->out, err) && (!c->out.len || out_write(c->out.data, c->out.len, err));
}

bool inspect_diff(const struct options *o, const struct gguf *g, const char *path,
                  struct error *err)
{
    struct gguf other = { 0 };
    struct comparison c = { .a = g, .b = &other };
    const char *configured = options_configured_model(o, o->diff);
    bool ok = gguf_open(&other, configured ? configured : o->diff, err);
    c.pairs = ok ? mem_alloc(g->n_tensors, sizeof *c.pairs, "tensors to compare", err) : NULL;
    ok = c.pairs && compare_values(&c, err);
    if (ok) {
        c.metadata = o->json ? js_array() : NULL;
        c.tensors = o->json ? js_array() : NULL;
        compare_metadata(&c);
        compare_tensors(&c);
        ok = print(&c, err);
    }
    if (ok && c.n_changes) /* 1, as of cmp and diff */
        ok = fail(err, ERR_RUN, "%s and %s differ in %llu places", path, o->diff,
                  (unsigned long long)c.n_changes);
    buf_release(&c.out);
    mem_free(c.pairs);
    gguf_close(&other);
    return ok;
}
