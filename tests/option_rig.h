/* Command lines of tandem as tests of its options run them: a folder for each, the files and
 * models that lines name, words with an option taken out, both outputs kept and searched. */
#ifndef TANDEM_TESTS_OPTION_RIG_H
#define TANDEM_TESTS_OPTION_RIG_H

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <regex.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cpu/features.h"
#include "src/base/pool.h"
#include "src/cli/command.h"
#include "src/cli/option_table.h"
#include "src/engine/machine.h"
#include "src/format/gguf.h"
#include "src/format/quant.h"
#include "tests/checkpoint.h"
#include "tests/option_trials.h"
#include "tests/pty.h"

#define MAX_WORDS 64
#define LIMIT_S 300 /* for one command line, sanitizers on a busy machine included */

/* ---- files that command lines name ---- */

/* {M} the demo model, {W} the common folder, {H} that of a checkpoint, {D} the folder of this
 * command line, {B} what its command needs to do anything, {A} what it needs to answer. */
static char common[64], own[96], emulated[PATH_MAX];

static inline void put(const char *folder_path, const char *name, const char *text)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder_path, name);
    FILE *f = fopen(path, "w");
    CHECK(f && fputs(text, f) >= 0);
    if (f)
        fclose(f);
}

/* A profile of this machine in round figures, for so many threads (0: all) and this instruction set
 * (NULL: the best): commands that predict have nothing to measure. */
static inline void put_profile(const char *path, int n_threads, const char *isa)
{
    struct machine m = { .n_threads = n_threads ? n_threads : cpu_usable_cores(), .n_nodes = 1,
                         .detail = MACHINE_FULL,
                         .dram_gb_s = 20, .best_threads = 1, .enough_threads = 1, .stream_gb_s = 18,
                         .stream_large_gb_s = 18, .region_gb = 1, .int8_gops = 9000,
                         .gpu = "emulated GPU", .vram_gb_s = 0.5, .h2d_gb_s = 9, .d2h_gb_s = 9,
                         .gpu_tops = 0.001, .hand_off_us = 20 };
    struct error err = { 0 };
    machine_cpu_name(m.cpu, sizeof m.cpu);
    snprintf(m.isa, sizeof m.isa, "%s", isa ? isa : cpu_isa_name(cpu_isa()));
    for (int i = 0; i < N_TENSOR_TYPES; i++) {
        m.dot_gb_s[i] = quant_traits((uint32_t)i)->name ? 15 : 0;
        m.tile_gops[i] = m.dot_gb_s[i] * 20;
    }
    CHECK_MSG(machine_save(&m, path, &err), "%s", err.text);
}

static inline void write_common(void)
{
    for (size_t i = 0; i < sizeof inputs / sizeof *inputs; i++)
        put(common, inputs[i].name, inputs[i].text);
}

/* A dense model of one layer, whose rows divide into blocks of 256. */
static inline void write_checkpoint(void)
{
    static struct st file;
    static uint16_t v[1 << 17];
    static const struct { const char *name; int rows, cols; } tensors[] = {
        { "model.embed_tokens.weight", CHECKPOINT_VOCAB, 256 }, { "model.norm.weight", 0, 256 },
        { "model.layers.0.input_layernorm.weight", 0, 256 },
        { "model.layers.0.post_attention_layernorm.weight", 0, 256 },
        { "model.layers.0.self_attn.q_proj.weight", 64, 256 },
        { "model.layers.0.self_attn.k_proj.weight", 64, 256 },
        { "model.layers.0.self_attn.v_proj.weight", 64, 256 },
        { "model.layers.0.self_attn.o_proj.weight", 256, 64 },
        { "model.layers.0.mlp.gate_proj.weight", 256, 256 },
        { "model.layers.0.mlp.up_proj.weight", 256, 256 },
        { "model.layers.0.mlp.down_proj.weight", 256, 256 },
    };
    st_start(&file);
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++) {
        int n = (tensors[i].rows ? tensors[i].rows : 1) * tensors[i].cols;
        for (int k = 0; k < n; k++)
            v[k] = f32_to_bf16(value_of(tensors[i].name, k) / 16);
        st_add(&file, tensors[i].name, "BF16", tensors[i].rows, tensors[i].cols, v, (size_t)n * 2);
    }
    st_write(&file, "model.safetensors");
    write_text("config.json", checkpoint_config);
    write_tokenizer(V3_REGEX);

    char line[300], path[160];
    snprintf(line, sizeof line, "cp -r %s %s/broken", folder, common);
    CHECK_INT(system(line), 0);
    snprintf(path, sizeof path, "%s/broken/model.safetensors", common);
    int fd = open(path, O_WRONLY | O_APPEND);
    struct stat st;
    CHECK(fd >= 0 && fstat(fd, &st) == 0 && ftruncate(fd, st.st_size - 2) == 0 &&
          write(fd, "\xc0\x7f", 2) == 2); /* the last weight is NaN */
    close(fd);
}

/* ---- words ---- */

static inline void append(char *out, size_t size, const char *text, size_t len)
{
    size_t n = strlen(out);
    snprintf(out + n, size - n, "%.*s", (int)len, text);
}

/* The line with names for its placeholders. */
static inline void expand(const char *text, const char *command, char *out, size_t size)
{
    *out = 0;
    for (const char *at = text; *at;) {
        size_t plain = strcspn(at, "{");
        append(out, size, at, plain);
        at += plain;
        bool ours = *at && at[1] && at[2] == '}' && strchr("MWDBAH", at[1]);
        if (!ours) {
            append(out, size, at, *at != 0);
            at += *at != 0;
            continue;
        }
        char inner[512] = "";
        if (at[1] == 'B' || at[1] == 'A')
            for (size_t i = 0; i < sizeof bases / sizeof *bases; i++)
                if (strcmp(bases[i].command, command) == 0)
                    expand(at[1] == 'B' ? bases[i].any : bases[i].answer, command, inner,
                           sizeof inner);
        const char *name = at[1] == 'M' ? MODEL : at[1] == 'W' ? common : at[1] == 'D' ? own
                         : at[1] == 'H' ? folder : inner;
        append(out, size, name, strlen(name));
        at += 3;
    }
}

/* Cut at blanks, text in '...' kept together; words[0] is the command. */
static inline int cut(char *line, const char *command, const char *words[MAX_WORDS])
{
    int n = 0;
    words[n++] = command;
    for (char *at = line; *at && n < MAX_WORDS - 1;) {
        at += strspn(at, " ");
        if (!*at)
            break;
        char end = *at == '\'' ? '\'' : ' ';
        at += end == '\'';
        words[n++] = at;
        at += strcspn(at, end == '\'' ? "'" : " ");
        if (*at)
            *at++ = 0;
    }
    words[n] = NULL;
    return n;
}

static inline int command_number(const char *name)
{
    for (int i = 0; command_at(i); i++)
        if (strcmp(command_at(i)->name, name) == 0)
            return i;
    return -1;
}

static inline bool in_words(const char *list, const char *word)
{
    size_t len = strlen(word);
    for (const char *at = list; at && *at; at += strspn(at, " ")) {
        size_t n = strcspn(at, " ");
        if (n == len && memcmp(at, word, n) == 0)
            return true;
        at += n;
    }
    return false;
}

static inline bool is_spelled(const struct option *row, const char *word)
{
    return (strncmp(word, "--", 2) == 0 && strcmp(word + 2, row->name) == 0) ||
           (row->brief && strcmp(row->brief, word) == 0) || in_words(row->also, word);
}

static inline int row_of(const char *name, unsigned command)
{
    for (int i = 0; i < n_option_rows; i++)
        if ((option_rows[i].commands & command) && strcmp(option_rows[i].name, name) == 0)
            return i;
    return -1;
}

/* Take the option out of the line, with its value: all of them. How many words went. */
static inline int without(const struct option *row, const char *words[MAX_WORDS], const char **value)
{
    int gone = 0, to = 0, i = 0;
    for (; words[i]; i++) {
        if (!is_spelled(row, words[i])) {
            words[to++] = words[i];
            continue;
        }
        gone++;
        bool takes = row->argument && words[i + 1] &&
                     (row->kind != OPT_MAYBE || words[i + 1][0] != '-');
        if (takes) {
            *value = words[++i];
            gone++;
        }
    }
    words[to] = NULL;
    return gone;
}

/* ---- running ---- */

/* The folder of one command line, empty. */
static inline void new_folder(void)
{
    static int number;
    snprintf(own, sizeof own, "%s/%d", common, ++number);
    mkdir(own, 0700);
}

/* The profile that these words ask for. */
static inline void give_profile(const char *const words[MAX_WORDS])
{
    char path[128];
    int n_threads = 0;
    const char *isa = NULL;
    for (int i = 0; words[i] && words[i + 1]; i++) {
        if (strcmp(words[i], "-t") == 0)
            n_threads = atoi(words[i + 1]);
        if (strcmp(words[i], "--cpu-isa") == 0)
            isa = words[i + 1];
    }
    snprintf(path, sizeof path, "%s/cache", own);
    mkdir(path, 0700);
    snprintf(path, sizeof path, "%s/cache/tandem", own);
    mkdir(path, 0700);
    snprintf(path, sizeof path, "%s/cache/tandem/machine", own);
    put_profile(path, n_threads, isa);
}

static inline void set_home(bool gpu)
{
    static const char *const names[] = { "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME" };
    static const char *const folders[] = { "config", "state", "cache" };
    char path[128];
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", own, folders[i]);
        setenv(names[i], path, 1);
    }
    setenv("HOME", own, 1);
    setenv("TANDEM_GPU", gpu ? emulated : "none", 1);
}

static inline int file_in(const char *name, int flags)
{
    char path[160];
    snprintf(path, sizeof path, "%s/%s", own, name);
    return open(path, flags, 0600);
}

/* Both outputs into files of {D}; the exit code, 128 + the signal, or -1 when it took too long. */
static inline int run_words(const char *words[MAX_WORDS], const char *input, bool gpu)
{
    if (input)
        put(own, "in", input);
    pid_t pid = fork();
    if (pid == 0) {
        int in = input ? file_in("in", O_RDONLY) : open("/dev/null", O_RDONLY);
        int out = file_in("out", O_WRONLY | O_CREAT | O_TRUNC);
        int err = file_in("err", O_WRONLY | O_CREAT | O_TRUNC);
        if (dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(err, 2) < 0)
            _exit(126);
        const char *argv[MAX_WORDS + 1] = { binary };
        for (int i = 0; words[i]; i++)
            argv[i + 1] = words[i];
        set_home(gpu);
        alarm(LIMIT_S);
        execv(binary, (char *const *)argv);
        _exit(127);
    }
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (WIFSIGNALED(status))
        return WTERMSIG(status) == SIGALRM ? -1 : 128 + WTERMSIG(status);
    return WEXITSTATUS(status);
}

/* The demo model with a NaN for the scale of one block. */
static inline void write_damaged(void)
{
    struct gguf g = { 0 };
    struct error err = { 0 };
    char path[128];
    size_t n = 0;
    char *bytes = check_read_file(MODEL, &n);
    if (CHECK_MSG(bytes && gguf_open(&g, MODEL, &err), "%s", err.text)) {
        const struct tensor *t = gguf_tensor(&g, "blk.2.ffn_up_exps.weight");
        size_t at = t ? (size_t)((const char *)t->data - (const char *)g.shards[0].map) : 0;
        if (CHECK(at > 0 && at + 2 < n)) {
            bytes[at] = 0;
            bytes[at + 1] = 0x7e;
        }
        snprintf(path, sizeof path, "%s/nan.gguf", common);
        FILE *f = fopen(path, "wb");
        CHECK(f && fwrite(bytes, 1, n, f) == n && fclose(f) == 0);
    }
    gguf_close(&g);
    free(bytes);
}

/* Models other than the demo. */
static inline void write_models(void)
{
    char other[128];
    const char *words[MAX_WORDS] = { "quantize", MODEL, other, "q8_0", "--allow-requantize" };
    snprintf(other, sizeof other, "%s/other.gguf", common);
    new_folder();
    CHECK_INT(run_words(words, NULL, false), 0);
    char line[300];
    const char *b = getenv("B");
    snprintf(line, sizeof line, "%s/tiny %s/older.gguf --like tiny-v2-lite --generation a >/dev/null",
             b ? b : "build", common);
    CHECK_INT(system(line), 0);
    write_damaged();
}

/* On a terminal, where `keys` are typed once a prompt stands there ("": nothing is). */
static inline int run_typing(const char *words[MAX_WORDS], const char *keys)
{
    static struct pty s;
    static char settings[4][160];
    static const char *list[5];
    static const char *const names[] = { "config", "state", "cache" };
    static const char *const kinds[] = { "CONFIG", "STATE", "CACHE" };
    for (int i = 0; i < 3; i++) {
        snprintf(settings[i], sizeof settings[i], "XDG_%s_HOME=%s/%s", kinds[i], own, names[i]);
        list[i] = settings[i];
    }
    list[3] = "TANDEM_GPU=none";
    environment = list;
    snprintf(home, sizeof home, "%.63s", own);
    if (!CHECK(spawn(&s, words)))
        return -1;
    if (*keys) {
        CHECK(expect_prompt(&s));
        type(&s, keys);
    }
    int code = finish(&s);
    int out = file_in("out", O_WRONLY | O_CREAT | O_TRUNC);
    CHECK(write(out, s.text, s.len) == (ssize_t)s.len);
    close(out);
    return code;
}

/* Does a file of {D} hold a line like this? Patterns that begin with ! want none; "" wants a file. */
static inline bool shows(const char *name, const char *pattern)
{
    char path[256];
    size_t n = 0;
    regex_t re;
    bool wanted = *pattern != '!';
    snprintf(path, sizeof path, "%s/%s", own, name);
    char *text = check_read_file(path, &n);
    if (!*pattern)
        return free(text), n > 0;
    if (regcomp(&re, pattern + !wanted, REG_EXTENDED | REG_NOSUB | REG_NEWLINE) != 0)
        return free(text), CHECK_MSG(false, "no pattern: %s", pattern);
    for (size_t i = 0; i < n; i++)
        if (text[i] == 0)
            text[i] = ' ';
    bool found = text && regexec(&re, text, 0, NULL, 0) == 0;
    regfree(&re);
    free(text);
    return found == wanted;
}

static inline bool is_code(const struct effect *e)
{
    return strcmp(e->where, "code") == 0;
}

static inline void tell_run(const char *command, const char *line)
{
    char path[160];
    size_t n = 0;
    printf("  tandem %s %s\n", command, line);
    for (int i = 0; i < 3; i++) {
        static const char *const names[] = { "out", "err", "log" };
        snprintf(path, sizeof path, "%s/%s", own, names[i]);
        char *text = check_read_file(path, &n);
        if (text && n)
            printf("  %s: %s\n", names[i], text + (n < 700 ? 0 : n - 700));
        free(text);
    }
}

/* ---- from begin to end ---- */

static inline bool option_rig_open(void)
{
    const char *b = getenv("B");
    snprintf(binary, sizeof binary, "%s/tandem", b ? b : "build");
    snprintf(emulated, sizeof emulated, "./%s/tests/tandem-gpu-emulated.so", b ? b : "build");
    snprintf(common, sizeof common, "/tmp/tandem-options-XXXXXX");
    if (!mkdtemp(common) || !mkdtemp(folder)) {
        perror(common);
        return false;
    }
    unsetenv("NO_COLOR");
    unsetenv("TANDEM_CPU_ISA");
    unsetenv("COLUMNS");
    return true;
}

static inline void option_rig_close(void)
{
    char command[200];
    snprintf(command, sizeof command, "rm -rf %s %s", common, folder);
    CHECK_INT(system(command), 0);
}

#endif
