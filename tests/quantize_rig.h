/* What tests of tandem quantize share: a folder of the test's own ($B/tests/NAME.PID), a small
 * model in it, running the command there, and looking at what came of it. */
#ifndef TANDEM_TESTS_QUANTIZE_RIG_H
#define TANDEM_TESTS_QUANTIZE_RIG_H

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "src/format/gguf_write.h"
#include "src/format/quant.h"
#include "tests/check.h"

static char dir[64], tandem[192], log_path[256];

static inline const char *path(const char *name)
{
    static char ring[8][192];
    static int next;
    char *p = ring[next++ % 8];
    snprintf(p, sizeof ring[0], "%s/%s", dir, name);
    return p;
}

/* Exit code of `tandem quantize ARGUMENTS` (they are relative to the test's folder), 128 + n for
 * signal n; stderr goes to log_path. */
static inline int quantize(const char *arguments)
{
    char command[2048];
    snprintf(command, sizeof command, "cd %s && '%s' quantize %s >'%s' 2>&1 </dev/null", dir, tandem,
             arguments, log_path);
    int status = system(command);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static inline bool said(const char *text)
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

static inline bool exists(const char *name)
{
    return access(path(name), F_OK) == 0;
}

static inline bool same_bytes(const char *a, const char *b)
{
    return check_same_files(path(a), path(b));
}

/* Names in the folder that begin with this. */
static inline int count_names(const char *start)
{
    int n = 0;
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d)) != NULL;)
        n += strncmp(e->d_name, start, strlen(start)) == 0;
    if (d)
        closedir(d);
    return n;
}

static inline void write_bytes(const char *name, const char *bytes, size_t n)
{
    FILE *f = fopen(path(name), "wb");
    CHECK(f && fwrite(bytes, 1, n, f) == n);
    if (f)
        fclose(f);
}

/* ---- a model ---- */

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

static inline float normal(void)
{
    float sum = -6;
    for (int i = 0; i < 12; i++)
        sum += check_random_float(0, 1);
    return 0.02f * sum;
}

/* F32 model; `bad` is put into one weight of blk.0.attn_q_a when it is not 0. */
static inline void write_model(const char *name, float bad)
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

/* ---- the folder ---- */

/* With in.gguf in it. */
static inline bool quantize_rig_open(const char *name)
{
    const char *b = getenv("B");
    char here[128];
    b = b ? b : "build";
    if (!CHECK(getcwd(here, sizeof here) != NULL))
        return false;
    snprintf(dir, sizeof dir, "%s/tests/%s.%d", b, name, (int)getpid());
    snprintf(tandem, sizeof tandem, "%s/%s/tandem", here, b);
    snprintf(log_path, sizeof log_path, "%s/%s/log", here, dir);
    check_case("the source");
    CHECK(mkdir(dir, 0777) == 0);
    write_model("in.gguf", 0);
    return true;
}

static inline void quantize_rig_close(void)
{
    char command[256];
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    CHECK(system(command) == 0);
}

#endif
