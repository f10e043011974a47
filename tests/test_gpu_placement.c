/* Placements that a GPU has a part in: some of the layers, experts of some layers, slots for experts
 * that are used often, single tensors on the other side. Whatever lies where, a model's logits are
 * those of the reference program, every pick is computed once, memory is what the placement said, and
 * nothing is allocated behind the opening of a session.
 *
 * With arguments, only the models of these names. */
#include "src/base/mem.h"
#include "src/engine/expert_upload.h"
#include "src/engine/prefix_file.h"
#include "src/gpu_load.h"
#include "tests/fixture_model.h"
#include "tests/gpu_test.h"

#define N_TOKENS 16 /* of each fixture */
#define MIB ((uint64_t)1 << 20)

static uint64_t (*card_bytes)(void);
static enum numerics numerics; /* of the model in hand */

/* What came of a run. */
struct outcome {
    float *logits; /* [N_TOKENS, n_vocab] */
    struct expert_report experts;
    int gpu_layers, expert_slots;
    uint64_t vram_used, vram_planned;
};

/* Of every layer all picks are counted, or none: all its experts are on the card. */
static void check_counts(const struct engine *e, bool some)
{
    struct pick_counts c = engine_picks(e);
    int64_t wanted = (int64_t)N_TOKENS * engine_model(e)->params.top_k;
    for (int row = 0; row < c.n_layers; row++) {
        int64_t sum = 0;
        for (int i = 0; i < c.n_routed; i++)
            sum += c.n[row * c.n_routed + i];
        CHECK_MSG(sum == wanted || sum == 0, "layer %d: %d picks counted, there were %d",
                  c.layers[row], (int)sum, (int)wanted);
        some = some && sum == 0;
    }
    CHECK_MSG(!some, "the CPU had picks, none is counted");
}

/* The first tokens two by two, as a conversation would use experts; the others in steps of n_batch (0:
 * at once). */
static bool run(const char *model, const struct fixture *f, const struct engine_options *o,
                int n_first, int n_batch, struct outcome *out)
{
    struct error err = { 0 };
    struct engine *e = NULL;
    struct session *s = NULL;
    struct session_options so = { .n_ctx = N_TOKENS };
    struct fixture into = { .n_vocab = f->n_vocab };
    *out = (struct outcome){ 0 };
    out->logits = into.logits = calloc((size_t)(N_TOKENS * f->n_vocab), sizeof(float));
    bool ok = engine_open(&e, check_fixture(model), o, &err) && session_open(&s, e, &so, &err);
    uint64_t before = ok && card_bytes ? card_bytes() : 0, allocations = mem_allocations();
    ok = ok && session_eval(s, f->tokens, n_first, 2, keep_rows, &into, &err) &&
         session_eval(s, f->tokens + n_first, N_TOKENS - n_first, n_batch, keep_rows, &into, &err);
    CHECK_MSG(ok, "%s", err.text);
    if (ok) {
        const struct placement *p = engine_placement(e);
        engine_expert_report(e, &out->experts);
        check_counts(e, out->experts.n_cpu_picks > 0);
        out->gpu_layers = p->gpu_layers;
        out->expert_slots = p->expert_slots;
        out->vram_used = before;
        out->vram_planned = p->vram_used - p->bytes[PART_DRIVER][HOME_GPU];
        CHECK(engine_gpu(e));
        CHECK_INT(card_bytes ? card_bytes() : 0, before);
        uint64_t made = mem_allocations() - allocations; /* eval's rows, and one per recorded step */
        CHECK_MSG(made <= 4, "%d allocations in a step", (int)made);
    }
    session_close(s);
    engine_close(e);
    if (card_bytes)
        CHECK_INT(card_bytes(), 0);
    return ok;
}

static void check_logits(const struct outcome *o, const struct fixture *f)
{
    double worst = largest_difference(o->logits, f->logits, N_TOKENS * f->n_vocab);
    CHECK_MSG(worst <= f->tolerance, "largest logit difference %.3g, allowed %.3g", worst,
              f->tolerance);
}

static struct engine_options options_of(const struct placement_wishes *w, int gpu_layers)
{
    return (struct engine_options){
        .n_threads = 1, .numerics = numerics, .act_f32 = true, .n_batch = N_TOKENS,
        .gpu = GPU_MUST, .gpu_layers = gpu_layers, .wishes = w, .n_ctx = N_TOKENS,
    };
}

/* ---- whole layers, whole layers' experts ---- */

static void test_layers(const char *name, const char *model, const struct fixture *f, int n_layers,
                        int n_routed)
{
    const struct {
        const char *what;
        int gpu_layers, cpu_moe, n_batch; /* gpu_layers 0: all, with the head */
    } rows[] = {
        { "half of the layers", (n_layers + 1) / 2, PLACE_ALL, 7 },
        { "all layers, the output with the CPU", n_layers, PLACE_ALL, 0 },
        { "everything with its experts", 0, 0, 7 },
        { "experts of the later half", 0, (n_layers + 1) / 2, 0 },
        { "what is best, with room for everything", 0, PLACE_AUTO, 0 },
    };
    for (size_t i = 0; i < (n_routed > 0 ? sizeof rows / sizeof rows[0] : 2); i++) {
        struct placement_wishes w = *cpu_experts();
        struct outcome out;
        check_case("%s: %s", name, rows[i].what);
        w.cpu_moe = rows[i].cpu_moe;
        struct engine_options o = options_of(&w, rows[i].gpu_layers);
        if (run(model, f, &o, 0, rows[i].n_batch, &out)) {
            check_logits(&out, f);
            CHECK(rows[i].cpu_moe != PLACE_AUTO || out.experts.n_cpu_picks == 0);
            CHECK_INT(out.gpu_layers, rows[i].gpu_layers ? rows[i].gpu_layers : n_layers);
            uint64_t records = (uint64_t)n_layers * MIB; /* counted, and taken by a real driver */
            CHECK_MSG(out.vram_used <= out.vram_planned + MIB &&
                      out.vram_used + MIB + records >= out.vram_planned,
                      "%llu bytes of the card, %llu planned", (unsigned long long)out.vram_used,
                      (unsigned long long)out.vram_planned);
        }
        free(out.logits);
    }
}

/* ---- slots ---- */

static void test_slots(const char *name, const char *model, const struct fixture *f,
                       const struct params *q)
{
    const struct {
        const char *what;
        int slots, moves;
        enum handoff_way way;
    } rows[] = {
        { "off", 0, 0, HANDOFF_AUTO },
        { "for all experts", PLACE_AUTO, 64, HANDOFF_FLAGS }, /* in recorded steps, as those below */
        { "too few, always changing", 1, 64, HANDOFF_CALLBACK },
        { "for half of them, one at a time", q->n_routed / 2, 1, HANDOFF_STOP },
    };
    float *off = NULL;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct placement_wishes w = *cpu_experts();
        struct outcome out;
        if (q->n_layers > 10 && i == 1)
            continue; /* long; the last row says more */
        check_case("%s: slots %s", name, rows[i].what);
        w.gpu_experts = rows[i].slots;
        struct engine_options o = options_of(&w, 0);
        o.expert_moves = rows[i].moves;
        o.handoff = rows[i].way;
        if (run(model, f, &o, 0, 2, &out)) {
            const struct expert_report *r = &out.experts;
            uint64_t n_moe = (uint64_t)(q->n_layers - q->n_dense_lead);
            check_logits(&out, f);
            CHECK_INT(r->n_hits + r->n_cpu_picks, n_moe * N_TOKENS * (uint64_t)q->top_k);
            CHECK_INT(out.expert_slots, rows[i].slots == PLACE_AUTO ? q->n_routed : rows[i].slots);
            CHECK_INT(r->n_picks, rows[i].slots ? n_moe * N_TOKENS * (uint64_t)q->top_k : 0);
            CHECK_MSG(rows[i].slots == 0 ? r->n_hits == 0 : r->n_hits > 0 && r->n_moves > 0,
                      "%d hits, %d moves", (int)r->n_hits, (int)r->n_moves);
            CHECK((r->moved_bytes > 0) == (r->n_moves > 0));
            for (int64_t t = 0; off && t < N_TOKENS; t++)
                CHECK_INT(best(out.logits + t * f->n_vocab, f->n_vocab),
                          best(off + t * f->n_vocab, f->n_vocab));
        }
        if (off)
            free(out.logits);
        else
            off = out.logits;
    }
    free(off);
}

/* Experts of a prompt: sent to the GPU or not, the tokens are the same. */
static void test_uploads(const char *name, const char *model, const struct fixture *f,
                         const struct params *q)
{
    uint64_t n_moe = (uint64_t)(q->n_layers - q->n_dense_lead);
    float *never = NULL;
    for (int i = 0; i < 4; i++) { /* never; always; always beside slots; by half of the layers */
        struct placement_wishes w = *cpu_experts();
        struct outcome out;
        if (q->n_layers > 10 && i == 1)
            continue;
        check_case("%s: uploads %s%s", name, i == 0 ? "never" : "always",
                   i == 2 ? ", beside slots" : i == 3 ? ", half of the layers" : "");
        w.gpu_experts = i == 2 ? q->n_routed / 2 : 0;
        struct engine_options o = options_of(&w, i == 3 ? (q->n_layers + 1) / 2 : 0);
        o.upload = i == 0 ? UPLOAD_NEVER : UPLOAD_ALWAYS;
        o.handoff = i == 1 ? HANDOFF_CALLBACK : HANDOFF_AUTO;
        o.expert_moves = 64;
        if (run(model, f, &o, i == 2 ? 6 : 0, 0, &out)) {
            const struct expert_report *r = &out.experts;
            uint64_t picks = n_moe * N_TOKENS * (uint64_t)q->top_k;
            check_logits(&out, f);
            if (i < 3) /* each once */
                CHECK_INT(r->n_sent_picks + r->n_hits + r->n_cpu_picks, picks);
            CHECK((r->n_cpu_picks > 0) == (i != 1 && i != 3) && (r->n_hits > 0) == (i == 2));
            CHECK((r->n_sent > 0) == (i > 0) && (r->sent_bytes > 0) == (i > 0));
            CHECK(r->n_sent <= n_moe * (uint64_t)q->n_routed); /* once per step */
            for (int64_t t = 0; never && t < N_TOKENS; t++)
                CHECK_INT(best(out.logits + t * f->n_vocab, f->n_vocab),
                          best(never + t * f->n_vocab, f->n_vocab));
        }
        if (never)
            free(out.logits);
        else
            never = out.logits;
    }
    free(never);
}

/* What the rates decide: the hot ones go, while the GPU's list ends before the CPU's. */
static void test_choice(void)
{
    static const int32_t n_tokens[6] = { 4, 100, 0, 60, 100, 1 };
    int32_t up[6];
    check_case("nobody is sent where the CPU is quicker");
    CHECK_INT(upload_choose(&(struct upload_costs){ 1e-3, 1e-6, 2e-3 }, n_tokens, 6, up), 0);
    check_case("the hottest are sent, until both lists are equally long");
    struct upload_costs c = { 1e-3, 1e-4, 4e-3 }; /* 11, 11, 7, 1.4, 1.1 ms here */
    CHECK_INT(upload_choose(&c, n_tokens, 6, up), 2);
    CHECK(up[0] == 1 && up[1] == 4);
    check_case("all are sent that are worth it, where sending costs next to nothing");
    c.send_s = 1.2e-3;
    CHECK_INT(upload_choose(&c, n_tokens, 6, up), 3);
    c.send_s = 1e-6;
    CHECK_INT(upload_choose(&c, n_tokens, 6, up), 5);
    CHECK(up[2] == 3 && up[3] == 0 && up[4] == 5);
    check_case("the border of published rates");
    struct experts e = { .gate = { .data = &c, .type = TYPE_Q8_0, .rows = 2048, .cols = 7168,
                                   .row_bytes = 7168 / 32 * 34 },
                         .n_routed = 1 };
    e.up = e.gate;
    e.down = e.gate;
    struct rates here = { .n_cores = 16, .dram_gb_s = 1e9, .pcie_gb_s = 12 };
    here.gops[TYPE_Q8_0] = 4000;
    c = upload_costs_of(&e, &here, 4);
    double border = c.send_s / c.token_s; /* C b / (16 P): 4e12 * 8.5 / (16 * 12e9) */
    CHECK_MSG(border > 176 && border < 178, "%.1f tokens", border);
    here.pcie_gb_s = 0;
    here.dram_gb_s = 0;
    c = upload_costs_of(&e, &here, 1);
    CHECK(c.read_s > 0 && c.token_s > 0 && c.send_s > 0);
}

/* The same picks make the same table, so the same bits, however fast the copies are. */
static void test_same_bits(const char *name, const char *model, const struct fixture *f)
{
    struct outcome out[2];
    check_case("%s: the same bits again", name);
    struct engine_options o = options_of(cpu_experts(), 0);
    o.act_f32 = false;
    bool ok = true;
    for (int i = 0; i < 2; i++)
        ok = run(model, f, &o, 0, 1, &out[i]) && ok;
    if (ok) {
        CHECK(memcmp(out[0].logits, out[1].logits,
                     (size_t)(N_TOKENS * f->n_vocab) * sizeof(float)) == 0);
        CHECK_INT(out[0].experts.n_hits, out[1].experts.n_hits);
    }
    free(out[0].logits);
    free(out[1].logits);
}

/* Experts that main memory has woven and split over memory nodes arrive as they are in the file, in
 * slots and on their way. */
static void test_woven(const char *type)
{
    char model[160];
    struct fixture f;
    struct outcome out;
    check_case("%s: fixture", type);
    if (!fixture_of_quant(&f, type, model) || !CHECK(f.n_tokens >= N_TOKENS))
        return;
    f.n_tokens = N_TOKENS;
    for (int sent = 0; sent < 2; sent++) {
        check_case("%s: %s beside a copy in two parts", type, sent ? "uploads" : "slots");
        struct engine_options o = options_of(cpu_experts(), 0);
        o.act_f32 = false;
        o.load = LOAD_COPY;
        o.n_nodes = 2;
        o.expert_moves = 64;
        o.upload = sent ? UPLOAD_ALWAYS : UPLOAD_NEVER;
        if (run(model, &f, &o, 0, sent ? 0 : 1, &out)) {
            check_close(out.logits, &f);
            CHECK_MSG(sent ? out.experts.n_sent_picks == out.experts.n_picks
                           : out.experts.n_hits * 4 > out.experts.n_picks,
                      "%d hits and %d sent of %d", (int)out.experts.n_hits,
                      (int)out.experts.n_sent_picks, (int)out.experts.n_picks);
        }
        free(out.logits);
    }
    fixture_free(&f);
}

/* ---- single tensors ---- */

static const struct {
    const char *model;
    const char *to_cpu[6];
} rules[] = {
    { "deepseek2-lite", { "ffn_gate_inp", "ffn_down_shexp" } },
    { "deepseek2-v3",
      { "ffn_.*_shexp", "attn_(q|kv)_a|attn_output", "blk\\.1\\.ffn_gate_inp|output_norm",
        "attn_norm|attn_kv_a_norm|blk\\.1\\.attn_[kv]_b|exp_probs_b", "exp_probs_b|ffn_.*_exps" } },
    { "deepseek32", { "indexer", "indexer\\.k_norm\\.bias|attn_q_a_norm", "indexer\\.(attn_q_b|proj)" } },
    { "deepseek4",
      { "attn_sinks|_ape|compressor_norm|hc_attn", "hc_.*_scale|attn_kv|tid2eid", "indexer|compressor_gate",
        "ffn_gate_inp|attn_output_b|output_hc", "_exps|exp_probs_b|tid2eid" } },
};

static void test_rules(const char *name, const char *model, const struct fixture *f)
{
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        for (size_t k = 0; strcmp(rules[i].model, name) == 0 && rules[i].to_cpu[k]; k++) {
            struct placement_rule rule = { .on_gpu = false };
            struct placement_wishes w = *cpu_experts();
            struct outcome out;
            check_case("%s: %s with the CPU", name, rules[i].to_cpu[k]);
            regcomp(&rule.name, rules[i].to_cpu[k], REG_EXTENDED | REG_NOSUB);
            w.rules = &rule;
            w.n_rules = 1;
            w.cpu_moe = k % 2 ? 0 : PLACE_ALL;
            struct engine_options o = options_of(&w, 0);
            if (run(model, f, &o, 0, 7, &out))
                check_logits(&out, f);
            regfree(&rule.name);
            free(out.logits);
        }
    }
}

/* ---- timelines that go back, and on elsewhere ---- */

static bool eval(struct session *s, struct fixture *into, const struct fixture *f, int64_t n, int n_batch)
{
    struct error err = { 0 };
    int64_t first = session_n_past(s);
    return CHECK_MSG(session_eval(s, f->tokens + first, n - first, n_batch, keep_rows, into, &err),
                     "%s", err.text);
}

static void check_behind(const struct fixture *found, const struct fixture *f, int64_t first)
{
    double worst = largest_difference(found->logits + first * f->n_vocab,
                                      f->logits + first * f->n_vocab,
                                      (f->n_tokens - first) * f->n_vocab);
    CHECK_MSG(worst <= f->tolerance, "largest logit difference %.3g, allowed %.3g", worst,
              f->tolerance);
}

/* On one engine read everything, go back twice, save; on another restore most of it and go on. */
static void go_back_and_on(const char *model, const struct fixture *f,
                           const struct engine_options *from, const struct engine_options *to)
{
    char file[64];
    struct error err = { 0 };
    const struct engine_options *const both[] = { from, to };
    int64_t n = f->n_tokens, n_read = 0;
    struct fixture into = *f;
    into.logits = malloc((size_t)(n * f->n_vocab) * sizeof(float));
    snprintf(file, sizeof file, "/tmp/tandem-placement-%d", (int)getpid());
    for (int i = 0; i < 2; i++) {
        struct engine *e = NULL;
        struct session *s = NULL;
        struct prefix_file *p = NULL;
        struct session_options so = { .n_ctx = n };
        memset(into.logits, 0, (size_t)(n * f->n_vocab) * sizeof(float));
        bool ok = engine_open(&e, check_fixture(model), both[i], &err) &&
                  session_open(&s, e, &so, &err) && prefix_file_open(&p, file, s, &err);
        CHECK_MSG(ok, "%s", err.text);
        if (ok && i == 0 && eval(s, &into, f, n - 12, 0) && eval(s, &into, f, n, 1)) {
            check_behind(&into, f, 0);
            session_truncate(s, n - 5); /* rings still have what is needed */
            ok = eval(s, &into, f, n, 3);
            session_truncate(s, n - 12); /* a checkpoint */
            ok = ok && eval(s, &into, f, n, 0);
            check_behind(&into, f, 0);
            CHECK_MSG(ok && prefix_file_save(p, s, 0, &err), "%s", err.text);
        } else if (ok && i == 1) {
            ok = prefix_file_restore(p, s, f->tokens, n - 4, &n_read, NULL, NULL, &err);
            CHECK_MSG(ok && n_read > 0 && n_read <= n - 4, "%s", err.text);
            if (eval(s, &into, f, n, 0))
                check_behind(&into, f, n_read);
        }
        prefix_file_close(p);
        session_close(s);
        engine_close(e);
    }
    remove(file);
    free(into.logits);
}

static void test_timelines(const char *name, const char *model, const struct fixture *f, int n_layers)
{
    struct engine_options split = options_of(cpu_experts(), (n_layers + 1) / 2), cpu = split;
    split.n_batch = cpu.n_batch = (int)f->n_tokens;
    split.n_ctx = cpu.n_ctx = f->n_tokens;
    cpu.gpu = GPU_NEVER;
    check_case("%s: back and on, then from half of the layers to the CPU", name);
    go_back_and_on(model, f, &split, &cpu);
    check_case("%s: back and on, then from the CPU to half of the layers", name);
    go_back_and_on(model, f, &cpu, &split);
}

static void refuse(const char *model, const struct engine_options *o, enum error_code code,
                   const char *says)
{
    struct error err = { 0 };
    struct engine *e = NULL;
    CHECK(!engine_open(&e, check_fixture(model), o, &err));
    CHECK_INT(err.code, code);
    CHECK_MSG(strstr(err.text, says), "says %s", err.text);
    if (card_bytes)
        CHECK_INT(card_bytes(), 0);
    engine_close(e);
}

static void test_refusals(void)
{
    const char *model = "models/deepseek2-lite27.gguf";
    struct placement_rule rule = { .on_gpu = true };
    struct placement_wishes w = *cpu_experts();
    w.rules = &rule;
    w.n_rules = 1;
    check_case("part of a layer's experts");
    regcomp(&rule.name, "blk\\.2\\.ffn_down_exps", REG_EXTENDED | REG_NOSUB);
    struct engine_options o = options_of(&w, 0);
    refuse(model, &o, ERR_USAGE, "go together");
    check_case("experts of a layer that is the CPU's");
    regfree(&rule.name);
    regcomp(&rule.name, "blk\\.1\\.ffn_.*_exps", REG_EXTENDED | REG_NOSUB);
    o = options_of(&w, 1);
    refuse(model, &o, ERR_USAGE, "layer 1 is the CPU's");
    regfree(&rule.name);
    check_case("more than fits");
    w = *cpu_experts();
    o = options_of(&w, 0);
    o.max_vram_bytes = 448 * MIB; /* less than driver and trunk */
    refuse(model, &o, ERR_FIT, "-ngl auto");
}

/* ---- too little memory ---- */

/* From plenty to nothing: fewer slots, then fewer layers, then the CPU alone; always within the
 * budget. */
static void test_budgets(const char *name, const char *model, const struct fixture *f)
{
    struct error err = { 0 };
    struct placement_wishes w = *cpu_experts();
    struct engine *e = NULL;
    check_case("%s: less and less VRAM", name);
    w.gpu_experts = 0;
    struct engine_options o = options_of(&w, 0);
    if (!CHECK_MSG(engine_open(&e, check_fixture(model), &o, &err), "%s", err.text))
        return;
    const struct placement *p = engine_placement(e);
    uint64_t least = p->vram_used, expert = p->expert_bytes, trunk = p->bytes[PART_TRUNK][HOME_GPU];
    int n_layers = p->gpu_layers;
    engine_close(e);

    w.gpu_experts = PLACE_AUTO;
    o.gpu = GPU_AUTO;
    const struct {
        uint64_t bytes;
        bool whole, any;
    } rows[] = {
        { least + 16 * expert * (uint64_t)n_layers, true, true },
        { least, true, true },
        { least - trunk / 2, false, true },
        { least - trunk, false, false },
        { MIB, false, false },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct session *s = NULL;
        struct session_options so = { .n_ctx = N_TOKENS };
        struct fixture into = { .n_vocab = f->n_vocab };
        into.logits = calloc((size_t)(N_TOKENS * f->n_vocab), sizeof(float));
        check_case("%s: %llu KiB of VRAM", name, (unsigned long long)rows[i].bytes >> 10);
        o.max_vram_bytes = rows[i].bytes;
        error_clear(&err);
        bool ok = engine_open(&e, check_fixture(model), &o, &err) &&
                  session_open(&s, e, &so, &err) &&
                  session_eval(s, f->tokens, N_TOKENS, 0, keep_rows, &into, &err);
        if (CHECK_MSG(ok, "%s", err.text)) {
            p = engine_placement(e);
            CHECK_MSG(!rows[i].any || engine_gpu(e), "not on the GPU");
            CHECK_MSG((p->gpu_layers == n_layers && p->head_on_gpu) == rows[i].whole,
                      "%d of %d layers", p->gpu_layers, n_layers);
            CHECK(p->vram_used <= rows[i].bytes || !engine_gpu(e));
            if (card_bytes)
                CHECK(card_bytes() <= rows[i].bytes);
            check_logits(&(struct outcome){ .logits = into.logits }, f);
        }
        session_close(s);
        engine_close(e);
        free(into.logits);
    }
}

static void test_model(const char *name)
{
    char model[160];
    struct fixture f;
    struct model m = { 0 };
    struct error err = { 0 };
    check_case("%s: fixture", name);
    if (!fixture_of_model(&f, name, model) || !CHECK(f.n_tokens >= N_TOKENS) ||
        !CHECK_MSG(model_open(&m, check_fixture(model), NUMERICS_LLAMACPP, &err), "%s", err.text))
        return;
    numerics = f.has_ties ? NUMERICS_GGUF : NUMERICS_LLAMACPP;
    if (f.has_ties) {
        free(f.logits);
        f.logits = run_settled(check_fixture(model), &f, &(struct setup){ .act_f32 = true, .n_threads = 1 });
    }
    test_layers(name, model, &f, m.params.n_layers, m.params.n_routed);
    bool has_twin = strstr(name, "-yarn"); /* which differs in nothing that placements touch */
    if (m.params.n_routed > 0 && !has_twin)
        test_slots(name, model, &f, &m.params);
    if (m.params.n_routed > 0 && !has_twin)
        test_uploads(name, model, &f, &m.params);
    test_rules(name, model, &f);
    if (strcmp(name, "deepseek2-v3") == 0 || (m.params.index_top_k > 0 && !has_twin))
        test_timelines(name, model, &f, m.params.n_layers);
    if (strcmp(name, "deepseek2-v3") == 0) {
        test_same_bits(name, model, &f);
        test_refusals();
        test_budgets(name, model, &f);
    }
    model_close(&m);
    fixture_free(&f);
}

int main(int argc, char **argv)
{
    if (!check_fixtures()) {
        check_case("placements");
        check_skip("no fixtures: set TANDEM_FIXTURES to compare with the reference models");
        return check_finish();
    }
    if (!gpu_test_load())
        return check_finish();
    gpu_test_hook("cuda_host_bytes", &card_bytes);
    for (size_t i = 0; i < sizeof fixture_models / sizeof fixture_models[0]; i++) {
        bool wanted = argc < 2;
        for (int a = 1; a < argc; a++)
            wanted = wanted || strcmp(argv[a], fixture_models[i]) == 0;
        if (wanted)
            test_model(fixture_models[i]);
    }
    if (argc < 2)
        test_choice();
    if (argc < 2)
        test_woven("Q4_K_M");
    return check_finish();
}
