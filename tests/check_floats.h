/* Kernels on floats and halves against sums in double precision: dot products, axpy, norms,
 * softmax, SwiGLU. A part of tests/check_kernels.c: guarded operands and patterns are those above
 * it there. */

/* A guarded vector of n floats (or f16) filled with a pattern. */
static struct guarded floats(int64_t n, enum pattern pattern)
{
    struct guarded g = guarded((size_t)n * sizeof(float));
    fill_floats((float *)(void *)g.data, n, pattern);
    return g;
}

static struct guarded halves(int64_t n, enum pattern pattern)
{
    struct guarded g = guarded((size_t)n * sizeof(uint16_t));
    fill_weights(TYPE_F16, g.data, n, pattern);
    return g;
}

#define F(g) ((float *)(void *)(g).data)
#define H(g) ((uint16_t *)(void *)(g).data)

static bool close_to(double found, double wanted, double scale)
{
    return fabs(found - wanted) <= scale || found == wanted || (isnan(found) && isnan(wanted));
}

static void check_dot_f32(const struct kernels *new, int64_t n, enum pattern p)
{
    struct guarded x = floats(n, p), y = floats(n, RANDOM);
    double sum = 0, sum_abs = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += (double)F(x)[i] * F(y)[i];
        sum_abs += fabs((double)F(x)[i] * F(y)[i]);
    }
    float found = new->dot_f32(F(x), F(y), n);
    CHECK_MSG(close_to(found, sum, 1e-6 * sum_abs), "n %lld: %.9g, wanted %.9g", (long long)n,
              found, sum);
    release(x);
    release(y);
}

static void check_dot_f32_f16(const struct kernels *new, int64_t n, enum pattern p)
{
    struct guarded x = floats(n, p), y = halves(n, RANDOM);
    double sum = 0, sum_abs = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += (double)F(x)[i] * f16_to_f32(H(y)[i]);
        sum_abs += fabs((double)F(x)[i] * f16_to_f32(H(y)[i]));
    }
    float found = new->dot_f32_f16(F(x), H(y), n);
    CHECK_MSG(close_to(found, sum, 1e-6 * sum_abs), "n %lld: %.9g, wanted %.9g", (long long)n,
              found, sum);
    release(x);
    release(y);
}

static void check_axpy(const struct kernels *new, int64_t n, enum pattern p, bool half)
{
    struct guarded x = half ? halves(n, p) : floats(n, p), y = floats(n, RANDOM);
    float *before = malloc((size_t)(n + 1) * sizeof *before), a = 1.7f;
    memcpy(before, y.data, y.size);
    if (half)
        new->axpy_f16(a, H(x), F(y), n);
    else
        new->axpy_f32(a, F(x), F(y), n);
    for (int64_t i = 0; i < n; i++) {
        double ax = (double)a * (half ? f16_to_f32(H(x)[i]) : F(x)[i]);
        CHECK_MSG(close_to(F(y)[i], before[i] + ax, 1.2e-7 * (fabs(ax) + fabsf(before[i]))),
                  "n %lld, element %lld: %.9g, wanted %.9g", (long long)n, (long long)i, F(y)[i],
                  before[i] + ax);
    }
    free(before);
    release(x);
    release(y);
}

static void check_axpy_f32(const struct kernels *new, int64_t n, enum pattern p)
{
    check_axpy(new, n, p, false);
}

static void check_axpy_f16(const struct kernels *new, int64_t n, enum pattern p)
{
    check_axpy(new, n, p, true);
}

static void check_to_f16(const struct kernels *new, int64_t n, enum pattern p)
{
    struct guarded x = floats(n, p), y = halves(n, ZEROS);
    static const float hard[] = { 65504, 65519.996f, 65520, 1e9f, -1e-8f, 6.0e-8f, 2.9802322e-8f,
                                  2.980233e-8f, 0.000061f, 1.00048828f, 1.00146484f, -0.0f,
                                  INFINITY };
    for (int64_t i = 0; p == RANDOM && i < n; i += 2)
        F(x)[i] = hard[check_random() % ARRAY_LEN(hard)];
    new->to_f16(F(x), H(y), n);
    for (int64_t i = 0; i < n; i++)
        CHECK_MSG(H(y)[i] == f32_to_f16(F(x)[i]), "n %lld: %.9g is %04x, wanted %04x", (long long)n,
                  F(x)[i], H(y)[i], f32_to_f16(F(x)[i]));
    release(x);
    release(y);
}

static void check_rmsnorm(const struct kernels *new, int64_t n, enum pattern p)
{
    struct guarded x = floats(n, p), weight = floats(n, RANDOM);
    double squares = 0, eps = 1e-6f;
    for (int64_t i = 0; i < n; i++)
        squares += (double)F(x)[i] * F(x)[i];
    double scale = 1 / sqrt(squares / (double)max_of(n, 1) + eps);
    float *before = malloc((size_t)(n + 1) * sizeof *before);
    memcpy(before, x.data, x.size);
    new->rmsnorm(F(x), F(weight), F(x), n, (float)eps);
    for (int64_t i = 0; i < n; i++) {
        double wanted = before[i] * scale * F(weight)[i];
        CHECK_MSG(close_to(F(x)[i], wanted, 1e-6 * fabs(wanted)),
                  "n %lld, element %lld: %.9g, wanted %.9g", (long long)n, (long long)i, F(x)[i],
                  wanted);
    }
    free(before);
    release(x);
    release(weight);
}

static void check_max_f32(const struct kernels *new, int64_t n, enum pattern p)
{
    struct guarded x = floats(n, p);
    if (n > 3)
        F(x)[check_random() % (uint64_t)n] = -INFINITY;
    float wanted = -INFINITY;
    for (int64_t i = 0; i < n; i++)
        wanted = F(x)[i] > wanted ? F(x)[i] : wanted;
    float found = new->max_f32(F(x), n);
    CHECK_MSG(found == wanted, "n %lld: %.9g, wanted %.9g", (long long)n, found, wanted);
    release(x);
}

static void check_softmax_exp(const struct kernels *new, int64_t n, enum pattern p)
{
    struct guarded x = floats(n, p);
    for (int64_t i = 0; p == SPIKE && i < n; i++) /* into the range where results vanish */
        F(x)[i] = i % 5 == 4 ? -INFINITY : check_random_float(-95, 0);
    float max = -INFINITY;
    for (int64_t i = 0; i < n; i++)
        max = max_of(max, F(x)[i]);
    float *before = malloc((size_t)(n + 1) * sizeof *before);
    memcpy(before, x.data, x.size);
    double sum = 0, found = new->softmax_exp(F(x), n, max);
    for (int64_t i = 0; i < n; i++) {
        double wanted = exp((double)(before[i] - max));
        sum += wanted;
        CHECK_MSG(close_to(F(x)[i], wanted, 2e-7 * wanted) || (wanted < 1.18e-38 && F(x)[i] == 0),
                  "n %lld: e^%.9g is %.9g, wanted %.9g", (long long)n, before[i] - max, F(x)[i],
                  wanted);
        CHECK_MSG(F(x)[i] == 0 || F(x)[i] >= 0x1p-126f, "e^%.9g is subnormal", before[i] - max);
    }
    CHECK_MSG(close_to(found, sum, 1e-6 * sum), "n %lld: sum %.9g, wanted %.9g", (long long)n,
              found, sum);
    free(before);
    release(x);
}

static void check_swiglu(const struct kernels *new, int64_t n, enum pattern p)
{
    struct guarded gate = floats(n, p), up = floats(n, RANDOM);
    if (n > 8) {
        F(gate)[1] = 100;
        F(gate)[2] = -100;
        F(gate)[3] = 1e30f;
        F(gate)[5] = NAN;
        F(gate)[7] = -20;
    }
    float *before = malloc((size_t)(n + 1) * sizeof *before);
    memcpy(before, gate.data, gate.size);
    new->swiglu(F(gate), F(up), F(gate), n);
    for (int64_t i = 0; i < n; i++) {
        double wanted = before[i] / (1 + exp(-(double)before[i])) * F(up)[i];
        CHECK_MSG(close_to(F(gate)[i], wanted, 1e-6 * fabs(wanted) + 1e-34),
                  "n %lld: gate %.9g up %.9g: %.9g, wanted %.9g", (long long)n, before[i], F(up)[i],
                  F(gate)[i], wanted);
    }
    free(before);
    release(gate);
    release(up);
}

static void check_add(const struct kernels *new, int64_t n, enum pattern p)
{
    struct guarded a = floats(n, p), b = floats(n, RANDOM), out = floats(n, ZEROS);
    new->add(F(a), F(b), F(out), n);
    for (int64_t i = 0; i < n; i++)
        CHECK_MSG(F(out)[i] == F(a)[i] + F(b)[i], "n %lld, element %lld", (long long)n,
                  (long long)i);
    new->add(F(a), F(b), F(a), n);
    CHECK_MSG(memcmp(a.data, out.data, a.size) == 0, "in place, n %lld", (long long)n);
    release(a);
    release(b);
    release(out);
}

/* Words that add up to what plain arithmetic says, from an odd address and up to the forbidden
 * page. */
static void check_read_words(const struct kernels *new)
{
    for (size_t steps = 0; steps < 5; steps++) {
        struct guarded g = guarded(steps * READ_STEP);
        uint64_t sum = 0, word;
        for (size_t i = 0; i < g.size; i++)
            g.data[i] = (uint8_t)check_random();
        for (size_t i = 0; i < g.size; i += sizeof word) {
            memcpy(&word, g.data + i, sizeof word);
            sum += word;
        }
        CHECK_INT(new->read_words(g.data, g.size), sum);
        release(g);
    }
}

/* The sum counts what was multiplied: a whole number per round, the same in every round. */
static void check_count_int8(const struct kernels *new)
{
    int64_t one = new->count_int8(1);
    CHECK_INT(new->count_int8(0), 0);
    CHECK_MSG(one >= 16 && one % 16 == 0, "one round is %lld", (long long)one);
    CHECK_INT(new->count_int8(1000), 1000 * one);
}

static const struct float_case {
    const char *name;
    size_t at; /* of the pointer in struct kernels */
    void (*check)(const struct kernels *new, int64_t n, enum pattern p);
} float_cases[] = {
#define CASE(name) { #name, offsetof(struct kernels, name), check_##name }
    CASE(dot_f32), CASE(dot_f32_f16), CASE(axpy_f32),    CASE(axpy_f16), CASE(to_f16),
    CASE(rmsnorm), CASE(max_f32),     CASE(softmax_exp), CASE(swiglu),   CASE(add),
};
