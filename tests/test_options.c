/* Every option of every command does what it is there for: tests/option_trials.h has for each at least
 * one command line and what shows there that the option worked. An option that is added without one
 * fails here, as does one that is read and changes nothing (TANDEM_TEST_LONG: each line is run once
 * more without the option, and then must not show it). Also: all spellings, the environment and the
 * file mean the same; help fits a screen; flags of other programs; exit codes. */
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
#include "src/cli/json.h"
#include "src/cli/option_table.h"
#include "src/cli/repair.h"
#include "src/cli/term.h"
#include "src/cli/width.h"
#include "src/engine/machine.h"
#include "src/format/gguf.h"
#include "src/format/quant.h"
#include "src/text/sampler.h"
#include "tests/option_trials.h"
#include "tests/checkpoint.h"
#include "tests/pty.h"

#define MAX_WORDS 64
#define LIMIT_S 300 /* for one command line, sanitizers on a busy machine included */

/* ---- files that command lines name ---- */

/* {M} the demo model, {W} the common folder, {H} that of a checkpoint, {D} the folder of this command
 * line, {B} what its command needs to do anything, {A} what it needs to answer. */
static char common[64], own[96], emulated[PATH_MAX];

static void put(const char *folder_path, const char *name, const char *text)
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
static void put_profile(const char *path, int n_threads, const char *isa)
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

static void write_common(void)
{
    for (size_t i = 0; i < sizeof inputs / sizeof *inputs; i++)
        put(common, inputs[i].name, inputs[i].text);
}

/* A dense model of one layer, whose rows divide into blocks of 256. */
static void write_checkpoint(void)
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

static void append(char *out, size_t size, const char *text, size_t len)
{
    size_t n = strlen(out);
    snprintf(out + n, size - n, "%.*s", (int)len, text);
}

/* The line with names for its placeholders. */
static void expand(const char *text, const char *command, char *out, size_t size)
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
static int cut(char *line, const char *command, const char *words[MAX_WORDS])
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

static bool in_words(const char *list, const char *word)
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

static bool is_spelled(const struct option *row, const char *word)
{
    return (strncmp(word, "--", 2) == 0 && strcmp(word + 2, row->name) == 0) ||
           (row->brief && strcmp(row->brief, word) == 0) || in_words(row->also, word);
}

static int row_of(const char *name, unsigned command)
{
    for (int i = 0; i < n_option_rows; i++)
        if ((option_rows[i].commands & command) && strcmp(option_rows[i].name, name) == 0)
            return i;
    return -1;
}

/* Take the option out of the line, with its value: all of them. How many words went. */
static int without(const struct option *row, const char *words[MAX_WORDS], const char **value)
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
static void new_folder(void)
{
    static int number;
    snprintf(own, sizeof own, "%s/%d", common, ++number);
    mkdir(own, 0700);
}

/* The profile that these words ask for. */
static void give_profile(const char *const words[MAX_WORDS])
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

static void set_home(bool gpu)
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

static int file_in(const char *name, int flags)
{
    char path[160];
    snprintf(path, sizeof path, "%s/%s", own, name);
    return open(path, flags, 0600);
}

/* Both outputs into files of {D}; the exit code, 128 + the signal, or -1 when it took too long. */
static int run_words(const char *words[MAX_WORDS], const char *input, bool gpu)
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
static void write_damaged(void)
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
static void write_models(void)
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
static int run_typing(const char *words[MAX_WORDS], const char *keys)
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
static bool shows(const char *name, const char *pattern)
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

static bool is_code(const struct effect *e)
{
    return strcmp(e->where, "code") == 0;
}

static void tell_run(const char *command, const char *line)
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

/* ---- trials ---- */

static unsigned char *covered; /* [n_option_rows, commands] */

static int command_number(const char *name)
{
    for (int i = 0; command_at(i); i++)
        if (strcmp(command_at(i)->name, name) == 0)
            return i;
    return -1;
}

static int run_once(const struct trial *t, const char *command, const struct option *leave_out)
{
    char line[2000], before[2000];
    const char *words[MAX_WORDS], *value = NULL;
    new_folder();
    if (t->before) {
        char first[16] = "";
        size_t len = strcspn(t->before, " ");
        snprintf(first, sizeof first, "%.*s", (int)len, t->before);
        expand(t->before + len, first, before, sizeof before);
        cut(before, first, words);
        CHECK_INT(run_words(words, NULL, t->gpu), 0);
    }
    expand(t->line, command, line, sizeof line);
    cut(line, command, words);
    if (leave_out)
        without(leave_out, words, &value);
    if (!t->unmeasured)
        give_profile(words);
    return t->keys ? run_typing(words, t->keys) : run_words(words, t->input, t->gpu);
}

/* Without the option the effect must be gone. */
static void run_without(const struct trial *t, const char *command, const struct effect *e,
                        const struct option *row)
{
    int code = run_once(t, command, row);
    bool still = is_code(e) ? code == t->code : shows(e->where, e->what);
    if (!CHECK_MSG(!still, "%s --%s: \"%s\" in %s is there without it", command, e->option, e->what,
                   e->where))
        tell_run(command, t->line);
}

static void run_trial(const struct trial *t, const char *command, bool all)
{
    char line[2000];
    const char *words[MAX_WORDS], *value;
    int c = command_number(command);
    check_case("tandem %s %s", command, t->line);
    if (t->gpu && access(emulated, R_OK) != 0) {
        check_skip("no emulated GPU: there was no C++ compiler");
    } else {
        int code = run_once(t, command, NULL);
        bool ok = CHECK_MSG(code == t->code, "code %d, wanted %d", code, t->code);
        for (const struct effect *e = t->effects; e->option; e++)
            ok = CHECK_MSG(is_code(e) || shows(e->where, e->what), "--%s: no \"%s\" in %s", e->option,
                           e->what, e->where) && ok;
        if (!ok)
            tell_run(command, t->line);
    }
    for (const struct effect *e = t->effects; e->option; e++) {
        int row = row_of(e->option, command_at(c)->bit);
        expand(t->line, command, line, sizeof line);
        cut(line, command, words);
        if (!CHECK_MSG(row >= 0, "tandem %s has no --%s", command, e->option) ||
            !CHECK_MSG(without(&option_rows[row], words, &value) > 0, "--%s is not in the line",
                       e->option))
            continue;
        covered[row * 32 + c] = 1;
        if (all && !(t->gpu && access(emulated, R_OK) != 0))
            run_without(t, command, e, &option_rows[row]);
    }
}

static void run_trials(void)
{
    bool all = getenv("TANDEM_TEST_LONG") != NULL;
    const char *only = getenv("TANDEM_TEST_TRIAL");
    covered = calloc((size_t)n_option_rows * 32, 1);
    for (size_t i = 0; covered && i < sizeof trials / sizeof *trials; i++) {
        if (only && !strstr(trials[i].line, only))
            continue;
        for (const char *at = trials[i].commands; *at; at += strspn(at, " ")) {
            char name[16];
            size_t len = strcspn(at, " ");
            snprintf(name, sizeof name, "%.*s", (int)len, at);
            run_trial(&trials[i], command_at(command_number(name))->name, all);
            at += len;
        }
    }
    for (size_t i = 0; covered && i < sizeof elsewhere / sizeof *elsewhere; i++) {
        int c = command_number(elsewhere[i].command);
        char *text = check_read_file(elsewhere[i].file, &(size_t){ 0 });
        covered[row_of(elsewhere[i].option, command_at(c)->bit) * 32 + c] =
            text && strstr(text, elsewhere[i].word);
        free(text);
    }
    check_case("every option of every command has a trial");
    for (int row = 0; covered && !only && row < n_option_rows; row++) {
        for (int c = 0; command_at(c); c++) {
            bool has = option_rows[row].commands & command_at(c)->bit;
            if (!CHECK_MSG(!has || covered[row * 32 + c], "add lines to tests/option_trials.h"))
                printf("  nothing tries tandem %s --%s\n", command_at(c)->name, option_rows[row].name);
        }
    }
    free(covered);
}

/* ---- spellings, environment, file ---- */

/* What a row has read, as text. */
static void value_text(const struct option *row, const struct options *o, char *text, size_t size)
{
    const void *field = (const char *)o + row->offset;
    const struct text_list *list = field;
    const struct size_list *sizes = field;
    switch (row->kind) {
    case OPT_FLAG: snprintf(text, size, "%d", *(const bool *)field); break;
    case OPT_COUNT: case OPT_CONST: case OPT_CHOICE:
        snprintf(text, size, "%d", *(const int *)field);
        break;
    case OPT_INT: case OPT_SIZE:
        snprintf(text, size, "%lld", (long long)*(const int64_t *)field);
        break;
    case OPT_REAL: snprintf(text, size, "%.17g", *(const double *)field); break;
    case OPT_TEXT: snprintf(text, size, "%s", *(const char *const *)field); break;
    case OPT_LIST: snprintf(text, size, "%d %s", list->n, list->n ? list->items[0] : ""); break;
    case OPT_SIZES: snprintf(text, size, "%d %lld", sizes->n, (long long)sizes->items[0]); break;
    case OPT_MAYBE: {
        const char *more = *(const char *const *)((const char *)o + row->offset2);
        snprintf(text, size, "%d %s", *(const bool *)field, more ? more : "");
        break;
    }
    case OPT_ACTION: case OPT_CUSTOM: /* whatever they set lies among these */
        snprintf(text, size, "%d %lld %lld %d %d %d %lld %lld %g %lld %d %g %u %lld", o->gpu,
                 (long long)o->gpu_layers, (long long)o->cpu_moe, o->think, o->act_f32, o->numa,
                 (long long)o->think_budget, (long long)o->gpu_experts, o->gpu_experts_share,
                 (long long)o->gpu_experts_bytes, o->n_bias, o->max_loss, o->isa,
                 (long long)o->vram_margin);
        break;
    }
}

/* The value by one way of saying it. */
static void read_by(const struct option *row, unsigned command, char **argv, int argc, char *text,
                    size_t size)
{
    struct options o;
    struct error err = { 0 };
    bool ok = options_init(&o, command, &err) && options_parse(&o, command, argc, argv, &err);
    snprintf(text, size, "%s", err.text);
    if (CHECK_MSG(ok, "--%s: %s", row->name, err.text))
        value_text(row, &o, text, size);
    options_release(&o);
}

static void compare_ways(const struct option *row, unsigned command, char *value)
{
    char longest[64], by_long[1024], other[1024], name[64] = "TANDEM_", config[800];
    char *argv[2] = { longest, value };
    int argc = row->argument && value ? 2 : 1;
    snprintf(longest, sizeof longest, "--%s", row->name);
    read_by(row, command, argv, argc, by_long, sizeof by_long);
    for (int which = 0; which < 2; which++) {
        const char *at = which ? row->also : row->brief;
        for (; at && *at; at += strspn(at, " ")) {
            char word[64];
            size_t len = strcspn(at, " ");
            snprintf(word, sizeof word, "%.*s", (int)len, at);
            argv[0] = word;
            read_by(row, command, argv, argc, other, sizeof other);
            CHECK_MSG(strcmp(by_long, other) == 0, "%s: %s, --%s: %s", word, other, row->name,
                      by_long);
            at += len;
        }
    }
    if (strcmp(row->name, "help") == 0 || strcmp(row->name, "version") == 0)
        return;
    const char *said = argc == 2 ? value : row->kind == OPT_MAYBE ? NULL : "on";
    if (!said)
        return;
    for (size_t i = 0, n = strlen(name); row->name[i] && n + 1 < sizeof name; i++, n++)
        name[n] = row->name[i] == '-' ? '_' : (char)(row->name[i] & ~32);
    setenv(name, said, 1);
    read_by(row, command, NULL, 0, other, sizeof other);
    unsetenv(name);
    CHECK_MSG(strcmp(by_long, other) == 0, "%s=%s: %s, --%s: %s", name, said, other, row->name,
              by_long);
    snprintf(config, sizeof config, "%s = %s\n", row->name, said);
    put(own, "config/tandem/config", config);
    read_by(row, command, NULL, 0, other, sizeof other);
    put(own, "config/tandem/config", "");
    CHECK_MSG(strcmp(by_long, other) == 0, "configured: %s, --%s: %s", other, row->name, by_long);
}

static void check_ways(void)
{
    char path[128], line[2000];
    const char *words[MAX_WORDS];
    new_folder();
    set_home(false);
    snprintf(path, sizeof path, "%s/config", own);
    mkdir(path, 0700);
    snprintf(path, sizeof path, "%s/config/tandem", own);
    mkdir(path, 0700);
    check_case("all spellings, the environment and the configuration mean the same");
    for (size_t i = 0; i < sizeof trials / sizeof *trials; i++) {
        char command[16];
        snprintf(command, sizeof command, "%.*s", (int)strcspn(trials[i].commands, " "),
                 trials[i].commands);
        unsigned bit = command_at(command_number(command))->bit;
        for (const struct effect *e = trials[i].effects; e->option; e++) {
            const char *value = NULL;
            int row = row_of(e->option, bit);
            expand(trials[i].line, command, line, sizeof line);
            cut(line, command, words);
            if (row >= 0 && without(&option_rows[row], words, &value) > 0)
                compare_ways(&option_rows[row], bit, (char *)value);
        }
    }
}

/* ---- help ---- */

static int widest(const char *text)
{
    int most = 0;
    for (; *text; text += *text == '\n') {
        size_t len = strcspn(text, "\n");
        int n = (int)utf8_count((struct str){ text, len });
        most = n > most ? n : most;
        text += len;
    }
    return most;
}

static int lines_of(const char *text)
{
    int n = 0;
    for (; *text; text++)
        n += *text == '\n';
    return n;
}

static void check_help(void)
{
    setenv("COLUMNS", "80", 1);
    check_case("-h of each command fits 80 x 24, --help has every option");
    for (int i = 0; command_at(i); i++) {
        const struct command *c = command_at(i);
        struct buf brief = { 0 }, all = { 0 };
        help_command(&brief, c, false);
        help_command(&all, c, true);
        CHECK_MSG(lines_of(buf_str(&brief).data) <= 24, "tandem %s -h has %d lines", c->name,
                  lines_of(buf_str(&brief).data));
        CHECK_MSG(widest(buf_str(&brief).data) <= 80 && widest(buf_str(&all).data) <= 80,
                  "tandem %s: -h has %d columns, --help %d", c->name, widest(buf_str(&brief).data),
                  widest(buf_str(&all).data));
        for (int row = 0; row < n_option_rows; row++) {
            char word[64];
            const struct option *o = &option_rows[row];
            snprintf(word, sizeof word, "--%s%s", o->name, o->argument ? " " : "");
            if ((o->commands & c->bit) && o->help)
                CHECK_MSG(strstr(buf_str(&all).data, word), "tandem %s --help lacks %s", c->name,
                          word);
        }
        buf_release(&brief);
        buf_release(&all);
    }
    unsetenv("COLUMNS");
}

/* ---- flags of other programs ---- */

static void check_foreign(void)
{
    check_case("flags of other programs: a note or a hint, in at most three lines");
    for (int i = 0; i < n_foreign_options; i++) {
        const struct foreign_option *f = &foreign_options[i];
        const char *words[MAX_WORDS] = { "run", f->name };
        char path[160];
        size_t n = 0;
        words[2] = f->takes == ALONE ? "-h" : "1";
        words[3] = f->takes == ALONE ? NULL : "-h";
        new_folder();
        int code = run_words(words, NULL, false);
        snprintf(path, sizeof path, "%s/err", own);
        char *err = check_read_file(path, &n);
        CHECK_MSG(code == (f->habit ? 0 : 2), "%s: code %d", f->name, code);
        const char *verdict = f->habit ? "no effect" : "not one of ours";
        CHECK_MSG(err && strstr(err, f->text) && strstr(err, verdict) && lines_of(err) <= 3, "%s: %s",
                  f->name, err);
        free(err);
    }
}

/* ---- exit codes ---- */

static void check_codes(void)
{
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
        char line[2000];
        const char *words[MAX_WORDS];
        check_case("code %d: tandem %s %s", codes[i].code, codes[i].command, codes[i].line);
        new_folder();
        expand(codes[i].line, codes[i].command, line, sizeof line);
        cut(line, codes[i].command, words);
        give_profile(words);
        int code = run_words(words, NULL, false);
        if (!CHECK_MSG(code == codes[i].code, "code %d", code))
            tell_run(codes[i].command, codes[i].line);
    }
}

/* What cannot happen has a code, too. */
static void check_mistake(void)
{
    struct sampler_options o = sampler_options_default();
    struct sampler *sampler = NULL;
    struct error err = { 0 };
    new_folder();
    check_case("code 7 asks for a report");
    CHECK(!sampler_open(&sampler, &o, 0, &err) && err.code == 7);
    int keep = dup(2), fd = file_in("err", O_WRONLY | O_CREAT | O_TRUNC);
    fflush(stderr);
    dup2(fd, 2);
    note_failure(&err);
    dup2(keep, 2);
    close(fd);
    close(keep);
    CHECK(shows("err", "^tandem: sampler for 0 tokens") && shows("err", "please report it"));
}

/* A run without end; ends by this signal, or because nobody reads (0). */
static int code_of_stopped(int signal_number)
{
    int fd[2];
    char byte;
    CHECK(pipe(fd) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(fd[1], 1);
        close(fd[0]);
        close(fd[1]);
        set_home(false);
        alarm(LIMIT_S);
        freopen("/dev/null", "r", stdin);
        freopen("/dev/null", "w", stderr);
        execl(binary, "tandem", "run", MODEL, "-p", "Tell me a story.", "--logit-bias", "1-inf", "-c",
              "100000", "--no-think", (char *)NULL);
        _exit(127);
    }
    close(fd[1]);
    CHECK(read(fd[0], &byte, 1) == 1); /* it answers: signals are handled, and there is more to come */
    if (signal_number)
        kill(pid, signal_number);
    close(fd[0]);
    int status = 0;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static void check_stops(void)
{
    new_folder();
    check_case("130 and 143 by signals, 141 without a reader");
    CHECK_INT(code_of_stopped(0), 141);
    int interrupted = code_of_stopped(SIGINT), terminated = code_of_stopped(SIGTERM);
    CHECK_MSG(interrupted == 130 || interrupted == 141, "SIGINT: %d", interrupted);
    CHECK_MSG(terminated == 143 || terminated == 141, "SIGTERM: %d", terminated);
}

int main(void)
{
    const char *b = getenv("B");
    snprintf(binary, sizeof binary, "%s/tandem", b ? b : "build");
    snprintf(emulated, sizeof emulated, "./%s/tests/tandem-gpu-emulated.so", b ? b : "build");
    snprintf(common, sizeof common, "/tmp/tandem-options-XXXXXX");
    if (!mkdtemp(common) || !mkdtemp(folder)) {
        perror(common);
        return 1;
    }
    unsetenv("NO_COLOR");
    unsetenv("TANDEM_CPU_ISA");
    unsetenv("COLUMNS");
    width_use_utf8();
    check_help();
    check_foreign();
    check_ways();
    if (access(MODEL, R_OK) != 0 || !js_available(NULL)) {
        check_case("options at work");
        check_skip("needs %s and a build with libraries", MODEL);
    } else {
        write_common();
        write_checkpoint();
        write_models();
        run_trials();
        check_codes();
        check_mistake();
        check_stops();
    }
    char command[200];
    snprintf(command, sizeof command, "rm -rf %s %s", common, folder);
    CHECK_INT(system(command), 0);
    return check_finish();
}
