/* Drafting: the same tokens as without it, greedy and sampled, whatever happens to the timeline;
 * guesses that are good on the demo model; and by a judge that does not trust the seed, the same
 * distribution. (When to guess: test_break_even.c.) */
#include <math.h>
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

/* Guesses by the rules of the sampler that will choose; NULL: the highest logit. */
static struct sampler *foresees;

static int32_t foresee(void *ctx, float *logits, const int32_t *ahead, int n_ahead)
{
    (void)ctx;
    if (foresees)
        return sampler_foresee(foresees, logits, (int)n_vocab, ahead, n_ahead);
    int32_t best = 0;
    for (int32_t i = 1; i < n_vocab; i++)
        best = logits[i] > logits[best] ? i : best;
    return best;
}

static struct session *open_session(enum draft_use use, int64_t n_ctx, const atomic_int *cancel)
{
    struct error err = { 0 };
    struct session *s = NULL;
    struct session_options o = {
        .n_ctx = n_ctx, .draft = use, .cancel = cancel, .choose = foresee,
    };
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
        sampler_accept(sampler, id);
        if (tokenizer_is_end(tokenizer, id) || session_n_past(s) >= session_n_ctx(s))
            break;
        if (!CHECK_MSG(session_decode(s, id, &err), "%s", err.text))
            break;
    }
    free(logits);
    return n;
}

enum kind { GREEDY, WARM, FILTERED, PUNISHED, N_KINDS };
static const char *const kind_names[] = { "greedy", "temperature", "top-k, top-p and min-p",
                                          "penalties and a bias" };

static struct sampler *open_sampler(enum kind kind, uint64_t seed)
{
    static const struct logit_bias bias[] = { { 300, 1.5f }, { 301, -INFINITY } };
    struct sampler_options o = sampler_options_default();
    struct sampler *s = NULL;
    struct error err = { 0 };
    o.temperature = kind == GREEDY ? 0 : kind == WARM ? 1.2f : 1;
    o.seed = seed;
    if (kind == FILTERED) {
        o.top_k = 20;
        o.top_p = 0.95f;
        o.min_p = 0.01f;
        o.temperature = 1.5f;
    }
    if (kind == PUNISHED) {
        o.repeat_penalty = 1.3f;
        o.presence_penalty = 0.3f;
        o.frequency_penalty = 0.2f;
        o.bias = bias;
        o.n_bias = 2;
    }
    CHECK_MSG(sampler_open(&s, &o, (int)n_vocab, &err), "%s", err.text);
    return s;
}

static bool prefill(struct session *s, const int32_t *ids, int n)
{
    struct error err = { 0 };
    return CHECK_MSG(session_prefill(s, ids, n, NULL, NULL, &err), "%s", err.text);
}

/* Tokens with and without drafting, for many questions in one session each. */
static void test_same(enum kind kind, int n_questions, enum draft_use use)
{
    check_case("%s: %d answers are the same with %d guesses", kind_names[kind], n_questions, use);
    struct session *plain = open_session(DRAFT_OFF, N_CTX, NULL);
    struct session *drafting = open_session(use, N_CTX, NULL);
    int differ = 0;
    for (int i = 0; plain && drafting && i < n_questions; i++) {
        int32_t ids[64], a[MOST], b[MOST];
        int n = question(i, "", ids, 64);
        struct sampler *one = open_sampler(kind, (uint64_t)i);
        struct sampler *two = open_sampler(kind, (uint64_t)i);
        foresees = two;
        if (prefill(plain, ids, n) && prefill(drafting, ids, n)) {
            int na = continue_by(plain, one, a, MOST), nb = continue_by(drafting, two, b, MOST);
            differ += na != nb || memcmp(a, b, (size_t)na * sizeof *a);
        }
        foresees = NULL;
        sampler_close(one);
        sampler_close(two);
    }
    CHECK_INT(differ, 0);
    struct draft_report r = report(drafting);
    CHECK(r.available && r.n_guesses > 5 * n_questions);
    static const int least[DRAFT_MOST] = { 80, 40, 20 }; /* per cent of good ones */
    for (int k = 0; k < DRAFT_MOST; k++) {
        CHECK_MSG(kind != GREEDY || r.accepted[k] * 100 >= r.guesses[k] * least[k],
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
    struct sampler *greedy = open_sampler(GREEDY, 0);
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

/* ---- distributions ---- */

enum { DEPTH = 3, CLASSES = 3, REFERENCE = 24 };

/* How often a class of tokens came and was to be expected, over many timelines. */
struct tally {
    double seen[DEPTH][CLASSES], expected[DEPTH][CLASSES], variance[DEPTH][CLASSES];
};

/* The two highest logits, and all others. */
static int class_of(int32_t token, const int32_t first_two[2])
{
    return token == first_two[0] ? 0 : token == first_two[1] ? 1 : 2;
}

static void find_two(const float *logits, int32_t two[2])
{
    two[0] = two[1] = 0;
    for (int32_t i = 1; i < n_vocab; i++) {
        if (logits[i] > logits[two[0]]) {
            two[1] = two[0];
            two[0] = i;
        } else if (two[1] == two[0] || logits[i] > logits[two[1]]) {
            two[1] = i;
        }
    }
}

/* What `judge`, with random numbers of its own, chooses from plain logits at this place, REFERENCE
 * times, says what is to be expected of one choice. */
static void count(struct tally *t, int depth, const float *logits, struct sampler *judge,
                  int32_t chosen)
{
    int32_t two[2];
    double n[CLASSES] = { 0 };
    float *copy = malloc((size_t)n_vocab * sizeof *copy);
    find_two(logits, two);
    for (int i = 0; copy && i < REFERENCE; i++) {
        int32_t id = 0;
        memcpy(copy, logits, (size_t)n_vocab * sizeof *copy);
        CHECK(sampler_choose(judge, copy, (int)n_vocab, &id, NULL));
        n[class_of(id, two)]++;
    }
    free(copy);
    t->seen[depth][class_of(chosen, two)]++;
    for (int c = 0; c < CLASSES; c++) {
        double p = n[c] / REFERENCE;
        t->expected[depth][c] += p;
        t->variance[depth][c] += p * (1 - p) * (1 + 1.0 / REFERENCE);
    }
}

/* A timeline of DEPTH sampled tokens behind a token that carries guesses; the plain session goes the
 * same way and says what each token was drawn from. */
static void draw(struct session *s, struct session *plain, struct sampler *sampler,
                 struct sampler *judge, int32_t last, int64_t n, struct tally *t)
{
    session_truncate(s, n);
    session_truncate(plain, n);
    int32_t id = last;
    float *logits = malloc((size_t)n_vocab * sizeof *logits);
    for (int depth = 0; logits && depth < DEPTH; depth++) {
        if (!CHECK(session_decode(s, id, NULL) && session_decode(plain, id, NULL)))
            break;
        memcpy(logits, session_logits(s), (size_t)n_vocab * sizeof *logits);
        if (!CHECK(sampler_choose(sampler, logits, (int)n_vocab, &id, NULL)))
            break;
        count(t, depth, session_logits(plain), judge, id);
        sampler_accept(sampler, id);
        sampler_accept(judge, id);
    }
    free(logits);
}

/* Seeds are fixed, so this cannot fail by chance; 4 standard deviations are as good as impossible. */
static void test_distribution(enum kind kind, enum draft_use use, int n_draws)
{
    check_case("%s: tokens have the distribution of plain decoding with %d guesses",
               kind_names[kind], use);
    struct session *plain = open_session(DRAFT_OFF, N_CTX, NULL);
    struct session *s = open_session(use, N_CTX, NULL);
    struct sampler *sampler = open_sampler(kind, 4711), *judge = open_sampler(kind, 42);
    struct tally t = { 0 };
    int32_t ids[64];
    int n = question(2, "</think>Once there was a", ids, 64);
    foresees = sampler;
    if (plain && s && sampler && judge && prefill(plain, ids, n) && prefill(s, ids, n)) {
        for (int i = 0; i < n_draws; i++)
            draw(s, plain, sampler, judge, ids[n - 1], n - 1, &t);
        for (int d = 0; d < DEPTH; d++)
            for (int c = 0; c < CLASSES; c++)
                CHECK_MSG(fabs(t.seen[d][c] - t.expected[d][c]) <= 4 * sqrt(t.variance[d][c]) + 1,
                          "token %d, class %d: %.0f times, expected %.1f, deviation %.1f", d + 1, c,
                          t.seen[d][c], t.expected[d][c], sqrt(t.variance[d][c]));
        struct draft_report r = report(s);
        CHECK(r.n_accepted > n_draws / 10 && r.n_guesses - r.n_accepted > n_draws / 10);
        double others = 0;
        for (int d = 0; d < DEPTH; d++)
            others += t.seen[d][1] + t.seen[d][2];
        CHECK(others > n_draws / 5); /* there is something to be seen */
    }
    foresees = NULL;
    sampler_close(sampler);
    sampler_close(judge);
    session_close(plain);
    session_close(s);
}

static bool swallow(void *ctx, int64_t first, int n_rows, const float *rows, struct error *err)
{
    (void)ctx, (void)first, (void)n_rows, (void)rows, (void)err;
    return true;
}

/* A text of many steps that was computed without reading it for guesses: most of its states are gone,
 * and the block starts its context anew at those that are left. */
static void test_pause(void)
{
    check_case("guesses are good again behind a text that was not read for them");
    struct error err = { 0 };
    if (!CHECK_MSG(engine_retune(engine, 2, 16, &err), "%s", err.text))
        return;
    struct session *plain = open_session(DRAFT_OFF, N_CTX, NULL);
    struct session *s = open_session(DRAFT_TWO, N_CTX, NULL);
    struct sampler *greedy = open_sampler(GREEDY, 0);
    int32_t ids[N_CTX], a[MOST], b[MOST];
    int n = 0;
    for (int i = 0; i < 9; i++)
        n += question(i, i == 8 ? "</think>" : "</think>Good.", ids + n, 24);
    bool ok = plain && s && greedy && prefill(plain, ids, n) && CHECK(n > 100) &&
              CHECK_MSG(session_eval(s, ids, n - 1, 0, swallow, NULL, &err), "%s", err.text) &&
              CHECK(session_decode(s, ids[n - 1], &err));
    if (ok) {
        int na = continue_by(plain, greedy, a, MOST), nb = continue_by(s, greedy, b, MOST);
        CHECK(na == nb && na > 4 && !memcmp(a, b, (size_t)na * sizeof *a));
        struct draft_report r = report(s);
        CHECK_MSG(r.accepted[0] * 2 >= r.guesses[0] && r.guesses[0] > 0, "accepted %lld of %lld",
                  (long long)r.accepted[0], (long long)r.guesses[0]);
    }
    sampler_close(greedy);
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
            test_same(GREEDY, is_long ? 1000 : 4, use);
            for (enum kind kind = WARM; kind < N_KINDS; kind++)
                if (is_long || kind == (enum kind)use)
                    test_same(kind, is_long ? 200 : 2, use);
            test_timeline(use);
            test_distribution((enum kind)use, use, is_long ? 2000 : 40);
        }
        test_refusals();
        test_pause();
    }
    tokenizer_close(tokenizer);
    engine_close(engine);
    return check_finish();
}
