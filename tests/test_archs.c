/* Whole models against logits of a reference program (fixtures/README.md says how they were made):
 * every architecture at every batch size, both forms of latent attention, any number of threads,
 * every quantization with F32 activations, and the fast path within its looser bounds.
 *
 * With arguments, only the models and quantizations of these names. */
#include "tests/fixture_model.h"

/* ---- the reference models ---- */

static void test_model(const char *name)
{
    static const int batches[] = { 0, 1, 7 };
    char model[160];
    struct fixture f;
    check_case("%s: fixture", name);
    if (!fixture_of_model(&f, name, model))
        return;
    for (size_t i = 0; i < sizeof batches / sizeof batches[0]; i++) {
        check_case("%s, F32 activations, batches of %d", name, batches[i]);
        check_run(check_fixture(model), &f,
                  &(struct setup){ NUMERICS_LLAMACPP, true, 1, batches[i], MLA_AUTO, LOAD_AUTO,
                                   GPU_NEVER },
                  f.tolerance);
    }
    /* Blocks of 4 and 128 positions that end inside of a step, with it, and behind it. */
    static const int cuts[] = { 2, 3, 4, 5, 33, 64, 127, 128, 129 };
    for (size_t i = 0; i < sizeof cuts / sizeof cuts[0] && strcmp(name, "deepseek4") == 0; i++) {
        check_case("%s, batches of %d", name, cuts[i]);
        check_run(check_fixture(model), &f,
                  &(struct setup){ NUMERICS_LLAMACPP, true, 2, cuts[i], MLA_AUTO, LOAD_AUTO,
                                   GPU_NEVER },
                  f.tolerance);
    }
    for (int form = MLA_ABSORBED; form <= MLA_DECOMPRESSED && strstr(name, "deepseek2"); form++) {
        check_case("%s, %s", name, form == MLA_ABSORBED ? "absorbed" : "decompressed");
        check_run(check_fixture(model), &f,
                  &(struct setup){ NUMERICS_LLAMACPP, true, 2, 33, form, LOAD_COPY, GPU_NEVER },
                  f.tolerance);
    }
    fixture_free(&f);
}

/* ---- quantized models ---- */

static void test_quant(const char *type)
{
    char model[160];
    struct fixture f;
    check_case("%s: fixture", type);
    if (!fixture_of_quant(&f, type, model))
        return;
    check_case("%s, F32 activations", type);
    check_run(check_fixture(model), &f,
              &(struct setup){ NUMERICS_LLAMACPP, true, 2, 0, MLA_AUTO, LOAD_AUTO, GPU_NEVER }, 2e-3);
    for (int batch = 0; batch <= 1; batch++) {
        check_case("%s, quantized activations, batches of %d", type, batch);
        float *found = run_model(
            check_fixture(model), &f,
            &(struct setup){ NUMERICS_LLAMACPP, false, 2, batch, MLA_AUTO, LOAD_AUTO, GPU_NEVER });
        if (found)
            check_close(found, &f);
        free(found);
    }
    fixture_free(&f);
}

/* ---- the same bits for any number of threads ---- */

static void test_threads(const char *model, const char *tokens, const char *json,
                         const char *logits, bool act_f32)
{
    struct fixture f;
    check_case("same bits with 1, 2 and 4 threads: %s%s", model, act_f32 ? ", F32" : "");
    if (!fixture_load(&f, tokens, json, logits))
        return;
    for (int batch = 0; batch <= 1; batch++) {
        float *one = NULL;
        for (int threads = 1; threads <= 4; threads *= 2) {
            float *found = run_model(
                check_fixture(model), &f,
                &(struct setup){ NUMERICS_OFFICIAL, act_f32, threads, batch, MLA_AUTO, LOAD_AUTO,
                                 GPU_NEVER });
            if (!found)
                continue;
            if (one)
                CHECK_MSG(!memcmp(one, found, (size_t)(f.n_tokens * f.n_vocab) * sizeof *one),
                          "%d threads, batch %d: other bits", threads, batch);
            free(one);
            one = found;
        }
        free(one);
    }
    fixture_free(&f);
}

static bool wanted(const char *name, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], name) == 0)
            return true;
    }
    return argc < 2;
}

int main(int argc, char **argv)
{
    if (!check_fixtures()) {
        check_case("architectures");
        check_skip("no fixtures: set TANDEM_FIXTURES to compare with the reference models");
        return check_finish();
    }
    for (size_t i = 0; i < sizeof fixture_models / sizeof fixture_models[0]; i++)
        if (wanted(fixture_models[i], argc, argv))
            test_model(fixture_models[i]);
    for (size_t i = 0; i < sizeof fixture_quants / sizeof fixture_quants[0]; i++)
        if (wanted(fixture_quants[i], argc, argv))
            test_quant(fixture_quants[i]);
    for (int act_f32 = 0; act_f32 <= 1 && argc < 2; act_f32++) {
        test_threads("quants/models/deepseek2-v3-Q4_K_M.gguf", "quants/models/deepseek2-v3.tokens",
                     "quants/models/deepseek2-v3-Q4_K_M.json",
                     "quants/models/deepseek2-v3-Q4_K_M.logits.f32", act_f32);
        test_threads("models/deepseek32.gguf", "models/deepseek32.tokens", "models/deepseek32.json",
                     "models/deepseek32.logits.f32", act_f32);
        test_threads("quants/models/deepseek4-MXFP4.gguf", "quants/models/deepseek4.tokens",
                     "quants/models/deepseek4-MXFP4.json",
                     "quants/models/deepseek4-MXFP4.logits.f32", act_f32);
        test_threads("models/qwen2.gguf", "models/qwen2.tokens", "models/qwen2.json",
                     "models/qwen2.logits.f32", act_f32);
    }
    return check_finish();
}
