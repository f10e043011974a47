/* Drafting with a GPU: the block for multi-token prediction computes where the head is, there with its
 * experts on the CPU, or, where the GPU has but some of the layers, on the CPU. Guesses are verified in
 * recorded steps. Tokens are those of the CPU without guesses, with every way of handing over, for
 * caches of rows, with an indexer, and of rings, behind the loss of the card; and memory is what the
 * placement said. */
#include "src/base/util.h"
#include "src/engine/prefix_file.h"
#include "src/gpu_load.h"
#include "tests/draft_model.h"
#include "tests/fixture_model.h"
#include "tests/gpu_test.h"

#define N_VOCAB 320
#define N_CTX 96
#define N_PROMPT 21
#define N_ANSWER 30
#define TOLERANCE 1e-3 /* F32 on both sides; the logits' deviation is 3 */
#define MIB ((uint64_t)1 << 20)

static uint64_t (*card_bytes)(void), (*count_replays)(void);
static void (*set_order)(uint64_t), (*fail_launch)(int64_t), (*lose)(bool);

static int32_t prompt[N_PROMPT];
static int32_t wanted_tokens[N_ANSWER];
static float wanted[N_ANSWER][N_VOCAB], found[N_ANSWER][N_VOCAB];

/* What the block's logits were when it guessed, one time after the other. */
#define MOST_SEEN 80
struct seen {
    int n;
    float logits[MOST_SEEN][N_VOCAB];
};
static struct seen seen, on_cpu[DRAFT_MOST + 1]; /* of sessions with so many guesses */

static int32_t see(void *ctx, float *logits, const int32_t *ahead, int n_ahead)
{
    struct seen *s = ctx;
    (void)ahead, (void)n_ahead;
    if (s->n < MOST_SEEN)
        memcpy(s->logits[s->n++], logits, sizeof s->logits[0]);
    return (int32_t)best(logits, N_VOCAB);
}

static uint64_t asked_of(uint64_t (*f)(void))
{
    return f ? f() : 0;
}

static void next_order(void)
{
    static uint64_t order;
    if (set_order)
        set_order(order = (order + 1) % 3);
}

static struct placement_wishes wishes(bool draft)
{
    struct placement_wishes w = *cpu_experts();
    w.gpu_experts = 0;
    w.draft = draft;
    return w;
}

static struct engine *open_engine(const char *path, struct engine_options o)
{
    struct engine *e = NULL;
    struct error err = { 0 };
    o.n_threads = 1;
    o.act_f32 = true;
    o.n_batch = 16;
    o.n_ctx = N_CTX;
    next_order();
    CHECK_MSG(engine_open(&e, path, &o, &err), "%s", err.text);
    return e;
}

static struct session *open_session(struct engine *e, enum draft_use use)
{
    struct session *s = NULL;
    struct error err = { 0 };
    struct session_options o = { .n_ctx = N_CTX, .draft = use, .choose = see, .choose_ctx = &seen };
    seen.n = 0;
    CHECK_MSG(e && session_open(&s, e, &o, &err), "%s", err.text);
    return s;
}

/* The prompt and what follows it greedily, but for every seventh token, which is another. Before token
 * `at`, `accident` happens. */
static bool answer(struct session *s, float logits[][N_VOCAB], int32_t *tokens, int at,
                   void (*accident)(void))
{
    struct error err = { 0 };
    bool ok = s && CHECK_MSG(session_prefill(s, prompt, N_PROMPT, NULL, NULL, &err), "%s", err.text);
    for (int i = 0; ok && i < N_ANSWER; i++) {
        memcpy(logits[i], session_logits(s), sizeof logits[i]);
        tokens[i] = (int32_t)best(logits[i], N_VOCAB);
        if (i % 7 == 6)
            tokens[i] = (tokens[i] + 11) % N_VOCAB;
        if (accident && i == at)
            accident();
        ok = CHECK_MSG(session_decode(s, tokens[i], &err), "token %d: %s", i, err.text);
    }
    return ok;
}

static void check_answer(struct session *s, int at, void (*accident)(void))
{
    int32_t tokens[N_ANSWER];
    if (!answer(s, found, tokens, at, accident))
        return;
    double worst = largest_difference(&found[0][0], &wanted[0][0], N_ANSWER * N_VOCAB);
    CHECK_MSG(worst <= TOLERANCE, "largest logit difference %.3g, allowed %.3g", worst, TOLERANCE);
    CHECK(memcmp(tokens, wanted_tokens, sizeof tokens) == 0);
}

static void check_guesses(const struct session *s)
{
    struct draft_report r;
    session_draft_report(s, &r);
    CHECK_MSG(r.n_accepted >= 5 && r.n_accepted < r.n_guesses, "%lld of %lld guesses accepted",
              (long long)r.n_accepted, (long long)r.n_guesses);
}

/* What the block sees follows from the states that steps leave, and shows in its logits. */
static void check_like_cpu(int use)
{
    if (!CHECK(seen.n == on_cpu[use].n && seen.n > 10))
        return;
    double worst = largest_difference(seen.logits[0], on_cpu[use].logits[0], seen.n * N_VOCAB);
    CHECK_MSG(worst <= TOLERANCE, "the block's logits differ by %.3g, allowed %.3g", worst, TOLERANCE);
}

/* ---- the same tokens ---- */

static void check_memory(struct engine *e, uint64_t taken)
{
    const struct placement *p = engine_placement(e);
    uint64_t planned = p->vram_used - p->bytes[PART_DRIVER][HOME_GPU];
    uint64_t records = (uint64_t)engine_model(e)->params.n_layers * MIB;
    CHECK_MSG(taken <= planned + MIB && taken + MIB + records >= planned,
              "%llu bytes of the card, %llu planned", (unsigned long long)taken,
              (unsigned long long)planned);
}

/* The last n_layers are the card's, 0: everything. */
static void test_way(const char *path, enum handoff_way way, int n_slots, int n_layers)
{
    struct placement_wishes w = wishes(true);
    w.gpu_experts = n_slots;
    check_case("hand-off %d, %d slots, %d layers: guesses, their steps recorded", way, n_slots,
               n_layers);
    struct engine *e = open_engine(path, (struct engine_options){ .gpu = GPU_MUST, .wishes = &w,
                                                                  .handoff = way,
                                                                  .gpu_layers = n_layers });
    if (e && CHECK(engine_placement(e)->drafts)) {
        CHECK_INT(engine_placement(e)->bytes[PART_DRAFT][HOME_GPU] == 0, n_layers > 0);
        struct session *s = open_session(e, DRAFT_THREE);
        uint64_t replays = asked_of(count_replays), taken = asked_of(card_bytes);
        if (s) {
            check_answer(s, 0, NULL);
            check_guesses(s);
            check_like_cpu(DRAFT_THREE);
        }
        replays = asked_of(count_replays) - replays;
        if (count_replays)
            CHECK_MSG(way == HANDOFF_STOP ? replays == 0 : replays > N_ANSWER / 4, "%d replays",
                      (int)replays);
        if (card_bytes && s) {
            CHECK_INT(card_bytes(), taken); /* nothing grows */
            check_memory(e, taken);
        }
        struct session *plain = n_layers ? NULL : open_session(e, DRAFT_OFF); /* beside it */
        if (plain)
            check_answer(plain, 0, NULL);
        session_close(plain);
        session_close(s);
    }
    engine_close(e);
    CHECK_INT(asked_of(card_bytes), 0);
}

/* ---- everything on the card, and what is refused ---- */

static void test_whole(const char *path)
{
    check_case("experts on the card as well");
    struct placement_wishes w = placement_wishes_default();
    w.draft = true;
    struct engine *e = open_engine(path, (struct engine_options){ .gpu = GPU_MUST, .wishes = &w });
    struct session *s = open_session(e, DRAFT_ONE);
    if (s) {
        CHECK_INT(engine_placement(e)->bytes[PART_DRAFT][HOME_MAPPED], 0);
        check_answer(s, 0, NULL);
        check_guesses(s);
        check_like_cpu(DRAFT_ONE);
    }
    session_close(s);
    engine_close(e);
}

static void refuse(struct engine *e, const char *word)
{
    struct session *s = NULL;
    struct error err = { 0 };
    struct draft_report r;
    CHECK(e && !session_open(&s, e, &(struct session_options){ .n_ctx = N_CTX, .draft = DRAFT_ONE },
                             &err));
    CHECK_MSG(err.code == ERR_USAGE && strstr(err.text, word), "says %s", err.text);
    session_close(s);
    s = open_session(e, DRAFT_AUTO); /* which does without */
    if (s) {
        session_draft_report(s, &r);
        CHECK(!r.available);
    }
    session_close(s);
    engine_close(e);
}

static void test_refusals(const char *path)
{
    struct placement_wishes w = wishes(false);
    check_case("nobody had asked for it when the model was loaded");
    refuse(open_engine(path, (struct engine_options){ .gpu = GPU_MUST, .wishes = &w }),
           "before the model is loaded");
    w.draft = true;
    w.n_rules = 1;
    static const struct { const char *name; bool on_gpu; int n_layers; } rules[] = {
        { "^output\\.weight$", false, 0 }, { "^output\\.weight$", true, 1 },
        { "^token_embd\\.weight$", true, 1 }, { "^blk\\.1\\.attn_norm", false, 0 },
    };
    for (size_t i = 0; i < ARRAY_LEN(rules); i++) {
        struct placement_rule rule = { .on_gpu = rules[i].on_gpu };
        check_case("a rule takes %s to the %s", rules[i].name, rule.on_gpu ? "GPU" : "CPU");
        if (!CHECK(regcomp(&rule.name, rules[i].name, REG_EXTENDED | REG_NOSUB) == 0))
            break;
        w.rules = &rule;
        refuse(open_engine(path, (struct engine_options){ .gpu = GPU_MUST, .wishes = &w,
                                                          .gpu_layers = rules[i].n_layers }), "-ot");
        regfree(&rule.name);
    }
}

/* Whatever else rules do, the CPU guesses where it has the head. */
static void test_rules(const char *path)
{
    struct placement_wishes w = wishes(true);
    struct placement_rule rules[] = { { .on_gpu = true }, { .on_gpu = false } };
    check_case("rules take parts of layers to the other side");
    if (!CHECK(regcomp(&rules[0].name, "^blk\\.0\\.(attn_output|ffn)", REG_EXTENDED) == 0 &&
               regcomp(&rules[1].name, "^blk\\.[12]\\.attn_q", REG_EXTENDED) == 0))
        return;
    w.rules = rules;
    w.n_rules = 2;
    struct engine *e = open_engine(path, (struct engine_options){ .gpu = GPU_MUST, .wishes = &w,
                                                                  .gpu_layers = 2 });
    struct session *s = open_session(e, DRAFT_TWO);
    if (s) {
        check_answer(s, 0, NULL);
        check_guesses(s);
        check_like_cpu(DRAFT_TWO);
    }
    session_close(s);
    engine_close(e);
    regfree(&rules[0].name);
    regfree(&rules[1].name);
}

/* ---- a lost card ---- */

static int64_t launch;

static void fail_soon(void)
{
    fail_launch(launch);
}

static void lose_now(void)
{
    lose(true);
}

/* What some of the layers take of the card. */
static uint64_t taken_by(const char *path, int n_layers)
{
    struct placement_wishes w = wishes(true);
    struct engine *e = open_engine(path, (struct engine_options){ .gpu = GPU_MUST, .wishes = &w,
                                                                  .gpu_layers = n_layers });
    uint64_t bytes = e ? engine_placement(e)->vram_used : 0;
    engine_close(e);
    return bytes;
}

static void test_loss(const char *path, int n_layers, bool all)
{
    static const int64_t launches[] = { 9, -1, 0, 60 };
    uint64_t room = n_layers ? taken_by(path, n_layers) : 0;
    for (size_t i = 0; lose && i < (all ? ARRAY_LEN(launches) : 2); i++) {
        check_case("the card with %d layers goes %s: the CPU goes on, guessing", n_layers,
                   launches[i] >= 0 ? "at a launch" : "at once");
        struct placement_wishes w = wishes(true);
        launch = launches[i];
        struct engine *e = open_engine(path, (struct engine_options){ .gpu = GPU_AUTO, .wishes = &w,
                                                                      .max_vram_bytes = room });
        struct session *s = open_session(e, DRAFT_TWO);
        if (s && CHECK(engine_gpu(e))) {
            CHECK_INT(engine_placement(e)->gpu_layers,
                      n_layers ? n_layers : engine_model(e)->params.n_layers);
            check_answer(s, 11, launch < 0 ? lose_now : fail_soon);
            CHECK(!engine_gpu(e));
            check_guesses(s);
        }
        session_close(s);
        engine_close(e);
        fail_launch(-1);
        lose(false);
    }
}

/* The embedding of the block lies in main memory beside the model's, its head on the card. */
static void test_own(void)
{
    char path[256];
    check_case("a block with an embedding and a head of its own");
    tiny_path(path, "gpu_draft");
    if (!draft_model_write(path, "--like tiny-v3 --generation b-mtp-own", 3))
        return;
    struct placement_wishes w = wishes(true);
    struct engine *e = open_engine(path, (struct engine_options){ .gpu = GPU_NEVER });
    struct session *s = open_session(e, DRAFT_TWO);
    bool ok = answer(s, wanted, wanted_tokens, 0, NULL);
    on_cpu[DRAFT_TWO] = seen;
    session_close(s);
    engine_close(e);
    e = ok ? open_engine(path, (struct engine_options){ .gpu = GPU_MUST, .wishes = &w }) : NULL;
    s = e ? open_session(e, DRAFT_TWO) : NULL;
    if (s) {
        check_answer(s, 0, NULL);
        check_like_cpu(DRAFT_TWO);
    }
    session_close(s);
    engine_close(e);
    unlink(path);
}

/* ---- saved and restored ---- */

#define N_SAVED 14 /* tokens of the answer */

/* The rest of the answer, and what the block saw. */
static void finish(struct session *s, struct seen *found_seen)
{
    struct error err = { 0 };
    seen.n = 0;
    for (int i = N_SAVED; i < N_ANSWER; i++)
        if (!CHECK_MSG(session_decode(s, wanted_tokens[i], &err), "%s", err.text))
            return;
    *found_seen = seen;
}

static void restore(struct session *s, const char *store, const struct seen *first)
{
    static struct seen again;
    struct prefix_file *f = NULL;
    struct error err = { 0 };
    int32_t tokens[N_PROMPT + N_ANSWER];
    int64_t n_read = 0;
    memcpy(tokens, prompt, sizeof prompt);
    memcpy(tokens + N_PROMPT, wanted_tokens, sizeof wanted_tokens);
    if (!CHECK_MSG(prefix_file_open(&f, store, s, &err) &&
                   prefix_file_restore(f, s, tokens, N_PROMPT + N_ANSWER, &n_read, NULL, NULL, &err),
                   "%s", err.text))
        return;
    CHECK_INT(n_read, N_PROMPT + N_SAVED);
    finish(s, &again);
    if (CHECK(again.n == first->n && again.n > 5)) {
        double worst = largest_difference(again.logits[0], first->logits[0], again.n * N_VOCAB);
        CHECK_MSG(worst <= TOLERANCE, "the block's logits differ by %.3g", worst);
    }
    prefix_file_close(f);
}

/* What a session of such an engine drafts from comes back there, and on the CPU alone. */
static void test_saved(const char *path, int n_layers)
{
    static struct seen first;
    char store[300];
    struct prefix_file *f = NULL;
    struct placement_wishes w = wishes(true);
    struct error err = { 0 };
    snprintf(store, sizeof store, "%s.prefix", path);
    unlink(store);
    check_case("%d layers on the card: saved, guesses go on", n_layers);
    struct engine *e = open_engine(path, (struct engine_options){ .gpu = GPU_MUST, .wishes = &w,
                                                                  .gpu_layers = n_layers });
    struct session *s = open_session(e, DRAFT_ONE);
    bool ok = s && CHECK(session_prefill(s, prompt, N_PROMPT, NULL, NULL, &err));
    for (int i = 0; ok && i < N_SAVED; i++)
        ok = CHECK(session_decode(s, wanted_tokens[i], &err));
    if (ok && CHECK_MSG(prefix_file_open(&f, store, s, &err) && prefix_file_save(f, s, 0, &err), "%s",
                        err.text)) {
        prefix_file_close(f);
        session_truncate(s, session_n_past(s)); /* guesses of the last step are not saved */
        finish(s, &first);
        struct session *other = open_session(e, DRAFT_ONE);
        if (other)
            restore(other, store, &first);
        session_close(other);
    }
    session_close(s);
    engine_close(e);
    check_case("%d layers on the card: saved, guesses go on without it", n_layers);
    e = ok ? open_engine(path, (struct engine_options){ .gpu = GPU_NEVER }) : NULL;
    s = e ? open_session(e, DRAFT_ONE) : NULL;
    if (s)
        restore(s, store, &first);
    session_close(s);
    engine_close(e);
    unlink(store);
}

/* Some of the layers on the card: with every way; all of them, and the head with the CPU. */
static void test_split(const char *path, int n_layers, bool all)
{
    test_way(path, HANDOFF_CALLBACK, 4, n_layers - 1);
    if (!all)
        return;
    test_way(path, HANDOFF_STOP, 0, 1);
    test_way(path, HANDOFF_FLAGS, 0, n_layers);
    test_rules(path);
    test_saved(path, n_layers - 1);
    test_loss(path, n_layers - 1, false);
}

static void test_model(const char *like, int n_layers, bool all)
{
    char path[256];
    check_case("%s: a model whose guesses are often right", like);
    tiny_path(path, "gpu_draft");
    if (!draft_model_write(path, like, n_layers))
        return;
    struct engine *e = open_engine(path, (struct engine_options){ .gpu = GPU_NEVER });
    struct session *s = open_session(e, DRAFT_OFF);
    bool ok = answer(s, wanted, wanted_tokens, 0, NULL);
    session_close(s);
    for (int use = DRAFT_ONE; ok && use <= DRAFT_MOST; use++) {
        s = open_session(e, (enum draft_use)use);
        check_answer(s, 0, NULL);
        on_cpu[use] = seen;
        session_close(s);
    }
    engine_close(e);
    for (int way = HANDOFF_STOP; ok && way <= HANDOFF_FLAGS; way++)
        if (all || way == HANDOFF_FLAGS)
            test_way(path, (enum handoff_way)way, way == HANDOFF_CALLBACK ? 4 : 0, 0);
    if (ok && all) {
        test_whole(path);
        test_refusals(path);
    }
    if (ok) {
        test_split(path, n_layers, all);
        test_loss(path, 0, all);
    }
    unlink(path);
}

int main(void)
{
    if (!gpu_test_load())
        return check_finish();
    gpu_test_hook("cuda_host_replays", &count_replays);
    gpu_test_hook("cuda_host_order", &set_order);
    gpu_test_hook("cuda_host_bytes", &card_bytes);
    gpu_test_hook("cuda_host_fail_launch", &fail_launch);
    gpu_test_hook("cuda_host_lose", &lose);
    for (int i = 0; i < N_PROMPT; i++)
        prompt[i] = (i * 29 + 5) % N_VOCAB;
    test_model("--like tiny-v3", 3, true);
    test_model("--like tiny-v4", 6, false);
    test_model("--arch deepseek32", 3, false);
    test_own();
    return check_finish();
}
