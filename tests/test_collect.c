/* Collecting importance: sums against what the weights say by hand, counts, files, and the command. */
#include <math.h>

#include "src/engine/engine.h"
#include "src/format/quant.h"
#include "tests/command.h"
#include "tests/tiny_model.h"
#include "tools/collect.h"

#define N 24       /* tokens of a window */
#define MAX_COLS 1024
#define CLOSE 2e-5 /* relative; both sides compute in floats, in other orders */

static char path[256], out[256], made[256], text_path[256];

/* Row `row` of a tensor, as floats. */
static int64_t row_of(const struct gguf *g, const char *name, uint64_t row, float *values)
{
    const struct tensor *t = gguf_tensor(g, name);
    if (!CHECK_MSG(t && t->ne[0] <= MAX_COLS, "%s", name))
        return 0;
    size_t bytes = quant_row_bytes(t->type, (int64_t)t->ne[0]);
    quant_traits(t->type)->dequantize((const char *)t->data + row * bytes, values,
                                      (int64_t)t->ne[0]);
    return (int64_t)t->ne[0];
}

static void normalise(float *x, const float *weight, int64_t n, double eps)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)((double)x[i] / sqrt(sum / (double)n + eps)) * weight[i];
}

/* What the first layer's attention is given for a token: its embedding, normalised. */
static int64_t first_input(const struct model *m, int32_t token, float *x)
{
    float weight[MAX_COLS];
    int64_t n = row_of(&m->gguf, "token_embd.weight", (uint64_t)token, x);
    row_of(&m->gguf, "blk.0.attn_norm.weight", 0, weight);
    normalise(x, weight, n, (double)m->params.rms_eps);
    return n;
}

static const struct collected *entry(const struct collection *c, const char *name)
{
    for (size_t i = 0; i < c->n_entries; i++)
        if (strcmp(c->entries[i].name, name) == 0)
            return &c->entries[i];
    CHECK_MSG(false, "nothing was collected for %s", name);
    return NULL;
}

static void check_sums(const double *sums, const double *wanted, int64_t n, const char *what)
{
    double worst = 0, all = 0;
    for (int64_t i = 0; i < n; i++) {
        worst = fmax(worst, fabs(sums[i] - wanted[i]));
        all = fmax(all, wanted[i]);
    }
    CHECK_MSG(worst <= CLOSE * all, "%s: off by %g of %g", what, worst, all);
}

/* One window through the model. */
static bool run(struct collection *c, const int32_t *tokens, struct engine **e)
{
    static struct observer observer; /* borrowed by the engine */
    struct session *s = NULL;
    struct error err = { 0 };
    observer = collection_observer(c);
    struct engine_options o = { .n_threads = 2, .act_f32 = true, .n_batch = 16,
                                .observer = &observer };
    struct session_options so = { .n_ctx = N };
    bool ok = engine_open(e, path, &o, &err) && session_open(&s, *e, &so, &err) &&
              collection_open(c, (size_t)engine_model(*e)->n_tensors, &err) &&
              session_prefill(s, tokens, N, NULL, NULL, &err) && !c->err.code;
    CHECK_MSG(ok, "%s%s", err.text, c->err.text);
    session_close(s);
    return ok;
}

static void test_attention_inputs(const char *arch, const char *matrix)
{
    struct collection c = { 0 };
    struct engine *e = NULL;
    int32_t tokens[N];
    static double wanted[MAX_COLS];
    char options[100];
    float x[MAX_COLS];
    int64_t n = 0;
    snprintf(options, sizeof options, "--arch %s --type f32", arch);
    check_case("%s: the first layer's inputs are those of the weights", arch);
    for (int i = 0; i < N; i++)
        tokens[i] = 3 + (i * i) % 40;
    if (tiny_write(path, options) && run(&c, tokens, &e)) {
        memset(wanted, 0, sizeof wanted);
        for (int t = 0; t < N; t++) {
            n = first_input(engine_model(e), tokens[t], x);
            for (int64_t i = 0; i < n; i++)
                wanted[i] += (double)x[i] * (double)x[i];
        }
        const struct collected *q = entry(&c, matrix);
        if (q) {
            CHECK_INT(q->cols, n);
            CHECK_INT(q->counts[0], N);
            check_sums(q->sums, wanted, n, matrix);
        }
    }
    collection_close(&c);
    engine_close(e);
}

/* Of equal tokens every attention is the same token's: what the values see is its latent. */
static void test_equal_tokens(void)
{
    struct collection c = { 0 };
    struct engine *e = NULL;
    int32_t tokens[N];
    float x[MAX_COLS], row[MAX_COLS], latent[MAX_COLS];
    double wanted[MAX_COLS];
    struct buf text = { 0 };
    check_case("deepseek2: equal tokens");
    for (int i = 0; i < N; i++)
        tokens[i] = 7;
    if (tiny_write(path, "--arch deepseek2 --type f32") && run(&c, tokens, &e)) {
        const struct model *m = engine_model(e);
        const struct params *p = &m->params;
        int64_t n = first_input(m, 7, x);
        for (int r = 0; r < p->kv_lora_rank; r++) {
            double sum = 0;
            row_of(&m->gguf, "blk.0.attn_kv_a_mqa.weight", (uint64_t)r, row);
            for (int64_t i = 0; i < n; i++)
                sum += (double)row[i] * (double)x[i];
            latent[r] = (float)sum;
        }
        row_of(&m->gguf, "blk.0.attn_kv_a_norm.weight", 0, row);
        normalise(latent, row, p->kv_lora_rank, (double)p->rms_eps);
        for (int r = 0; r < p->kv_lora_rank; r++)
            wanted[r] = N * (double)latent[r] * (double)latent[r];
        const struct collected *v = entry(&c, "blk.0.attn_v_b.weight");
        if (v) {
            CHECK_INT(v->n_matrices, p->n_heads);
            for (int h = 0; h < p->n_heads; h++)
                check_sums(v->sums + h * v->cols, wanted, v->cols, "blk.0.attn_v_b.weight");
        }
        check_case("experts: as many counts as picks, gate and up are one");
        const struct collected *down = entry(&c, "blk.1.ffn_down_exps.weight");
        const struct collected *gate = entry(&c, "blk.1.ffn_gate_exps.weight");
        if (down && gate) {
            uint64_t picks = 0, used = 0;
            for (int i = 0; i < p->n_routed; i++) {
                picks += down->counts[i];
                used += down->counts[i] > 0;
                CHECK_INT(gate->counts[i], down->counts[i]);
                CHECK(down->counts[i] == 0 || down->counts[i] == N);
            }
            CHECK_INT(picks, N * p->top_k);
            CHECK_INT(used, p->top_k);
            CHECK_STR(gate->also ? gate->also : "", "blk.1.ffn_up_exps.weight");
        }
        collection_coverage(&c, &text);
        char unseen[100];
        snprintf(unseen, sizeof unseen, "of which %d in", (p->n_layers - p->n_dense_lead) *
                                                          (p->n_routed - p->top_k));
        CHECK_MSG(strstr(buf_str(&text).data, unseen), "%s: %s", unseen, buf_str(&text).data);
    }
    buf_release(&text);
    collection_close(&c);
    engine_close(e);
}

static void check_file(const struct collection *c, double factor)
{
    struct imatrix m = { 0 };
    struct error err = { 0 };
    static float row[MAX_COLS];
    if (!CHECK_MSG(imatrix_open(&m, out, &err), "%s", err.text))
        return;
    CHECK_INT(m.n_chunks, (int)(3 * factor));
    CHECK(str_is(m.dataset, "text.txt"));
    for (size_t i = 0; i < c->n_entries; i++) {
        const struct collected *x = &c->entries[i];
        struct imatrix_entry e;
        bool exact;
        const struct imatrix_entry *found = imatrix_find(&m, x->name, &exact);
        uint64_t n = (uint64_t)x->n_matrices;
        if (!CHECK_MSG(found && exact, "%s", x->name) ||
            !CHECK_MSG(imatrix_fit(found, x->name, (uint64_t)x->cols, n, &e, &err), "%s", err.text))
            continue;
        for (uint64_t k = 0; k < n; k++) {
            imatrix_row(&e, k, x->cols, row);
            double sum = x->sums[k * (uint64_t)x->cols], count = (double)x->counts[k];
            double mean = count > 0 ? sum / count : 1; /* nothing seen: all alike */
            CHECK_MSG(fabs((double)row[0] - mean) <= 1e-6 * mean, "%s: %g, wanted %g", x->name,
                      (double)row[0], mean);
        }
    }
    imatrix_close(&m);
}

static void test_file(void)
{
    struct collection c = { 0 };
    struct engine *e = NULL;
    struct error err = { 0 };
    struct imatrix m = { 0 };
    int32_t tokens[N];
    check_case("written, read back, added to");
    for (int i = 0; i < N; i++)
        tokens[i] = 3 + i % 11;
    if (run(&c, tokens, &e)) {
        c.n_chunks = 3;
        c.dataset = str_of("text.txt");
        CHECK_MSG(collection_write(&c, out, &err), "%s", err.text);
        check_file(&c, 1);
        if (CHECK_MSG(imatrix_open(&m, out, &err) && collection_add(&c, &m, &err), "%s", err.text)) {
            CHECK_INT(c.n_chunks, 6);
            CHECK_INT(entry(&c, "blk.0.attn_kv_a_mqa.weight")->counts[0], 2 * N);
            CHECK_MSG(collection_write(&c, out, &err), "%s", err.text);
            check_file(&c, 2);
        }
        imatrix_close(&m);
    }
    collection_close(&c);
    engine_close(e);
}

static void run_command(int wanted, const char *arguments, const char *words)
{
    static char said[8000];
    int code = run_tandem(arguments, said, sizeof said);
    CHECK_MSG(code == wanted && strstr(said, words), "%s: code %d, wanted %d and \"%s\": %s", arguments,
              code, wanted, words, said);
}

static void test_command(void)
{
    char line[1600];
    FILE *f = fopen(text_path, "w");
    for (int i = 0; f && i < 120; i++)
        fprintf(f, "The capital of France is Paris. %d plus %d is %d.\n", i, i, 2 * i);
    if (!CHECK(f && fclose(f) == 0))
        return;
    unlink(out);
    check_case("the command, and types that need what it made");
    snprintf(line, sizeof line, "quantize --collect-imatrix -m models/demo.gguf -f %s -o %s -c 64 "
             "--chunks 9", text_path, out);
    run_command(0, line, "24 experts in 3 layers");
    run_command(2, line, "exists");
    strcat(line, " --force --imatrix ");
    strcat(line, out);
    run_command(0, line, "9 windows of 64 tokens");
    struct imatrix m = { 0 };
    struct error err = { 0 };
    if (CHECK_MSG(imatrix_open(&m, out, &err), "%s", err.text))
        CHECK_INT(m.n_chunks, 18);
    imatrix_close(&m);
    snprintf(line, sizeof line, "quantize models/demo.gguf %s iq2_xxs --imatrix %s "
             "--allow-requantize", made, out);
    run_command(0, line, "multi-token prediction, which no calibration runs");
    snprintf(line, sizeof line, "quantize --collect-imatrix -m models/demo.gguf -f %s", text_path);
    run_command(2, line, "-o FILE");
    snprintf(line, sizeof line, "quantize --collect-imatrix -m %s -f %s -o %s --force --imatrix %s",
             path, text_path, made, out);
    run_command(3, line, "of another model");
}

int main(void)
{
    tiny_path(path, "collect");
    tiny_path(out, "collect-imatrix");
    tiny_path(made, "collect-made");
    tiny_path(text_path, "collect-text");
    test_attention_inputs("llama", "blk.0.attn_v.weight");
    test_attention_inputs("deepseek2", "blk.0.attn_kv_a_mqa.weight");
    test_equal_tokens();
    test_file();
    test_command();
    unlink(path);
    unlink(out);
    unlink(made);
    unlink(text_path);
    return check_finish();
}
