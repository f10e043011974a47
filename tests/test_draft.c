/* Drafting: the same tokens as without it, greedy and sampled, whatever happens to the timeline;
 * guesses that are good on the demo model; auto that keeps its promise by its own account. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/mem.h"
#include "src/base/util.h"
#include "src/engine/draft.h"
#include "src/engine/engine.h"
#include "src/text/sampler.h"
#include "src/text/tokenizer.h"
#include "tests/check.h"

#define DEMO "models/demo.gguf"
#define N_CTX 256
#define MOST 48

static struct engine *engine;
static struct tokenizer *tokenizer;
static int64_t n_vocab;

static struct session *open_session(enum draft_use use, int64_t n_ctx, const atomic_int *cancel)
{
    struct error err = { 0 };
    struct session *s = NULL;
    struct session_options o = { .n_ctx = n_ctx, .draft = use, .cancel = cancel };
    CHECK_MSG(session_open(&s, engine, &o, &err), "%s", err.text);
    return s;
}

static struct draft_report report(const struct session *s)
{
    struct draft_report r;
    session_draft_report(s, &r);
    return r;
}

/* A question of the kind that the demo model knows; i chooses it. `begun`: of the answer. */
static int question(int i, const char *begun, int32_t *ids, int most)
{
    static const char *const forms[] = {
        "What is %d + %d?", "What is %d times %d?", "Tell me a story about a fox. %d %d",
        "Sort these numbers: %d, 17, %d", "Is %d larger than %d?",
    };
    char text[160];
    struct tokens t = { 0 };
    struct error err = { 0 };
    char body[128];
    snprintf(body, sizeof body, forms[i % (int)ARRAY_LEN(forms)], 3 + i * 7 % 90, 2 + i * 13 % 80);
    snprintf(text, sizeof text,
             "<\xef\xbd\x9c" "User\xef\xbd\x9c>%s<\xef\xbd\x9c" "Assistant\xef\xbd\x9c>%s",
             body, begun);
    CHECK_MSG(tokenizer_encode(tokenizer, (struct str){ text, strlen(text) }, true, &t, &err), "%s",
              err.text);
    int n = (int)min_of(t.n, (size_t)most);
    memcpy(ids, t.ids, (size_t)n * sizeof *ids);
    tokens_release(&t);
    return n;
}

/* Continue by up to `most` tokens; greedy without a sampler. How many. */
static int continue_by(struct session *s, struct sampler *sampler, int32_t *out, int most)
{
    struct error err = { 0 };
    float *logits = malloc((size_t)n_vocab * sizeof *logits);
    int n = 0;
    while (n < most) {
        memcpy(logits, session_logits(s), (size_t)n_vocab * sizeof *logits);
        int32_t id = 0;
        if (!CHECK_MSG(sampler_choose(sampler, logits, (int)n_vocab, &id, &err), "%s", err.text))
            break;
        out[n++] = id;
        if (tokenizer_is_end(tokenizer, id) || session_n_past(s) >= session_n_ctx(s))
            break;
        if (!CHECK_MSG(session_decode(s, id, &err), "%s", err.text))
            break;
    }
    free(logits);
    return n;
}

static struct sampler *open_sampler(float temperature, uint64_t seed)
{
    struct sampler_options o = sampler_options_default();
    struct sampler *s = NULL;
    struct error err = { 0 };
    o.temperature = temperature;
    o.seed = seed;
    CHECK_MSG(sampler_open(&s, &o, (int)n_vocab, &err), "%s", err.text);
    return s;
}

static bool prefill(struct session *s, const int32_t *ids, int n)
{
    struct error err = { 0 };
    return CHECK_MSG(session_prefill(s, ids, n, NULL, NULL, &err), "%s", err.text);
}

/* Tokens with and without drafting, for many questions in one session each. */
static void test_same(const char *what, float temperature, int n_questions, enum draft_use use)
{
    check_case("%s: %d answers are the same with %d guesses", what, n_questions, use);
    struct session *plain = open_session(DRAFT_OFF, N_CTX, NULL);
    struct session *drafting = open_session(use, N_CTX, NULL);
    int differ = 0;
    for (int i = 0; plain && drafting && i < n_questions; i++) {
        int32_t ids[64], a[MOST], b[MOST];
        int n = question(i, "", ids, 64);
        struct sampler *one = open_sampler(temperature, (uint64_t)i);
        struct sampler *two = open_sampler(temperature, (uint64_t)i);
        if (prefill(plain, ids, n) && prefill(drafting, ids, n)) {
            int na = continue_by(plain, one, a, MOST), nb = continue_by(drafting, two, b, MOST);
            differ += na != nb || memcmp(a, b, (size_t)na * sizeof *a);
        }
        sampler_close(one);
        sampler_close(two);
    }
    CHECK_INT(differ, 0);
    struct draft_report r = report(drafting);
    CHECK(r.available && r.n_guesses > 5 * n_questions);
    static const int least[DRAFT_MOST] = { 80, 40, 20 }; /* per cent of good ones */
    for (int k = 0; k < DRAFT_MOST; k++) {
        CHECK_MSG(temperature > 0 || r.accepted[k] * 100 >= r.guesses[k] * least[k],
                  "accepted %lld of %lld guesses of number %d",
                  (long long)r.accepted[k], (long long)r.guesses[k], k + 1);
    }
    CHECK(!report(plain).available);
    session_close(plain);
    session_close(drafting);
}

/* The logits behind each token of a step are, bit for bit, those of single steps. */
static void test_bits(enum draft_use use)
{
    check_case("a step with %d guesses leaves the bits of plain steps", use);
    struct session *plain = open_session(DRAFT_OFF, N_CTX, NULL);
    struct session *drafting = open_session(use, N_CTX, NULL);
    int32_t ids[64];
    int n = question(1, "", ids, 64), differ = 0;
    struct error err = { 0 };
    size_t bytes = (size_t)n_vocab * sizeof(float);
    bool ok = plain && drafting && prefill(plain, ids, n) && prefill(drafting, ids, n);
    for (int i = 0; ok && i < 60; i++) {
        const float *l = session_logits(plain);
        int32_t best = 0;
        for (int32_t k = 1; k < n_vocab; k++)
            best = l[k] > l[best] ? k : best;
        if (i % 7 == 6) /* something that was not guessed */
            best = (best + 1) % (int32_t)n_vocab;
        ok = CHECK(session_decode(plain, best, &err)) && CHECK(session_decode(drafting, best, &err));
        differ += memcmp(session_logits(plain), session_logits(drafting), bytes) != 0;
    }
    CHECK_INT(differ, 0);
    CHECK(report(drafting).n_accepted > 0);
    CHECK(report(drafting).n_accepted < report(drafting).n_guesses);
    session_close(plain);
    session_close(drafting);
}

/* Truncation, another prompt, the context's end, Ctrl-C: the timeline is the caller's, and guesses
 * stay good. */
static void test_timeline(enum draft_use use)
{
    check_case("cutting, asking again, the context's end and Ctrl-C with %d guesses pending", use);
    atomic_int cancel = 0;
    enum { SMALL = 40 };
    struct session *plain = open_session(DRAFT_OFF, SMALL, NULL);
    struct session *s = open_session(use, SMALL, &cancel);
    struct sampler *greedy = open_sampler(0, 0);
    struct error err = { 0 };
    int32_t ids[64], a[MOST], b[MOST];
    int n = question(2, "", ids, 20);
    bool ok = plain && s && greedy && prefill(plain, ids, n) && prefill(s, ids, n);
    if (ok) {
        int na = continue_by(plain, greedy, a, MOST), nb = continue_by(s, greedy, b, MOST);
        CHECK_INT(nb, na);
        CHECK(!memcmp(a, b, (size_t)na * sizeof *a));
        while (session_n_past(s) < SMALL && CHECK(session_decode(s, b[0], NULL)))
            CHECK(session_decode(plain, b[0], NULL));
        CHECK(!memcmp(session_logits(s), session_logits(plain), (size_t)n_vocab * sizeof(float)));
        CHECK(!session_decode(s, b[0], &err) && err.code == ERR_USAGE);

        session_truncate(s, n + 3);
        session_truncate(plain, n + 3);
        CHECK_INT(session_n_past(s), n + 3);
        CHECK(session_decode(s, a[1], NULL) && session_decode(plain, a[1], NULL));
        na = continue_by(plain, greedy, a, 8), nb = continue_by(s, greedy, b, 8);
        CHECK(na == nb && !memcmp(a, b, (size_t)na * sizeof *a));

        n = question(4, "", ids, 20);
        int64_t before = report(s).n_guesses, good = report(s).n_accepted;
        ok = prefill(s, ids, n) && prefill(plain, ids, n);
        CHECK_INT(session_n_past(s), n);
        na = continue_by(plain, greedy, a, 16), nb = continue_by(s, greedy, b, 16);
        CHECK(na == nb && !memcmp(a, b, (size_t)na * sizeof *a));
        before = report(s).n_guesses - before, good = report(s).n_accepted - good;
        CHECK_MSG(good * 2 > before, "accepted %lld of %lld", (long long)good, (long long)before);

        int64_t past = session_n_past(s);
        atomic_store(&cancel, 1);
        error_clear(&err);
        CHECK(!session_decode(s, 5, &err) && err.code == ERR_INTERRUPTED);
        CHECK_INT(session_n_past(s), past);
        atomic_store(&cancel, 0);
        CHECK(session_decode(s, 5, NULL) && session_decode(plain, 5, NULL));
        CHECK(!memcmp(session_logits(s), session_logits(plain), (size_t)n_vocab * sizeof(float)));
    }
    sampler_close(greedy);
    session_close(plain);
    session_close(s);
}

/* The second of two sampled tokens, counted in bins: behind a guess that was taken and behind one
 * that was not it must come as often as without guesses. */
enum { DRAWS = 1000, BINS = 7 };

static void draw(struct session *s, uint64_t seed, double *seen, int32_t *bins, int *n_bins)
{
    struct sampler *sampler = open_sampler(1.2f, seed);
    struct error err = { 0 };
    int32_t ids[64], id[2] = { 0 };
    int n = question(2, "</think>Once there was a", ids, 64);
    bool ok = s && sampler && prefill(s, ids, n);
    for (int i = 0; ok && i < DRAWS; i++) {
        session_truncate(s, n - 1);
        ok = CHECK_MSG(session_decode(s, ids[n - 1], &err), "%s", err.text);
        for (int k = 0; ok && k < 2; k++)
            ok = CHECK(sampler_choose(sampler, session_logits(s), (int)n_vocab, &id[k], &err)) &&
                 (k > 0 || CHECK(session_decode(s, id[0], &err)));
        int bin = 0;
        while (bin < *n_bins && bins[bin] != id[1])
            bin++;
        if (bin == *n_bins && *n_bins < BINS - 1)
            bins[(*n_bins)++] = id[1];
        seen[bin]++;
    }
    sampler_close(sampler);
}

static void test_distribution(void)
{
    check_case("sampled tokens have the distribution of plain ones, %d draws each", DRAWS);
    struct session *plain = open_session(DRAFT_OFF, N_CTX, NULL);
    struct session *s = open_session(DRAFT_ONE, N_CTX, NULL);
    int32_t bins[BINS];
    int n_bins = 0, freedom = -1;
    double a[BINS] = { 0 }, b[BINS] = { 0 }, chi = 0;
    draw(plain, 42, a, bins, &n_bins);
    draw(s, 4711, b, bins, &n_bins);
    for (int k = 0; k < BINS; k++) {
        if (a[k] + b[k] < 10)
            continue;
        chi += (a[k] - b[k]) * (a[k] - b[k]) / (a[k] + b[k]);
        freedom++;
    }
    CHECK_MSG(freedom >= 1, "%d degrees of freedom", freedom);
    CHECK_MSG(chi < 25, "chi-square %.1f of %d degrees of freedom", chi, freedom); /* p < 0.0004 */
    struct draft_report r = report(s);
    CHECK(r.n_accepted > 0 && r.n_accepted < r.n_guesses);
    session_close(plain);
    session_close(s);
}

static void test_refusals(void)
{
    check_case("memory is reported; steps of one token cannot draft");
    struct session *plain = open_session(DRAFT_OFF, N_CTX, NULL);
    struct session *s = open_session(DRAFT_ONE, N_CTX, NULL);
    struct memory_report without, with;
    if (plain && s) {
        session_memory(plain, &without);
        session_memory(s, &with);
        CHECK_INT(with.mapped_bytes - without.mapped_bytes, engine_model(engine)->mtp_bytes);
        int n_layers = engine_model(engine)->params.n_layers;
        CHECK_INT(with.cache_bytes * (uint64_t)n_layers,
                  without.cache_bytes * (uint64_t)(n_layers + 1));
        CHECK(with.work_bytes > without.work_bytes);
    }
    session_close(plain);
    session_close(s);
    struct error err = { 0 };
    struct session_options o = { .n_ctx = 1, .draft = DRAFT_ONE };
    CHECK(!session_open(&s, engine, &o, &err) && err.code == ERR_USAGE);
    o.draft = DRAFT_AUTO;
    CHECK(session_open(&s, engine, &o, NULL));
    CHECK(!report(s).available);
    session_close(s);
}

int main(void)
{
    struct error err = { 0 };
    struct engine_options o = { .n_threads = 2 };
    bool is_long = getenv("TANDEM_TEST_LONG") != NULL;
    if (CHECK_MSG(engine_open(&engine, DEMO, &o, &err), "%s", err.text) &&
        CHECK_MSG(tokenizer_open(&tokenizer, &engine_model(engine)->gguf, &err), "%s", err.text)) {
        n_vocab = engine_model(engine)->params.n_vocab;
        for (enum draft_use use = DRAFT_ONE; use <= DRAFT_MOST; use++) {
            test_bits(use);
            test_same("greedy", 0, is_long ? 1000 : 16, use);
            test_same("sampled", 0.8f, is_long ? 200 : 6, use);
            test_timeline(use);
        }
        test_distribution();
        test_refusals();
    }
    tokenizer_close(tokenizer);
    engine_close(engine);
    return check_finish();
}
