/* tandem plan --compare: the same model in smaller types, with longer contexts. */
#include <stdio.h>

#include "src/base/mem.h"
#include "src/cli/json.h"
#include "src/cli/plan.h"
#include "src/cli/retype.h"
#include "src/cli/term.h"
#include "src/format/quant.h"
#include "tools/recipe.h"

static const char *const mixtures[] = {
    "q8_0", "q6_k", "q4_k_m", "iq4_xs", "q3_k_m", "q2_k", "iq2_xxs",
};
static const int64_t contexts[] = { 4096, 16384, 65536, 131072 };

/* Columns of the table: the contexts that the model was trained for, of a small one all of it. */
static int list_contexts(const struct model *m, int64_t list[ARRAY_LEN(contexts)])
{
    int n = 0;
    for (size_t i = 0; i < ARRAY_LEN(contexts); i++)
        if (contexts[i] <= m->params.context_length)
            list[n++] = contexts[i];
    if (n == 0)
        list[n++] = m->params.context_length;
    return n;
}

/* What the mixture would make of the model, had it come from BF16. */
static bool retype(struct retyped *r, const struct model *m, const char *mixture, struct error *err)
{
    struct recipe recipe = { .has_imatrix = true };
    struct recipe_model about;
    size_t n = (size_t)m->n_tensors;
    struct recipe_tensor *wanted = mem_alloc(n, sizeof *wanted, "types to compare", err);
    bool ok = retyped_open(r, m, err) && wanted;
    for (size_t i = 0; ok && i < n; i++) {
        const struct tensor *t = m->tensors[i].tensor;
        wanted[i] = (struct recipe_tensor){ .name = t->name, .n_dims = t->n_dims,
                                            .source = m->tensors[i].spec->is_f32 ? t->type
                                                                                 : TYPE_BF16 };
        memcpy(wanted[i].ne, t->ne, sizeof t->ne);
    }
    ok = ok && recipe_set(&recipe, mixture, err) && recipe_model_read(&about, &m->gguf, err) &&
         recipe_apply(&recipe, &about, wanted, n, err);
    for (size_t i = 0; ok && i < n; i++)
        retyped_set(r, (int)i, wanted[i].type);
    recipe_release(&recipe);
    mem_free(wanted);
    return ok;
}

/* One type with one context. */
struct cell {
    int64_t context;
    bool fits;
    struct range decode_tok_s;
};

static bool fill_cell(struct cell *c, const struct plan *p, const struct model *m, struct error *err)
{
    struct placement_wishes w = p->wishes;
    struct placement q;
    struct forecast f;
    w.n_ctx = c->context;
    if (!placement_make(&q, m, &p->rates, &w, err))
        return false;
    forecast_make(&f, m, &q, &p->rates, 0, q.n_batch);
    c->fits = q.fits;
    c->decode_tok_s = f.decode_tok_s;
    placement_free(&q);
    return true;
}

static struct json *cell_json(const struct cell *c)
{
    struct json *j = js_object();
    js_set(j, "context", js_int(c->context));
    js_set(j, "fits", js_bool(c->fits));
    js_set(j, "decode_tok_s", c->fits ? plan_range_json(&c->decode_tok_s) : js_null());
    return j;
}

/* The row of a type: the same cells for people or for programs. */
static bool add_row(struct buf *out, struct json *rows, const struct plan *p, const struct model *m,
                    const char *name, struct error *err)
{
    int64_t list[ARRAY_LEN(contexts)];
    int n = list_contexts(m, list);
    char text[32];
    struct json *row = rows ? js_object() : NULL, *cells = rows ? js_array() : NULL;
    if (out)
        buf_printf(out, "| %-10s | %11s |", name,
                   human_bytes((double)m->weight_bytes, text, sizeof text));
    bool ok = true;
    for (int i = 0; ok && i < n; i++) {
        struct cell c = { .context = list[i] };
        ok = fill_cell(&c, p, m, err);
        snprintf(text, sizeof text, "does not fit");
        if (ok && c.fits)
            range_text(text, sizeof text, &c.decode_tok_s);
        if (ok && out)
            buf_printf(out, " %13s |", text);
        else if (ok)
            js_push(cells, cell_json(&c));
    }
    if (out) {
        buf_puts(out, "\n");
        return ok;
    }
    js_set(row, "type", js_text(str_of(name)));
    js_set(row, "bytes", js_int((int64_t)m->weight_bytes));
    js_set(row, "contexts", cells);
    js_push(rows, row);
    return ok;
}

static void add_head(struct buf *out, const struct model *m)
{
    int64_t list[ARRAY_LEN(contexts)];
    int n = list_contexts(m, list);
    buf_puts(out, "Decode, tok/s, behind an empty context of this size\n\n"
                  "| type       |        size |");
    for (int i = 0; i < n; i++)
        buf_printf(out, "     -c %6lld |", (long long)list[i]);
    buf_puts(out, "\n|------------|------------:|");
    for (int i = 0; i < n; i++)
        buf_puts(out, "--------------:|");
    buf_puts(out, "\n");
}

bool plan_compare(struct buf *out, struct json *rows, const struct plan *p, struct error *err)
{
    const struct model *m = &p->model;
    double bits = 8.0 * (double)m->weight_bytes / (double)max_of(m->n_elements, 1u);
    char path[PATH_SIZE];
    if (out)
        add_head(out, m);
    bool ok = add_row(out, rows, p, m, "this file", err);
    for (size_t i = 0; ok && i < ARRAY_LEN(mixtures); i++) {
        struct retyped r;
        ok = retype(&r, m, mixtures[i], err);
        double other = 8.0 * (double)r.model.weight_bytes / (double)max_of(m->n_elements, 1u);
        if (ok && other < 0.97 * bits)
            ok = add_row(out, rows, p, &r.model, mixtures[i], err);
        retyped_close(&r);
    }
    if (out)
        buf_printf(out, "\nA smaller type: tandem quantize %s OUT.gguf TYPE\n",
                   shell_word(path, sizeof path, p->path));
    return ok;
}
