/* Types by budget: the knapsack against trying everything, then whole models by their headers. */
#include <math.h>

#include "src/format/quant.h"
#include "tests/command.h"
#include "tests/tiny_model.h"
#include "tools/fit.h"
#include "tools/knapsack.h"
#include "tools/mixture.h"
#include "tools/quantize_plan.h"

#define CHECK_OK(code, said) CHECK_MSG((code) == 0, "%s", said)
#define MAX_GROUPS 300
#define MAX_CHOICES 12
#define GIB ((int64_t)1 << 30)

static struct knapsack_choice choices[MAX_GROUPS][MAX_CHOICES];
static struct knapsack_group groups[MAX_GROUPS];
static int picks[MAX_GROUPS];

static void random_groups(int n, int most, uint64_t unit)
{
    for (int i = 0; i < n; i++) {
        groups[i] = (struct knapsack_group){ choices[i], 1 + (int)(check_random() % (uint64_t)most) };
        for (int c = 0; c < groups[i].n; c++) {
            choices[i][c].bytes = unit * (1 + check_random() % 1000);
            choices[i][c].loss = (double)check_random_float(0, 1);
        }
    }
}

static void sum_up(int n, uint64_t *bytes, double *loss)
{
    *bytes = 0;
    *loss = 0;
    for (int i = 0; i < n; i++) {
        *bytes += choices[i][picks[i]].bytes;
        *loss += choices[i][picks[i]].loss;
    }
}

/* The least loss within the budget by trying every combination; INFINITY: none fits. */
static double try_all(int n, uint64_t budget)
{
    int at[MAX_GROUPS] = { 0 };
    double best = INFINITY;
    for (;;) {
        uint64_t bytes = 0;
        double loss = 0;
        for (int i = 0; i < n; i++) {
            bytes += choices[i][at[i]].bytes;
            loss += choices[i][at[i]].loss;
        }
        if (bytes <= budget && loss < best)
            best = loss;
        int i = 0;
        while (i < n && ++at[i] == groups[i].n)
            at[i++] = 0;
        if (i == n)
            return best;
    }
}

static void test_small(void)
{
    check_case("as good as trying everything");
    for (int round = 0; round < 400; round++) {
        int n = 1 + (int)(check_random() % 6);
        uint64_t budget = check_random() % (uint64_t)(1200 * n), bytes;
        struct error err = { 0 };
        bool exact = false;
        double loss;
        random_groups(n, 5, 1);
        double best = try_all(n, budget);
        bool ok = knapsack_solve(groups, (size_t)n, budget, picks, &exact, &err);
        if (!CHECK_MSG(ok == isfinite(best), "round %d: %s", round, err.text) || !ok)
            continue;
        sum_up(n, &bytes, &loss);
        CHECK(exact && bytes <= budget);
        CHECK_MSG(fabs(loss - best) < 1e-12, "round %d: %g, the best is %g", round, loss, best);
    }
}

/* A bound that no choice can beat: the best with parts of choices (Lagrange's multiplier). */
static double bound(int n, uint64_t budget)
{
    double best = 0;
    for (double price = 1e-12; price < 1e-2; price *= 1.02) {
        double sum = -price * (double)budget;
        for (int i = 0; i < n; i++) {
            double least = INFINITY;
            for (int c = 0; c < groups[i].n; c++)
                least = fmin(least, choices[i][c].loss + price * (double)choices[i][c].bytes);
            sum += least;
        }
        best = fmax(best, sum);
    }
    return best;
}

static void test_large(void)
{
    int first[MAX_GROUPS];
    uint64_t bytes, n = 250;
    double loss;
    struct error err = { 0 };
    check_case("hundreds of groups: within the budget, near to what nothing can beat, and repeatable");
    random_groups((int)n, MAX_CHOICES, 1000003);
    for (uint64_t budget = n * 200000000; budget <= n * 600000000; budget += n * 100000000) {
        CHECK_MSG(knapsack_solve(groups, n, budget, picks, NULL, &err), "%s", err.text);
        sum_up((int)n, &bytes, &loss);
        CHECK(bytes <= budget);
        double least = bound((int)n, budget);
        CHECK_MSG(loss >= least - 1e-9 && loss <= least * 1.01 + 0.05, "%g, bound %g", loss, least);
        memcpy(first, picks, sizeof first);
        CHECK(knapsack_solve(groups, n, budget, picks, NULL, &err));
        CHECK(memcmp(first, picks, n * sizeof *picks) == 0);
    }
}

/* ---- models ---- */

struct outcome {
    bool ok;
    enum error_code code;
    uint64_t bytes;
    double loss;
    uint32_t types; /* a checksum of all types */
};

static enum tensor_type type_of(const struct type_plan *p, const char *name)
{
    for (size_t i = 0; i < p->n; i++)
        if (strcmp(p->tensors[i].name, name) == 0)
            return p->tensors[i].type;
    return TYPE_F32;
}

/* What must hold for every choice. */
static void check_rules(const struct type_plan *p)
{
    for (size_t i = 0; i < p->n; i++) {
        const struct recipe_tensor *t = &p->tensors[i];
        char gate[64];
        double bits = type_bits(t->type);
        CHECK(bits <= type_bits(t->source));
        if (strstr(t->name, "ffn_gate_inp") || strstr(t->name, "norm"))
            CHECK_MSG(t->type == t->source, "%s", t->name);
        if (strstr(t->name, "attn_v_b.") || strstr(t->name, "attn_k_b."))
            CHECK_MSG(bits >= 8, "%s: %g bits", t->name, bits);
        if (strstr(t->name, "_shexp.") || strcmp(t->name, "output.weight") == 0)
            CHECK_MSG(bits >= 6, "%s: %g bits", t->name, bits);
        if (!strstr(t->name, "ffn_down_exps"))
            continue;
        snprintf(gate, sizeof gate, "blk.%d.ffn_gate_exps.weight", tensor_layer(t->name));
        CHECK_MSG(bits >= type_bits(type_of(p, gate)), "%s: %g bits, fewer than %s", t->name, bits,
                  gate);
    }
}

static struct outcome choose(const char *path, int64_t ram, int64_t vram)
{
    struct options o = { .fit_ram = ram, .fit_vram = vram, .threads = 2 };
    struct quantize_plan p;
    struct error err = { 0 };
    struct outcome out = { .ok = quantize_plan_open(&p, &o, path, NULL, NULL, &err) };
    out.code = err.code;
    if (out.ok) {
        const char *loss = strstr(buf_str(&p.explanation).data, "expected loss");
        out.bytes = p.types.bytes_after;
        CHECK(loss && sscanf(loss, "expected loss %lf", &out.loss) == 1);
        check_rules(&p.types);
        for (size_t i = 0; i < p.types.n; i++)
            out.types = out.types * 31 + (uint32_t)p.types.tensors[i].type;
    }
    quantize_plan_close(&p);
    return out;
}

/* More room, less loss, and the room is used. */
static void test_model(const char *path, const int64_t *rooms, int n, int64_t vram)
{
    struct outcome before = { .loss = INFINITY };
    for (int i = 0; i < n; i++) {
        struct outcome now = choose(path, rooms[i], vram), again = choose(path, rooms[i], vram);
        if (!CHECK_MSG(now.ok, "%lld bytes do not fit", (long long)rooms[i]))
            continue;
        CHECK(now.bytes <= (uint64_t)(rooms[i] + vram));
        CHECK_MSG(now.loss < before.loss && now.bytes > before.bytes, "%g behind %g", now.loss,
                  before.loss);
        CHECK(again.types == now.types && again.bytes == now.bytes);
        before = now;
    }
    CHECK_INT(choose(path, GIB * 3, vram).code, ERR_FIT);
}

static void test_models(const char *path)
{
    static const int64_t small[] = { 9 * GIB, 10 * GIB, 12 * GIB, 16 * GIB };
    static const int64_t large[] = { 260 * GIB, 300 * GIB, 370 * GIB, 500 * GIB };
    check_case("V2-Lite by its header, in main memory alone");
    if (tiny_write(path, "--like v2-lite --generation a --type f16 --sparse"))
        test_model(path, small, 4, 0);
    check_case("V3 by its header, with 24 GiB of VRAM");
    if (tiny_write(path, "--like v3 --type bf16 --sparse"))
        test_model(path, large, 4, 24 * GIB);
}

static void test_command(const char *path, const char *out)
{
    static char said[20000];
    char line[1200];
    check_case("the command");
    snprintf(line, sizeof line, "quantize %s %s --fit-ram 300G --fit-vram 24G --dry-run", path, out);
    CHECK_INT(run_tandem(line, said, sizeof said), 0);
    CHECK_MSG(strstr(said, "experts, down") && strstr(said, "left") && strstr(said, "expected loss"),
              "%s", said);
    snprintf(line, sizeof line, "quantize %s %s q4_k_m --fit-ram 300G --dry-run", path, out);
    CHECK_INT(run_tandem(line, said, sizeof said), 2);
    snprintf(line, sizeof line, "quantize %s %s --fit-ram 10G --dry-run", path, out);
    CHECK_INT(run_tandem(line, said, sizeof said), 4);
    CHECK_MSG(strstr(said, "the smallest types") && strstr(said, "--imatrix"), "%s", said);

    check_case("a file that is made so, and speeds that can be had or not");
    snprintf(line, sizeof line, "quantize models/demo.gguf %s --fit-ram 12G --allow-requantize", out);
    CHECK_INT(run_tandem(line, said, sizeof said), 0);
    snprintf(line, sizeof line, "inspect %s --verify", out);
    CHECK_INT(run_tandem(line, said, sizeof said), 0);
    snprintf(line, sizeof line, "quantize models/demo.gguf %s --min-tps 0.001 --fit-ram 12G --dry-run",
             out);
    CHECK_MSG(run_tandem(line, said, sizeof said) == 0 && strstr(said, "tokens per second"), "%s",
              said);
    snprintf(line, sizeof line, "quantize models/demo.gguf %s --min-tps 1000000 --fit-ram 12G "
             "--dry-run --allow-requantize", out);
    CHECK_MSG(run_tandem(line, said, sizeof said) == 4 && strstr(said, "--min-tps"), "%s", said);
}

/* With importance the errors are measured, and types that need it may be chosen. */
static void test_importance(const char *imatrix, const char *out)
{
    static char said[20000];
    char line[1200];
    double plain = 0, measured = 0;
    const char *fit = "quantize models/demo.gguf %s --fit-ram %dM -c 512 --allow-requantize --dry-run";
    check_case("with importance: errors measured on the weights");
    snprintf(line, sizeof line, "quantize --collect-imatrix -m models/demo.gguf -f README.md -o %s "
             "-c 64 --chunks 6", imatrix);
    if (!CHECK_OK(run_tandem(line, said, sizeof said), said))
        return;
    int low = 1, high = 1000; /* MiB: what is needed beside the weights depends on the machine */
    while (high - low > 1) {
        int middle = (low + high) / 2;
        snprintf(line, sizeof line, fit, out, middle);
        *(run_tandem(line, said, sizeof said) == 0 ? &high : &low) = middle;
    }
    snprintf(line, sizeof line, fit, out, high);
    CHECK_OK(run_tandem(line, said, sizeof said), said);
    const char *loss = strstr(said, "expected loss");
    CHECK(loss && sscanf(loss, "expected loss %lf", &plain) == 1 && strstr(loss, "normally"));
    snprintf(line + strlen(line), sizeof line - strlen(line), " --imatrix %s", imatrix);
    CHECK_OK(run_tandem(line, said, sizeof said), said);
    loss = strstr(said, "expected loss");
    CHECK(loss && sscanf(loss, "expected loss %lf", &measured) == 1 && strstr(loss, "samples"));
    CHECK_MSG(measured > 0 && measured != plain, "%g measured, %g by the table", measured, plain);
}

int main(void)
{
    char path[256], out[256];
    tiny_path(path, "budget");
    tiny_path(out, "budget-out");
    test_small();
    test_large();
    test_models(path);
    test_command(path, out);
    unlink(path);
    unlink(out);
    test_importance(path, out);
    unlink(path);
    unlink(out);
    return check_finish();
}
