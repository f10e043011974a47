/* Conversions that end before their time: kills, interrupts, full disks; and what may follow. All
 * of it on a dense checkpoint of a few hundred kilobytes, converted in pieces so small that there
 * is always something to stop. */
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>

#include "cpu/features.h"
#include "tests/checkpoint.h"
#include "tests/sha256.h"
#include "tools/convert.h"

#define N_VOCAB CHECKPOINT_VOCAB
#define HIDDEN 64

static const char config[] =
    "{\"architectures\":[\"LlamaForCausalLM\"],\"num_hidden_layers\":3,\"hidden_size\":64,"
    "\"vocab_size\":264,\"max_position_embeddings\":512,\"intermediate_size\":256,"
    "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"rms_norm_eps\":1e-5,"
    "\"hidden_act\":\"silu\",\"rope_theta\":500000}";

static struct st st;

static void build(void)
{
    clean_folder();
    st_start(&st);
    add_bf16(&st, "model.embed_tokens.weight", N_VOCAB, HIDDEN);
    add_bf16(&st, "model.norm.weight", 0, HIDDEN);
    add_bf16(&st, "lm_head.weight", N_VOCAB, HIDDEN);
    for (int i = 0; i < 3; i++) {
        add_bf16(&st, layer_name(i, "input_layernorm.weight"), 0, HIDDEN);
        add_bf16(&st, layer_name(i, "post_attention_layernorm.weight"), 0, HIDDEN);
        add_bf16(&st, layer_name(i, "self_attn.q_proj.weight"), 64, HIDDEN);
        add_bf16(&st, layer_name(i, "self_attn.k_proj.weight"), 32, HIDDEN);
        add_bf16(&st, layer_name(i, "self_attn.v_proj.weight"), 32, HIDDEN);
        add_bf16(&st, layer_name(i, "self_attn.o_proj.weight"), HIDDEN, 64);
        add_bf16(&st, layer_name(i, "mlp.gate_proj.weight"), 256, HIDDEN);
        add_bf16(&st, layer_name(i, "mlp.up_proj.weight"), 256, HIDDEN);
        add_bf16(&st, layer_name(i, "mlp.down_proj.weight"), HIDDEN, 256);
    }
    st_write(&st, "model.safetensors");
    write_text("config.json", config);
    write_tokenizer(V3_REGEX);
}

/* The command on the checkpoint. */
static int run(const char *options)
{
    char said[2000];
    return convert(options, said);
}

static const char *option_text(const char *format, const char *name)
{
    static char ring[4][700];
    static int next;
    char *text = ring[next++ % 4];
    snprintf(text, sizeof ring[0], format, in_folder(name));
    return text;
}

/* Hash of a file of the folder; false when there is none. */
static bool hash_of(const char *name, char hex[65])
{
    size_t n = 0;
    char *bytes = check_read_file(in_folder(name), &n);
    if (bytes)
        sha256_hex(bytes, n, hex);
    free(bytes);
    return bytes != NULL;
}

static bool same_file(const char *a, const char *b)
{
    char x[65], y[65];
    return hash_of(a, x) && hash_of(b, y) && strcmp(x, y) == 0;
}

static bool exists(const char *name)
{
    return access(in_folder(name), F_OK) == 0;
}

static void expect_said(int wanted, const char *options, const char *word)
{
    char said[2000];
    int found = convert(options, said);
    CHECK_MSG(found == wanted && strstr(said, word), "%s: exit %d, wanted %d and \"%s\": %s", options,
              found, wanted, word, said);
}

/* ---- kills ---- */

/* In a child: convert to NAME in small pieces, every one of them noted at once. */
static void child_converts(const char *name, bool force)
{
    struct options o = { .split_max_bytes = 0 };
    struct error err = { 0 };
    struct output_pace pace = { .sync_s = 1e-9, .chunk_elements = 1024 };
    o.output = in_folder(name);
    o.convert_type = "q4_k_m";
    o.resume = true;
    o.force = force;
    o.threads = 2;
    cpu_isa_limit(~0u); /* as in the command, whose canary knows no cap of a test run */
    if (!freopen("/dev/null", "w", stderr))
        _exit(99);
    _exit(convert_folder(folder, &o, &pace, &err) ? 0 : (int)err.code);
}

/* Kill children at random moments, ever later, until one gets through. Returns the number of kills. */
static int kill_until_done(const char *name, bool force, const char *old)
{
    for (int kills = 0; kills < 400;) {
        int status = 0;
        fflush(NULL);
        pid_t child = fork();
        if (child == 0)
            child_converts(name, force);
        usleep((useconds_t)(check_random() % (uint64_t)(3000 + 1000 * kills + 10 * kills * kills)));
        kill(child, SIGKILL);
        waitpid(child, &status, 0);
        if (!WIFSIGNALED(status)) {
            CHECK_MSG(WEXITSTATUS(status) == 0, "code %d after %d kills", WEXITSTATUS(status),
                      kills);
            return kills;
        }
        kills++;
        if (old) /* until the rename the old file is the file */
            CHECK(same_file(name, old) || same_file(name, "whole.gguf"));
        else
            CHECK(!exists(name) || same_file(name, "whole.gguf"));
        if (exists(name) && !old)
            return kills; /* killed behind the rename */
    }
    CHECK_MSG(false, "never finished");
    return 0;
}

static void test_kill(void)
{
    bool is_long = getenv("TANDEM_TEST_LONG") != NULL;
    int rounds = is_long ? 20 : 3, kills = 0, equal = 0;
    check_case("SIGKILL at random moments, %d times to the end: the same bytes", rounds);
    CHECK_INT(run(option_text("-o %s --type q4_k_m", "whole.gguf")), 0);
    for (int i = 0; i < rounds || (kills == 0 && i < 50); i++) { /* no kill may have been in time */
        rounds = max_of(rounds, i + 1);
        kills += kill_until_done("kill.gguf", false, NULL);
        equal += same_file("kill.gguf", "whole.gguf");
        unlink(in_folder("kill.gguf"));
        unlink(in_folder(".kill.gguf.journal")); /* where the last kill came behind the rename */
    }
    CHECK_INT(equal, rounds);
    CHECK_MSG(kills > 0, "%d kills", kills);

    check_case("a file that is replaced stays until the new one is whole");
    write_text("kept.gguf", "old");
    write_text("old.gguf", "old");
    kill_until_done("kept.gguf", true, "old.gguf");
    CHECK(same_file("kept.gguf", "whole.gguf"));
}

/* ---- what may be resumed ---- */

/* Leave an unfinished conversion behind. */
static bool leave_unfinished(const char *name)
{
    for (int tries = 0; tries < 50; tries++) {
        int status = 0;
        char journal[80];
        struct stat sb;
        snprintf(journal, sizeof journal, ".%s.journal", name);
        fflush(NULL);
        pid_t child = fork();
        if (child == 0)
            child_converts(name, false);
        for (int i = 0; i < 4000 && (stat(in_folder(journal), &sb) || sb.st_size < 4096); i++)
            usleep(50);
        kill(child, SIGKILL);
        waitpid(child, &status, 0);
        if (WIFSIGNALED(status) && exists(journal))
            return true;
        unlink(in_folder(name));
    }
    return CHECK_MSG(false, "no unfinished conversion");
}

static void test_other_jobs(void)
{
    check_case("another type, another input, another name are not mixed in");
    if (!leave_unfinished("mix.gguf"))
        return;
    expect_said(2, option_text("-o %s --type q4_k_m", "mix.gguf"), "--resume");
    expect_said(2, option_text("-o %s --type q4_k_m --no-canary", "mix.gguf"), "canary");
    expect_said(2, option_text("-o %s --type q4_k_s", "mix.gguf"), "--force");
    expect_said(2, option_text("-o %s --resume --type q4_k_s -t 2", "mix.gguf"), "mixture");
    write_tokenizer(V3_REGEX "   ");
    expect_said(2, option_text("-o %s --resume --type q4_k_m", "mix.gguf"), "tokenizer.json");
    write_tokenizer(V3_REGEX);
    CHECK_INT(utimensat(AT_FDCWD, in_folder("model.safetensors"), NULL, 0), 0);
    expect_said(2, option_text("-o %s --resume --type q4_k_m", "mix.gguf"), "model.safetensors");
    CHECK_INT(run(option_text("-o %s --type q4_k_m --force", "mix.gguf")), 0);
    CHECK(same_file("mix.gguf", "whole.gguf"));
    CHECK(!exists(".mix.gguf.part") && !exists(".mix.gguf.journal"));
}

static void test_options(void)
{
    check_case("a type on the way gives what two steps give");
    CHECK_INT(run(option_text("-o %s", "native.gguf")), 0);
    char command[2000];
    const char *b = getenv("B");
    snprintf(command, sizeof command, "%s/tandem-quantize %s %s q4_k_m >/dev/null 2>&1",
             b ? b : "build", in_folder("native.gguf"), in_folder("two.gguf"));
    CHECK_INT(system(command), 0);
    CHECK(same_file("two.gguf", "whole.gguf"));

    check_case("--verify reads back, --dry-run writes nothing, rules per tensor");
    expect_said(0, option_text("-o %s --type q4_k_m --verify", "verified.gguf"), "read back");
    CHECK(same_file("verified.gguf", "whole.gguf"));
    CHECK_INT(run(option_text("-o %s --dry-run >/dev/null", "dry.gguf")), 0);
    CHECK(!exists("dry.gguf") && !exists(".dry.gguf.part") && !exists(".dry.gguf.journal"));
    expect_said(0, option_text("-o %s --tensor-type ffn_down=q8_0", "rule.gguf"), "bits");
    expect_said(2, option_text("-o %s --type iq1_s", "iq.gguf"), "importance");
    expect_said(2, option_text("-o %s --type q9_9", "bad.gguf"), "q9_9");
}

/* ---- interrupts ---- */

/* A checkpoint of 32 Mi elements that takes no room: a hole. */
static void build_large(void)
{
    char header[4000], text[600];
    uint64_t at = 0;
    struct { const char *name; int rows, cols; } tensors[] = {
        { "model.embed_tokens.weight", 32768, 1024 }, { "model.norm.weight", 0, 1024 },
        { "model.layers.0.input_layernorm.weight", 0, 1024 },
        { "model.layers.0.post_attention_layernorm.weight", 0, 1024 },
        { "model.layers.0.self_attn.q_proj.weight", 64, 1024 },
        { "model.layers.0.self_attn.k_proj.weight", 64, 1024 },
        { "model.layers.0.self_attn.v_proj.weight", 64, 1024 },
        { "model.layers.0.self_attn.o_proj.weight", 1024, 64 },
        { "model.layers.0.mlp.gate_proj.weight", 32, 1024 },
        { "model.layers.0.mlp.up_proj.weight", 32, 1024 },
        { "model.layers.0.mlp.down_proj.weight", 1024, 32 },
    };
    clean_folder();
    size_t n = (size_t)snprintf(header, sizeof header, "{");
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++) {
        char shape[40];
        uint64_t bytes = 2ull * (uint64_t)(tensors[i].rows ? tensors[i].rows : 1) *
                         (uint64_t)tensors[i].cols;
        if (tensors[i].rows)
            snprintf(shape, sizeof shape, "%d,%d", tensors[i].rows, tensors[i].cols);
        else
            snprintf(shape, sizeof shape, "%d", tensors[i].cols);
        n += (size_t)snprintf(header + n, sizeof header - n,
                              "%s\"%s\":{\"dtype\":\"BF16\",\"shape\":[%s],\"data_offsets\":[%llu,%llu]}",
                              i ? "," : "", tensors[i].name, shape, (unsigned long long)at,
                              (unsigned long long)(at + bytes));
        at += bytes;
    }
    n += (size_t)snprintf(header + n, sizeof header - n, "}");
    uint64_t length = n;
    int fd = open(in_folder("model.safetensors"), O_WRONLY | O_CREAT | O_TRUNC, 0644);
    CHECK(fd >= 0 && write(fd, &length, 8) == 8 && write(fd, header, n) == (ssize_t)n &&
          ftruncate(fd, (off_t)(8 + n + at)) == 0);
    close(fd);
    snprintf(text, sizeof text,
             "{\"architectures\":[\"LlamaForCausalLM\"],\"num_hidden_layers\":1,"
             "\"hidden_size\":1024,\"vocab_size\":32768,\"max_position_embeddings\":512,"
             "\"intermediate_size\":32,\"num_attention_heads\":2,\"head_dim\":32,"
             "\"rms_norm_eps\":1e-5,\"tie_word_embeddings\":true}");
    write_text("config.json", text);
    write_tokenizer(V3_REGEX);
}

/* Start the command itself, its messages into "said". */
static pid_t start(const char *name, const char *option)
{
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        char program[300];
        const char *b = getenv("B");
        int fd = open(in_folder("said"), O_WRONLY | O_CREAT | O_TRUNC, 0644);
        dup2(fd, 2);
        snprintf(program, sizeof program, "%s/tandem-convert", b ? b : "build");
        execl(program, program, folder, "-o", in_folder(name), "-t", "2", option, (char *)NULL);
        _exit(127);
    }
    return child;
}

static void test_interrupt(void)
{
    int status = 0, code = 0;
    check_case("Ctrl-C keeps the work, the same command with --resume ends it");
    double middle_us = 40000;
    for (int tries = 0; tries < 40 && code != 130; tries++) {
        pid_t child = start("int.gguf", "--force");
        usleep((useconds_t)(middle_us * (0.5 + 0.001 * (double)(check_random() % 1000))));
        kill(child, SIGINT);
        waitpid(child, &status, 0);
        code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
        CHECK_MSG(code == 0 || code == 130 || WIFSIGNALED(status), "code %d", code);
        middle_us *= WIFSIGNALED(status) ? 1.4 : 0.8; /* it did not listen yet; it had ended */
    }
    CHECK_INT(code, 130);
    CHECK(exists(".int.gguf.part") && exists(".int.gguf.journal"));
    char *said = check_read_file(in_folder("said"), NULL);
    CHECK_MSG(said && strstr(said, "are safe") && strstr(said, "--resume"), "%s", said ? said : "");
    free(said);
    CHECK_INT(run(option_text("-o %s --resume --force", "int.gguf")), 0);
    CHECK_INT(run(option_text("-o %s", "one.gguf")), 0);
    CHECK(same_file("int.gguf", "one.gguf"));
    CHECK(!exists(".int.gguf.part") && !exists(".int.gguf.journal"));
}

/* The largest tensor has 64 MiB, its rows as floats 128. For the canary it is mapped, never more. */
static void test_memory(void)
{
    static const struct { const char *option; long most_mib; } runs[] = {
        { "--no-canary", 48 }, { "--verify", 48 + 64 },
    };
    check_case("memory does not grow with the tensors");
    for (size_t i = 0; i < 2; i++) {
        struct rusage used;
        int status = 0;
        unlink(in_folder("one.gguf"));
        pid_t child = start("one.gguf", runs[i].option);
        CHECK(wait4(child, &status, 0, &used) == child && WIFEXITED(status) &&
              WEXITSTATUS(status) == 0);
#ifndef __SANITIZE_ADDRESS__
        CHECK_MSG(used.ru_maxrss < runs[i].most_mib << 10, "%s: %ld KiB resident at the peak",
                  runs[i].option, used.ru_maxrss);
#endif
    }
}

/* ---- no room ---- */

static void test_limit(void)
{
    int status = 0;
    check_case("a file that may not grow");
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        struct rlimit limit = { 60000, 60000 };
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &limit);
        _exit(run(option_text("-o %s", "full.gguf")));
    }
    waitpid(child, &status, 0);
    CHECK_INT(WEXITSTATUS(status), 1);
    CHECK(!exists("full.gguf") && !exists(".full.gguf.part") && !exists(".full.gguf.journal"));
}

/* In a small file system of the child's own; exit code 77 where that is not allowed. */
static void child_fills(const char *option)
{
    char said[2000], options[800];
    mkdir(in_folder("small"), 0777);
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0 ||
        mount("tmpfs", in_folder("small"), "tmpfs", 0, "size=64k") != 0)
        _exit(77);
    snprintf(options, sizeof options, "-o %s %s", in_folder("small/x.gguf"), option);
    int code = convert(options, said);
    bool left = access(in_folder("small/x.gguf"), F_OK) == 0;
    _exit(code == 1 && !left && (strstr(said, "free") || strstr(said, "space")) ? 0 : 100 + code);
}

static void test_full_disk(void)
{
    static const char *const options[] = { "", "--resume" }; /* at the plan; when it is reserved */
    check_case("a full disk");
    for (size_t i = 0; i < 2; i++) {
        int status = 0;
        fflush(NULL);
        pid_t child = fork();
        if (child == 0)
            child_fills(options[i]);
        waitpid(child, &status, 0);
        if (WEXITSTATUS(status) == 77) {
            check_skip("no file system of our own here");
            return;
        }
        CHECK_INT(WEXITSTATUS(status), 0);
    }
}

int main(void)
{
    if (!checkpoint_open("resuming conversions"))
        return check_finish();
    build();
    test_kill();
    test_options();
    test_other_jobs();
    test_limit();
    test_full_disk();
    build_large();
    test_interrupt();
    test_memory();
    checkpoint_close();
    return check_finish();
}
