/* Whole models with their trunk on the GPU and their experts on the CPU, against the logits of the
 * reference program: every architecture with F32 activations within the fixture's tolerance, both
 * forms of latent attention, every quantization, and the fast profile within its looser bounds.
 *
 * On the emulation the runs go through the three orders of threads in turn (all three of each would
 * take three times as long; every launcher by itself sees them all in check_gpu*.c).
 * With arguments, only the models and quantizations of these names. */
#include "tests/fixture_model.h"
#include "tests/gpu_test.h"

static void (*set_order)(uint64_t);

static void next_order(void)
{
    static uint64_t order;
    if (set_order)
        set_order(order = (order + 1) % 3);
}

static void test_model(const char *name)
{
    static const int batches[] = { 0, 7, 1 };
    bool one_by_one = strcmp(name, "llama-gqa-linear") == 0 || strcmp(name, "deepseek2-v2") == 0 ||
                      strcmp(name, "deepseek4") == 0;
    char model[160];
    struct fixture f;
    check_case("%s: fixture", name);
    if (!fixture_of_model(&f, name, model))
        return;
    for (int i = 0; i < (one_by_one ? 3 : 2); i++) { /* a step per token takes longest */
        check_case("%s on the GPU, F32, batches of %d", name, batches[i]);
        next_order();
        check_run(check_fixture(model), &f,
                  &(struct setup){ NUMERICS_LLAMACPP, true, 1, batches[i], MLA_AUTO, LOAD_AUTO,
                                   GPU_MUST },
                  f.tolerance);
    }
    for (int form = MLA_ABSORBED; form <= MLA_DECOMPRESSED && strstr(name, "deepseek2"); form++) {
        check_case("%s on the GPU, %s", name, form == MLA_ABSORBED ? "absorbed" : "decompressed");
        next_order();
        check_run(check_fixture(model), &f,
                  &(struct setup){ NUMERICS_LLAMACPP, true, 1, 33, form, LOAD_COPY, GPU_MUST },
                  f.tolerance);
    }
    fixture_free(&f);
}

static void test_quant(const char *type)
{
    char model[160];
    struct fixture f;
    check_case("%s: fixture", type);
    if (!fixture_of_quant(&f, type, model))
        return;
    check_case("%s on the GPU, F32 activations", type);
    next_order();
    check_run(check_fixture(model), &f,
              &(struct setup){ NUMERICS_LLAMACPP, true, 1, 0, MLA_AUTO, LOAD_AUTO, GPU_MUST }, 2e-3);
    static const int batches[] = { 0, 3 };
    for (int i = 0; i < (strcmp(type, "Q4_K_M") == 0 ? 2 : 1); i++) {
        check_case("%s on the GPU, fast profile, batches of %d", type, batches[i]);
        next_order();
        float *found = run_model(check_fixture(model), &f,
                                 &(struct setup){ NUMERICS_LLAMACPP, false, 1, batches[i], MLA_AUTO,
                                                  LOAD_AUTO, GPU_MUST });
        if (found)
            check_close(found, &f);
        free(found);
    }
    fixture_free(&f);
}

/* ---- what a user meets when there is no GPU that will do ---- */

static void open_engine(enum gpu_use gpu, int index, int layers, enum error_code code,
                        const char *says)
{
    struct error err = { 0 };
    struct engine *e = NULL;
    struct engine_options o = { .n_threads = 1, .gpu = gpu, .gpu_index = index,
                                .gpu_layers = layers };
    bool ok = engine_open(&e, check_fixture("models/qwen2.gguf"), &o, &err);
    CHECK_MSG(ok == (code == ERR_NONE), "%s", err.text);
    CHECK_INT(err.code, code);
    if (ok)
        CHECK(!says == !!engine_gpu(e)); /* a reason, or a GPU */
    else
        CHECK_MSG(says && strstr(err.text, says), "says %s", err.text);
    engine_close(e);
}

static void test_refusals(void)
{
    void (*memory)(uint64_t), (*fail_alloc)(int64_t);
    uint64_t (*bytes)(void);
    gpu_test_hook("cuda_host_memory", &memory);
    gpu_test_hook("cuda_host_fail_alloc", &fail_alloc);
    gpu_test_hook("cuda_host_bytes", &bytes);
    check_case("a GPU that is there is used");
    open_engine(GPU_AUTO, 0, 0, ERR_NONE, NULL);
    check_case("an index that is not there");
    open_engine(GPU_MUST, 99, 0, ERR_DEVICE, memory ? "no GPU 99: there is 1" : "no GPU 99: there ");
    open_engine(GPU_AUTO, 99, 0, ERR_NONE, "reason");
    check_case("part of the layers");
    open_engine(GPU_MUST, 0, 1, ERR_NONE, NULL);
    open_engine(GPU_MUST, 0, 99, ERR_NONE, NULL);
    if (!memory)
        return;
    check_case("no GPU, an old driver");
    setenv("TANDEM_GPU_EMULATE", "none", 1);
    open_engine(GPU_MUST, 0, 0, ERR_DEVICE, "no GPU found");
    open_engine(GPU_AUTO, 0, 0, ERR_NONE, "reason");
    setenv("TANDEM_GPU_EMULATE", "old", 1);
    open_engine(GPU_MUST, 0, 0, ERR_DEVICE, "driver is too old");
    check_case("a card in use by another program, and a full one");
    setenv("TANDEM_GPU_EMULATE", "busy", 1);
    open_engine(GPU_MUST, 0, 0, ERR_DEVICE, "is busy: another program");
    open_engine(GPU_MUST, 0, 0, ERR_DEVICE, "; -ngl 0 runs on the CPU");
    open_engine(GPU_AUTO, 0, 0, ERR_NONE, "reason");
    setenv("TANDEM_GPU_EMULATE", "full", 1);
    open_engine(GPU_MUST, 0, 0, ERR_FIT, "is full: other programs");
    open_engine(GPU_AUTO, 0, 0, ERR_NONE, "reason");
    unsetenv("TANDEM_GPU_EMULATE");
    check_case("too little memory");
    memory((uint64_t)64 << 20);
    open_engine(GPU_MUST, 0, 0, ERR_FIT, "-ngl 0");
    open_engine(GPU_AUTO, 0, 0, ERR_NONE, "reason");
    memory(0);
    check_case("any allocation fails: the CPU takes over, nothing is left on the GPU");
    for (int64_t n = 0; n < 2; n++) {
        fail_alloc(n);
        open_engine(GPU_AUTO, 0, 0, ERR_NONE, "reason");
        CHECK_INT(bytes(), 0);
    }
    fail_alloc(-1);
}

/* Every allocation of a session in turn. */
static void test_session_memory(const char *model)
{
    void (*fail_alloc)(int64_t);
    uint64_t (*bytes)(void);
    gpu_test_hook("cuda_host_fail_alloc", &fail_alloc);
    gpu_test_hook("cuda_host_bytes", &bytes);
    check_case("%s: each allocation of a session fails once", model);
    if (!fail_alloc)
        return;
    struct error err = { 0 };
    struct engine *e = NULL;
    struct session *s = NULL;
    struct engine_options eo = { .n_threads = 1, .gpu = GPU_MUST, .wishes = cpu_experts() };
    struct session_options so = { .n_ctx = 64 };
    if (!CHECK_MSG(engine_open(&e, check_fixture(model), &eo, &err), "%s", err.text))
        return;
    uint64_t before = bytes();
    int64_t n = 0;
    for (bool ok = false; !ok && n < 50; n++) {
        error_clear(&err);
        fail_alloc(n);
        ok = session_open(&s, e, &so, &err);
        CHECK_INT(err.code, ok ? ERR_NONE : ERR_FIT);
        session_close(s);
        CHECK_INT(bytes(), before);
    }
    CHECK(n > 4 && n < 50);
    fail_alloc(-1);
    engine_close(e);
    CHECK_INT(bytes(), 0);
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
        check_case("architectures on the GPU");
        check_skip("no fixtures: set TANDEM_FIXTURES to compare with the reference models");
        return check_finish();
    }
    if (!gpu_test_load())
        return check_finish();
    gpu_test_hook("cuda_host_order", &set_order);
    if (argc < 2) {
        test_refusals();
        test_session_memory("models/deepseek2-v3.gguf");
        test_session_memory("models/qwen2.gguf");
    }
    for (size_t i = 0; i < sizeof fixture_models / sizeof fixture_models[0]; i++)
        if (wanted(fixture_models[i], argc, argv))
            test_model(fixture_models[i]);
    for (size_t i = 0; i < sizeof fixture_quants / sizeof fixture_quants[0]; i++)
        if (wanted(fixture_quants[i], argc, argv))
            test_quant(fixture_quants[i]);
    return check_finish();
}
