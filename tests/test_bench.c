/* The arithmetic behind tandem bench: what a token costs, limits and doubts, the grading against an
 * older file, drawings of a fixed curve, energy counters, and that other threads change no bits. */
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "gpu/gpu.h"
#include "src/cli/bench.h"
#include "src/cli/term.h"
#include "tests/check.h"

static char folder[] = "/tmp/tandem-bench-XXXXXX";

static const char *path_of(const char *name)
{
    static char path[2][300];
    static int turn;
    turn = !turn;
    snprintf(path[turn], sizeof path[turn], "%s/%s", folder, name);
    return path[turn];
}

static void put(const char *name, const char *text)
{
    FILE *f = fopen(path_of(name), "w");
    if (f) {
        fputs(text, f);
        fclose(f);
    }
}

/* ---- what a token costs ---- */

/* Counted from names and sizes in the file alone: experts by their share, one row of the embedding,
 * everything else whole; blocks behind the main layers and tables of frequencies not at all. */
static void count_from_names(const struct model *m, uint64_t *routed, uint64_t *other,
                             uint64_t *products)
{
    const struct gguf *g = &m->gguf;
    uint64_t n_routed = (uint64_t)max_of(m->params.n_routed, 1);
    bool has_head = false;
    *routed = *other = *products = 0;
    for (uint64_t i = 0; i < g->n_tensors; i++)
        has_head = has_head || strcmp(g->tensors[i].name, "output.weight") == 0;
    for (uint64_t i = 0; i < g->n_tensors; i++) {
        const struct tensor *t = &g->tensors[i];
        uint64_t elements = t->ne[0] * t->ne[1] * t->ne[2] * t->ne[3];
        int layer = 0;
        if (sscanf(t->name, "blk.%d.", &layer) == 1 && layer >= m->params.n_layers)
            continue;
        if (strstr(t->name, "_exps.")) {
            *routed += t->bytes * (uint64_t)m->params.top_k / n_routed;
            *products += elements * (uint64_t)m->params.top_k / n_routed;
        } else if (strcmp(t->name, "token_embd.weight") == 0) {
            *other += has_head ? t->bytes / t->ne[1] : t->bytes;
        } else {
            *other += t->bytes;
            if (t->n_dims > 1 && strcmp(t->name, "output.weight") != 0)
                *products += elements;
        }
    }
}

static void check_cost(const char *path)
{
    struct error err = { 0 };
    struct model m = { 0 };
    struct token_cost c;
    uint64_t routed, other, products;
    check_case("bytes per token of %s", strrchr(path, '/') + 1);
    if (!CHECK_MSG(model_open(&m, path, NUMERICS_OFFICIAL, &err), "%s", err.text))
        return;
    token_cost(&m, TYPE_F16, &c);
    count_from_names(&m, &routed, &other, &products);
    CHECK_INT(c.routed_bytes, routed);
    CHECK_INT(c.other_bytes, other);
    CHECK_INT(c.products, products);
    CHECK_INT(c.routed_bytes + c.other_bytes, m.bytes_per_token);
    const struct params *p = &m.params;
    if (p->kv_lora_rank)
        CHECK_INT(c.cache_bytes, 2 * (uint64_t)p->n_layers *
                                     (uint64_t)(p->kv_lora_rank + p->qk_rope_dim));
    CHECK(c.cache_bytes > 0);
    model_close(&m);
}

/* ---- figures, limits, doubts ---- */

static void check_figures(void)
{
    double rates[] = { 30, 10, 20, 40 };
    struct bench_row r = { .tok_s = rates, .n = 3, .n_generate = 5, .joules = 60 };
    check_case("median, mean and deviation");
    CHECK(row_median(&r) == 20 && row_mean(&r) == 20);
    CHECK(fabs(row_deviation(&r) - 10) < 1e-12);
    CHECK(row_joules_per_token(&r) == 4);
    r.n = 4;
    CHECK(row_median(&r) == 25);
    r.n = 1;
    CHECK(row_median(&r) == 30 && row_deviation(&r) == 0);
    CHECK(rates[0] == 30); /* sorting is done elsewhere */
}

static void check_limits(void)
{
    double rates[] = { 10 };
    struct options o = { 0 };
    struct model m = { .weight_bytes = 900000000 };
    struct bench b = { .o = &o, .model = &m,
                       .machine = { .dram_gb_s = 10, .int8_gops = 1000, .l3_gb = 0.1 },
                       .cost = { 300000000, 200000000, 1000000, 1000000000 } };
    struct bench_row r = { .test = "tg11 @ 100", .tok_s = rates, .n = 1, .n_generate = 11,
                           .depth = 100 };
    char text[256];

    check_case("decode is limited by memory, cache included");
    row_limit(&b, &r);
    double bytes = 5e8 + 105 * 1e6; /* steps 0 .. 10 read 100 .. 110 positions */
    CHECK(r.bytes_per_token == bytes && r.limit_tok_s == 10e9 / bytes);
    CHECK_STR(r.limit, "memory");
    CHECK(fabs(row_gb_s(&r) - 10 * bytes / 1e9) < 1e-9);
    CHECK(fabs(row_of_limit(&r) - 10 * bytes / 10e9) < 1e-9);
    CHECK_STR(row_doubt(&b, &r, text, sizeof text), "");

    check_case("more than the memory gives is doubted");
    rates[0] = 20;
    CHECK(strstr(row_doubt(&b, &r, text, sizeof text), "was the probe disturbed?"));
    b.machine.l3_gb = 1;
    CHECK(strstr(row_doubt(&b, &r, text, sizeof text), "fit into the last cache"));

    check_case("prefill is limited by arithmetic, short ones by memory");
    r = (struct bench_row){ .test = "pp100", .tok_s = rates, .n = 1, .n_prompt = 100 };
    row_limit(&b, &r);
    CHECK_STR(r.limit, "arithmetic");
    CHECK(fabs(r.limit_tok_s - 500) < 1e-9); /* 2 GFLOP a token at 1000 GOPS */
    CHECK(isnan(row_gb_s(&r)));
    rates[0] = 501;
    CHECK(strstr(row_doubt(&b, &r, text, sizeof text), "int8 arithmetic"));
    r.n_prompt = 1;
    row_limit(&b, &r);
    CHECK_STR(r.limit, "memory");
    CHECK(fabs(r.limit_tok_s - 20) < 1e-9);

    check_case("with a GPU: the serial bound, and the rate of its GEMM");
    struct bench g = b;
    struct bench_row d = { .test = "tg11 @ 100", .tok_s = rates, .n = 1, .n_generate = 11,
                           .depth = 100 };
    struct placement on_card = { .gpu_layers = 1 };
    on_card.bytes_per_token[PART_TRUNK][HOME_GPU] = b.cost.other_bytes;
    on_card.bytes_per_token[PART_ROUTED][HOME_RAM] = b.cost.routed_bytes;
    m.params.n_layers = 1;
    g.placement = &on_card;
    g.gpu = &(struct gpu_info){ .name = "a card" };
    row_limit(&g, &d);
    CHECK(isnan(d.limit_tok_s)); /* nobody measured it */
    g.machine.vram_gb_s = 100;
    g.machine.gpu_tops = 0.004;
    row_limit(&g, &d); /* 0.3 GB of experts at 10 GB/s, 0.2 and 0.105 of others at 100 */
    CHECK(fabs(d.limit_tok_s - 1 / 0.03305) < 1e-6 && d.bytes_per_token == 3e8);
    CHECK_STR(d.limit, "serial");
    rates[0] = 40;
    CHECK(strstr(row_doubt(&g, &d, text, sizeof text), "serial bound"));
    r.n_prompt = 100;
    row_limit(&g, &r);
    CHECK(fabs(r.limit_tok_s - 2) < 1e-9 && !strcmp(r.limit, "arithmetic"));
    r.n_prompt = 1;
    row_limit(&b, &r);

    check_case("no limit without a probe, none of int8 in the reference path");
    o.act_f32 = true;
    row_limit(&b, &r);
    CHECK(isnan(row_of_limit(&r)));
    b.machine.dram_gb_s = 0;
    r.n_generate = 1;
    row_limit(&b, &r);
    CHECK(isnan(row_of_limit(&r)) && isnan(row_gb_s(&r)));
    CHECK_STR(row_doubt(&b, &r, text, sizeof text), "");
}

/* ---- grading ---- */

static int compared(struct bench *b, const char *file, double max_loss)
{
    struct error err = { 0 };
    return compare_rows(b, path_of(file), max_loss, &err) ? 0 : (int)err.code;
}

static void check_compare(void)
{
    double fast[] = { 100 }, slow[] = { 95 };
    struct bench_row rows[] = {
        { .test = "pp8", .threads = 2, .batch = 512, .tok_s = fast, .n = 1, .limit = "" },
        { .test = "tg4", .threads = 2, .batch = 512, .tok_s = slow, .n = 1, .limit = "" },
    };
    struct options o = { .format = TABLE_JSON };
    struct bench b = { .o = &o, .rows = rows, .n_rows = 2 };
    check_case("grading against an older file");
    if (!js_available(NULL)) {
        check_skip("this build has no JSON");
        return;
    }
    put("old", "[{\"test\": \"pp8\", \"threads\": 2, \"batch\": 512, \"tok_s_median\": 100},\n"
               " {\"test\": \"tg4\", \"threads\": 2, \"batch\": 512, \"tok_s_median\": 100}]\n");
    CHECK_INT(compared(&b, "old", 0.06), 0);
    CHECK_INT(compared(&b, "old", 0.04), ERR_CHECK);
    slow[0] = 200;
    CHECK_INT(compared(&b, "old", 0), 0);
    slow[0] = 95;

    check_case("grading against lines, other threads, strangers");
    put("lines", "{\"test\": \"pp8\", \"tok_s_median\": 50}\n\n"
                 "{\"test\": \"tg4\", \"threads\": 1, \"tok_s_median\": 1000}\n"
                 "{\"test\": \"tg4\", \"threads\": 2, \"tok_s_median\": 95}\n");
    CHECK_INT(compared(&b, "lines", 0.01), 0);
    put("other", "[{\"test\": \"tg128\", \"tok_s_median\": 5}, 7, null]");
    CHECK_INT(compared(&b, "other", 0.5), ERR_CHECK);
    put("broken", "[{\"test\": ");
    CHECK_INT(compared(&b, "broken", 0.5), ERR_FILE);
    put("object", "7");
    CHECK(compared(&b, "object", 0.5) != 0);
    CHECK_INT(compared(&b, "none", 0.5), ERR_FILE);
}

/* ---- drawings ---- */

static const struct plot_point falling[] = { { 0, 10 }, { 10, 5 }, { 20, 0 } };
static const struct plot line = { "decode tok/s", "tokens of context", falling, 3 };

static void check_plots(void)
{
    struct buf out = { 0 };
    check_case("a curve in stars");
    plot_text(&out, &line, 21, 5, false);
    CHECK_STR(out.data ? out.data : "", "decode tok/s\n"
                        "      10 + ***\n"
                        "         |    *****\n"
                        "       5 +         *****\n"
                        "         |              *****\n"
                        "       0 +                   ***\n"
                        "         +----------------------\n"
                        "           0 tokens of context 20\n");
    buf_release(&out);

    check_case("a curve in braille");
    plot_text(&out, &line, 8, 3, true);
    CHECK_STR(out.data ? out.data : "", "decode tok/s\n"
                        "      10 ┤ ⠑⠢⣀\n"
                        "       5 ┤    ⠑⢆\n"
                        "       0 ┤      ⠉⠢⢄\n"
                        "         └─────────\n"
                        "           0 tokens of context 20\n");
    buf_release(&out);

    check_case("curves without points, or with one");
    struct plot none = { "t", "x", falling, 0 }, one = { "t", "x", falling, 1 };
    plot_text(&out, &none, 20, 3, true);
    plot_text(&out, &one, 1000, 1000, false);
    CHECK(out.len > 0 && strchr(out.data, '*'));
    buf_release(&out);

    check_case("curves in an SVG file");
    struct error err = { 0 };
    struct plot two[] = { line, line };
    CHECK_MSG(plot_svg(two, 2, path_of("svg"), &err), "%s", err.text);
    char *text = check_read_file(path_of("svg"), NULL);
    if (CHECK(text != NULL)) {
        CHECK(strncmp(text, "<svg ", 5) == 0 && strstr(text, "</svg>\n"));
        CHECK(strstr(text, "points=\"64.0,36.0 340.0,136.0 616.0,236.0\""));
        CHECK(strstr(text, "points=\"64.0,316.0 340.0,416.0 616.0,516.0\""));
    }
    free(text);
    CHECK(!plot_svg(two, 2, path_of("none/svg"), &err) && err.code == ERR_RUN);
}

/* ---- energy ---- */

static void put_zone(const char *zone, const char *name, const char *uj)
{
    char path[128];
    snprintf(path, sizeof path, "sys/class/powercap/%s", zone);
    mkdir(path_of(path), 0700);
    snprintf(path, sizeof path, "sys/class/powercap/%s/name", zone);
    put(path, name);
    snprintf(path, sizeof path, "sys/class/powercap/%s/max_energy_range_uj", zone);
    put(path, "1000000000\n");
    snprintf(path, sizeof path, "sys/class/powercap/%s/energy_uj", zone);
    if (uj)
        put(path, uj);
}

static void check_energy(void)
{
    struct energy e;
    check_case("energy of packages and memory");
    CHECK(!energy_open(&e, folder));
    CHECK_STR(e.reason, "no counters in /sys/class/powercap");
    CHECK(energy_read(&e) == 0);
    mkdir(path_of("sys"), 0700);
    mkdir(path_of("sys/class"), 0700);
    mkdir(path_of("sys/class/powercap"), 0700);
    put_zone("intel-rapl:0", "package-0\n", NULL);
    CHECK(!energy_open(&e, folder));
    CHECK_MSG(strstr(e.reason, "No such file"), "%s", e.reason);
    put_zone("intel-rapl:0", "package-0\n", "5000000\n");
    put_zone("intel-rapl:0:0", "core\n", "1\n");
    put_zone("intel-rapl:0:1", "dram\n", "999000000\n");
    put_zone("intel-rapl:1", "psys\n", "7\n");
    CHECK(energy_open(&e, folder));
    CHECK_INT(e.n_zones, 2);
    CHECK(energy_read(&e) == 0);
    put_zone("intel-rapl:0", "package-0\n", "8000000\n");
    put_zone("intel-rapl:0:1", "dram\n", "1000000\n"); /* began again at 0 */
    CHECK(fabs(energy_read(&e) - 5) < 1e-9);
    CHECK(fabs(energy_read(&e) - 5) < 1e-9);

    check_case("energy of a card beside that of the CPU");
    char library[512];
    const char *built = getenv("B");
    snprintf(library, sizeof library, "%s/tests/tandem-gpu-emulated.so", built ? built : "build");
    CHECK(isnan(energy_gpu_busy(&e)));
    CHECK(!energy_add_gpu(&e, path_of("none.so"), "0000:00:00.0"));
    CHECK_MSG(strstr(e.gpu_reason, "cannot be opened"), "%s", e.gpu_reason);
    if (access(library, F_OK) == 0) {
        CHECK(!energy_add_gpu(&e, library, "0000:17:00.0"));
        CHECK_MSG(strstr(e.gpu_reason, "0000:17:00.0 is not known"), "%s", e.gpu_reason);
        CHECK_MSG(energy_add_gpu(&e, library, "0000:00:00.0"), "%s", e.gpu_reason);
        CHECK(fabs(energy_read(&e) - 7.5) < 1e-9); /* it takes 2.5 J from look to look */
        CHECK(energy_gpu_busy(&e) == 0.4);
        energy_close(&e);
        CHECK(energy_readable(&e) && fabs(energy_read(&e) - 7.5) < 1e-9);
    }
    energy_close(&(struct energy){ 0 });
}

/* ---- other threads ---- */

static bool logits_with(struct engine *e, int threads, int batch, float *out, size_t n,
                        struct error *err)
{
    static const int32_t tokens[] = { 1, 20, 300, 4, 50, 6, 70 };
    struct session_options so = { .n_ctx = 64 };
    struct session *s = NULL;
    bool ok = engine_retune(e, threads, batch, err) && session_open(&s, e, &so, err) &&
              session_prefill(s, tokens, ARRAY_LEN(tokens), NULL, NULL, err);
    if (ok)
        memcpy(out, session_logits(s), n * sizeof *out);
    session_close(s);
    return ok;
}

static void check_retune(void)
{
    struct error err = { 0 };
    struct engine *e = NULL;
    struct engine_options o = { .n_threads = 1 };
    check_case("an engine goes on with other threads and batches");
    if (!CHECK_MSG(engine_open(&e, "models/demo.gguf", &o, &err), "%s", err.text))
        return;
    size_t n = (size_t)engine_model(e)->params.n_vocab;
    float *a = calloc(n, sizeof *a), *b = calloc(n, sizeof *b);
    CHECK_MSG(logits_with(e, 1, 4, a, n, &err), "%s", err.text);
    CHECK_MSG(logits_with(e, 2, 0, b, n, &err), "%s", err.text);
    CHECK_INT(engine_batch(e), 512);
    CHECK_MSG(logits_with(e, 3, 4, b, n, &err), "%s", err.text);
    CHECK_INT(engine_threads(e), 3);
    CHECK_INT(engine_batch(e), 4);
    CHECK(memcmp(a, b, n * sizeof *a) == 0);
    CHECK(!engine_retune(e, 1, 1 << 20, &err) && err.code == ERR_USAGE);
    free(a);
    free(b);
    engine_close(e);
}

/* ---- the program: Ctrl-C, progress ---- */

/* tandem bench on its way, its stdout in a pipe. */
struct child {
    pid_t pid;
    int out;
};

/* err: its stderr, or -1 for ours. */
static bool start(struct child *c, const char *format, const char *generate, int err)
{
    char program[256];
    int fds[2];
    const char *build = getenv("B");
    snprintf(program, sizeof program, "%s/tandem", build ? build : "build");
    if (pipe(fds) != 0)
        return false;
    c->pid = fork();
    if (c->pid == 0) {
        dup2(fds[1], 1);
        if (err >= 0)
            dup2(err, 2);
        close(fds[0]);
        close(fds[1]);
        setenv("XDG_CACHE_HOME", folder, 1);
        setenv("TERM", "xterm", 1);
        signal(SIGINT, SIG_DFL);
        execl(program, program, "bench", "models/demo.gguf", "-p", "8", "-n", generate, "-r", "1",
              "--limits", "kept", "-o", format, (char *)NULL);
        _exit(127);
    }
    close(fds[1]);
    c->out = fds[0];
    return c->pid > 0;
}

/* The exit code, -1 when it had none. */
static int finish(struct child *c)
{
    int status;
    close(c->out);
    return waitpid(c->pid, &status, 0) == c->pid && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* Wait until stdout holds `last`, press Ctrl-C, and read what it still says. */
static int interrupted(const char *format, const char *last, char *text, size_t size)
{
    struct child c;
    size_t n = 0;
    ssize_t got;
    bool sent = false;
    if (!start(&c, format, "4,30000", -1))
        return -1;
    while (n + 1 < size && (got = read(c.out, text + n, size - 1 - n)) > 0) {
        n += (size_t)got;
        text[n] = 0;
        if (!sent && strstr(text, last))
            sent = kill(c.pid, SIGINT) == 0;
    }
    return finish(&c);
}

static void check_interrupt(void)
{
    char text[16384] = "";
    check_case("Ctrl-C keeps what was measured");
    CHECK_INT(interrupted("md", "| tg4", text, sizeof text), 130);
    CHECK(strstr(text, "\ntg4: commit ") && !strstr(text, "tg30000"));
    CHECK_INT(interrupted("csv", "\ntg4,", text, sizeof text), 130);
    CHECK(!strstr(text, "tg30000"));
    if (js_available(NULL)) {
        CHECK_INT(interrupted("jsonl", "\"tg4\"", text, sizeof text), 130);
        CHECK(!strstr(text, "tg30000"));
    }
}

/* On a terminal the line with the test's name is there before its row, and is taken away again. */
static void check_progress(void)
{
    char text[16384] = "";
    size_t n = 0;
    ssize_t got;
    struct child c;
    check_case("progress is shown on a terminal");
    int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (master < 0 || grantpt(master) || unlockpt(master)) {
        check_skip("no terminals here");
        return;
    }
    int slave = open(ptsname(master), O_RDWR | O_NOCTTY);
    CHECK(start(&c, "csv", "4", slave));
    close(slave);
    while (n + 1 < sizeof text && (got = read(master, text + n, sizeof text - 1 - n)) > 0)
        n += (size_t)got;
    text[n] = 0;
    close(master);
    CHECK_INT(finish(&c), 0);
    const char *shown = strstr(text, "tg4");
    CHECK_MSG(shown && strstr(shown, "\r\033[K"), "stderr: %s", text);
}

int main(void)
{
    static const char *const files[] = { "deepseek-v1", "deepseek2-lite", "deepseek2-v3",
                                         "llama-gqa-linear" };
    char command[64];
    if (!mkdtemp(folder))
        return 2;
    term_init(COLOUR_NEVER, QUIET);
    check_cost("models/demo.gguf");
    for (size_t i = 0; i < ARRAY_LEN(files) && check_fixtures(); i++) {
        char name[64];
        snprintf(name, sizeof name, "models/%s.gguf", files[i]);
        check_cost(check_fixture(name));
    }
    if (!check_fixtures()) {
        check_case("bytes per token of the fixtures");
        check_skip("no fixtures here");
    }
    check_figures();
    check_limits();
    check_compare();
    check_plots();
    check_energy();
    check_retune();
    check_interrupt();
    check_progress();
    snprintf(command, sizeof command, "rm -r %s", folder);
    if (system(command) != 0)
        return 2;
    return check_finish();
}
