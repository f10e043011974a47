#include "tools/collect.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/mem.h"
#include "src/base/util.h"
#include "src/format/gguf_write.h"
#include "tools/mixture.h"

/* ---- entries ---- */

bool collection_open(struct collection *c, size_t n_tensors, struct error *err)
{
    *c = (struct collection){ .room = n_tensors, .n_places = 64 };
    while (c->n_places < 4 * n_tensors)
        c->n_places *= 2;
    c->entries = mem_alloc(n_tensors, sizeof *c->entries, "importance", err);
    c->places = mem_alloc(c->n_places, sizeof *c->places, "importance", err);
    return c->entries && c->places;
}

void collection_close(struct collection *c)
{
    for (size_t i = 0; i < c->n_entries; i++) {
        mem_free(c->entries[i].sums);
        mem_free(c->entries[i].counts);
    }
    mem_free(c->entries);
    mem_free(c->places);
    *c = (struct collection){ 0 };
}

/* FNV-1a (Fowler, Noll, Vo). */
static size_t hash(const char *name)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (; *name; name++)
        h = (h ^ (unsigned char)*name) * 0x100000001b3u;
    return (size_t)(h ^ h >> 32);
}

/* Where `name` stands, or where it belongs. */
static uint32_t *place_of(const struct collection *c, const char *name)
{
    size_t at = hash(name) & (c->n_places - 1);
    while (c->places[at] && strcmp(c->entries[c->places[at] - 1].name, name) != 0)
        at = (at + 1) & (c->n_places - 1);
    return &c->places[at];
}

static struct collected *new_entry(struct collection *c, const struct weight *w,
                                   const struct weight *also)
{
    if (c->n_entries == c->room) {
        fail(&c->err, ERR_INTERNAL, "%s: more matrices than tensors", w->name);
        return NULL;
    }
    struct collected *e = &c->entries[c->n_entries];
    size_t n = (size_t)w->n_matrices;
    *e = (struct collected){ .name = w->name, .also = also ? also->name : NULL, .cols = w->cols,
                             .n_matrices = w->n_matrices };
    e->heads = strstr(w->name, "attn_k_b.") || strstr(w->name, "attn_v_b.");
    e->sums = mem_alloc(n * (size_t)w->cols, sizeof *e->sums, w->name, &c->err);
    e->counts = mem_alloc(n, sizeof *e->counts, w->name, &c->err);
    if (!e->sums || !e->counts) {
        mem_free(e->sums);
        mem_free(e->counts);
        return NULL;
    }
    *place_of(c, w->name) = (uint32_t)++c->n_entries;
    return e;
}

static void add_inputs(void *ctx, const struct weight *w, const struct weight *also,
                       int64_t matrix, const float *inputs, int64_t stride, int n)
{
    struct collection *c = ctx;
    if (c->err.code)
        return;
    uint32_t at = *place_of(c, w->name);
    struct collected *e = at ? &c->entries[at - 1] : new_entry(c, w, also);
    if (!e)
        return;
    if (w->cols != e->cols || matrix >= e->n_matrices) {
        fail(&c->err, ERR_INTERNAL, "%s: is multiplied with inputs of %lld and of %lld columns",
             w->name, (long long)e->cols, (long long)w->cols);
        return;
    }
    double *sums = e->sums + matrix * e->cols;
    for (int t = 0; t < n; t++) {
        const float *row = inputs + t * stride;
        for (int64_t i = 0; i < e->cols; i++)
            sums[i] += (double)row[i] * (double)row[i];
    }
    e->counts[matrix] += (uint64_t)n;
}

struct observer collection_observer(struct collection *c)
{
    return (struct observer){ .inputs = add_inputs, .ctx = c };
}

/* ---- adding ---- */

static float float_at(const uint8_t *floats, uint64_t i)
{
    float f;
    memcpy(&f, floats + 4 * i, 4);
    return f;
}

bool collection_add(struct collection *c, const struct imatrix *m, struct error *err)
{
    for (size_t i = 0; i < c->n_entries; i++) {
        struct collected *e = &c->entries[i];
        bool exact;
        const struct imatrix_entry *old = imatrix_find(m, e->name, &exact);
        uint64_t n = (uint64_t)e->n_matrices, counts = e->heads ? 1 : n;
        if (!old || !exact)
            continue;
        if (old->n_values != n * (uint64_t)e->cols || old->n_counts != counts)
            return fail(err, ERR_FILE, "%s: %llu values and %llu counts were collected before, "
                        "expected %llu and %llu: it is of another model, or not a GGUF file",
                        e->name, (unsigned long long)old->n_values,
                        (unsigned long long)old->n_counts,
                        (unsigned long long)n * (unsigned long long)e->cols,
                        (unsigned long long)counts);
        for (uint64_t k = 0; k < old->n_values; k++)
            e->sums[k] += (double)float_at(old->sums, k);
        for (uint64_t k = 0; k < n; k++)
            e->counts[k] += (uint64_t)float_at(old->counts, e->heads ? 0 : k);
    }
    c->n_chunks += m->n_chunks;
    return true;
}

/* ---- writing ---- */

/* Tensor by tensor: announced in a first pass, written in a second. */
struct out {
    struct gguf_writer *w;
    float *floats;
    bool announcing;
};

static bool put(struct out *o, const char *name, const char *suffix, const uint64_t ne[2],
                struct error *err)
{
    char text[96];
    snprintf(text, sizeof text, "%s%s", name, suffix);
    return o->announcing ? gguf_writer_add_tensor(o->w, text, TYPE_F32, 2, ne, err)
                         : gguf_writer_data(o->w, o->floats, 4 * ne[0] * ne[1], err);
}

static bool put_entry(struct out *o, const struct collected *e, const char *name,
                      struct error *err)
{
    uint64_t n = (uint64_t)e->n_matrices, cols = (uint64_t)e->cols;
    uint64_t sums[2] = { e->heads ? n * cols : cols, e->heads ? 1 : n };
    uint64_t counts[2] = { 1, e->heads ? 1 : n };
    for (uint64_t i = 0; !o->announcing && i < n * cols; i++)
        o->floats[i] = (float)e->sums[i];
    if (!put(o, name, ".in_sum2", sums, err))
        return false;
    for (uint64_t i = 0; !o->announcing && i < counts[1]; i++)
        o->floats[i] = (float)e->counts[i];
    return put(o, name, ".counts", counts, err);
}

static bool put_all(struct out *o, const struct collection *c, struct error *err)
{
    for (size_t i = 0; i < c->n_entries; i++) {
        const struct collected *e = &c->entries[i];
        if (!put_entry(o, e, e->name, err) || (e->also && !put_entry(o, e, e->also, err)))
            return false;
    }
    return true;
}

static int by_layer_and_name(const void *a, const void *b)
{
    const struct collected *x = a, *y = b;
    int lx = tensor_layer(x->name), ly = tensor_layer(y->name);
    return lx != ly ? (lx > ly) - (lx < ly) : strcmp(x->name, y->name);
}

bool collection_write(struct collection *c, const char *path, struct error *err)
{
    struct gguf_writer w = { 0 };
    struct out o = { .w = &w, .announcing = true };
    size_t most = 1;
    qsort(c->entries, c->n_entries, sizeof *c->entries, by_layer_and_name);
    memset(c->places, 0, c->n_places * sizeof *c->places);
    for (size_t i = 0; i < c->n_entries; i++) {
        const struct collected *e = &c->entries[i];
        *place_of(c, e->name) = (uint32_t)i + 1;
        most = max_of(most, (size_t)(e->cols * e->n_matrices));
    }
    o.floats = mem_alloc(most, sizeof *o.floats, "importance", err);
    bool ok = o.floats && gguf_writer_add_str(&w, "general.type", "imatrix", err) &&
              gguf_writer_add_strings(&w, "imatrix.datasets", &c->dataset, 1, err) &&
              gguf_writer_add_u32(&w, "imatrix.chunk_count", (uint32_t)c->n_chunks, err) &&
              gguf_writer_add_u32(&w, "imatrix.chunk_size", (uint32_t)c->chunk_size, err) &&
              put_all(&o, c, err) && gguf_writer_begin(&w, path, err);
    o.announcing = false;
    ok = ok && put_all(&o, c, err) && gguf_writer_finish(&w, err);
    gguf_writer_release(&w);
    mem_free(o.floats);
    return ok;
}

/* ---- coverage ---- */

static int ascending(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Experts of one layer, or of all. */
struct coverage {
    uint64_t n, unseen, few, least, median, most;
};

static bool cover(const struct collected *e, struct coverage *v)
{
    size_t n = (size_t)e->n_matrices;
    uint64_t *counts = mem_alloc(n, sizeof *counts, "counts", NULL);
    *v = (struct coverage){ .n = n };
    if (!counts)
        return false;
    memcpy(counts, e->counts, n * sizeof *counts);
    qsort(counts, n, sizeof *counts, ascending);
    for (size_t i = 0; i < n; i++) {
        v->unseen += counts[i] == 0;
        v->few += counts[i] < COLLECT_FEW;
    }
    v->least = counts[0];
    v->median = counts[n / 2];
    v->most = counts[n - 1];
    mem_free(counts);
    return true;
}

void collection_coverage(const struct collection *c, struct buf *out)
{
    struct coverage v, all = { 0 };
    int n_layers = 0, n_unseen_layers = 0;
    for (size_t i = 0; i < c->n_entries; i++) {
        const struct collected *e = &c->entries[i];
        if (!strstr(e->name, "ffn_down_exps.") || !cover(e, &v))
            continue;
        if (n_layers++ == 0)
            buf_printf(out, "%-6s %8s %8s %14s   tokens of the least, median, most used\n", "layer",
                       "experts", "unseen", "below 16");
        buf_printf(out, "%-6d %8llu %8llu %14llu   %llu, %llu, %llu\n", tensor_layer(e->name),
                   (unsigned long long)v.n, (unsigned long long)v.unseen,
                   (unsigned long long)v.few, (unsigned long long)v.least,
                   (unsigned long long)v.median, (unsigned long long)v.most);
        all.n += v.n;
        all.unseen += v.unseen;
        all.few += v.few;
        n_unseen_layers += v.unseen > 0;
    }
    if (!n_layers)
        return;
    buf_printf(out, "%llu experts in %d layers: ", (unsigned long long)all.n, n_layers);
    if (all.few)
        buf_printf(out, "%llu saw fewer than %d tokens, of which %llu in %d layers none",
                   (unsigned long long)all.few, COLLECT_FEW, (unsigned long long)all.unseen,
                   n_unseen_layers);
    else
        buf_printf(out, "each saw %d tokens or more", COLLECT_FEW);
    buf_puts(out, all.unseen ? "; those will be rounded with all columns alike: a longer, more "
                               "varied text covers more\n" : "\n");
}
