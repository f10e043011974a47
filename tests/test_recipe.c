/* Recipes: the named mixtures against what llama-quantize chose (tests/vectors/mixtures.txt), then
 * what is our own: protection, presets, overrides, recipe files, messages. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/format/quant.h"
#include "tests/check.h"
#include "tools/recipe.h"

#define MAX_TENSORS 4096

/* A model of the vector file, as tensors of a recipe; `kind` is the name without layer and
 * suffix. */
static struct {
    char name[32], arch[32];
    struct recipe_model model;
    struct recipe_tensor tensors[MAX_TENSORS];
    char names[MAX_TENSORS][64], kinds[MAX_TENSORS][32];
    int n;
} m;

static void add_tensors(const char *kind, const uint64_t *ne, int first, int end)
{
    for (int layer = first; layer < (first < 0 ? 0 : end) && m.n < MAX_TENSORS; layer++) {
        struct recipe_tensor *t = &m.tensors[m.n];
        if (first < 0)
            snprintf(m.names[m.n], sizeof m.names[0], "%s.weight", kind);
        else
            snprintf(m.names[m.n], sizeof m.names[0], "blk.%d.%s.weight", layer, kind);
        snprintf(m.kinds[m.n], sizeof m.kinds[0], "%s", kind);
        *t = (struct recipe_tensor){ .name = m.names[m.n],
                                     .n_dims = ne[2] > 1 ? 3 : ne[1] > 1 ? 2 : 1,
                                     .ne = { ne[0], ne[1], ne[2], 1 },
                                     .source = ne[1] > 1 ? TYPE_BF16 : TYPE_F32 };
        m.n++;
    }
}

static bool apply(const char *name, bool strict, bool has_imatrix, const char *const *rules)
{
    struct recipe r = { .strict = strict, .has_imatrix = has_imatrix };
    struct error err = { 0 };
    bool ok = recipe_set(&r, name, &err);
    for (; ok && rules && *rules; rules++)
        ok = recipe_add(&r, *rules, &err);
    ok = ok && recipe_apply(&r, &m.model, m.tensors, (size_t)m.n, &err);
    CHECK_MSG(ok, "%s: %s", name, err.text);
    recipe_release(&r);
    return ok;
}

/* "Q4_K*3 Q6_K : kind kind": the types of these kinds, layer by layer. */
static void check_line(const char *line, const char *mixture)
{
    char runs[1024], kind[32];
    int used = 0;
    const char *colon = strstr(line, " : ");
    if (!CHECK(colon != NULL))
        return;
    snprintf(runs, sizeof runs, "%.*s", (int)(colon - line), line);
    for (const char *at = colon + 3; sscanf(at, "%31s%n", kind, &used) == 1; at += used) {
        const char *run = runs;
        int left = 0, i = 0;
        char type[32] = "";
        for (; i < m.n; i++) {
            if (strcmp(m.kinds[i], kind) != 0)
                continue;
            if (left == 0) {
                char word[48];
                int n = 0;
                if (!CHECK_MSG(sscanf(run, "%47s%n", word, &n) == 1, "%s: %s: too few types",
                               mixture,
                               kind))
                    break;
                run += n;
                char *star = strchr(word, '*');
                left = star ? atoi(star + 1) : 1;
                if (star)
                    *star = 0;
                snprintf(type, sizeof type, "%.31s", word);
            }
            left--;
            CHECK_MSG(strcmp(quant_traits(m.tensors[i].type)->name, type) == 0,
                      "%s of %s: %s is %s, wanted %s", mixture, m.name, m.names[i],
                      quant_traits(m.tensors[i].type)->name, type);
        }
    }
}

/* Read the vector file up to the mixtures of the model called `only`, or check all when NULL. */
static void read_models(const char *only)
{
    size_t size;
    char *text = check_read_file("tests/vectors/mixtures.txt", &size), mixture[32] = "";
    bool found = false, twice = false;
    if (!CHECK(text != NULL))
        return;
    for (char *line = text, *next; line && *line; line = next) {
        next = strchr(line, '\n');
        if (next)
            *next++ = 0;
        char name[32], kind[32];
        unsigned long long ne[3];
        int a, b;
        if (strncmp(line, "model ", 6) == 0) {
            if (only && found)
                break;
            m.n = 0;
            if (!CHECK(sscanf(line, "model %31s %31s layers %d experts %d heads %d %d", m.name,
                              m.arch,
                              &m.model.n_layers, &m.model.n_experts, &m.model.n_heads,
                              &m.model.n_kv_heads) == 6))
                break;
            m.model.arch = str_of(m.arch);
            found = only && strcmp(m.name, only) == 0;
            if (!only)
                check_case("mixtures for %s", m.name);
        } else if (sscanf(line, "tensor %31s %llu %llu %llu %d %d", kind, &ne[0], &ne[1], &ne[2],
                          &a,
                          &b) == 6) {
            uint64_t dims[3] = { ne[0], ne[1], ne[2] };
            add_tensors(kind, dims, a, b);
        } else if (!only && sscanf(line, "mixture %31s", name) == 1) {
            snprintf(mixture, sizeof mixture, "%s", name);
            twice = strstr(line, " 0 1") != NULL;
            if (!apply(mixture, true, line[strlen(line) - 1] == '1', NULL))
                break;
        } else if (!only && *mixture && *line != '#') {
            check_line(line, mixture);
            if (twice) {
                apply(mixture, true, false, NULL);
                check_line(line, mixture);
            }
        }
    }
    free(text);
}

static enum tensor_type type_of(const char *name)
{
    for (int i = 0; i < m.n; i++)
        if (strcmp(m.names[i], name) == 0)
            return m.tensors[i].type;
    CHECK_MSG(false, "no tensor %s", name);
    return TYPE_F32;
}

static void check_type(const char *tensor, const char *wanted, int line)
{
    check_string(quant_traits(type_of(tensor))->name, wanted, __FILE__, line, tensor);
}
#define CHECK_TYPE(tensor, wanted) check_type(tensor, wanted, __LINE__)

static double bits_of(const char *name)
{
    return type_bits(type_of(name));
}

static void test_protection(void)
{
    static const char *const names[] = { "Q8_0", "Q4_K_M", "Q3_K_S", "Q2_K", "IQ2_XXS", "IQ1_S",
                                         "ds-iq1",
                                         "ds-iq2", "ds-q2", "ds-iq3", "ds-q3", "ds-q4", "ds-q4m",
                                         "MXFP4_MOE", "NVFP4", "Q2_K_L" };
    read_models("v3-mtp");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        check_case("protection in %s", names[i]);
        if (!apply(names[i], false, true, NULL))
            continue;
        CHECK_TYPE("blk.5.ffn_gate_inp.weight", "BF16"); /* as in the source */
        CHECK_TYPE("blk.5.attn_norm.weight", "F32");
        CHECK(bits_of("blk.5.attn_k_b.weight") >= 8.5);
        CHECK(bits_of("blk.5.attn_v_b.weight") >= 8.5);
        CHECK(bits_of("blk.61.nextn.eh_proj.weight") >= 8.5);
        CHECK(bits_of("blk.5.attn_q_a.weight") >= 6.5);
        CHECK(bits_of("blk.5.attn_kv_a_mqa.weight") >= 6.5);
        CHECK(bits_of("blk.5.ffn_down_shexp.weight") >= 6.5);
        CHECK(bits_of("blk.0.ffn_up.weight") >= 6.5);
        CHECK(bits_of("output.weight") >= 6.5);
        CHECK(bits_of("token_embd.weight") >= 4.5);
        for (int l = 3; l < 62; l++) {
            char down[64], gate[64];
            snprintf(down, sizeof down, "blk.%d.ffn_down_exps.weight", l);
            snprintf(gate, sizeof gate, "blk.%d.ffn_gate_exps.weight", l);
            CHECK_MSG(bits_of(down) >= bits_of(gate), "%s", down);
        }
    }
    check_case("presets");
    apply("ds-iq1", false, true, NULL);
    CHECK_TYPE("blk.3.ffn_down_exps.weight", "IQ2_XXS");
    CHECK_TYPE("blk.8.ffn_down_exps.weight", "IQ2_XXS");
    CHECK_TYPE("blk.9.ffn_down_exps.weight", "IQ1_S");
    CHECK_TYPE("blk.9.ffn_up_exps.weight", "IQ1_S");
    CHECK_TYPE("blk.9.attn_q_b.weight", "Q6_K");
    apply("ds-q4m", false, true, NULL);
    CHECK_TYPE("blk.9.ffn_down_exps.weight", "Q6_K");
    CHECK_TYPE("blk.9.ffn_gate_exps.weight", "Q4_K");
    CHECK_TYPE("blk.9.attn_output.weight", "Q8_0");
    CHECK_TYPE("output.weight", "Q8_0");
    check_case("large variants");
    apply("q2_k_l", false, false, NULL);
    CHECK_TYPE("token_embd.weight", "Q8_0");
    CHECK_TYPE("output.weight", "Q8_0");
    CHECK_TYPE("blk.9.ffn_gate_exps.weight", "Q2_K");
}

static void test_rules(void)
{
    static const char *const rules[] = { "blk\\.[34]\\.ffn_down_exps=q8_0", "ffn_down_exps=Q5_K",
                                         "norm=q8_0", "attn_k_b=q4_k", "ffn_gate_inp=q8_0", NULL };
    check_case("overrides: the first wins, what is never quantized stays");
    read_models("v3");
    apply("Q4_K_M", false, false, rules);
    CHECK_TYPE("blk.3.ffn_down_exps.weight", "Q8_0");
    CHECK_TYPE("blk.5.ffn_down_exps.weight", "Q5_K");
    CHECK_TYPE("blk.5.ffn_gate_exps.weight", "Q4_K");
    CHECK_TYPE("blk.5.attn_norm.weight", "F32");
    CHECK_TYPE("blk.5.ffn_gate_inp.weight", "BF16");
    CHECK_TYPE("blk.5.attn_k_b.weight", "Q5_0"); /* 128 columns: the fallback of Q4_K */

    check_case("copy changes only what is asked for");
    static const char *const one[] = { "^output\\.weight$=q6_k", NULL };
    apply("copy", false, false, one);
    CHECK_TYPE("output.weight", "Q6_K");
    CHECK_TYPE("token_embd.weight", "BF16");

    check_case("rules that are none");
    static const char *const wrong[] = { "", "=", "x", "=q8_0", "x=", "x=q9_0", "(=q8_0",
                                         "x=Q8_K" };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct recipe r = { 0 };
        struct error err = { 0 };
        CHECK_MSG(!recipe_add(&r, wrong[i], &err), "\"%s\"", wrong[i]);
        CHECK_INT(err.code, ERR_USAGE);
        recipe_release(&r);
    }
    struct recipe r = { 0 };
    struct error err = { 0 };
    CHECK(!recipe_set(&r, "q4_k_x", &err));
    CHECK(strstr(err.text, "Q4_K_M") != NULL);

    check_case("a source that has less already is not inflated");
    for (int i = 0; i < m.n; i++)
        if (m.tensors[i].source == TYPE_BF16)
            m.tensors[i].source = strstr(m.names[i], "attn_k_b") ? TYPE_Q5_0 : TYPE_Q5_K;
    apply("Q4_K_M", false, false, NULL);
    CHECK_TYPE("blk.5.attn_k_b.weight", "Q5_0");
    CHECK_TYPE("blk.5.attn_q_a.weight", "Q5_K");
}

static void test_file(void)
{
    char path[256];
    const char *b = getenv("B");
    snprintf(path, sizeof path, "%s/tests/recipe.tmp", b ? b : "build");
    check_case("a recipe file");
    FILE *f = fopen(path, "w");
    if (!CHECK(f != NULL))
        return;
    fputs("# mine\n\n  q4_k_s \nffn_down_exps=q6_k # more there\nattn_=q8_0\n", f);
    fclose(f);
    struct recipe r = { 0 };
    struct error err = { 0 };
    CHECK_MSG(recipe_read(&r, path, &err), "%s", err.text);
    CHECK_INT(r.n_overrides, 2);
    CHECK_STR(recipe_name(&r), "Q4_K_S");
    CHECK_INT(recipe_file_type(&r), 14);
    recipe_release(&r);

    check_case("a recipe file with a mistake names the line");
    f = fopen(path, "w");
    if (CHECK(f != NULL)) {
        fputs("q8_0\nattn_=q77\n", f);
        fclose(f);
    }
    CHECK(!recipe_read(&r, path, &err));
    CHECK(strstr(err.text, ":2: ") != NULL);
    recipe_release(&r);
    remove(path);
}

int main(void)
{
    read_models(NULL);
    test_protection();
    test_rules();
    test_file();
    return check_finish();
}
