/* Sampling against exact probabilities and against filters written the slow way. */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/mem.h"
#include "src/base/util.h"
#include "src/text/sampler.h"
#include "tests/check.h"

#define MAX_N 64

static struct sampler *open_sampler(const struct sampler_options *o, int n_vocab)
{
    struct sampler *s;
    struct error err = { 0 };
    bool ok = sampler_open(&s, o, n_vocab, &err);
    CHECK_MSG(ok, "%s", err.text);
    return ok ? s : NULL;
}

/* One choice from a copy of the logits; -1 on failure. */
static int32_t choose(struct sampler *s, const float *logits, int n)
{
    float copy[MAX_N];
    int32_t token = -1;
    memcpy(copy, logits, (size_t)n * sizeof *copy);
    struct error err = { 0 };
    bool ok = sampler_choose(s, copy, n, &token, &err);
    CHECK_MSG(ok, "%s", err.text);
    return ok ? token : -1;
}

static void test_greedy(void)
{
    check_case("temperature 0: arg-max, lowest id on ties");
    struct sampler_options o = sampler_options_default();
    struct sampler *s = open_sampler(&o, 8);
    CHECK_INT(choose(s, (float[]){ 1, 3, 2, 3, -INFINITY }, 5), 1);
    CHECK_INT(choose(s, (float[]){ -0.0f, 0.0f }, 2), 0);
    CHECK_INT(choose(s, (float[]){ -INFINITY, -FLT_MAX }, 2), 1);
    CHECK_INT(choose(s, (float[]){ 7 }, 1), 0);
    sampler_close(s);

    check_case("padding rows are never chosen nor looked at");
    for (int t = 0; t < 2; t++) {
        o.temperature = (float)t;
        s = open_sampler(&o, 8);
        float logits[8] = { 1, 2, 0, NAN, INFINITY, 99, 99, NAN };
        for (int i = 0; i < 50; i++) {
            int32_t token = -1;
            CHECK(sampler_choose(s, logits, 3, &token, NULL));
            CHECK(token >= 0 && token < 3);
        }
        CHECK(!sampler_choose(s, logits, 0, &(int32_t){ 0 }, NULL));
        CHECK(!sampler_choose(s, logits, 9, &(int32_t){ 0 }, NULL));
        sampler_close(s);
    }
}

static void test_broken_logits(void)
{
    static const struct {
        float logits[4];
        const char *says; /* NULL: fine */
    } rows[] = {
        { { 0, NAN, 0, 0 }, "logit of token 1 is NaN (1 of 4 are not finite)" },
        { { 0, 0, 0, INFINITY }, "logit of token 3 is +inf (1 of 4 are not finite)" },
        { { NAN, INFINITY, -INFINITY, 0 }, "logit of token 0 is NaN (3 of 4 are not finite)" },
        { { -INFINITY, -INFINITY, -INFINITY, -INFINITY }, "none of 4 logits is finite" },
        { { -INFINITY, -INFINITY, -INFINITY, 1 }, NULL },
        { { FLT_MAX, -FLT_MAX, FLT_MAX, -INFINITY }, NULL },
        { { 5, 5, 5, 5 }, NULL },
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        check_case("broken logits, row %zu", i);
        for (int t = 0; t < 4; t++) {
            struct sampler_options o = sampler_options_default();
            o.temperature = (float)t / 2;
            o.top_p = t & 1 ? 0.9f : 1;
            o.min_p = t & 2 ? 0.1f : 0;
            struct sampler *s = open_sampler(&o, 4);
            float logits[4];
            memcpy(logits, rows[i].logits, sizeof logits);
            struct error err = { 0 };
            int32_t token = -1;
            bool ok = sampler_choose(s, logits, 4, &token, &err);
            CHECK_INT(ok, rows[i].says == NULL);
            CHECK_INT(err.code, rows[i].says ? ERR_CHECK : ERR_NONE);
            if (rows[i].says)
                CHECK_STR(err.text, rows[i].says);
            else
                CHECK(token >= 0 && token < 4 && rows[i].logits[token] > -INFINITY);
            sampler_close(s);
        }
    }
}

static void test_options(void)
{
    static const struct logit_bias outside = { 4, 1 }, negative = { -1, 1 },
                                   infinite = { 0, INFINITY }, no_number = { 0, NAN };
    struct sampler_options base = sampler_options_default();
    struct {
        const char *says;
        struct sampler_options o;
    } rows[40];
    int n = 0;
#define ROW(text, field, value)                                                                   \
    rows[n].says = (text), rows[n].o = base, rows[n].o.field = (value), n++
#define BIAS(text, entry)                                                                         \
    rows[n].says = (text), rows[n].o = base, rows[n].o.bias = &(entry), rows[n].o.n_bias = 1, n++
    ROW("temperature is -1", temperature, -1);
    ROW("temperature is nan", temperature, NAN);
    ROW("temperature is inf", temperature, INFINITY);
    ROW("temperature is 1001", temperature, 1001);
    ROW("top-k is -1", top_k, -1);
    ROW("top-p is -0.5", top_p, -0.5f);
    ROW("top-p is 1.5", top_p, 1.5f);
    ROW("top-p is nan", top_p, NAN);
    ROW("min-p is -0.5", min_p, -0.5f);
    ROW("min-p is 2", min_p, 2);
    ROW("min-p is nan", min_p, NAN);
    ROW("repeat penalty is 0", repeat_penalty, 0);
    ROW("repeat penalty is -1", repeat_penalty, -1);
    ROW("repeat penalty is nan", repeat_penalty, NAN);
    ROW("presence penalty is inf", presence_penalty, INFINITY);
    ROW("frequency penalty is nan", frequency_penalty, NAN);
    ROW("penalty window is -1", penalty_window, -1);
    ROW("penalty window is 2.14748e+09", penalty_window, INT32_MAX);
    BIAS("logit bias: token 4", outside);
    BIAS("logit bias: token -1", negative);
    BIAS("logit bias of token 0 is inf", infinite);
    BIAS("logit bias of token 0 is nan", no_number);
#undef ROW
#undef BIAS
    for (int i = 0; i < n; i++) {
        check_case("refused: %s", rows[i].says);
        struct sampler *s;
        struct error err = { 0 };
        CHECK(!sampler_open(&s, &rows[i].o, 4, &err));
        CHECK(s == NULL);
        CHECK_INT(err.code, ERR_USAGE);
        CHECK_MSG(strncmp(err.text, rows[i].says, strlen(rows[i].says)) == 0, "%s", err.text);
    }

    check_case("extremes of every option still choose something");
    static const float temperatures[] = { 1e-45f, 1e-30f, 1, 1000 }, ps[] = { 0, 1e-30f, 0.5f, 1 };
    static const int ks[] = { 0, 1, 4, INT32_MAX };
    for (int i = 0; i < 256; i++) {
        struct sampler_options o = base;
        o.temperature = temperatures[i & 3];
        o.top_p = ps[i >> 2 & 3];
        o.min_p = ps[i >> 4 & 3];
        o.top_k = ks[i >> 6 & 3];
        struct sampler *s = open_sampler(&o, 4);
        static const float logits[4] = { -FLT_MAX, 3, FLT_MAX, -INFINITY };
        for (int k = 0; k < 5; k++)
            CHECK_INT(choose(s, logits, 4), 2);
        sampler_close(s);
    }
}

static void test_penalties(void)
{
    check_case("bias and penalties, to the value");
    static const struct logit_bias bias[] = { { 0, 1.5f }, { 3, -INFINITY }, { 5, 100 },
                                          { 0, 0.5f } };
    struct sampler_options o = sampler_options_default();
    o.bias = bias;
    o.n_bias = 4;
    o.repeat_penalty = 2;
    o.presence_penalty = 0.25f;
    o.frequency_penalty = 0.125f;
    o.penalty_window = 4;
    struct sampler *s = open_sampler(&o, 6);
    static const int32_t said[] = { 0, 4, 4, 1, 2, 4, -1, 99, 3 }; /* the window: 1 2 4 3 */
    for (size_t i = 0; i < ARRAY_LEN(said); i++)
        sampler_accept(s, said[i]);
    for (int again = 0; again < 2; again++) {
        float logits[6] = { 1, 4, -4, 0, -INFINITY, 200 };
        int32_t token = -1;
        CHECK(sampler_choose(s, logits, 5, &token, NULL));
        CHECK(logits[0] == 3);                 /* both biases; no longer in the window */
        CHECK(logits[1] == 4.0f / 2 - 0.375f); /* positive: divided */
        CHECK(logits[2] == -4.0f * 2 - 0.375f);
        CHECK(logits[3] == -INFINITY);
        CHECK(logits[4] == -INFINITY); /* punished, but it was forbidden already */
        CHECK(logits[5] == 200);       /* padding stays */
        CHECK_INT(token, 0);
    }
    sampler_reset(s);
    sampler_accept(s, 1);
    sampler_accept(s, 1);
    float logits[6] = { 0, 4, 0, 0, 0, 0 };
    CHECK(sampler_choose(s, logits, 6, &(int32_t){ 0 }, NULL));
    CHECK(logits[1] == 4.0f / 2 - 0.5f);
    sampler_close(s);

    check_case("overflow stays finite");
    static const struct logit_bias huge[] = { { 0, FLT_MAX }, { 1, -FLT_MAX } };
    o = sampler_options_default();
    o.bias = huge;
    o.n_bias = 2;
    o.repeat_penalty = 0.001f;
    s = open_sampler(&o, 2);
    sampler_accept(s, 0);
    float extreme[2] = { FLT_MAX, -FLT_MAX };
    CHECK(sampler_choose(s, extreme, 2, &(int32_t){ 0 }, NULL));
    CHECK(extreme[0] == FLT_MAX && extreme[1] == -FLT_MAX);
    sampler_close(s);

    check_case("every token forbidden");
    static const struct logit_bias none[] = { { 0, -INFINITY }, { 1, -INFINITY } };
    o = sampler_options_default();
    o.bias = none;
    o.n_bias = 2;
    s = open_sampler(&o, 2);
    struct error err = { 0 };
    CHECK(!sampler_choose(s, (float[]){ 1, 2 }, 2, &(int32_t){ 0 }, &err));
    CHECK_STR(err.text, "every token is forbidden");
    sampler_close(s);
}

/* The filters by the book: sort, add up, cut. Leaves keep[] and returns how many stay, or 0 when a
 * cumulative probability is too near a limit to be judged. */
static int filter_slowly(const struct sampler_options *o, const float *logits, int n, bool *keep)
{
    int order[MAX_N];
    double p[MAX_N];
    for (int i = 0; i < n; i++) {
        int at = i;
        for (; at > 0 && logits[order[at - 1]] < logits[i]; at--)
            order[at] = order[at - 1];
        order[at] = i;
    }
    int kept = o->top_k > 0 && o->top_k < n ? o->top_k : n;
    double total = 0, sum = 0;
    for (int i = 0; i < kept; i++)
        total += p[i] = exp((double)logits[order[i]] - (double)logits[order[0]]);
    if (o->top_p < 1) {
        int i = 0;
        for (; i < kept; i++) {
            sum += p[i] / total;
            if (fabs(sum - (double)o->top_p) < 1e-5)
                return 0;
            if (sum >= (double)o->top_p)
                break;
        }
        kept = i < kept ? i + 1 : kept;
    }
    while (kept > 1 && p[kept - 1] < (double)o->min_p) {
        if (fabs(p[kept - 1] - (double)o->min_p) < 1e-5)
            return 0;
        kept--;
    }
    memset(keep, 0, MAX_N * sizeof *keep);
    for (int i = 0; i < kept; i++)
        keep[order[i]] = true;
    return kept;
}

static void test_filters(void)
{
    check_case("the survivors of top-k, top-p and min-p are those of the slow way");
    int judged = 0;
    for (int trial = 0; trial < 400; trial++) {
        struct sampler_options o = sampler_options_default();
        o.temperature = 1000; /* after the filters all that is left is about equally likely */
        o.seed = check_random();
        o.top_k = check_random() % 2 ? (int)(check_random() % 12) : 0;
        o.top_p = check_random() % 2 ? check_random_float(0, 1) : 1;
        o.min_p = check_random() % 2 ? check_random_float(0, 0.3f) : 0;
        int n = 1 + (int)(check_random() % 20);
        bool ties = check_random() % 3 == 0;
        float logits[MAX_N];
        for (int i = 0; i < n; i++) {
            logits[i] = check_random_float(-3, 3);
            if (ties)
                logits[i] = floorf(logits[i]);
        }
        bool keep[MAX_N], seen[MAX_N] = { false };
        int kept = filter_slowly(&o, logits, n, keep);
        if (kept == 0)
            continue;
        judged++;
        struct sampler *s = open_sampler(&o, n);
        for (int i = 0; i < kept * 24; i++) /* a survivor stays unseen with 1e-10 */
            seen[choose(s, logits, n)] = true;
        for (int i = 0; i < n; i++)
            CHECK_MSG(seen[i] == keep[i], "trial %d, token %d of %d: %s, k %d p %g min %g", trial,
                      i, n, seen[i] ? "chosen" : "never chosen", o.top_k, (double)o.top_p,
                      (double)o.min_p);
        sampler_close(s);
    }
    CHECK(judged > 300);
}

/* Chi-square of observed counts against exact probabilities. With d degrees of freedom its mean is
 * d and its deviation sqrt(2d); five deviations above is a wrong distribution, not bad luck. */
static void test_distribution(void)
{
    static const struct {
        float temperature, top_p, min_p;
        int top_k;
        uint64_t seed;
    } rows[] = {
        { 1, 1, 0, 0, 1 },          { 0.6f, 0.95f, 0, 0, 2 }, { 1.5f, 1, 0, 5, 3 },
        { 0.3f, 1, 0.05f, 0, 1u << 31 }, { 2, 0.8f, 0.02f, 8, UINT64_MAX },
    };
    static const float logits[12] = { 0.5f, -1, 2, 1.75f, 0, 3, -4, 2.5f, 1, 0.25f, -2, 2.2f };
    enum { N = 12, DRAWS = 40000 };
    for (size_t r = 0; r < ARRAY_LEN(rows); r++) {
        check_case("chi-square: temperature %g, top-p %g, min-p %g, top-k %d",
                   (double)rows[r].temperature, (double)rows[r].top_p, (double)rows[r].min_p,
                   rows[r].top_k);
        struct sampler_options o = sampler_options_default();
        o.temperature = rows[r].temperature;
        o.top_p = rows[r].top_p;
        o.min_p = rows[r].min_p;
        o.top_k = rows[r].top_k;
        o.seed = rows[r].seed;
        bool keep[MAX_N];
        CHECK(filter_slowly(&o, logits, N, keep) > 0);
        double p[N], total = 0;
        for (int i = 0; i < N; i++)
            total += p[i] = keep[i] ? exp((double)logits[i] / (double)o.temperature) : 0;
        int count[N] = { 0 };
        struct sampler *s = open_sampler(&o, N);
        for (int i = 0; i < DRAWS; i++)
            count[choose(s, logits, N)]++;
        sampler_close(s);

        double chi = 0, rare = 0;
        int freedom = -1, n_rare = 0;
        for (int i = 0; i < N; i++) {
            double expected = DRAWS * p[i] / total;
            if (!keep[i]) {
                CHECK_INT(count[i], 0);
            } else if (expected < 10) { /* too few to square: pooled */
                rare += expected;
                n_rare += count[i];
            } else {
                chi += (count[i] - expected) * (count[i] - expected) / expected;
                freedom++;
            }
        }
        if (rare >= 10) {
            chi += (n_rare - rare) * (n_rare - rare) / rare;
            freedom++;
        }
        CHECK_MSG(chi < freedom + 5 * sqrt(2.0 * freedom), "chi-square %g with %d degrees", chi,
                  freedom);
    }
}

static void test_seed(void)
{
    check_case("a seed means the same tokens everywhere");
    static const int32_t wanted[2][12] = {
        { 2, 6, 9, 13, 15, 11, 11, 12, 11, 9, 9, 4 },
        { 2, 6, 11, 6, 11, 11, 2, 2, 11, 4, 9, 9 },
    };
    float logits[16];
    for (int i = 0; i < 16; i++)
        logits[i] = (float)((i * 7) % 16) / 4;
    for (int r = 0; r < 2; r++) {
        struct sampler_options o = sampler_options_default();
        o.temperature = r ? 0.7f : 1;
        o.top_p = r ? 0.9f : 1;
        o.seed = r ? 0xdeadbeefcafe : 42;
        struct sampler *s = open_sampler(&o, 16);
        for (int pass = 0; pass < 2; pass++) {
            for (int i = 0; i < 12; i++)
                CHECK_INT(choose(s, logits, 16), wanted[r][i]);
            sampler_reset(s);
        }
        sampler_close(s);
    }
}

/* What is foreseen comes, and looking ahead changes nothing. */
static void test_foresee(void)
{
    check_case("choices are foreseen, with penalties and filters, and stay the same");
    enum { N = 12, ROUNDS = 200 };
    for (int kind = 0; kind < 4; kind++) {
        struct sampler_options o = sampler_options_default();
        o.temperature = kind == 0 ? 0 : 1.1f;
        o.top_k = kind == 2 ? 5 : 0;
        o.top_p = kind == 2 ? 0.8f : 1;
        o.min_p = kind == 1 ? 0.05f : 0;
        o.seed = 7;
        if (kind == 3) { /* a window shorter than what is looked ahead */
            o.repeat_penalty = 1.5f;
            o.frequency_penalty = 0.4f;
            o.penalty_window = 2;
        }
        struct sampler *s = open_sampler(&o, N), *twin = open_sampler(&o, N);
        int32_t seen[4] = { 0 };
        int n_ahead = 0, differ = 0, surprised = 0;
        float logits[4][N], copy[N];
        for (int i = 0; s && twin && i < ROUNDS; i++) {
            if (n_ahead == 0) { /* four steps ahead, then the steps */
                for (int k = 0; k < 4; k++) {
                    for (int t = 0; t < N; t++)
                        logits[k][t] = check_random_float(-2, 2);
                    memcpy(copy, logits[k], sizeof copy);
                    seen[k] = sampler_foresee(s, copy, N, seen, k);
                }
            }
            int32_t one = choose(s, logits[n_ahead], N), two = choose(twin, logits[n_ahead], N);
            differ += one != two;
            surprised += one != seen[n_ahead];
            sampler_accept(s, one);
            sampler_accept(twin, two);
            n_ahead = (n_ahead + 1) % 4;
        }
        CHECK_INT(differ, 0);
        CHECK_INT(surprised, 0);
        sampler_close(s);
        sampler_close(twin);
    }
}

static void test_big(void)
{
    enum { N = 129280 };
    float *logits = malloc(N * sizeof *logits), *copy = malloc(N * sizeof *copy);
    check_case("129280 equal logits: top-k keeps the lowest ids");
    struct sampler_options o = sampler_options_default();
    o.temperature = 1;
    o.top_k = 3;
    struct sampler *s = open_sampler(&o, N);
    bool seen[3] = { false };
    for (int i = 0; i < 40; i++) {
        memset(copy, 0, N * sizeof *copy);
        int32_t token = -1;
        CHECK(sampler_choose(s, copy, N, &token, NULL));
        CHECK(token >= 0 && token < 3);
        if (token >= 0 && token < 3)
            seen[token] = true;
    }
    CHECK(seen[0] && seen[1] && seen[2]);
    sampler_close(s);

    static const struct {
        const char *name;
        float temperature, top_p, min_p, spread;
        int top_k;
    } rows[] = {
        { "greedy", 0, 1, 0, 3, 0 },         { "temperature", 1, 1, 0, 3, 0 },
        { "top-p", 0.6f, 0.95f, 0, 3, 0 },   { "top-p, flat", 1, 0.95f, 0, 0, 0 },
        { "top-k", 1, 1, 0, 3, 40 },         { "min-p", 1, 1, 0.05f, 3, 0 },
        { "all, penalties", 0.8f, 0.9f, 0.05f, 3, 1000 },
    };
    for (size_t r = 0; r < ARRAY_LEN(rows); r++) {
        check_case("no allocation while sampling: %s", rows[r].name);
        o = sampler_options_default();
        o.temperature = rows[r].temperature;
        o.top_p = rows[r].top_p;
        o.min_p = rows[r].min_p;
        o.top_k = rows[r].top_k;
        o.repeat_penalty = r == ARRAY_LEN(rows) - 1 ? 1.1f : 1;
        s = open_sampler(&o, N);
        for (int i = 0; i < N; i++) /* about normal: a sum of uniforms */
            logits[i] = rows[r].spread * (check_random_float(-1, 1) + check_random_float(-1, 1) +
                                          check_random_float(-1, 1));
        uint64_t before = mem_allocations();
        double best = 1;
        for (int i = 0; i < 5; i++) {
            memcpy(copy, logits, N * sizeof *copy);
            int32_t token = -1;
            double start = now_s();
            CHECK(sampler_choose(s, copy, N, &token, NULL));
            best = min_of(best, now_s() - start);
            sampler_accept(s, token);
        }
        CHECK_INT(mem_allocations() - before, 0);
        if (getenv("TANDEM_BENCH"))
            printf("%-16s %.3f ms for %d tokens\n", rows[r].name, best * 1e3, N);
        sampler_close(s);
    }
    free(logits);
    free(copy);
}

static void test_no_memory(void)
{
    check_case("every failed allocation is reported and nothing leaks");
    struct sampler_options o = sampler_options_default();
    o.presence_penalty = 1;
    uint64_t n = 0;
    for (bool ok = false; !ok && n < 20; n++) {
        struct sampler *s;
        struct error err = { 0 };
        mem_fail_after(n);
        ok = sampler_open(&s, &o, 100, &err);
        mem_fail_never();
        CHECK_INT(err.code, ok ? ERR_NONE : ERR_FIT);
        sampler_close(s);
    }
    CHECK_INT(n, 9);
    sampler_close(NULL);
}

int main(void)
{
    test_greedy();
    test_broken_logits();
    test_options();
    test_penalties();
    test_filters();
    test_distribution();
    test_seed();
    test_foresee();
    test_big();
    test_no_memory();
    return check_finish();
}
