/* Every slash command, typed in windows of three sizes: what each shows, and that nothing it writes is
 * wider than the window. A command of the program's table that no line here types fails the test. */
#include "src/cli/chat.h"
#include "tests/chat_pty.h"

/* Lines of one chat, with what each must show. They say FILE for one in the test's home. */
static const struct {
    const char *line, *shown;
} rows[] = {
    { "/help", "/system" },
    { "/hlep", "did you mean /help?" },
    { "/wxyz", "/help lists them" },
    { "/why", "no answer yet" },
    { "/copy", "no answer to copy" },
    { "/heat", "no expert was picked yet" },
    { "/stats", "seed" },
    { "/ctx", "context: 0 of" },
    { "/edit", "nothing to edit" },
    { "/retry", "nothing to retry" },
    { "/undo", "nothing to undo" },
    { "/trim", "nothing to trim" },
    { "/branches", "nothing was said yet" },
    { "/sessions", "there are no sessions" },
    /* settings */
    { "/think", "thinking is" },
    { "/think on", "thinking is on" },
    { "/think 5", "at most 5 tokens" },
    { "/think perhaps", "wants on, off" },
    { "/think high", "thinking is high" },
    { "/think off", "thinking is off" },
    { "/system", "none" },
    { "/system Be terse.", "set" },
    { "/system", "Be terse." },
    { "/system -", "no system prompt" },
    { "/set temp 0", "temp is 0" },
    { "/set temp", "temp 0 temperature" },
    { "/set seed", "same answer" },
    { "/set temp 101", "wants a number" },
    { "/set tmep 1", "did you mean temp?" },
    { "/set live on", "live is on" },
    { "/set live", "live is on" },
    { "/set live off", "live is off" },
    { "/set markdown raw", "wants one of auto|off" },
    { "/set seed 7", "seed is 7" },
    { "/set", "seed 7" },
    /* files */
    { "/read", "takes it back" },
    { "/read no-such-file", "no-such-file" },
    { "/read models/demo.gguf", "not a text file" },
    { "/read 'tests/vectors/README.md'", "goes with" },
    { "/read -", "nothing goes" },
    { "/read -", "nothing was read" },
    { "/read README.md", "too much for the context of 2048" },
    { "/read -", "nothing goes" },
    { "/read .clang-format", "goes with" },
    /* answers */
    { "What is 1 + 1?", "tok/s" },
    { "/ctx", "1 exchange" },
    { "/ctx much", "wants a number" },
    { "/ctx 3", "an answer needs room too" },
    { "/ctx 2048", "the context holds 2048 tokens" },
    { "/ctx 4096", "the context holds 4096 tokens now, 2048 before" },
    { "/ctx 2048", "the context holds 2048 tokens now, 4096 before" },
    { "/why", "a token (" },
    { "/why", "routed experts" },
    { "/plan", "attention, shared experts" },
    { "/heat", "The hottest tenth" },
    { "/heat no-such-folder/heat.csv", "no-such-folder" },
    { "/heat FILE.svg", "written to" },
    { "/copy", "\033]52;c;" },
    { "/stats", "wrote " },
    { "/cpoy", "did you mean /copy?" },
    { "/edit", "the editor \"false\" failed" },
    { "/retry", "tok/s" },
    { "/retry 2", "/branches lists" },
    { "/retry much", "at most 16" },
    { "/branch side", "begins here" },
    { "/branch a/b", "cannot name" },
    { "/branch side", "branch that you are on" },
    { "/branch main", "are in the cache" },
    { "/branches", "* main" },
    { "/export FILE.md", "wrote" },
    { "/export \"FILE 2.json\"", "wrote" },
    { "/export", "as Markdown" },
    { "/export no-such-folder/x.md", "no-such-folder" },
    { "/save a/b", "cannot name" },
    { "/save fox", "saved \"fox\"" },
    { "/save", "saved \"fox\"" },
    { "/sessions", "* fox" },
    { "/load", "goes on with another" },
    { "/load nothing", "there is no session" },
    { "/load fox", "is the session that is open" },
    { "/undo", "0 tokens kept" },
    { "/ctx", "context: 0 of" },
    { "hi", "tok/s" },
    { "//hi", "tok/s" },
    { "/trim", "1 left" },
    { "/clear", "anew" },
    { "/ctx", "context: 0 of" },
    /* the ways out, each of a chat of its own */
    { "/quit", "saved" },
    { "/exit", "saved" },
    { "/bye", "saved" },
};

static bool leaves(const char *line)
{
    return strcmp(line, "/quit") == 0 || strcmp(line, "/exit") == 0 || strcmp(line, "/bye") == 0;
}

static bool begin(void)
{
    return CHECK(spawn(&s, ARGUMENTS("chat", MODEL, "--no-think", "-n", "4", "--no-history"))) &&
           CHECK(expect(&s, "/help")) && CHECK(expect_prompt(&s));
}

/* What a window has shown: nothing went over its edge by itself but lines that were typed. */
static void check_width(const char *line)
{
    bool wrapped;
    char *text = shown_wrapped(window_columns, window_rows, &wrapped);
    CHECK_MSG(!wrapped, "%s: a line is wider than %d columns:\n%s", line, window_columns, text);
    free(text);
}

/* Is `wanted` on the screen, wherever its lines were broken? */
static bool shows(const char *wanted)
{
    struct buf text = { 0 };
    for (size_t i = 0; i < s.len; i++) {
        bool blank = strchr(" \r\n", s.text[i]) != NULL && s.text[i];
        if (!blank || (text.len && text.data[text.len - 1] != ' '))
            buf_add(&text, blank ? " " : s.text + i, 1);
    }
    bool found = memmem(buf_str(&text).data, text.len, wanted, strlen(wanted)) != NULL;
    buf_release(&text);
    return found;
}

/* The line as it is typed. */
static void fill_in(char *to, size_t size, const char *line)
{
    const char *at = strstr(line, "FILE");
    if (at)
        snprintf(to, size, "%.*s%s/f%s", (int)(at - line), line, home, at + strlen("FILE"));
    else
        snprintf(to, size, "%s", line);
}

static void test_window(int columns, int lines)
{
    check_case("slash commands in a window of %d x %d", columns, lines);
    char command[160];
    snprintf(command, sizeof command, "rm -rf '%s/.local' '%s'/f*", home, home);
    CHECK(system(command) == 0);
    window_columns = columns;
    window_rows = lines;
    if (!begin())
        return;
    for (size_t i = 0; i < ARRAY_LEN(rows) && !s.lost; i++) {
        char line[200];
        fill_in(line, sizeof line, rows[i].line);
        bool fits = 2 + (int)strlen(line) < columns;
        type(&s, line);
        expect(&s, fits ? line : "");
        type(&s, "\r");
        if (leaves(rows[i].line)) {
            CHECK_INT(finish(&s), 0);
            CHECK(terminal_restored(&s));
            close(s.master);
            if (i + 1 < ARRAY_LEN(rows) && !begin())
                return;
            continue;
        }
        CHECK_MSG(expect_prompt(&s), "no prompt behind %s", line);
        CHECK_MSG(shows(rows[i].shown), "%s does not show \"%s\" but\n%.*s", line, rows[i].shown,
                  (int)s.len, s.text);
        if (fits)
            check_width(line);
        s.len = s.seen = 0; /* the next line on a screen of its own */
        type(&s, "\f");
        CHECK(expect_prompt(&s));
    }
}

static void test_every_command(void)
{
    check_case("every command of the table is typed above, and /help shows those with a text");
    window_columns = 100;
    window_rows = 60;
    if (!begin())
        return;
    type(&s, "/help\r");
    CHECK(expect(&s, "begins with a slash."));
    CHECK(expect_prompt(&s));
    char *help = shown(window_columns, window_rows);
    leave();
    int n = 0;
    bool shown;
    for (const char *name; (name = chat_command_at(n, &shown)) != NULL; n++) {
        size_t len = strlen(name);
        bool typed = false;
        for (size_t i = 0; i < ARRAY_LEN(rows); i++)
            typed |= strncmp(rows[i].line, name, len) == 0 && strchr(" ", rows[i].line[len]);
        CHECK_MSG(typed, "%s is in the table and no test types it", name);
        char line[40];
        snprintf(line, sizeof line, "\n  %s ", name);
        CHECK_MSG((strstr(help, line) != NULL) == shown, "%s and the help", name);
    }
    CHECK_MSG(n > 20, "the table has %d commands", n);
    free(help);
}

static void test_attached(void)
{
    check_case("/read puts the file behind the next message, /copy sends the answer as it was written");
    CHECK(spawn(&s, ARGUMENTS("chat", MODEL, "--no-think", "--temp", "0", "--no-history", "--grammar",
                              write_file("hello.gbnf", "root ::= \"**hello**\"\n"))));
    CHECK(expect_prompt(&s));
    write_file("note.txt", "What is the word?\n");
    char line[160];
    snprintf(line, sizeof line, "/read %s/note.txt\r", home);
    say(line, "tokens");
    say("Say it.\r", "hello");
    say("/copy\r", "\033]52;c;KipoZWxsbyoq\a");
    leave();
}

static void test_context(void)
{
    check_case("the context warns at 80 %%, stops at 100 %% and says what to do");
    CHECK(spawn(&s, ARGUMENTS("chat", MODEL, "--no-think", "--temp", "0", "-c", "64", "-n", "45",
                              "--logit-bias", never_end)));
    CHECK(expect_prompt(&s));
    type(&s, "What is 1 + 1?\r");
    CHECK(expect(&s, "% full: "));
    CHECK(expect(&s, "/ctx 128 makes it larger"));
    CHECK(expect_prompt(&s));
    leave();
    CHECK(spawn(&s, ARGUMENTS("chat", MODEL, "--no-think", "--temp", "0", "-c", "64",
                              "--logit-bias", never_end)));
    CHECK(expect_prompt(&s));
    type(&s, "What is 1 + 1?\r");
    CHECK(expect(&s, "context of 64 tokens is full"));
    CHECK(expect(&s, "/undo"));
    CHECK(expect(&s, "/ctx 128"));
    CHECK(expect_prompt(&s));
    leave();
}

static void test_first_sign(void)
{
    check_case("something is on the screen at once: before the model is there");
    CHECK(spawn(&s, ARGUMENTS("chat", MODEL)));
    CHECK(expect(&s, "loading") && expect(&s, "/help"));
    CHECK(expect_prompt(&s));
    leave();

    check_case("commands that take long say what they do");
    static const struct {
        const char *arguments[8], *sign;
    } programs[] = {
        { { "run", MODEL, "-p", "hi", "-n", "1" }, "loading" },
        { { "run", MODEL, "-p", "hi", "-n", "1" }, "reading" },
        { { "eval", MODEL, "--tasks", "models/demo/tasks.jsonl" }, "loading" },
        { { "inspect", MODEL, "--verify" }, "verifying" },
        { { "inspect", MODEL, "--hash" }, "hashing" },
        { { "plan", MODEL }, "measuring" }, /* in this home it is the first time */
        { { "bench", "--probe" }, "measuring" },
    };
    for (size_t i = 0; i < ARRAY_LEN(programs); i++) {
        CHECK(spawn(&s, programs[i].arguments));
        CHECK_MSG(expect(&s, programs[i].sign), "%s does not say \"%s\"", programs[i].arguments[0],
                  programs[i].sign);
        kill(s.pid, SIGKILL);
        finish(&s);
        close(s.master);
    }
}

int main(void)
{
    static const char *const none[] = { "EDITOR=false", "VISUAL=", NULL };
    if (!chat_tests_open("slash commands"))
        return check_finish();
    environment = none;
    test_window(80, 24);
    test_window(200, 60);
    test_window(40, 30);
    test_every_command();
    environment = NULL;
    test_attached();
    test_context();
    test_first_sign();
    return chat_tests_close();
}
