#include "tools/type_plan.h"

#include <stdio.h>
#include <string.h>

#include "src/base/log.h"
#include "src/base/mem.h"
#include "src/cli/buf.h"
#include "src/cli/term.h"
#include "src/format/quant.h"
#include "tools/mixture.h"

#define ENCODERS_VERSION 1 /* of the bytes that the same plan gives; part of the journal */
#define QUANTIZATION_VERSION 2
#define MAX_NAMED 4 /* tensors listed in a message */

typedef unsigned long long ull;

static const char *type_name(enum tensor_type type)
{
    const char *name = quant_traits(type)->name;
    return name ? name : "?";
}

bool type_is_quantized(enum tensor_type type)
{
    return quant_traits(type)->block_elements > 1;
}

/* ---- types ---- */

bool type_plan_begin(struct type_plan *p, const struct options *o, const char *type,
                     struct error *err)
{
    struct recipe *r = &p->recipe;
    *p = (struct type_plan){ .has_imatrix = o->imatrix != NULL, .imatrix.fd = -1 };
    r->strict = o->strict_mixture;
    r->pure = o->pure;
    r->has_imatrix = p->has_imatrix;
    for (int i = 0; i < o->tensor_types.n; i++)
        if (!recipe_add(r, o->tensor_types.items[i], err))
            return error_prefix(err, "option --tensor-type");
    if (o->recipe && !recipe_read(r, o->recipe, err))
        return false;
    if (type && !recipe_set(r, type, err))
        return false;
    return r->mixture || fail(err, ERR_USAGE, "no type given; there are %s", recipe_names());
}

bool type_plan_reserve(struct type_plan *p, size_t n, struct error *err)
{
    p->n = n;
    p->tensors = mem_alloc(n, sizeof *p->tensors, "types", err);
    p->importance = mem_alloc(n, sizeof *p->importance, "importance", err);
    return p->tensors && p->importance;
}

static uint64_t rows_of(const struct recipe_tensor *t)
{
    return t->ne[1] * t->ne[2] * t->ne[3];
}

uint64_t type_plan_bytes(const struct type_plan *p, size_t i)
{
    const struct recipe_tensor *t = &p->tensors[i];
    return rows_of(t) * quant_row_bytes(t->type, (int64_t)t->ne[0]);
}

/* rounding what was rounded adds up. */
static bool check_requantize(const struct type_plan *p, const struct options *o,
                             struct error *err)
{
    uint64_t n = 0;
    const struct recipe_tensor *first = NULL;
    for (size_t i = 0; i < p->n; i++) {
        const struct recipe_tensor *t = &p->tensors[i];
        if (type_is_quantized(t->source) && type_is_quantized(t->type) && t->type != t->source &&
            type_bits(t->source) < 8) {
            first = first ? first : t;
            n++;
        }
    }
    if (!n)
        return true;
    if (!o->allow_requantize)
        return fail(err, ERR_USAGE,
                    "%s is %s already, one of %llu such tensors: rounding it again to "
                    "%s adds up the losses; start from F16, BF16 or Q8_0, or say "
                    "--allow-requantize",
                    first->name, type_name(first->source), (ull)n, type_name(first->type));
    log_warning("%llu tensors are rounded a second time: expect more loss than from F16, BF16 or "
                "Q8_0",
                (ull)n);
    return true;
}

/* ---- importance ---- */

/* Names for a message: the first few, then how many more. */
struct names {
    char text[400];
    uint64_t n;
};

static void add_name(struct names *list, const char *name)
{
    size_t used = strlen(list->text);
    if (list->n++ < MAX_NAMED)
        snprintf(list->text + used, sizeof list->text - used, "%s%s", used ? ", " : "", name);
}

static const char *and_more(const struct names *list, char *text, size_t size)
{
    text[0] = 0;
    if (list->n > MAX_NAMED)
        snprintf(text, size, " and %llu more", (ull)(list->n - MAX_NAMED));
    return text;
}

/* Heads of a projection that older files hold folded into one matrix; the importance is per
 * head. */
static uint64_t matrices_of(const struct recipe_tensor *t, const struct imatrix_entry *e)
{
    uint64_t n = t->ne[2] * t->ne[3], vectors = e->n_values / t->ne[0];
    bool head = strstr(t->name, "attn_k_b.") || strstr(t->name, "attn_v_b.");
    return head && n == 1 && vectors && t->ne[1] % vectors == 0 ? vectors : n;
}

static bool uses_importance(enum tensor_type type)
{
    return type_is_quantized(type) && type != TYPE_Q8_0 && type != TYPE_MXFP4 && type != TYPE_NVFP4;
}

static bool find_importance(struct type_plan *p, size_t i, struct names *missing,
                            struct names *shared, struct error *err)
{
    const struct recipe_tensor *t = &p->tensors[i];
    struct error why = { 0 };
    bool exact;
    const struct imatrix_entry *e = imatrix_find(&p->imatrix, t->name, &exact);
    if (!e) {
        add_name(missing, t->name);
        return true;
    }
    uint64_t n = matrices_of(t, e);
    if (!imatrix_fit(e, t->name, t->ne[0], n, &p->importance[i], &why)) {
        p->importance[i] = (struct imatrix_entry){ .n_values = 0 };
        if (exact && strcmp(t->name, "token_embd.weight") != 0)
            return fail(err, why.code, "%s", why.text);
        add_name(missing, t->name);
        return true;
    }
    if (p->importance[i].n_matrices < n)
        add_name(shared, t->name);
    if (p->importance[i].n_unseen)
        log_detail("%s: %llu of %llu matrices never used in the calibration", t->name,
                   (ull)p->importance[i].n_unseen, (ull)e->n_counts);
    return true;
}

static bool find_all_importance(struct type_plan *p, struct error *err)
{
    struct names missing = { .n = 0 }, shared = { .n = 0 };
    uint64_t with_unseen = 0, most = 0, used = 0;
    char more[32];
    for (size_t i = 0; i < p->n; i++) {
        if (p->tensors[i].type == p->tensors[i].source || !uses_importance(p->tensors[i].type))
            continue;
        if (!find_importance(p, i, &missing, &shared, err))
            return false;
        used += p->importance[i].n_values > 0;
        with_unseen += p->importance[i].n_unseen > 0;
        most = max_of(most, p->importance[i].n_unseen);
    }
    if (!used && missing.n)
        return fail(err, ERR_FILE, "the importance matrix has none of the tensors of this model");
    if (missing.n)
        log_warning("no importance for %s%s: rounded without", missing.text,
                    and_more(&missing, more, sizeof more));
    if (shared.n)
        log_warning("one importance for all experts of %s%s", shared.text,
                    and_more(&shared, more, sizeof more));
    if (with_unseen)
        log_warning("%llu tensors have experts that the calibration never used, at most %llu in "
                    "one: rounded with all columns alike (-v lists them)", (ull)with_unseen,
                    (ull)most);
    return true;
}

/* No calibration runs the blocks for multi-token prediction: they get the smallest type that can do
 * without importance. What they cost is small, and what they guess is checked by the main model. */
static void spare_mtp(struct type_plan *p)
{
    struct names spared = { .n = 0 };
    char more[32];
    int first = p->model.n_layers - p->model.n_mtp;
    for (size_t i = 0; i < p->n; i++) {
        struct recipe_tensor *t = &p->tensors[i];
        if (tensor_layer(t->name) < first || p->importance[i].n_values ||
            !recipe_wants_imatrix(&p->recipe, t))
            continue;
        p->bytes_after -= type_plan_bytes(p, i);
        t->type = t->type == TYPE_IQ3_XXS ? TYPE_Q3_K : TYPE_Q2_K;
        t->reason = RECIPE_SPARED;
        p->bytes_after += type_plan_bytes(p, i);
        add_name(&spared, t->name);
    }
    if (spared.n)
        log_note("%s%s belong to multi-token prediction, which no calibration runs: Q2_K or Q3_K "
                 "instead", spared.text, and_more(&spared, more, sizeof more));
}

/* */
static bool check_importance(const struct type_plan *p, struct error *err)
{
    struct names wanting = { .n = 0 };
    char more[32];
    enum tensor_type type = TYPE_F32;
    for (size_t i = 0; i < p->n; i++)
        if (recipe_wants_imatrix(&p->recipe, &p->tensors[i]) && !p->importance[i].n_values) {
            type = p->tensors[i].type;
            add_name(&wanting, p->tensors[i].name);
        }
    if (!wanting.n)
        return true;
    return fail(err, ERR_USAGE, "%s needs importance for %s%s: %s", type_name(type), wanting.text,
                and_more(&wanting, more, sizeof more),
                p->has_imatrix ? "the matrix has none; give them another type with --tensor-type"
                               : "give --imatrix FILE, or a larger type");
}

/* ---- the plan ---- */

bool type_plan_choose(struct type_plan *p, const struct options *o, struct error *err)
{
    if (p->has_imatrix && !imatrix_open(&p->imatrix, o->imatrix, err))
        return false;
    if (!recipe_apply(&p->recipe, &p->model, p->tensors, p->n, err) ||
        (p->settle && !p->settle(p, p->settle_ctx, err)))
        return false;
    for (size_t i = 0; i < p->n; i++) {
        const struct recipe_tensor *t = &p->tensors[i];
        p->bytes_before += t->source_bytes;
        p->bytes_after += type_plan_bytes(p, i);
        p->weights += (double)t->ne[0] * (double)rows_of(t);
    }
    if (!check_requantize(p, o, err))
        return false;
    if (p->has_imatrix && !find_all_importance(p, err))
        return false;
    if (p->has_imatrix && p->model.n_mtp > 0)
        spare_mtp(p);
    return check_importance(p, err);
}

void type_plan_close(struct type_plan *p)
{
    imatrix_close(&p->imatrix);
    recipe_release(&p->recipe);
    mem_free(p->tensors);
    mem_free(p->importance);
    *p = (struct type_plan){ .n = 0 };
}

const struct imatrix_entry *type_plan_importance(const struct type_plan *p, size_t i)
{
    return p->importance[i].n_values ? &p->importance[i] : NULL;
}

int64_t type_plan_matrix_rows(const struct type_plan *p, size_t i)
{
    const struct imatrix_entry *e = type_plan_importance(p, i);
    const struct recipe_tensor *t = &p->tensors[i];
    return (int64_t)(e && e->n_matrices > 1 ? rows_of(t) / e->n_matrices : t->ne[1]);
}

/* general.file_type: the recipe's, or that of the mixture for the type of most weights. */
static uint32_t label_of(const struct type_plan *p)
{
    double sums[N_TENSOR_TYPES] = { 0 };
    int most = 0;
    if (!p->settled)
        return recipe_file_type(&p->recipe);
    for (size_t i = 0; i < p->n; i++)
        sums[p->tensors[i].type] += (double)p->tensors[i].ne[0] * (double)rows_of(&p->tensors[i]);
    for (int t = 0; t < N_TENSOR_TYPES; t++)
        most = sums[t] > sums[most] ? t : most;
    return mixture_label((enum tensor_type)most);
}

bool type_plan_write(const struct type_plan *p, struct gguf_writer *w, struct error *err)
{
    bool quantized = false, ok = true;
    for (size_t i = 0; i < p->n; i++)
        quantized = quantized || type_is_quantized(p->tensors[i].type);
    if (!recipe_copies(&p->recipe) && !p->partial) {
        ok = gguf_writer_add_u32(w, "general.file_type", label_of(p), err);
        if (p->has_imatrix)
            ok = ok && gguf_writer_add_u32(w, "quantize.imatrix.entries_count",
                                           (uint32_t)p->imatrix.n_entries, err) &&
                 gguf_writer_add_u32(w, "quantize.imatrix.chunks_count",
                                     (uint32_t)p->imatrix.n_chunks, err);
    }
    return ok && (!quantized || gguf_writer_add_u32(w, "general.quantization_version",
                                                    QUANTIZATION_VERSION, err));
}

void type_plan_describe(const struct type_plan *p, const struct options *o, struct buf *text)
{
    buf_printf(text, "encoders %d\n", ENCODERS_VERSION);
    if (p->has_imatrix)
        buf_printf(text, "importance of %zu tensors, checksum %08x\n", p->imatrix.n_entries,
                   (unsigned)p->imatrix.crc);
    else
        buf_puts(text, "no importance\n");
    buf_printf(text, "a canary is %s\n", o->canary_off ? "left out" : "written");
    buf_printf(text, "values that are not finite are %s\n",
               o->replace_nonfinite ? "replaced" : "refused");
    buf_printf(text, "parts of %lld bytes\nmixture %s\n", (long long)o->split_max_bytes,
               p->settled ? "by budget" : recipe_name(&p->recipe));
    for (size_t i = 0; i < p->n; i++)
        buf_printf(text, "%s as %s\n", p->tensors[i].name, type_name(p->tensors[i].type));
}

/* ---- the table ---- */

enum part { PART_EMBED, PART_OUTPUT, PART_ATTENTION, PART_DENSE, PART_SHARED, PART_GATE_UP,
            PART_DOWN,
            PART_REST, N_PARTS };

static const char *const part_names[N_PARTS] = {
    "token embedding", "output", "attention", "dense layers", "shared experts",
    "experts, gate and up", "experts, down", "norms, routers, others",
};

static enum part part_of(const char *name)
{
    if (strcmp(name, "token_embd.weight") == 0)
        return PART_EMBED;
    if (strcmp(name, "output.weight") == 0)
        return PART_OUTPUT;
    if (strstr(name, "norm") || strstr(name, "_inp") || strstr(name, ".bias"))
        return PART_REST;
    if (strstr(name, "_shexp"))
        return PART_SHARED;
    if (strstr(name, "_exps"))
        return strstr(name, "down") ? PART_DOWN : PART_GATE_UP;
    if (strstr(name, ".ffn_"))
        return PART_DENSE;
    return strstr(name, ".attn_") || strstr(name, ".indexer") ? PART_ATTENTION : PART_REST;
}

struct part_sum {
    uint64_t n, before, after;
    uint64_t n_of[N_TENSOR_TYPES];
};

static void add_size_row(struct buf *out, const char *name, uint64_t n, uint64_t before,
                         uint64_t after)
{
    char a[32], b[32];
    buf_printf(out, "%-24s %7llu %12s %12s", name, (ull)n, human_bytes((double)before, a, sizeof a),
               human_bytes((double)after, b, sizeof b));
}

static void add_tensor_rows(const struct type_plan *p, struct buf *out)
{
    static const char *const reasons[] = { "", "kept", "as asked", "protected", "rows do not fit",
                                            "by budget", "not calibrated" };
    for (size_t i = 0; i < p->n; i++) {
        const struct recipe_tensor *t = &p->tensors[i];
        buf_printf(out, "%-40s %-8s %-8s %s\n", t->name, type_name(t->source), type_name(t->type),
                   reasons[t->reason]);
    }
    buf_puts(out, "\n");
}

void type_plan_table(const struct type_plan *p, bool all, struct buf *out)
{
    struct part_sum sums[N_PARTS] = { 0 };
    if (all)
        add_tensor_rows(p, out);
    for (size_t i = 0; i < p->n; i++) {
        struct part_sum *s = &sums[part_of(p->tensors[i].name)];
        s->n++;
        s->before += p->tensors[i].source_bytes;
        s->after += type_plan_bytes(p, i);
        s->n_of[p->tensors[i].type]++;
    }
    buf_printf(out, "%-24s %7s %12s %12s  %s\n", "part", "tensors", "before", "after", "types");
    for (int part = 0; part < N_PARTS; part++) {
        const char *separator = "  ";
        if (!sums[part].n)
            continue;
        add_size_row(out, part_names[part], sums[part].n, sums[part].before, sums[part].after);
        for (int type = 0; type < N_TENSOR_TYPES; type++)
            if (sums[part].n_of[type]) {
                buf_printf(out, "%s%s", separator, type_name((enum tensor_type)type));
                separator = ", ";
            }
        buf_puts(out, "\n");
    }
    add_size_row(out, "all", p->n, p->bytes_before, p->bytes_after);
    buf_printf(out, "  %.2f bits per weight\n", 8.0 * (double)p->bytes_after / p->weights);
}
