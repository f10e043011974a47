#include "tools/budget.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/mem.h"
#include "src/cli/buf.h"
#include "src/cli/term.h"
#include "src/format/quant.h"
#include "tools/knapsack.h"
#include "tools/mixture.h"

/* ---- how bad a type is ---- */

/* Relative errors on normally distributed weights, plain and weighted by importance; types that
 * need importance have only the second. */
static const struct {
    enum tensor_type type;
    double plain, weighted;
} type_errors[] = {
    { TYPE_IQ1_S, .60, .4396 }, { TYPE_IQ1_M, .5808, .3904 }, { TYPE_IQ2_XXS, .36, .2981 },
    { TYPE_IQ2_XS, .31, .2600 }, { TYPE_IQ2_S, .2607, .2242 }, { TYPE_Q2_K, .2930, .2367 },
    { TYPE_IQ3_XXS, .2116, .1536 }, { TYPE_IQ3_S, .1642, .1191 }, { TYPE_Q3_K, .1492, .1334 },
    { TYPE_IQ4_XS, .0760, .0711 }, { TYPE_IQ4_NL, .0754, .0703 }, { TYPE_Q4_0, .0846, .0766 },
    { TYPE_Q4_1, .0774, .0638 }, { TYPE_Q4_K, .0705, .0648 }, { TYPE_Q5_0, .0420, .0379 },
    { TYPE_Q5_1, .0374, .0309 }, { TYPE_Q5_K, .0357, .0329 }, { TYPE_Q6_K, .0175, .0161 },
    { TYPE_Q8_0, .00526, .00526 }, { TYPE_MXFP4, .1132, .1132 }, { TYPE_NVFP4, .1033, .1033 },
    { TYPE_BF16, .0017, .0017 }, { TYPE_F16, .0002, .0002 },
};

double budget_type_error(enum tensor_type type, bool weighted)
{
    for (size_t i = 0; i < ARRAY_LEN(type_errors); i++)
        if (type_errors[i].type == type) {
            double e = weighted ? type_errors[i].weighted : type_errors[i].plain;
            return e * e;
        }
    return type == TYPE_F32 ? 0 : 1;
}

/* Those that may be chosen, smallest first; the hungry need importance. Not more than 8 bits:
 * what they would save of the loss is nothing beside the time to read them. */
static const struct {
    enum tensor_type type;
    bool hungry;
} ladder[] = {
    { TYPE_IQ1_S, true }, { TYPE_IQ1_M, true }, { TYPE_IQ2_XXS, true }, { TYPE_IQ2_XS, true },
    { TYPE_IQ2_S, true }, { TYPE_Q2_K, false }, { TYPE_IQ3_XXS, true }, { TYPE_Q3_K, false },
    { TYPE_IQ3_S, false }, { TYPE_IQ4_XS, false }, { TYPE_Q4_K, false }, { TYPE_Q5_K, false },
    { TYPE_Q6_K, false }, { TYPE_Q8_0, false },
};

int budget_ladder(bool has_imatrix, enum tensor_type types[N_TENSOR_TYPES])
{
    int n = 0;
    for (size_t i = 0; i < ARRAY_LEN(ladder); i++)
        if (has_imatrix || !ladder[i].hungry)
            types[n++] = ladder[i].type;
    return n;
}

/* ---- how much a tensor matters ---- */

static bool has(const char *name, const char *part)
{
    return strstr(name, part) != NULL;
}

double budget_share(const struct recipe_model *m, const char *name)
{
    int layer = tensor_layer(name), n = m->n_layers - m->n_mtp;
    if (strcmp(name, "output.weight") == 0)
        return 4; /* its error is the error of the logits */
    if (layer < 0)
        return 1;
    if (layer >= n)
        return 0.05; /* multi-token prediction guesses; the model has the last word */
    double share = has(name, "down") || has(name, "attn_output") || has(name, "attn_v") ||
                           has(name, "attn_kv") ? 1 : 0.5;
    return layer < n / 8 || layer >= n - n / 8 ? 1.5 * share : share;
}

/* ---- groups ---- */

enum class { CLASS_ATTENTION, CLASS_FFN, CLASS_EXPERTS, CLASS_EMBED, CLASS_OUTPUT, CLASS_REST };

static enum class class_of(const char *name)
{
    if (strcmp(name, "token_embd.weight") == 0)
        return CLASS_EMBED;
    if (strcmp(name, "output.weight") == 0)
        return CLASS_OUTPUT;
    if (has(name, "_exps"))
        return CLASS_EXPERTS;
    if (has(name, ".ffn_"))
        return CLASS_FFN;
    return has(name, ".attn_") || has(name, ".indexer") ? CLASS_ATTENTION : CLASS_REST;
}

/* A tensor that may be chosen for. */
struct item {
    struct recipe_tensor *tensor;
    size_t index; /* in the plan */
    int layer;
    enum class class;
    enum purse purse;
    bool starved; /* without importance: not for types that need it */
};

/* A choice of a group: a type for its down matrices of experts, and one for everything else. */
struct wish {
    enum tensor_type down, others;
};

struct group {
    size_t first, n; /* items */
    enum purse purse;
    struct wish *wishes;              /* [n_choices] */
    struct knapsack_choice *choices;
    int n_choices;
};

struct solver {
    struct budget *b;
    struct type_plan *p;
    enum tensor_type ladder[N_TENSOR_TYPES];
    int n_ladder;
    struct item *items;
    size_t n_items;
    struct group *groups;
    size_t n_groups;
};

static int by_group(const void *a, const void *b)
{
    const struct item *x = a, *y = b;
    int order = (x->purse > y->purse) - (x->purse < y->purse);
    order = order ? order : (x->layer > y->layer) - (x->layer < y->layer);
    order = order ? order : (x->class > y->class) - (x->class < y->class);
    return order ? order : strcmp(x->tensor->name, y->tensor->name);
}

static bool is_free(const struct recipe_tensor *t)
{
    return t->reason != RECIPE_KEPT && t->reason != RECIPE_OVERRIDE;
}

static bool list_items(struct solver *s, struct error *err)
{
    struct type_plan *p = s->p;
    s->items = mem_alloc(p->n + 1, sizeof *s->items, "tensors of a budget", err);
    s->groups = mem_alloc(p->n + 1, sizeof *s->groups, "groups of a budget", err);
    if (!s->items || !s->groups)
        return false;
    for (size_t i = 0; i < p->n; i++) {
        struct recipe_tensor *t = &p->tensors[i];
        enum purse purse = (enum purse)s->b->purses[i];
        if (!is_free(t)) {
            s->b->used[purse] += type_plan_bytes(p, i);
            continue;
        }
        bool exact, starved = p->has_imatrix && !imatrix_find(&p->imatrix, t->name, &exact);
        s->items[s->n_items++] = (struct item){ t, i, tensor_layer(t->name), class_of(t->name),
                                                purse, starved };
    }
    qsort(s->items, s->n_items, sizeof *s->items, by_group);
    for (size_t i = 0; i < s->n_items; i++) {
        const struct item *x = &s->items[i], *y = i ? &s->items[i - 1] : NULL;
        if (!y || x->purse != y->purse || x->layer != y->layer || x->class != y->class)
            s->groups[s->n_groups++] = (struct group){ .first = i, .purse = x->purse };
        s->groups[s->n_groups - 1].n++;
    }
    return true;
}

static enum tensor_type type_for(const struct solver *s, const struct item *x, struct wish w)
{
    bool down = x->class == CLASS_EXPERTS && has(x->tensor->name, "down");
    enum tensor_type type = down ? w.down : w.others;
    for (size_t i = 0; x->starved && i < ARRAY_LEN(ladder); i++)
        if (ladder[i].type == type && ladder[i].hungry)
            type = type == TYPE_IQ3_XXS ? TYPE_Q3_K : TYPE_Q2_K;
    return recipe_settle(&s->p->recipe, &s->p->model, x->tensor, type);
}

static double error_of(const struct solver *s, const struct item *x, enum tensor_type type)
{
    if (type == x->tensor->source)
        return 0;
    double measured = s->b->errors ? s->b->errors[x->index][type] : 0;
    return measured > 0 ? measured : budget_type_error(type, s->p->has_imatrix);
}

static struct knapsack_choice weigh(const struct solver *s, const struct group *g, struct wish w)
{
    struct knapsack_choice c = { 0 };
    for (size_t i = g->first; i < g->first + g->n; i++) {
        const struct item *x = &s->items[i];
        const struct recipe_tensor *t = x->tensor;
        enum tensor_type type = type_for(s, x, w);
        c.bytes += t->ne[1] * t->ne[2] * t->ne[3] * quant_row_bytes(type, (int64_t)t->ne[0]);
        c.loss += budget_share(&s->p->model, t->name) * error_of(s, x, type);
    }
    return c;
}

/* Is there one already that is no larger and no worse? */
static bool is_dominated(const struct group *g, struct knapsack_choice c)
{
    for (int i = 0; i < g->n_choices; i++)
        if (g->choices[i].bytes <= c.bytes && g->choices[i].loss <= c.loss)
            return true;
    return false;
}

static bool list_choices(struct solver *s, struct group *g, struct error *err)
{
    size_t most = (size_t)s->n_ladder * (size_t)s->n_ladder;
    bool pairs = s->items[g->first].class == CLASS_EXPERTS;
    g->wishes = mem_alloc(most, sizeof *g->wishes, "choices of a budget", err);
    g->choices = mem_alloc(most, sizeof *g->choices, "choices of a budget", err);
    if (!g->wishes || !g->choices)
        return false;
    for (int i = 0; i < s->n_ladder; i++) {
        for (int k = i; k < (pairs ? s->n_ladder : i + 1); k++) {
            struct wish w = { .others = s->ladder[i], .down = s->ladder[k] };
            if (type_bits(w.down) < type_bits(w.others) || g->n_choices == 256)
                continue;
            struct knapsack_choice c = weigh(s, g, w);
            if (is_dominated(g, c))
                continue;
            g->wishes[g->n_choices] = w;
            g->choices[g->n_choices++] = c;
        }
    }
    return true;
}

/* ---- solving ---- */

static const char *purse_name(enum purse purse)
{
    return purse == PURSE_VRAM ? "VRAM" : "main memory";
}

static bool solve(struct solver *s, enum purse purse, struct error *err)
{
    struct budget *b = s->b;
    struct knapsack_group *groups = mem_alloc(s->n_groups + 1, sizeof *groups, "groups", err);
    struct group **of = mem_alloc(s->n_groups + 1, sizeof *of, "groups", err);
    int *picks = mem_alloc(s->n_groups + 1, sizeof *picks, "choices", err);
    bool ok = groups && of && picks, exact = true;
    size_t n = 0;
    uint64_t kept = b->used[purse], room = b->bytes[purse];
    for (size_t i = 0; ok && i < s->n_groups; i++)
        if (s->groups[i].purse == purse) {
            of[n] = &s->groups[i];
            groups[n++] = (struct knapsack_group){ of[n - 1]->choices, of[n - 1]->n_choices };
        }
    uint64_t least = ok ? kept + knapsack_least(groups, n) : 0;
    if (ok && least > room) {
        char a[32], c[32];
        ok = fail(err, ERR_FIT, "%s: the smallest types make %s of weights, there is room for %s%s",
                  purse_name(purse), human_bytes((double)least, a, sizeof a),
                  human_bytes((double)room, c, sizeof c),
                  s->p->has_imatrix ? "" : "; with --imatrix there are smaller ones");
    }
    ok = ok && knapsack_solve(groups, n, room - kept, picks, &exact, err);
    for (size_t k = 0; ok && k < n; k++) {
        const struct group *g = of[k];
        struct wish w = g->wishes[picks[k]];
        b->used[purse] += g->choices[picks[k]].bytes;
        b->loss += g->choices[picks[k]].loss;
        for (size_t i = g->first; i < g->first + g->n; i++) {
            s->items[i].tensor->type = type_for(s, &s->items[i], w);
            s->items[i].tensor->reason = RECIPE_BUDGET;
        }
    }
    b->exact = b->exact && exact;
    mem_free(groups);
    mem_free(of);
    mem_free(picks);
    return ok;
}

bool budget_choose(struct budget *b, struct type_plan *p, struct error *err)
{
    struct solver s = { .b = b, .p = p };
    memset(b->used, 0, sizeof b->used);
    b->loss = 0;
    b->exact = true;
    s.n_ladder = budget_ladder(p->has_imatrix, s.ladder);
    bool ok = list_items(&s, err);
    for (size_t i = 0; ok && i < s.n_groups; i++)
        ok = list_choices(&s, &s.groups[i], err);
    ok = ok && solve(&s, PURSE_RAM, err) && solve(&s, PURSE_VRAM, err);
    for (size_t i = 0; i < s.n_groups; i++) {
        mem_free(s.groups[i].wishes);
        mem_free(s.groups[i].choices);
    }
    mem_free(s.groups);
    mem_free(s.items);
    return ok;
}

/* ---- explaining ---- */

/* What the layers' lines speak of. */
static const struct {
    const char *label, *has, *lacks;
} lines[] = {
    { "attention", ".attn_", "norm" },
    { "dense and shared", ".ffn_", "exps" },
    { "experts, gate and up", "exps", "down" },
    { "experts, down", "down_exps", "" },
};

/* The types of one line in one layer, as "Q4_K, Q8_0"; empty: none. */
static void add_layer_types(const struct type_plan *p, size_t line, int layer, char text[128])
{
    bool seen[N_TENSOR_TYPES] = { false };
    size_t used = 0;
    text[0] = 0;
    for (size_t i = 0; i < p->n; i++) {
        const struct recipe_tensor *t = &p->tensors[i];
        if (t->reason == RECIPE_BUDGET && tensor_layer(t->name) == layer &&
            has(t->name, lines[line].has) &&
            !(*lines[line].lacks && has(t->name, lines[line].lacks)))
            seen[t->type] = true;
    }
    for (int type = 0; type < N_TENSOR_TYPES; type++)
        if (seen[type] && used < 100)
            used += (size_t)snprintf(text + used, 128 - used, "%s%s", used ? ", " : "",
                                     quant_traits((uint32_t)type)->name);
}

void budget_explain(const struct type_plan *p, struct buf *out)
{
    for (size_t line = 0; line < ARRAY_LEN(lines); line++) {
        char run[128] = "", types[128];
        int first = 0;
        for (int layer = 0; layer <= p->model.n_layers; layer++) {
            types[0] = 0;
            if (layer < p->model.n_layers)
                add_layer_types(p, line, layer, types);
            if (layer > 0 && strcmp(run, types) == 0)
                continue;
            if (*run && first < layer - 1)
                buf_printf(out, "%-24s layers %d to %d: %s\n", lines[line].label, first, layer - 1,
                           run);
            else if (*run)
                buf_printf(out, "%-24s layer %d: %s\n", lines[line].label, first, run);
            memcpy(run, types, sizeof run);
            first = layer;
        }
    }
}
