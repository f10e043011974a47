/* The CPU device's attention, grouped and latent, against the obvious computation in double
 * precision. */
#include "cpu/attention.h"
#include "tests/device_rig.h"

/* One query over keys and values [n, width]; the judge. */
static void attend_naive(const float *q, const double *keys, const double *values, int64_t n,
                         int64_t key_width, int64_t value_width, double scale, double *out)
{
    double *p = malloc((size_t)n * sizeof *p), max = -INFINITY, sum = 0;
    for (int64_t i = 0; i < n; i++) {
        p[i] = 0;
        for (int64_t j = 0; j < key_width; j++)
            p[i] += scale * q[j] * keys[i * key_width + j];
        max = max_of(max, p[i]);
    }
    for (int64_t j = 0; j < value_width; j++)
        out[j] = 0;
    for (int64_t i = 0; i < n; i++) {
        double e = exp(p[i] - max);
        sum += e;
        for (int64_t j = 0; j < value_width; j++)
            out[j] += e * values[i * value_width + j];
    }
    for (int64_t j = 0; j < value_width; j++)
        out[j] /= sum;
    free(p);
}

/* A cache of one layer, and its contents as floats. */
static struct kvcache new_cache(enum tensor_type type, int64_t k_width, int64_t v_width)
{
    struct kvcache c = { .type = type, .n_layers = 1, .n_ctx = N_CTX, .k_width = k_width,
                         .v_width = v_width };
    c.k = malloc(sizeof *c.k);
    c.v = malloc(sizeof *c.v);
    c.k[0] = calloc((size_t)(N_CTX * k_width), 4);
    c.v[0] = calloc((size_t)(N_CTX * v_width) + 1, 4);
    return c;
}

static void free_cache(struct kvcache *c)
{
    free(c->k[0]);
    free(c->v[0]);
    free(c->k);
    free(c->v);
}

static float cached(enum tensor_type type, float x)
{
    return type == TYPE_F16 ? f16_to_f32(f32_to_f16(x)) : x;
}

/* Fill positions [0, n) through the device, in steps it accepts. */
static void fill_cache(struct kvcache *c, float *k, float *v, int64_t n)
{
    struct device *d = devices[1];
    for (int64_t p = 0; p < n; p += MAX_TOKENS) {
        begin(d, (int)min_of(n - p, MAX_TOKENS), p);
        if (v)
            cache_gqa(d, c, 0, rows_of(k + p * c->k_width, c->k_width, c->k_width),
                      rows_of(v + p * c->v_width, c->v_width, c->v_width));
        else
            cache_mla(d, c, 0, rows_of(k + p * c->k_width, c->k_width, c->k_width));
    }
}

/* Machines that can multiply BF16 fast round the operands of attention. */
static bool rounds_operands(enum tensor_type cache, int width)
{
    return !act_f32 && isa_mask & ISA_AMX && cache == TYPE_F16 && width % 16 == 0;
}

static void test_gqa(enum tensor_type type, int n_heads, int n_kv, int head, int n_tokens,
                     int64_t n_past)
{
    check_case("attention_gqa %s cache, %d/%d heads of %d, %d tokens after %lld",
               quant_traits(type)->name, n_heads, n_kv, head, n_tokens, (long long)n_past);
    int64_t kw = n_kv * head, n = n_past + n_tokens, width = n_heads * head;
    float *k = floats(n * kw, -1, 1), *v = floats(n * kw, -1, 1);
    float *q = floats(n_tokens * width, -2, 2);
    struct kvcache c = new_cache(type, kw, kw);
    fill_cache(&c, k, v, n);
    make_outputs(n_tokens * width);
    for (int i = 0; i < N_RIGS; i++) {
        begin(devices[i], n_tokens, n_past);
        attention_gqa(devices[i], rows_of(outputs[i], width, width), rows_of(q, width, width), &c,
                      0, n_heads, n_kv, head, 0.5f);
    }
    double *keys = malloc((size_t)(n * head) * sizeof *keys), wanted[256];
    double *values = malloc((size_t)(n * head) * sizeof *values);
    for (int h = 0; h < n_heads; h++) {
        int kv = h / (n_heads / n_kv);
        for (int64_t i = 0; i < n * head; i++) {
            keys[i] = cached(type, k[i / head * kw + kv * head + i % head]);
            values[i] = cached(type, v[i / head * kw + kv * head + i % head]);
        }
        for (int t = 0; t < n_tokens; t += n_tokens > 20 ? 19 : 1) {
            attend_naive(q + t * width + h * head, keys, values, n_past + t + 1, head, head, 0.5,
                         wanted);
            check_near(outputs[0] + t * width + h * head, wanted, head,
                       rounds_operands(type, head) ? 1e-2 : 1e-5);
        }
    }
    free(keys);
    free(values);
    free_outputs(n_tokens * width);
    free_cache(&c);
    free(k);
    free(v);
    free(q);
}

enum { NOPE = 32, ROPE = 16, VALUE = 64, RANK = 96, MLA_HEADS = 9 };

/* Keys and values of one head, as the decompressed form defines them. */
static void expand_naive(const struct material *k_b, const struct material *v_b, int h,
                         const float *latents, enum tensor_type type, int64_t n, double *keys,
                         double *values)
{
    for (int64_t p = 0; p < n; p++) {
        float row[RANK + ROPE];
        for (int i = 0; i < RANK + ROPE; i++)
            row[i] = cached(type, latents[p * (RANK + ROPE) + i]);
        for (int i = 0; i < NOPE; i++) {
            double sum = 0;
            for (int r = 0; r < RANK; r++)
                sum += (double)k_b->values[(h * RANK + r) * NOPE + i] * row[r];
            keys[p * (NOPE + ROPE) + i] = sum;
        }
        for (int i = 0; i < ROPE; i++)
            keys[p * (NOPE + ROPE) + NOPE + i] = row[RANK + i];
        for (int i = 0; i < VALUE; i++)
            values[p * VALUE + i] = dot(v_b->values + (h * VALUE + i) * RANK, row, RANK, NULL);
    }
}

static void test_mla(enum tensor_type type, enum tensor_type weights, enum mla_form form,
                     int n_tokens, int64_t n_past)
{
    static const char *const names[] = { "automatic", "absorbed", "decompressed" };
    check_case("attention_mla %s, %s cache, %s weights, %d tokens after %lld%s", names[form],
               quant_traits(type)->name, quant_traits(weights)->name, n_tokens, (long long)n_past,
               act_f32 ? ", float activations" : "");
    struct material k_b = material(weights, NOPE, RANK, MLA_HEADS);
    struct material v_b = material(weights, RANK, VALUE, MLA_HEADS);
    struct mla m = { MLA_HEADS, NOPE, ROPE, VALUE, RANK, 0.1f, 0, k_b.w, v_b.w };
    int64_t n = n_past + n_tokens, width = MLA_HEADS * (NOPE + ROPE), out = MLA_HEADS * VALUE;
    float *latents = floats(n * (RANK + ROPE), -1, 1), *q = floats(n_tokens * width, -1, 1);
    struct kvcache c = new_cache(type, RANK + ROPE, 0);
    fill_cache(&c, latents, NULL, n);
    make_outputs(n_tokens * out);
    for (int i = 0; i < N_RIGS; i++) {
        begin_form(devices[i], n_tokens, n_past, form);
        attention_mla(devices[i], rows_of(outputs[i], out, out), rows_of(q, width, width), &c, 0,
                      &m);
    }
    /* Few tokens are encoded, so not the exact inputs; the float forms are held tight. */
    bool rounds = rounds_operands(type, NOPE);
    bool exact = act_f32 || weights == TYPE_F32 || n_tokens > 4 || form == MLA_DECOMPRESSED;
    double *keys = malloc((size_t)(n * (NOPE + ROPE)) * sizeof *keys), wanted[VALUE];
    double *values = malloc((size_t)(n * VALUE) * sizeof *values);
    for (int h = 0; h < MLA_HEADS; h += n > 100 ? 4 : 1) {
        expand_naive(&k_b, &v_b, h, latents, type, n, keys, values);
        for (int t = 0; t < n_tokens; t += n_tokens > 20 ? 29 : 1) {
            attend_naive(q + t * width + h * (NOPE + ROPE), keys, values, n_past + t + 1,
                         NOPE + ROPE, VALUE, 0.1f, wanted);
            check_near(outputs[0] + t * out + h * VALUE, wanted, VALUE,
                       exact ? rounds ? 0.05 : 2e-5 : 0.1);
        }
    }
    free(keys);
    free(values);
    free_outputs(n_tokens * out);
    free_cache(&c);
    free(latents);
    free(q);
    discard(&k_b);
    discard(&v_b);
}

/* ---- tokens of a step ---- */

/* A step of a few tokens, which grouped (m NULL) or latent attention answers. */
struct few {
    const struct mla *m;
    struct kvcache *c;
    float *q;
    int64_t width, out; /* of a token's queries and of its answer */
    int n_heads, n_kv, head;
};

static void answer(const struct few *f, struct device *d, int first, int n, int64_t n_past, float *to)
{
    struct rows dst = rows_of(to, f->out, f->out), q = rows_of(f->q + first * f->width, f->width, f->width);
    begin(d, n, n_past + first);
    if (f->m)
        attention_mla(d, dst, q, f->c, 0, f->m);
    else
        attention_gqa(d, dst, q, f->c, 0, f->n_heads, f->n_kv, f->head, 0.5f);
}

/* What makes guesses exact: nothing of a token's answer depends on how many share its step. */
static void check_alone(const struct few *f, int n, int64_t n_past)
{
    float *together = floats(n * f->out, 0, 0), *alone = floats(f->out, 0, 0);
    for (int i = 0; i < N_RIGS; i++) {
        int differ = 0;
        answer(f, devices[i], 0, n, n_past, together);
        for (int t = 0; t < n; t++) {
            answer(f, devices[i], t, 1, n_past, alone);
            differ += memcmp(alone, together + t * f->out, (size_t)f->out * sizeof *alone) != 0;
        }
        CHECK_INT(differ, 0);
    }
    free(together);
    free(alone);
}

static void test_alone(enum tensor_type type, int n_heads, int n_kv, int head)
{
    static const int64_t pasts[] = { 0, 253, 510, 1300, 4094 }; /* 4096: pieces become longer */
    int64_t width = n_heads * head, kw = n_kv * head, latent = RANK + ROPE;
    struct material k_b = material(TYPE_Q8_0, NOPE, RANK, MLA_HEADS);
    struct material v_b = material(TYPE_Q8_0, RANK, VALUE, MLA_HEADS);
    struct mla m = { MLA_HEADS, NOPE, ROPE, VALUE, RANK, 0.1f, 0, k_b.w, v_b.w };
    float *k = floats(N_CTX * max_of(kw, latent), -1, 1), *v = floats(N_CTX * kw, -1, 1);
    float *q = floats(4 * max_of(width, (int64_t)MLA_HEADS * (NOPE + ROPE)), -1, 1);
    struct kvcache grouped = new_cache(type, kw, kw), latents = new_cache(type, latent, 0);
    fill_cache(&grouped, k, v, N_CTX);
    fill_cache(&latents, k, NULL, N_CTX);
    struct few gqa = { NULL, &grouped, q, width, width, n_heads, n_kv, head };
    struct few mla = { &m, &latents, q, MLA_HEADS * (NOPE + ROPE), MLA_HEADS * VALUE, 0, 0, 0 };
    for (size_t i = 0; i < ARRAY_LEN(pasts); i++) {
        for (int n = 2; n <= 4; n++) {
            check_case("%s cache, %d/%d heads of %d: %d tokens after %lld, together and alone, to the bit",
                       quant_traits(type)->name, n_heads, n_kv, head, n, (long long)pasts[i]);
            check_alone(&gqa, n, pasts[i]);
            check_alone(&mla, n, pasts[i]);
        }
    }
    free_cache(&grouped);
    free_cache(&latents);
    free(k);
    free(v);
    free(q);
    discard(&k_b);
    discard(&v_b);
}

static void test_mla_choice(void)
{
    check_case("the form of latent attention follows the arithmetic");
    struct mla v3 = { .n_heads = 128, .nope = 128, .rope = 64, .value = 128, .rank = 512 };
    CHECK_INT(attention_mla_form(&v3, 1, 0), MLA_ABSORBED);
    CHECK_INT(attention_mla_form(&v3, 1, 100000), MLA_ABSORBED);
    CHECK_INT(attention_mla_form(&v3, 512, 0), MLA_DECOMPRESSED);
    CHECK_INT(attention_mla_form(&v3, 100, 100000), MLA_ABSORBED);
    CHECK_INT(attention_mla_form(&v3, 512, 100000), MLA_DECOMPRESSED);
}

static void test_attention(bool thorough)
{
    static const struct {
        int n_tokens;
        int64_t n_past;
    } spans[] = { { 1, 1399 }, { 4, 600 }, { 5, 0 }, { 131, 400 },
                  { 1, 0 }, { 3, 255 }, { 7, 300 }, { 150, 0 } };
    for (size_t i = 0; i < (thorough ? 8 : 4); i++) {
        int n = spans[i].n_tokens;
        int64_t past = spans[i].n_past;
        enum tensor_type type = i % 2 ? TYPE_F16 : TYPE_F32;
        test_gqa(type, 5, 1, 24, n, past);
        test_gqa(type, 12, 4, 16, n, past);
        test_gqa(TYPE_F16, 3, 3, 31, n, past);
        for (enum mla_form form = MLA_AUTO; form <= MLA_DECOMPRESSED; form++) {
            test_mla(type, TYPE_F32, form, n, past);
            test_mla(TYPE_F16, TYPE_Q8_0, form, n, past);
        }
    }
}

static void test_all(bool thorough)
{
    test_attention(thorough);
    test_alone(TYPE_F16, 12, 2, 16);
    test_alone(TYPE_F32, 5, 5, 24);
    test_mla_choice();
}

int main(void)
{
    return on_all_rigs(test_all) ? check_finish() : 1;
}
