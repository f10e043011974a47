/* Commands other than chat on a terminal: long help, colour, what is waited for. */
#include "tests/pty.h"

#include "src/cli/json.h"
#include "src/cli/term.h"

static void test_progress(void)
{
    check_case("a line of progress fits the window");
    static const char *const labels[] = { "loading", "perplexity 313566.1030 ± 53851.7469" };
    struct progress p = { .unit = "windows" };
    char line[512];
    for (size_t l = 0; l < ARRAY_LEN(labels); l++) {
        p.label = labels[l];
        for (int columns = 1; columns < 130; columns++) {
            progress_line(line, sizeof line, &p, 3, 11, 2, columns);
            size_t shown = 0;
            for (const char *c = line; *c; c++)
                shown += ((unsigned char)*c & 0xc0) != 0x80;
            CHECK(shown < (size_t)max_of(columns, 1) || shown == 0);
        }
    }
    progress_line(line, sizeof line, &p, 3, 11, 2, 100);
    CHECK(strstr(line, "█") && strstr(line, "3/11 windows  1.5 windows/s  5 s left"));
    progress_line(line, sizeof line, &p, 3, 11, 2, 80);
    CHECK(!strstr(line, "█") && strstr(line, "5 s left"));
    progress_line(line, sizeof line, &p, 3, 11, 2, 50);
    CHECK(strstr(line, " 27 %"));
    progress_line(line, sizeof line, &p, 3, 11, 0.1, 80);
    CHECK(!strstr(line, "left"));
}

static void test_pager(struct pty *s)
{
    static const char *const pagers[] = { "PAGER=echo paged; tail -n 2", NULL };
    check_case("--help goes through $PAGER");
    environment = pagers;
    CHECK(spawn(s, ARGUMENTS("run", "--help")) && expect(s, "paged") && expect(s, "ctx-size = 8192"));
    CHECK(finish(s) == 0 && !memmem(s->text, s->len, "--top-k", 7));
    check_case("-h, which fits, does not");
    CHECK(spawn(s, ARGUMENTS("run", "-h")) && expect(s, "--help") && finish(s) == 0);
    CHECK(!memmem(s->text, s->len, "paged", 5));

    static const char *const none[] = { "PAGER=/nonexistent/pager", NULL };
    check_case("a pager that is not there hides nothing");
    environment = none;
    CHECK(spawn(s, ARGUMENTS("run", "--help")) && expect(s, "--top-k") &&
          expect(s, "ctx-size = 8192") && finish(s) == 0);

    static const char *const early[] = { "PAGER=true", NULL };
    check_case("one that is left early is no failure");
    environment = early;
    CHECK(spawn(s, ARGUMENTS("help", "chat")) && finish(s) == 0 && s->len == 0);
    environment = NULL;
}

static void test_waiting(struct pty *s)
{
    check_case("reading from the terminal is said");
    CHECK(spawn(s, ARGUMENTS("inspect", MODEL, "--tokens", "-")) && expect(s, "end it with Ctrl-D"));
    type(s, "hi\n\004");
    CHECK(expect(s, "330") && finish(s) == 0);
    CHECK(spawn(s, ARGUMENTS("run", MODEL, "-f", "-", "-n", "2", "--no-think")) &&
          expect(s, "end it with Ctrl-D"));
    type(s, "hi\n\004");
    CHECK(expect(s, "seed") && finish(s) == 0);
}

static void test_refusal(struct pty *s)
{
    check_case("a plan that does not fit is said once");
    CHECK(spawn(s, ARGUMENTS("plan", MODEL, "--ram", "1M")) && expect(s, "does not fit. Ways out:") &&
          finish(s) == 4 && !memmem(s->text, s->len, "does not fit:", 13));
}

static bool coloured(struct pty *s)
{
    bool ended = expect(s, "seed ") && finish(s) == 0;
    CHECK(ended);
    return memmem(s->text, s->len, "\033[", 2) != NULL;
}

static void test_colour(struct pty *s)
{
    static const char *const no_color[] = { "NO_COLOR=1", NULL }, *const dumb[] = { "TERM=dumb", NULL };
    const char *const *ask = ARGUMENTS("run", MODEL, "-p", "What is 2+3?", "-n", "4", "--temp", "0",
                                       "--think", "on");
    check_case("thinking is grey on a terminal");
    CHECK(spawn(s, ask) && expect(s, "\033[2m") && coloured(s));
    check_case("NO_COLOR and TERM=dumb leave colour out, --color always brings it back");
    environment = no_color;
    CHECK(spawn(s, ask) && expect(s, "seed ") && finish(s) == 0 && !memmem(s->text, s->len, "\033[2m", 4));
    CHECK(spawn(s, ARGUMENTS("run", MODEL, "-p", "What is 2+3?", "-n", "4", "--temp", "0", "--think",
                             "on", "--color", "always")) && expect(s, "\033[2m") && coloured(s));
    environment = dumb;
    CHECK(spawn(s, ask) && !coloured(s));
    environment = NULL;
    check_case("--color never leaves it out");
    CHECK(spawn(s, ARGUMENTS("run", MODEL, "-p", "What is 2+3?", "-n", "4", "--temp", "0", "--think",
                             "on", "--color", "never")) && expect(s, "seed ") && finish(s) == 0);
    CHECK(!memmem(s->text, s->len, "\033[2m", 4) && terminal_restored(s));
}

int main(void)
{
    static struct pty s;
    const char *build = getenv("B");
    snprintf(binary, sizeof binary, "%s/tandem", build && *build ? build : "build");
    snprintf(home, sizeof home, "/tmp/tandem-test-XXXXXX");
    test_progress();
    if (access(MODEL, R_OK) != 0 || access(binary, X_OK) != 0 || !js_available(NULL)) {
        check_case("commands on a terminal");
        check_skip("%s, %s or the libraries that read text are not there", MODEL, binary);
        return check_finish();
    }
    CHECK(mkdtemp(home) != NULL);
    setenv("TANDEM_GPU", "none", 1);
    test_pager(&s);
    test_waiting(&s);
    test_refusal(&s);
    test_colour(&s);
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", home);
    CHECK(system(command) == 0);
    return check_finish();
}
