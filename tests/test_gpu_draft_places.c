/* Drafting with a GPU, wherever things lie: everything on the card, what rules take elsewhere, a
 * block with an embedding and a head of its own. The card is lost in the middle of an answer, and
 * the CPU goes on guessing; what guesses start from is saved with the cache and restored, there and
 * on the CPU alone. With every way of handing over: test_gpu_draft.c. */
#include "src/engine/prefix_file.h"
#include "tests/gpu_draft_rig.h"

static void (*fail_launch)(int64_t), (*lose)(bool);

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

/* The embedding of the block lies in main memory beside the model's, its head on the card. */
static void test_own(void)
{
    char path[256];
    check_case("a block with an embedding and a head of its own");
    tiny_path(path, "gpu_draft_places");
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

static void test_model(const char *like, int n_layers, bool all)
{
    char path[256];
    if (gpu_draft_begin(path, "gpu_draft_places", like, n_layers)) {
        if (all) {
            test_whole(path);
            test_refusals(path);
            test_rules(path);
            test_saved(path, n_layers - 1);
            test_loss(path, n_layers - 1, false);
        }
        test_loss(path, 0, all);
    }
    unlink(path);
}

int main(void)
{
    if (!gpu_draft_load())
        return check_finish();
    gpu_test_hook("cuda_host_fail_launch", &fail_launch);
    gpu_test_hook("cuda_host_lose", &lose);
    test_model("--like tiny-v3", 3, true);
    test_model("--like tiny-v4", 6, false);
    test_model("--arch deepseek32", 3, false);
    test_own();
    return check_finish();
}
