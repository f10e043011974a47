/* tandem quantize from outside (types, refusals, equal bytes), and its parts from inside
 * (importance matrices, chunks, journal, kills). Everything happens in $B/tests/quantize.PID. */
#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "src/cli/buf.h"
#include "src/format/quant.h"
#include "tests/check.h"
#include "tools/quantize_plan.h"

static char dir[64], tandem[192], log_path[256];

static const char *path(const char *name)
{
    static char ring[8][192];
    static int next;
    char *p = ring[next++ % 8];
    snprintf(p, sizeof ring[0], "%s/%s", dir, name);
    return p;
}

/* Exit code of `tandem quantize ARGUMENTS` (they are relative to the test's folder), 128 + n for
 * signal n; stderr goes to log_path. */
static int quantize(const char *arguments)
{
    char command[2048];
    snprintf(command, sizeof command, "cd %s && %s quantize %s >%s 2>&1 </dev/null", dir, tandem,
             arguments, log_path);
    int status = system(command);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static bool said(const char *text)
{
    char *log = check_read_file(log_path, NULL);
    bool found = log && strstr(log, text);
    CHECK_MSG(found, "the output lacks \"%s\": %.200s", text, log ? log : "");
    free(log);
    return found;
}

#define RUN(code, arguments)                                                                      \
    do {                                                                                          \
        int code_ = quantize(arguments);                                                          \
        char *log_ = code_ == (code) ? NULL : check_read_file(log_path, NULL);                    \
        CHECK_MSG(code_ == (code), "quantize %s: code %d, wanted %d: %.200s", arguments, code_,   \
                  code, log_ ? log_ : "");                                                        \
        free(log_);                                                                               \
    } while (0)

static bool exists(const char *name)
{
    return access(path(name), F_OK) == 0;
}

static bool same_bytes(const char *a, const char *b)
{
    size_t n = 0, k = 0;
    char *x = check_read_file(path(a), &n), *y = check_read_file(path(b), &k);
    bool same = x && y && n == k && memcmp(x, y, n) == 0;
    free(x);
    free(y);
    return same;
}

/* Names in the folder that begin with this. */
static int count_names(const char *start)
{
    int n = 0;
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d)) != NULL;)
        n += strncmp(e->d_name, start, strlen(start)) == 0;
    if (d)
        closedir(d);
    return n;
}

/* ---- a model ---- */

/* Enough of a mixture of experts for every rule; values like those of real weights. */
static const struct {
    const char *name;
    uint64_t ne[3];
} shapes[] = {
    { "token_embd.weight", { 256, 64, 1 } },        { "output.weight", { 256, 64, 1 } },
    { "output_norm.weight", { 256, 1, 1 } },        { "blk.0.attn_norm.weight", { 256, 1, 1 } },
    { "blk.0.attn_q_a.weight", { 256, 32, 1 } },
    { "blk.0.attn_kv_a_mqa.weight", { 256, 40, 1 } },
    { "blk.0.attn_k_b.weight", { 32, 64, 4 } },     { "blk.0.attn_output.weight", { 256, 64, 1 } },
    { "blk.0.ffn_down.weight", { 96, 256, 1 } },    { "blk.1.ffn_gate_inp.weight", { 256, 4, 1 } },
    { "blk.1.ffn_gate_exps.weight", { 256, 32, 4 } },
    { "blk.1.ffn_up_exps.weight", { 256, 32, 4 } },
    { "blk.1.ffn_down_exps.weight", { 256, 48, 4 } }, { "blk.1.odd.weight", { 33, 4, 1 } },
};
#define N_SHAPES (sizeof shapes / sizeof *shapes)

static float normal(void)
{
    float sum = -6;
    for (int i = 0; i < 12; i++)
        sum += check_random_float(0, 1);
    return 0.02f * sum;
}

/* F32 model; `bad` is put into one weight of blk.0.attn_q_a when it is not 0. */
static void write_model(const char *name, float bad)
{
    struct gguf_writer w = { 0 };
    struct error err = { 0 };
    static float values[256 * 64 * 4];
    bool ok = gguf_writer_add_str(&w, "general.architecture", "deepseek2", &err) &&
              gguf_writer_add_u32(&w, "deepseek2.block_count", 2, &err) &&
              gguf_writer_add_u32(&w, "deepseek2.expert_count", 4, &err) &&
              gguf_writer_add_str(&w, "some.strange_key", "kept", &err);
    for (size_t i = 0; i < N_SHAPES; i++)
        ok = ok && gguf_writer_add_tensor(&w, shapes[i].name, TYPE_F32, shapes[i].ne[2] > 1 ? 3 : 2,
                                          shapes[i].ne, &err);
    ok = ok && gguf_writer_begin(&w, path(name), &err);
    for (size_t i = 0; ok && i < N_SHAPES; i++) {
        size_t n = (size_t)(shapes[i].ne[0] * shapes[i].ne[1] * shapes[i].ne[2]);
        for (size_t k = 0; k < n; k++)
            values[k] = normal();
        if (bad != 0 && i == 4)
            values[3 * 256 + 7] = bad;
        ok = gguf_writer_data(&w, values, 4 * n, &err);
    }
    ok = ok && gguf_writer_finish(&w, &err);
    CHECK_MSG(ok, "%s", err.text);
    gguf_writer_release(&w);
}

static void put_i32(FILE *f, int32_t v)
{
    fwrite(&v, 4, 1, f);
}

/* Importance in the older format; `poison` replaces the first value. */
static void write_dat(const char *name, float poison, int skip)
{
    FILE *f = fopen(path(name), "wb");
    int n = 0;
    if (!CHECK(f != NULL))
        return;
    for (size_t i = 0; i < N_SHAPES; i++)
        n += shapes[i].ne[1] > 1 && (int)i != skip;
    put_i32(f, n);
    for (size_t i = 0; i < N_SHAPES; i++) {
        if (shapes[i].ne[1] <= 1 || (int)i == skip)
            continue;
        int32_t len = (int32_t)strlen(shapes[i].name);
        int32_t n_values = (int32_t)(shapes[i].ne[0] * shapes[i].ne[2]);
        put_i32(f, len);
        fwrite(shapes[i].name, 1, (size_t)len, f);
        put_i32(f, 5);
        put_i32(f, n_values);
        for (int32_t k = 0; k < n_values; k++) {
            float v = poison != 0 && k == 0 ? poison : 5 * check_random_float(0.5f, 1.5f);
            fwrite(&v, 4, 1, f);
        }
    }
    put_i32(f, 10);
    put_i32(f, 4);
    fwrite("text", 1, 4, f);
    fclose(f);
}

/* The newer format with the same layout; expert 2 of every tensor was never used. */
static void write_gguf_imatrix(const char *name)
{
    struct gguf_writer w = { 0 };
    struct error err = { 0 };
    static float values[256 * 8];
    char text[80];
    bool ok = gguf_writer_add_str(&w, "general.type", "imatrix", &err) &&
              gguf_writer_add_u32(&w, "imatrix.chunk_count", 7, &err);
    for (int pass = 0; pass < 2; pass++) {
        for (size_t i = 0; i < N_SHAPES; i++) {
            uint64_t ne[2] = { shapes[i].ne[0], shapes[i].ne[2] };
            uint64_t counts[2] = { 1, shapes[i].ne[2] };
            if (shapes[i].ne[1] <= 1)
                continue;
            snprintf(text, sizeof text, "%s.in_sum2", shapes[i].name);
            if (pass == 0)
                ok = ok && gguf_writer_add_tensor(&w, text, TYPE_F32, 2, ne, &err);
            snprintf(text, sizeof text, "%s.counts", shapes[i].name);
            if (pass == 0)
                ok = ok && gguf_writer_add_tensor(&w, text, TYPE_F32, 2, counts, &err);
            for (uint64_t k = 0; k < ne[0] * ne[1]; k++)
                values[k] = k / ne[0] == 2 ? 0 : 3 * check_random_float(0.5f, 1.5f);
            if (pass == 1)
                ok = ok && gguf_writer_data(&w, values, (size_t)(4 * ne[0] * ne[1]), &err);
            for (uint64_t k = 0; k < ne[1]; k++)
                values[k] = k == 2 ? 0 : 3;
            if (pass == 1)
                ok = ok && gguf_writer_data(&w, values, (size_t)(4 * ne[1]), &err);
        }
        if (pass == 0)
            ok = ok && gguf_writer_begin(&w, path(name), &err);
    }
    ok = ok && gguf_writer_finish(&w, &err);
    CHECK_MSG(ok, "%s", err.text);
    gguf_writer_release(&w);
}

/* ---- types ---- */

/* Relative error of normally distributed weights, at most 3 % above the published gates; for types
 * that need importance (given flat here), measured with this program plus 3 %. */
static double gate_of(enum tensor_type type)
{
    static const struct {
        enum tensor_type type;
        double e;
    } gates[] = {
        { TYPE_Q4_0, .0846 }, { TYPE_Q4_1, .0774 }, { TYPE_Q5_0, .0420 }, { TYPE_Q5_1, .0374 },
        { TYPE_Q8_0, .00526 }, { TYPE_Q2_K, .2930 }, { TYPE_Q3_K, .1492 }, { TYPE_Q4_K, .0705 },
        { TYPE_Q5_K, .0357 }, { TYPE_Q6_K, .0175 }, { TYPE_IQ4_NL, .0754 }, { TYPE_IQ4_XS, .0760 },
        { TYPE_IQ3_S, .1642 }, { TYPE_IQ3_XXS, .2116 }, { TYPE_IQ2_S, .2607 }, { TYPE_IQ2_XS, .31 },
        { TYPE_IQ2_XXS, .36 }, { TYPE_IQ1_M, .5808 }, { TYPE_IQ1_S, .60 }, { TYPE_MXFP4, .1132 },
        { TYPE_NVFP4, .1033 }, { TYPE_F16, 3e-4 }, { TYPE_BF16, 2e-3 }, { TYPE_F32, 0 },
    };
    for (size_t i = 0; i < sizeof gates / sizeof *gates; i++)
        if (gates[i].type == type)
            return 1.03 * gates[i].e;
    return 0;
}

static void check_values(const char *source, const char *made, const char *type)
{
    static float x[256 * 64 * 4], y[256 * 64 * 4];
    struct gguf a = { 0 }, b = { 0 };
    struct error err = { 0 };
    if (!CHECK_MSG(gguf_open(&a, path(source), &err) && gguf_open(&b, path(made), &err), "%s",
                   err.text))
        return;
    CHECK_INT(b.n_tensors, a.n_tensors);
    for (uint64_t i = 0; i < a.n_tensors; i++) {
        const struct tensor *s = &a.tensors[i], *t = gguf_tensor(&b, s->name);
        int64_t n = (int64_t)(s->ne[0] * tensor_rows(s));
        double error = 0, all = 0;
        if (!CHECK(t != NULL))
            continue;
        quant_traits(s->type)->dequantize(s->data, x, n);
        quant_traits(t->type)->dequantize(t->data, y, n);
        for (int64_t k = 0; k < n; k++) {
            error += ((double)y[k] - x[k]) * ((double)y[k] - x[k]);
            all += (double)x[k] * x[k];
        }
        CHECK_MSG(sqrt(error / all) <= gate_of(t->type), "%s: %s as %s: error %.4f, at most %.4f",
                  type,
                  s->name, quant_traits(t->type)->name, sqrt(error / all), gate_of(t->type));
    }
    gguf_close(&a);
    gguf_close(&b);
}

static void test_types(void)
{
    static const char *const plain[] = { "f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q5_0",
                                         "q5_1",
                                         "q4_k_m", "Q4_0", "q4_1", "iq4_nl", "iq4_xs", "mxfp4_moe",
                                         "nvfp4", "q3_k_m", "iq3_s", "q2_k", "ds-q2", "ds-q4m" };
    static const char *const hungry[] = { "q2_k_s", "iq3_xxs", "iq2_s", "iq2_xs", "iq2_xxs",
                                          "iq1_m",
                                          "iq1_s", "ds-iq1", "ds-iq2", "ds-iq3" };
    char arguments[256];
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) {
        check_case("type %s", plain[i]);
        snprintf(arguments, sizeof arguments, "in.gguf type.gguf %s --force 2", plain[i]);
        RUN(0, arguments);
        check_values("in.gguf", "type.gguf", plain[i]);
    }
    for (size_t i = 0; i < sizeof hungry / sizeof *hungry; i++) {
        check_case("type %s", hungry[i]);
        snprintf(arguments, sizeof arguments, "in.gguf none.gguf %s --strict-mixture", hungry[i]);
        RUN(2, arguments);
        said("--imatrix");
        CHECK(!exists("none.gguf"));
        snprintf(arguments, sizeof arguments,
                 "in.gguf type.gguf %s --force --strict-mixture --imatrix flat.dat -t 2",
                 hungry[i]);
        RUN(0, arguments);
        check_values("in.gguf", "type.gguf", hungry[i]);
    }
    CHECK_INT(count_names("."), 2); /* the folder and its parent: nothing hidden is left */
}

/* ---- the file that is made ---- */

static void test_output(void)
{
    struct gguf g = { 0 };
    struct error err = { 0 };
    uint64_t version = 0, type = 0;
    struct str kept = { 0 };
    check_case("the same bytes for any number of threads, and again");
    RUN(0, "in.gguf one.gguf q4_k_m 1 --imatrix im.dat");
    said("no canary: "); /* of what is no whole model */
    RUN(0, "in.gguf two.gguf q4_k_m --threads 2 --imatrix im.dat");
    RUN(0, "in.gguf five.gguf q4_k_m -t 5 --imatrix im.dat");
    CHECK(same_bytes("one.gguf", "two.gguf"));
    CHECK(same_bytes("one.gguf", "five.gguf"));

    check_case("metadata");
    if (CHECK_MSG(gguf_open(&g, path("one.gguf"), &err), "%s", err.text)) {
        CHECK(gguf_get_u64(&g, "general.quantization_version", &version, &err));
        CHECK(gguf_get_u64(&g, "general.file_type", &type, &err));
        CHECK(gguf_get_str(&g, "some.strange_key", &kept, &err));
        CHECK_INT(version, 2);
        CHECK_INT(type, 15);
        CHECK(str_is(kept, "kept"));
        gguf_close(&g);
    }

    check_case("parts hold what one file holds");
    RUN(0, "in.gguf parts.gguf q4_k_m --imatrix im.dat --split-max-size 60K");
    CHECK(exists("parts-00001-of-00003.gguf") && !exists("parts.gguf"));
    if (CHECK_MSG(gguf_open(&g, path("parts-00001-of-00003.gguf"), &err), "%s", err.text)) {
        struct gguf whole = { 0 };
        CHECK(gguf_open(&whole, path("one.gguf"), &err));
        for (uint64_t i = 0; i < whole.n_tensors; i++) {
            const struct tensor *a = &whole.tensors[i], *b = gguf_tensor(&g, a->name);
            CHECK_MSG(b && a->bytes == b->bytes && memcmp(a->data, b->data, a->bytes) == 0, "%s",
                      a->name);
        }
        gguf_close(&whole);
        gguf_close(&g);
    }
    RUN(2, "in.gguf parts.gguf q4_k_m --split-max-size 60K");
    said("exists");
    RUN(0, "parts-00002-of-00003.gguf joined.gguf copy");
    RUN(2, "parts-00002-of-00003.gguf parts.gguf copy --split-max-size 60K --force");
    said("is the input");

    check_case("what has its type already is copied byte by byte");
    RUN(0, "one.gguf again.gguf copy");
    RUN(0, "one.gguf same.gguf q4_k_m --imatrix im.dat --allow-requantize");
    CHECK(same_bytes("one.gguf", "again.gguf"));
    CHECK(same_bytes("one.gguf", "same.gguf"));
    CHECK(same_bytes("one.gguf", "joined.gguf"));

    check_case("a dry run prints the plan and writes nothing");
    RUN(0, "in.gguf dry.gguf q4_k_m --dry-run");
    said("bits per weight");
    said("of computing on");
    RUN(0, "in.gguf dry.gguf q4_k_m --dry-run -v");
    said("blk.1.ffn_down_exps.weight");
    CHECK(!exists("dry.gguf"));
}

static void test_refusals(void)
{
    check_case("arguments");
    RUN(2, "");
    RUN(2, "in.gguf");
    RUN(2, "in.gguf out.gguf");
    RUN(2, "in.gguf out.gguf q4_k_x");
    said("Q4_K_M");
    RUN(2, "in.gguf out.gguf q8_0 2 3");
    RUN(2, "in.gguf out.gguf q8_0 --tensor-type nothing");
    RUN(2, "in.gguf out.gguf q8_0 --split-max-size 3X");
    RUN(3, "missing.gguf out.gguf q8_0");
    RUN(3, "im.dat out.gguf q8_0");
    RUN(1, "in.gguf missing/out.gguf q8_0");

    check_case("an output that exists stays unless --force");
    RUN(0, "in.gguf out.gguf q8_0");
    RUN(0, "in.gguf old.gguf q8_0");
    RUN(2, "in.gguf out.gguf q4_0");
    said("--force");
    CHECK(same_bytes("out.gguf", "old.gguf"));
    RUN(0, "in.gguf out.gguf q4_0 --force");
    CHECK(!same_bytes("out.gguf", "old.gguf"));
    RUN(2, "in.gguf . q4_0");

    check_case("an output that is the input, by any name");
    CHECK(symlink("in.gguf", path("sym.gguf")) == 0);
    CHECK(link(path("in.gguf"), path("hard.gguf")) == 0);
    RUN(2, "in.gguf in.gguf q8_0 --force");
    RUN(2, "in.gguf ./in.gguf q8_0 --force");
    RUN(2, "in.gguf sym.gguf q8_0 --force");
    RUN(2, "in.gguf hard.gguf q8_0 --force");
    said("is the input");
    RUN(2, "sym.gguf in.gguf q8_0 --force");

    check_case("rounding twice");
    RUN(2, "out.gguf twice.gguf q3_k_m");
    said("--allow-requantize");
    RUN(0, "out.gguf twice.gguf q3_k_m --allow-requantize");
    RUN(0, "old.gguf twice.gguf q3_k_m --force"); /* 8 bits are a fair source */

    check_case("values that are not finite");
    write_model("nan.gguf", NAN);
    write_model("inf.gguf", INFINITY);
    RUN(6, "nan.gguf finite.gguf q8_0");
    said("blk.0.attn_q_a.weight: the value in matrix 0, row 3, column 7 is nan");
    RUN(6, "inf.gguf finite.gguf q4_k_m");
    CHECK(!exists("finite.gguf") && count_names(".finite") == 0);
    RUN(0, "inf.gguf finite.gguf q4_k_m --replace-nonfinite");
    said("1 values were not finite");
    write_model("big.gguf", 1e30f);
    RUN(6, "big.gguf finite.gguf q4_k_m --force");
    said("beyond the range");
}

/* ---- importance matrices ---- */

static enum error_code open_imatrix(const char *name)
{
    struct imatrix m = { 0 };
    struct error err = { 0 };
    bool ok = imatrix_open(&m, path(name), &err);
    imatrix_close(&m);
    return ok ? ERR_NONE : err.code;
}

static void write_bytes(const char *name, const char *bytes, size_t n)
{
    FILE *f = fopen(path(name), "wb");
    CHECK(f && fwrite(bytes, 1, n, f) == n);
    if (f)
        fclose(f);
}

static void test_imatrix(void)
{
    size_t n = 0;
    check_case("both formats are read");
    CHECK_INT(open_imatrix("im.dat"), ERR_NONE);
    CHECK_INT(open_imatrix("im.gguf"), ERR_NONE);
    struct imatrix m = { 0 };
    struct imatrix_entry e;
    struct error err = { 0 };
    bool exact;
    float row[256];
    if (CHECK_MSG(imatrix_open(&m, path("im.gguf"), &err), "%s", err.text)) {
        const struct imatrix_entry *found = imatrix_find(&m, "blk.1.ffn_up_exps.weight", &exact);
        CHECK_INT(m.n_chunks, 7);
        if (CHECK(found && exact)) {
            CHECK(imatrix_fit(found, "x", 256, 4, &e, &err));
            CHECK_INT(e.n_unseen, 1);
            imatrix_row(&e, 1, 256, row);
            CHECK(row[5] >= 0.5f && row[5] <= 1.5f && row[5] != row[6]);
            imatrix_row(&e, 2, 256, row); /* never used: all alike */
            CHECK(row[0] == 1 && row[255] == 1);
            CHECK(!imatrix_fit(found, "x", 256, 5, &e, &err));
            CHECK(!imatrix_fit(found, "x", 250, 4, &e, NULL));
        }
        CHECK(!imatrix_find(&m, "blk.7.attn_q.weight", &exact));
    }
    imatrix_close(&m);
    RUN(0, "in.gguf im.out iq2_xxs --strict-mixture --imatrix im.gguf");
    said("experts that the calibration never used");

    check_case("tensors that see the same input stand in for each other");
    write_dat("part.dat", 0, 10); /* without ffn_gate_exps */
    if (CHECK(imatrix_open(&m, path("part.dat"), &err))) {
        CHECK(imatrix_find(&m, "blk.1.ffn_gate_exps.weight", &exact) && !exact);
        imatrix_close(&m);
    }
    RUN(0, "in.gguf part.out iq2_xxs --strict-mixture --imatrix part.dat");
    write_dat("less.dat", 0, 12); /* without ffn_down_exps: nothing can replace it */
    RUN(2, "in.gguf less.out iq2_xs --strict-mixture --imatrix less.dat");
    said("blk.1.ffn_down_exps.weight");
    RUN(0, "in.gguf less.out q4_k_s --imatrix less.dat");
    said("rounded without");

    check_case("damaged values");
    write_dat("bad.dat", NAN, -1);
    RUN(3, "in.gguf bad.out q4_k_m --imatrix bad.dat");
    write_dat("bad.dat", -1, -1);
    CHECK_INT(open_imatrix("bad.dat"), ERR_FILE);
    write_dat("bad.dat", INFINITY, -1);
    CHECK_INT(open_imatrix("bad.dat"), ERR_FILE);
    RUN(3, "in.gguf bad.out q4_k_m --imatrix in.gguf"); /* a model is none */
    RUN(3, "in.gguf bad.out q4_k_m --imatrix missing.dat");
    CHECK(!exists("bad.out"));

    check_case("cut off at any byte, flipped at any bit of the start");
    char *bytes = check_read_file(path("im.dat"), &n);
    if (bytes) {
        size_t tail = 12; /* the data set may be missing */
        for (size_t cut = 0; cut < n - tail; cut += cut < 400 ? 1 : 977) {
            write_bytes("cut.dat", bytes, cut);
            CHECK_MSG(open_imatrix("cut.dat") == ERR_FILE, "cut at %zu", cut);
        }
        for (size_t bit = 0; bit < 8 * 64; bit++) {
            bytes[bit / 8] ^= (char)(1 << bit % 8);
            write_bytes("cut.dat", bytes, n);
            enum error_code code = open_imatrix("cut.dat");
            CHECK_MSG(code == ERR_FILE || code == ERR_NONE, "bit %zu: code %d", bit, (int)code);
            bytes[bit / 8] ^= (char)(1 << bit % 8);
        }
    }
    free(bytes);
}

/* ---- stopping and going on ---- */

struct attempt {
    double sync_s;
    atomic_int cancel;
    uint64_t cancel_at; /* bytes; 0: never */
    const char *cut;    /* at that moment this file is cut short instead; NULL: none */
    uint64_t taken_up, chunks, safe;
};

static void maybe_cancel(void *ctx, uint64_t done, uint64_t total)
{
    struct attempt *a = ctx;
    (void)total;
    if (!a->cancel_at || done < a->cancel_at)
        return;
    if (a->cut)
        CHECK(truncate(path(a->cut), 60000) == 0);
    else
        atomic_store(&a->cancel, 1);
}

/* The job of the command with small chunks, so that there is something to stop: in.gguf to NAME. One
 * that is to be stopped has one worker: the first reports progress, and a second one could be done
 * before the first has begun. */
static bool attempt(const char *name, const char *type, bool resume, struct attempt *a,
                    struct error *err)
{
    struct options o = { .tensor_types.n = 0 };
    struct quantize_plan p = { 0 };
    struct gguf_writer w = { 0 };
    struct journal j = { 0 };
    struct buf text = { 0 };
    struct pool *pool = NULL;
    char out[192];
    bool found = false, taken = false;
    snprintf(out, sizeof out, "%s", path(name));
    bool ok = quantize_plan_open(&p, &o, path(a->cut ? a->cut : "in.gguf"), NULL, type, err) &&
              quantize_plan_announce(&p, &w, err) && quantize_plan_describe(&p, &o, &text, err) &&
              pool_open(&pool, a->cancel_at ? 1 : 2, err);
    if (ok && resume)
        ok = journal_resume(&j, out, text.data, &found, err);
    if (ok && !found)
        ok = journal_create(&j, out, text.data, err);
    if (ok)
        ok = found ? gguf_writer_resume(&w, out, &taken, err) : gguf_writer_begin(&w, out, err);
    if (ok && found && !taken) {
        journal_close(&j);
        ok = journal_create(&j, out, text.data, err);
    }
    struct transcode t = { .writer = &w, .pool = pool, .tensors = p.tensors,
                           .n_tensors = p.types.n, .journal = &j,
                           .sync_s = a->sync_s,
                           .chunk_elements = 512, .progress = maybe_cancel, .progress_ctx = a,
                           .cancel = &a->cancel };
    if (ok) {
        gguf_writer_keep(&w);
        ok = transcode_run(&t, err) && gguf_writer_finish(&w, err);
        a->taken_up = t.n_taken_up;
        a->safe = t.safe_bytes;
        a->chunks = t.n_chunks;
        if (ok)
            journal_remove(&j);
    }
    journal_close(&j);
    gguf_writer_release(&w);
    pool_close(pool);
    buf_release(&text);
    quantize_plan_close(&p);
    return ok;
}

static void test_stop(void)
{
    struct attempt a = { .sync_s = 1e-9 };
    struct error err = { 0 };
    check_case("small chunks give the same bytes as large ones");
    RUN(0, "in.gguf whole.gguf q4_k_m 1");
    CHECK_MSG(attempt("small.gguf", "q4_k_m", false, &a, &err), "%s", err.text);
    CHECK(same_bytes("whole.gguf", "small.gguf"));
    CHECK(count_names(".small") == 0);

    check_case("stopped in the middle, and taken up");
    a = (struct attempt){ .sync_s = 1e-9, .cancel_at = 40000 };
    CHECK(!attempt("stop.gguf", "q4_k_m", false, &a, &err));
    CHECK_INT(err.code, ERR_INTERRUPTED);
    CHECK(!exists("stop.gguf") && exists(".stop.gguf.part") && exists(".stop.gguf.journal"));
    a = (struct attempt){ .sync_s = 1e-9 };
    err = (struct error){ 0 };
    CHECK_MSG(attempt("stop.gguf", "q4_k_m", true, &a, &err), "%s", err.text);
    CHECK_MSG(a.taken_up > 0 && a.taken_up < a.chunks, "%llu of %llu",
              (unsigned long long)a.taken_up,
              (unsigned long long)a.chunks);
    CHECK(same_bytes("whole.gguf", "stop.gguf"));
    CHECK(count_names(".stop") == 0);

    check_case("another job is not mixed in");
    a = (struct attempt){ .sync_s = 1e-9, .cancel_at = 40000 };
    err = (struct error){ 0 };
    CHECK(!attempt("mix.gguf", "q4_k_m", false, &a, &err));
    a = (struct attempt){ .sync_s = 1e-9 };
    err = (struct error){ 0 };
    CHECK(!attempt("mix.gguf", "q4_k_s", true, &a, &err));
    CHECK_INT(err.code, ERR_USAGE);
    CHECK(strstr(err.text, "mixture Q4_K_M") && strstr(err.text, "mixture Q4_K_S"));

    check_case("damage to journal and data is found");
    int fd = open(path(".mix.gguf.journal"), O_WRONLY | O_APPEND);
    CHECK(fd >= 0 && write(fd, "torn record", 11) == 11);
    close(fd);
    fd = open(path(".mix.gguf.part"), O_RDWR);
    char byte = 0;
    CHECK(fd >= 0 && pread(fd, &byte, 1, 4096) == 1);
    byte = (char)~byte;
    CHECK(pwrite(fd, &byte, 1, 4096) == 1); /* in the first tensor */
    close(fd);
    err = (struct error){ 0 };
    CHECK_MSG(attempt("mix.gguf", "q4_k_m", true, &a, &err), "%s", err.text);
    CHECK(a.taken_up > 0);
    CHECK(same_bytes("whole.gguf", "mix.gguf"));

    check_case("two runs for one output");
    struct journal j = { 0 };
    CHECK(journal_create(&j, path("busy.gguf"), "mine", &err));
    RUN(1, "in.gguf busy.gguf q8_0");
    said("another run");
    CHECK(exists(".busy.gguf.journal")); /* the other's journal is left alone */
    journal_remove(&j);
    RUN(0, "in.gguf busy.gguf q8_0 --resume");
    said("beginning anew");
}

/* The input becomes shorter while it is read. */
static void test_read_error(void)
{
    struct attempt a = { .sync_s = 1e-9, .cancel_at = 20000, .cut = "cut.gguf" };
    struct error err = { 0 };
    size_t n = 0;
    check_case("an input that cannot be read any more");
    char *bytes = check_read_file(path("in.gguf"), &n);
    write_bytes("cut.gguf", bytes ? bytes : "", n);
    free(bytes);
    CHECK(!attempt("short.gguf", "q4_k_m", false, &a, &err));
    CHECK_INT(err.code, ERR_RUN);
    CHECK_MSG(strstr(err.text, "cut.gguf") && strstr(err.text, "shorter"), "%s", err.text);
    CHECK_MSG(a.safe >= 20000, "%llu bytes are safe", (unsigned long long)a.safe);
    CHECK(!exists("short.gguf") && exists(".short.gguf.part") && exists(".short.gguf.journal"));
}

/* Records in the journal of an output; 0 in one without a complete plan, -1 without a journal. */
static long journal_records(const char *name)
{
    char file[64];
    size_t size = 0;
    uint32_t plan = 0;
    snprintf(file, sizeof file, ".%s.journal", name);
    char *bytes = check_read_file(path(file), &size);
    long n = bytes ? 0 : -1;
    if (bytes && size >= 20) {
        memcpy(&plan, bytes + 12, 4);
        n = size > 20 + (size_t)plan ? (long)((size - 20 - plan) / 16) : 0;
    }
    free(bytes);
    return n;
}

/* Kill a run at random moments, ever later, until one gets through; returns the number of kills. */
static int kill_until_done(long *most_records)
{
    int kills = 0;
    long before = 0;
    for (int round = 0; round < 200 && !exists("kill.gguf"); round++) {
        int pipes[2];
        if (!CHECK(pipe(pipes) == 0))
            return 0;
        fflush(NULL);
        pid_t child = fork();
        if (child == 0) {
            struct attempt a = { .sync_s = 1e-9 };
            struct error err = { 0 };
            char ready = 1;
            ready = write(pipes[1], &ready, 1) == 1;
            bool ok = attempt("kill.gguf", "q4_k_m", true, &a, &err);
            _exit(ok ? 0 : (int)err.code);
        }
        char ready;
        int status;
        CHECK(read(pipes[0], &ready, 1) == 1);
        usleep((useconds_t)(check_random() % (uint64_t)(2000 + 400 * round + 40 * round * round)));
        kill(child, SIGKILL);
        waitpid(child, &status, 0);
        close(pipes[0]);
        close(pipes[1]);
        kills += WIFSIGNALED(status);
        long records = journal_records("kill.gguf"); /* a torn one may go, no more */
        CHECK_MSG(records < 0 || records + 1 >= before, "round %d: %ld records, %ld before", round,
                  records, before);
        before = records > before ? records : before;
        CHECK_MSG(WIFSIGNALED(status) || WEXITSTATUS(status) == 0, "round %d: code %d", round,
                  WEXITSTATUS(status));
    }
    *most_records = max_of(*most_records, before);
    return kills;
}

static void test_kill(void)
{
    int rounds = getenv("TANDEM_TEST_LONG") ? 20 : 2, kills = 0, equal = 0;
    check_case("SIGKILL at random moments, %d times to the end: the same bytes", rounds);
    long most_records = 0;
    for (int i = 0; i < rounds || (most_records == 0 && i < 50); i++) { /* no kill may have been in time */
        rounds = max_of(rounds, i + 1);
        kills += kill_until_done(&most_records);
        equal += same_bytes("whole.gguf", "kill.gguf");
        unlink(path("kill.gguf"));
        unlink(path(".kill.gguf.journal")); /* where the last kill came behind the rename */
    }
    CHECK_INT(equal, rounds);
    CHECK_MSG(kills > 0 && most_records > 0, "%d kills, %ld records", kills, most_records);
}

static void test_no_space(void)
{
    check_case("a file system that takes no more");
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        struct rlimit limit = { 60000, 60000 };
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &limit);
        _exit(quantize("in.gguf full.gguf q8_0"));
    }
    int status = 0;
    waitpid(child, &status, 0);
    CHECK_INT(WEXITSTATUS(status), ERR_RUN);
    said("full.gguf");
    CHECK(!exists("full.gguf") && count_names(".full") == 0);
    RUN(0, "in.gguf full.gguf q8_0 --resume");
}

int main(void)
{
    const char *b = getenv("B");
    char here[128], command[256];
    b = b ? b : "build";
    if (!CHECK(getcwd(here, sizeof here) != NULL))
        return check_finish();
    snprintf(dir, sizeof dir, "%s/tests/quantize.%d", b, (int)getpid());
    snprintf(tandem, sizeof tandem, "%s/%s/tandem", here, b);
    snprintf(log_path, sizeof log_path, "%s/%s/log", here, dir);
    check_case("the source");
    CHECK(mkdir(dir, 0777) == 0);
    write_model("in.gguf", 0);
    write_dat("im.dat", 0, -1);
    write_dat("flat.dat", 0, -1);
    write_gguf_imatrix("im.gguf");
    test_types();
    test_output();
    test_refusals();
    test_imatrix();
    test_stop();
    test_read_error();
    test_kill();
    test_no_space();
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    CHECK(system(command) == 0);
    return check_finish();
}
