/* tandem quantize: types, the file that is made, refusals, importance matrices. Runs that are
 * stopped or fail: test_quantize_resume.c. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/quantize_rig.h"
#include "tools/quantize_plan.h"

/* ---- importance matrices in files ---- */

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

int main(void)
{
    if (!quantize_rig_open("quantize"))
        return check_finish();
    write_dat("im.dat", 0, -1);
    write_dat("flat.dat", 0, -1);
    write_gguf_imatrix("im.gguf");
    test_types();
    test_output();
    test_refusals();
    test_imatrix();
    quantize_rig_close();
    return check_finish();
}
