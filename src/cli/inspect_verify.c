/* tandem inspect --verify and --hash: every byte of every tensor is read. */
#include <math.h>
#include <stdio.h>

#include "src/base/crc32c.h"
#include "src/base/mem.h"
#include "src/cli/inspect.h"
#include "src/cli/inspect_scan.h"
#include "src/cli/signals.h"
#include "src/format/quant.h"
#include "tools/canary.h"

#define STEP (1u << 20) /* bytes of a tensor that are hashed at a time */
#define LANES 16

/* What was found in a tensor. */
struct finding {
    uint32_t crc;
    int64_t bad;         /* first element that is not finite, or of such a block; -1: none */
    double min, max, sum2;
    bool has_values;     /* false: an integer type, or values were not asked for */
};

struct verification {
    const struct gguf *gguf;
    struct finding *of; /* [n_tensors] */
    bool values;        /* decode them as well */
    bool has_canary;    /* one was compared */
    double canary_off;  /* see canary_check */
};

/* Value by value, past those that are not finite. */
static void look_closely(const float *values, uint64_t at, uint64_t n, struct finding *f)
{
    for (uint64_t i = 0; i < n; i++) {
        double x = (double)values[i];
        if (!isfinite(x)) {
            f->bad = f->bad < 0 ? (int64_t)(at + i) : f->bad;
            continue;
        }
        f->min = x < f->min ? x : f->min;
        f->max = x > f->max ? x : f->max;
        f->sum2 += x * x;
    }
}

/* In lanes, so that the compiler has vectors to work with. Squares of floats cannot overflow a
 * double: the sum is finite when every value is. */
static void look_at_values(const struct tensor *t, uint64_t at, uint64_t n, struct finding *f)
{
    float values[SCAN_ELEMENTS], low[LANES], high[LANES];
    double sums[LANES] = { 0 }, sum2 = 0;
    scan_decode(t, at, n, values);
    for (int k = 0; k < LANES; k++)
        low[k] = high[k] = values[0];
    uint64_t whole = n / LANES * LANES;
    for (uint64_t i = 0; i < whole; i += LANES) {
        for (int k = 0; k < LANES; k++) {
            float x = values[i + (uint64_t)k];
            low[k] = x < low[k] ? x : low[k];
            high[k] = x > high[k] ? x : high[k];
            sums[k] += (double)x * (double)x;
        }
    }
    for (int k = 0; k < LANES; k++)
        sum2 += sums[k];
    if (!isfinite(sum2)) {
        look_closely(values, at, n, f);
        return;
    }
    for (int k = 0; whole > 0 && k < LANES; k++) {
        f->min = (double)low[k] < f->min ? (double)low[k] : f->min;
        f->max = (double)high[k] > f->max ? (double)high[k] : f->max;
    }
    f->sum2 += sum2;
    look_closely(values + whole, at + whole, n - whole, f);
}

/* The rule for blocks that writers follow (G-46), whatever decoding makes of one that breaks it. */
static void look_at_blocks(const struct tensor *t, struct finding *f)
{
    int64_t bad = quant_bad_block(t->type, t->data, (int64_t)scan_elements(t));
    if (bad >= 0 && (f->bad < 0 || bad * quant_traits(t->type)->block_elements < f->bad))
        f->bad = bad * quant_traits(t->type)->block_elements;
}

static void examine(struct scan *s, int64_t item, int worker)
{
    const struct verification *v = s->ctx;
    const struct tensor *t = &v->gguf->tensors[item];
    struct finding *f = &v->of[item];
    uint64_t n = scan_elements(t), at = 0;
    *f = (struct finding){ .bad = -1, .min = INFINITY, .max = -INFINITY };
    f->has_values = v->values && quant_traits(t->type)->dequantize;
    for (uint64_t from = 0; from < t->bytes; from += STEP) {
        uint64_t bytes = min_of(t->bytes - from, (uint64_t)STEP);
        /* the values that end in these bytes; the last round takes what is left */
        uint64_t end = (uint64_t)((double)n * ((double)(from + bytes) / (double)t->bytes));
        f->crc = crc32c(f->crc, (const uint8_t *)t->data + from, bytes);
        end = from + bytes == t->bytes ? n : end / SCAN_ELEMENTS * SCAN_ELEMENTS;
        for (; f->has_values && at < end; at += min_of(end - at, (uint64_t)SCAN_ELEMENTS))
            look_at_values(t, at, min_of(end - at, (uint64_t)SCAN_ELEMENTS), f);
        if (!scan_step(s, bytes, worker))
            return;
    }
    if (v->values)
        look_at_blocks(t, f);
}

/* One number for all tensors: names, types, shapes and bytes, in the order of the file. */
static uint32_t crc_of_all(const struct verification *v)
{
    uint32_t crc = 0;
    for (uint64_t i = 0; i < v->gguf->n_tensors; i++) {
        const struct tensor *t = &v->gguf->tensors[i];
        uint32_t type = t->type;
        crc = crc32c(crc, t->name, strlen(t->name) + 1);
        crc = crc32c(crc, &type, 4);
        crc = crc32c(crc, t->ne, sizeof t->ne);
        crc = crc32c(crc, &v->of[i].crc, 4);
    }
    return crc;
}

static double rms_of(const struct tensor *t, const struct finding *f)
{
    return sqrt(f->sum2 / (double)scan_elements(t));
}

static struct json *finding_json(const struct tensor *t, const struct finding *f)
{
    struct json *j = js_object();
    char crc[16];
    snprintf(crc, sizeof crc, "%08x", (unsigned)f->crc);
    js_set(j, "name", js_text(str_of(t->name)));
    js_set(j, "type", js_text(str_of(quant_traits(t->type)->name)));
    js_set(j, "crc32c", js_text(str_of(crc)));
    if (f->has_values) {
        js_set(j, "min", js_real(f->min));
        js_set(j, "max", js_real(f->max));
        js_set(j, "rms", js_real(rms_of(t, f)));
        js_set(j, "bad_element", f->bad < 0 ? js_null() : js_int(f->bad));
    }
    return j;
}

/* Does the model still answer as when the file was written? */
static bool listen(struct verification *v, const struct options *o, const char *path,
                   struct error *err)
{
    struct canary c;
    struct error why = { 0 };
    int64_t n_vocab;
    if (!canary_read(v->gguf, &c, &v->has_canary, err))
        return false;
    if (v->has_canary && !canary_possible(path, &n_vocab, &why)) {
        note("the canary is not checked: %s", why.text);
        v->has_canary = false;
    }
    return !v->has_canary ||
           canary_check(path, &c, (int)o->threads, signals_cancel_flag(), &v->canary_off, err);
}

static bool print_json(const struct verification *v, uint64_t n_bad, struct error *err)
{
    struct json *j = js_object(), *list = js_array();
    char crc[16];
    snprintf(crc, sizeof crc, "%08x", (unsigned)crc_of_all(v));
    for (uint64_t i = 0; i < v->gguf->n_tensors; i++)
        js_push(list, finding_json(&v->gguf->tensors[i], &v->of[i]));
    js_set(j, "tensors", list);
    if (v->values)
        js_set(j, "n_bad", js_int((int64_t)n_bad));
    if (v->has_canary)
        js_set(j, "canary_difference", js_real(v->canary_off));
    js_set(j, "crc32c", js_text(str_of(crc)));
    return js_print(j, 1, err);
}

/* "crc  name" lines as checksum programs have them, values behind the name where they were read. */
static void add_lines(struct buf *out, const struct verification *v)
{
    for (uint64_t i = 0; i < v->gguf->n_tensors; i++) {
        const struct tensor *t = &v->gguf->tensors[i];
        const struct finding *f = &v->of[i];
        struct buf name = { 0 };
        inspect_add_shown(&name, t->name, strlen(t->name));
        buf_printf(out, "%08x  ", (unsigned)f->crc);
        if (f->has_values)
            buf_printf(out, "%-36s %-8s %12.5g … %-12.5g rms %.5g\n", buf_str(&name).data,
                       quant_traits(t->type)->name, f->min, f->max, rms_of(t, f));
        else
            buf_printf(out, "%s\n", buf_str(&name).data);
        buf_release(&name);
    }
}

static void add_bad(struct buf *out, const struct tensor *t, const struct finding *f)
{
    buf_puts(out, "damaged  ");
    inspect_add_shown(out, t->name, strlen(t->name));
    buf_printf(out, ": %s, element %lld of row %llu is not finite\n", quant_traits(t->type)->name,
               (long long)((uint64_t)f->bad % t->ne[0]),
               (unsigned long long)((uint64_t)f->bad / t->ne[0]));
}

static bool print_text(const struct options *o, const struct verification *v, uint64_t n_bad,
                       struct error *err)
{
    struct buf out = { 0 };
    char size[32];
    unsigned long long n = v->gguf->n_tensors;
    if (o->hash || o->verbose)
        add_lines(&out, v);
    for (uint64_t i = 0; v->values && i < n; i++) {
        const struct tensor *t = &v->gguf->tensors[i];
        if (v->of[i].bad >= 0)
            add_bad(&out, t, &v->of[i]);
        else if (v->of[i].has_values && v->of[i].sum2 == 0 && t->n_dims > 1)
            note("%s: nothing but zeros", t->name);
    }
    if (v->values && n_bad == 0)
        buf_printf(&out, "%llu tensors, %s: every value is finite; checksum of all %08x\n", n,
                   human_bytes((double)v->gguf->data_bytes, size, sizeof size),
                   (unsigned)crc_of_all(v));
    if (v->has_canary)
        buf_printf(&out, "the canary answers as when the file was written (largest difference %.2g)\n",
                   v->canary_off);
    if (!v->values)
        buf_printf(&out, "%08x  (all)\n", (unsigned)crc_of_all(v));
    bool ok = buf_ok(&out, err) && out_write(buf_str(&out).data, out.len, err);
    buf_release(&out);
    return ok;
}

bool inspect_verify(const struct options *o, const struct gguf *g, const char *path,
                    struct error *err)
{
    struct verification v = { .gguf = g, .values = o->verify };
    struct scan s = {
        .item = examine, .ctx = &v, .n_items = (int64_t)g->n_tensors,
        .total_bytes = g->data_bytes, .label = o->verify ? "verifying" : "hashing",
    };
    uint64_t n_bad = 0, offset;
    int shard;
    v.of = mem_alloc(g->n_tensors, sizeof *v.of, "what was found in the tensors", err);
    if (!v.of)
        return false;
    crc32c(0, NULL, 0); /* builds its tables before there are several threads */
    bool ok = scan_run(&s, err);
    if (ok && gguf_lost(g, &shard, &offset))
        ok = fail(err, ERR_RUN, "%s: cannot be read at %llu: the file was cut short, or the disk "
                  "fails", g->shards[shard].path, (unsigned long long)offset);
    ok = ok && gguf_unchanged(g, err);
    for (uint64_t i = 0; ok && i < g->n_tensors; i++)
        n_bad += v.of[i].bad >= 0;
    ok = ok && (!o->verify || n_bad || listen(&v, o, path, err));
    ok = ok && (o->json ? print_json(&v, n_bad, err) : print_text(o, &v, n_bad, err));
    if (ok && n_bad)
        ok = fail(err, ERR_CHECK, "%s: %llu of %llu tensors are damaged", path,
                  (unsigned long long)n_bad, (unsigned long long)g->n_tensors);
    mem_free(v.of);
    return ok;
}
