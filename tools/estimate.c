#include "tools/estimate.h"

#include "src/base/mem.h"
#include "src/cli/buf.h"
#include "src/cli/term.h"
#include "src/format/quant.h"

#define COLS 2048
#define LEAST_S 0.01 /* to time an encoder for */
#define MAX_BYTES_PER_ELEMENT 8

/* A row of nearly normal weights and its importance, and room for blocks. */
struct sample {
    float row[COLS], importance[COLS];
    uint8_t blocks[COLS * MAX_BYTES_PER_ELEMENT];
};

static void fill(struct sample *s)
{
    uint32_t state = 42; /* the numbers of Numerical Recipes: randomness is no matter here */
    for (int i = 0; i < COLS; i++) {
        float sum = -2;
        for (int k = 0; k < 4; k++) {
            state = state * 1664525u + 1013904223u;
            sum += (float)(state >> 8) * 0x1p-24f;
        }
        s->row[i] = 0.03f * sum;
        s->importance[i] = 0.25f + (float)(state >> 16) * 0x1p-16f;
    }
}

/* Elements per second of one thread. */
static double rate_of(enum tensor_type type, bool weighted, struct sample *s)
{
    const struct quant_traits *t = quant_traits(type);
    const float *importance = weighted ? s->importance : NULL;
    t->quantize(s->row, s->blocks, COLS, importance); /* builds what it looks up */
    double start = now_s(), spent = 0;
    int64_t n = 0;
    for (; spent < LEAST_S; spent = now_s() - start, n += COLS)
        t->quantize(s->row, s->blocks, COLS, importance);
    return (double)n / spent;
}

bool estimate_encoding(const struct type_plan *p, int n_threads, double *seconds,
                       struct error *err)
{
    double rates[2][N_TENSOR_TYPES] = { { 0 } };
    struct sample *s = mem_alloc(1, sizeof *s, "a sample of weights", err);
    *seconds = 0;
    if (!s)
        return false;
    fill(s);
    for (size_t i = 0; i < p->n; i++) {
        const struct recipe_tensor *t = &p->tensors[i];
        bool weighted = type_plan_importance(p, i) != NULL;
        double *rate = &rates[weighted][t->type];
        if (t->type == t->source || !quant_traits(t->type)->quantize)
            continue;
        if (*rate == 0)
            *rate = rate_of(t->type, weighted, s);
        *seconds += (double)t->ne[0] * (double)(t->ne[1] * t->ne[2] * t->ne[3]) / *rate;
    }
    *seconds /= max_of(n_threads, 1);
    mem_free(s);
    return true;
}

bool estimate_describe(const struct type_plan *p, int n_threads, struct buf *out,
                       struct error *err)
{
    char time[32], before[32], after[32];
    double seconds;
    if (!estimate_encoding(p, n_threads, &seconds, err))
        return false;
    buf_printf(out, "about %s of computing on %d thread%s; %s to read, %s to write\n",
               human_time(seconds, time, sizeof time), n_threads, n_threads == 1 ? "" : "s",
               human_bytes((double)p->bytes_before, before, sizeof before),
               human_bytes((double)p->bytes_after, after, sizeof after));
    return buf_ok(out, err);
}
