/* Every option of every command does what it is there for: tests/option_trials.h has for each at
 * least one command line and what shows there that the option worked. An option that is added
 * without one fails here, as does one that is read and changes nothing (TANDEM_TEST_LONG: each
 * line is run once more without the option, and then must not show it). Also exit codes. How
 * options are spelled and shown: test_option_words.c. */
#include "src/cli/json.h"
#include "src/cli/term.h"
#include "src/text/sampler.h"
#include "tests/option_rig.h"

/* ---- trials ---- */

static unsigned char *covered; /* [n_option_rows, commands] */

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
    if (!option_rig_open())
        return 1;
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
    option_rig_close();
    return check_finish();
}
