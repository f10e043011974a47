/* Every key of the chat and how answers look, in a real pseudo-terminal. */
#include "src/cli/markdown.h"
#include "tests/chat_pty.h"

/* ---- Markdown -------------------------------------------------------------------------------- */

#define ANSWER                                                                                     \
    "# Title\\n\\nSome **bold** words and 日本語 that are long enough to wrap in a narrow window.\\n\\n" \
    "| a | b |\\n|---|---|\\n| one | two |\\n\\n```c\\nint x = 1;\\n```\\n- item"
#define GRAMMAR "root ::= \"" ANSWER "\"\n"

static void test_markdown(void)
{
    static const struct {
        int columns, rows;
        const char *lines[3];
    } windows[] = {
        { 80, 24, { "\nTitle\n\nSome bold words and 日本語 that are long enough to wrap in a narrow "
                    "window.\n\n", "\na   │ b\n────┼────\none │ two\n\n",
                    "\n── c ───────────────────\nint x = 1;\n────────────────────────\n• item\n" } },
        { 200, 60, { "\nTitle\n\nSome bold words and 日本語 that are long enough to wrap in a narrow "
                     "window.\n\n", "\none │ two\n", "\n• item\n" } },
        { 40, 10, { "\nSome bold words and 日本語 that are\nlong enough to wrap in a narrow window.\n",
                    "\none │ two\n", "\n• item\n" } },
    };
    for (size_t i = 0; i < ARRAY_LEN(windows); i++) {
        check_case("Markdown in a window of %d x %d", windows[i].columns, windows[i].rows);
        window_columns = windows[i].columns;
        window_rows = windows[i].rows;
        CHECK(spawn(&s, ARGUMENTS("chat", MODEL, "--temp", "0", "--no-think", "--grammar",
                                  write_file("answer.gbnf", GRAMMAR), "--live")));
        CHECK(expect_prompt(&s));
        type(&s, "hi\r");
        CHECK(expect_prompt(&s));
        char *text = shown(windows[i].columns, windows[i].rows);
        for (int j = 0; j < 3; j++)
            CHECK_MSG(strstr(text, windows[i].lines[j]), "\"%s\" is not in\n%s", windows[i].lines[j],
                      text);
        CHECK_MSG(!strstr(text, "tokens ·"), "the live line stays behind:\n%s", text);
        free(text);
        leave();
    }
    window_columns = 100;
    window_rows = 40;

    check_case("--markdown off shows what the model wrote");
    CHECK(spawn(&s, ARGUMENTS("chat", MODEL, "--temp", "0", "--no-think", "--markdown", "off",
                              "--grammar", write_file("answer.gbnf", GRAMMAR))));
    CHECK(expect_prompt(&s));
    type(&s, "hi\r");
    CHECK(expect(&s, "# Title\r\n\r\nSome **bold**"));
    CHECK(expect(&s, "```c\r\nint x = 1;\r\n```\r\n- item\r\n"));
    CHECK(expect_prompt(&s));
    leave();

    check_case("NO_COLOR leaves bold and takes colours");
    environment = (const char *const[]){ "NO_COLOR=1", NULL };
    CHECK(spawn(&s, ARGUMENTS("chat", MODEL, "--temp", "0", "--no-think", "--grammar",
                              write_file("answer.gbnf", GRAMMAR))));
    CHECK(expect_prompt(&s));
    type(&s, "hi\r");
    CHECK(expect(&s, "\033[0;1mbold"));
    CHECK(expect(&s, "int x = 1;"));
    CHECK(expect_prompt(&s));
    CHECK(!memmem(s.text, s.len, ";3", 2));
    environment = NULL;
    leave();
}

/* One shell command; its output, and in *code what the shell ends with. */
static char *run_shell(const char *command, int *code)
{
    struct buf out = { 0 };
    char part[4096];
    size_t n;
    FILE *f = popen(command, "r");
    while (f && (n = fread(part, 1, sizeof part, f)) > 0)
        buf_add(&out, part, n);
    int status = f ? pclose(f) : -1;
    *code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    char *text = strdup(buf_str(&out).data);
    buf_release(&out);
    return text;
}

static void test_pipes(void)
{
    char command[2048];
    int code;
    const char *grammar = write_file("answer.gbnf", GRAMMAR);
    check_case("in a pipe the answer is what the model wrote, byte for byte");
    snprintf(command, sizeof command, "echo hi | HOME=%s %s chat %s --temp 0 --no-think --grammar %s "
             "2>%s/notes", home, binary, MODEL, grammar, home);
    char *text = run_shell(command, &code);
    CHECK_STR(text, "# Title\n\nSome **bold** words and 日本語 that are long enough to wrap in a narrow "
                    "window.\n\n| a | b |\n|---|---|\n| one | two |\n\n```c\nint x = 1;\n```\n"
                    "- item\n");
    CHECK_INT(code, 0);
    free(text);
    check_case("a reader that goes away ends the chat quietly with 141");
    snprintf(command, sizeof command, "{ echo hi | HOME=%s timeout 300 %s chat %s --no-think "
             "--logit-bias %s 2>%s/notes; echo $? >%s/code; } | head -c 3 >/dev/null; cat %s/code "
             "%s/notes", home, binary, MODEL, never_end, home, home, home, home);
    text = run_shell(command, &code);
    CHECK_STR(text, "141\n");
    free(text);
}

static void test_wide_line(void)
{
    check_case("wide characters and the help wrap in a narrow window");
    window_columns = 40;
    CHECK(spawn(&s, ARGUMENTS("chat", MODEL, "--no-think", "-n", "2", "--no-history")));
    CHECK(expect_prompt(&s));
    type(&s, "日日日日日日日日日日日日日日日日日日日日日日月月\177\177\002\002本");
    type(&s, "\005x\r");
    CHECK(expect(&s, "tok/s"));
    CHECK(expect_prompt(&s));
    char *text = shown(40, window_rows);
    CHECK_MSG(strstr(text, "> 日日日日日日日日日日日日日日日日日日日\n日本日日x\n"), "%s", text);
    free(text);
    type(&s, "/help\r");
    CHECK(expect(&s, "with a\r\n  slash."));
    CHECK(expect_prompt(&s));
    text = shown(40, window_rows);
    CHECK_MSG(strstr(text, "  /ctx [N]\n    how full the context is"), "%s", text);
    free(text);
    window_columns = 100;
    leave();
}

static void test_resize(void)
{
    check_case("the window becomes narrow during an answer");
    window_columns = 100;
    CHECK(spawn(&s, ARGUMENTS("chat", MODEL, "--temp", "0", "--no-think", "--logit-bias", never_end,
                              "--grammar", write_file("long.gbnf", "root ::= (\"word **bold** 日本 "
                              "and so on it goes \")*\n"))));
    CHECK(expect_prompt(&s));
    type(&s, "hi\r");
    watch_grow(&s, 2000);
    CHECK(halt(&s)); /* what was drawn for the wide window has been read */
    s.seen = s.len;
    resize(&s, 40, 12);
    kill(s.pid, SIGCONT);
    CHECK(expect(&s, "\033[J")); /* where the region began: drawn anew from here */
    size_t from = s.seen;
    watch_grow(&s, 20000);
    size_t to = s.len; /* what is on its way when Ctrl-C comes the system throws away, in mid-sequence */
    type(&s, "\003");
    CHECK(expect(&s, "stopped"));
    CHECK(expect_prompt(&s));
    struct screen *screen = screen_open(40, 12);
    screen_write(screen, (struct str){ s.text + from, to - from }, true);
    CHECK_MSG(!screen->wrapped, "a line is wider than the window");
    char *text = screen_text(screen);
    CHECK_MSG(strstr(text, "so on it goes word bold 日本"), "lost:\n%s", text);
    free(text);
    free(screen);
    type(&s, "/ctx\r");
    CHECK(expect(&s, "exchange"));
    CHECK(expect_prompt(&s));
    leave();
}

/* ---- thinking -------------------------------------------------------------------------------- */

static void test_thinking(void)
{
    check_case("folded thinking counts, Ctrl-T opens and closes it");
    CHECK(spawn(&s, ARGUMENTS("chat", MODEL, "--think", "on", "--logit-bias", never_end,
                              "--logit-bias", never_close, "--show-thinking", "fold")));
    CHECK(expect_prompt(&s));
    type(&s, "What is 12 + 13?\r");
    CHECK(expect(&s, "thinking… "));
    CHECK(expect(&s, "Ctrl-T"));
    type(&s, "\024");
    watch_grow(&s, 300);
    double end = now_s() + PATIENCE_S; /* until nothing more is counted */
    size_t from;
    do {
        from = s.len;
        watch_grow(&s, 500);
    } while (memmem(s.text + from, s.len - from, "thinking…", 9) && now_s() < end);
    CHECK(!memmem(s.text + from, s.len - from, "thinking…", 9));
    s.seen = s.len;
    type(&s, "\024");
    CHECK(expect(&s, "thinking… "));

    check_case("Ctrl-C in thinking asks: Enter goes on, a answers now");
    type(&s, "\003");
    CHECK(expect(&s, "a: answer now"));
    type(&s, "\r");
    CHECK(expect(&s, "thinking… "));
    type(&s, "\003");
    CHECK(expect(&s, "a: answer now"));
    type(&s, "a");
    CHECK(expect(&s, "thought "));
    watch_grow(&s, 300);
    type(&s, "\003");
    CHECK(expect(&s, "stopped"));
    CHECK(expect_prompt(&s));

    check_case("Ctrl-C twice in thinking stops it and not the program");
    type(&s, "What is 1 + 1?\r");
    CHECK(expect(&s, "thinking… "));
    type(&s, "\003");
    CHECK(expect(&s, "a: answer now"));
    type(&s, "\003");
    CHECK(expect(&s, "stopped"));
    CHECK(expect_prompt(&s));

    check_case("/think N ends the thinking, Ctrl-T at the prompt shows it");
    type(&s, "/think 5\r");
    CHECK(expect(&s, "at most 5 tokens"));
    CHECK(expect_prompt(&s));
    type(&s, "What is 12 + 13?\r");
    CHECK(expect(&s, "thought "));
    watch_grow(&s, 200);
    type(&s, "\003");
    CHECK(expect(&s, "stopped"));
    CHECK(expect_prompt(&s));
    type(&s, "kept");
    CHECK(expect(&s, "kept"));
    s.seen = s.len;
    type(&s, "\024");
    CHECK(expect(&s, "kept")); /* the line comes back below it */
    type(&s, "\025");
    leave();
}

/* ---- the line -------------------------------------------------------------------------------- */

static void test_paste(void)
{
    check_case("a paste of 10,000 lines is shown as a mark, priced, and sent whole");
    enum { LINES = 10000 };
    char *paste = malloc(LINES * 40 + 32), *at = paste;
    at += sprintf(at, "look: \033[200~");
    for (int i = 0; i < LINES; i++)
        at += sprintf(at, "%d: two words\r", i);
    sprintf(at, "\033[201~ please");
    CHECK(spawn(&s, ARGUMENTS("chat", MODEL, "-c", "300000", "-t", "1", "--no-think", "-n", "4")));
    CHECK(expect_prompt(&s));
    size_t from = s.len;
    type(&s, paste);
    CHECK(expect(&s, "look: [paste 1: 10000 lines] please"));
    CHECK_MSG(s.len - from < 20000, "%zu bytes were drawn", s.len - from);
    type(&s, "\r");
    CHECK(expect(&s, "context "));
    CHECK(expect(&s, "Enter sends it"));
    type(&s, "n");
    CHECK(expect(&s, "not sent"));
    CHECK(expect(&s, "> \033[0m[paste 2: 10001 lines]")); /* back at the prompt, for another try */
    type(&s, "\177/ctx\r"); /* Backspace takes the whole mark away */
    CHECK(expect(&s, "0 exchanges") && expect_prompt(&s));
    type(&s, paste);
    CHECK(expect(&s, "[paste 3: 10000 lines] please"));
    type(&s, "\r");
    CHECK(expect(&s, "Enter sends it"));
    type(&s, "\r");
    CHECK(expect(&s, "reading"));
    type(&s, "\003");
    CHECK(expect(&s, "stopped before"));
    CHECK(expect_prompt(&s));
    leave();
    free(paste);

    check_case("Ctrl-C ends a paste that never ends");
    CHECK(spawn(&s, ARGUMENTS("chat", MODEL, "--no-think", "-n", "4")));
    CHECK(expect_prompt(&s));
    bool held = true; /* many times: the driver drops what waits, at any point of its being read */
    for (int i = 0; i < 60 && held; i++) {
        type(&s, "\033[200~half a paste");
        type(&s, "\003");
        held = expect(&s, "^C") && expect_prompt(&s);
        type(&s, "/nosuch\r"); /* a second Ctrl-C right after the first would ask to leave */
        held = held && expect(&s, "nosuch") && expect_prompt(&s);
    }
    CHECK(held);
    leave();
}

static void test_paste_ahead(void)
{
    check_case("lines pasted during an answer are one message at the next prompt");
    CHECK(spawn(&s, ARGUMENTS("chat", MODEL, "--no-think", "--temp", "0", "--logit-bias",
                              never_end)));
    CHECK(expect_prompt(&s));
    type(&s, "hi\r");
    CHECK(expect(&s, "\033[?2004h"));
    watch_grow(&s, 400);
    type(&s, "\033[200~first\rsecond\033[201~");
    CHECK(expect_read(&s)); /* meanwhile: a Ctrl-C drops what the system still holds */
    type(&s, "\003");
    CHECK(expect(&s, "stopped"));
    CHECK(expect_prompt(&s));
    CHECK(expect(&s, "first"));
    CHECK(expect(&s, "second"));
    type(&s, "\r");
    watch_grow(&s, 400);
    type(&s, "\003");
    CHECK(expect(&s, "stopped"));
    CHECK(expect_prompt(&s));
    type(&s, "/ctx\r");
    CHECK(expect(&s, "2 exchanges"));
    CHECK(expect_prompt(&s));
    leave();
}

static void test_editor(void)
{
    static char visual[160];
    check_case("Ctrl-G and Ctrl-X Ctrl-E edit the line in an editor, privately");
    const char *script = write_file("editor.sh", "#!/bin/sh\nstat -c %a \"$1\" >\"$0.mode\"\n"
                                                 "grep -q give-up \"$1\" && exit 3\n"
                                                 "sed -i 's/old/new/' \"$1\"\n");
    snprintf(visual, sizeof visual, "VISUAL=sh %s", script);
    environment = (const char *const[]){ visual, "EDITOR=false", NULL };
    CHECK(spawn(&s, ARGUMENTS("chat", MODEL, "--no-think", "-n", "4", "--temp", "0")));
    environment = NULL;
    CHECK(expect_prompt(&s));
    type(&s, "my old text");
    CHECK(expect(&s, "my old text"));
    type(&s, "\007");
    CHECK(expect(&s, "my new text"));
    type(&s, " old");
    CHECK(expect(&s, " old"));
    type(&s, "\030\005");
    CHECK(expect(&s, "my new text new"));
    type(&s, "\025give-up");
    CHECK(expect(&s, "give-up"));
    type(&s, "\007");
    CHECK(expect(&s, "failed: the text stays"));
    CHECK(expect(&s, "give-up"));
    type(&s, "\r");
    CHECK(expect(&s, "tok/s"));
    CHECK(expect_prompt(&s));
    leave();
    char path[200];
    snprintf(path, sizeof path, "%s.mode", script);
    char *mode = check_read_file(path, NULL);
    CHECK_STR(mode ? mode : "", "600\n");
    free(mode);
}

static void test_history(void)
{
    char path[128];
    struct stat st;
    check_case("Ctrl-R finds a line, also one of an earlier chat; --no-history keeps nothing");
    snprintf(path, sizeof path, "%s/.local/state/tandem/history", home);
    unlink(path);
    CHECK(spawn(&s, ARGUMENTS("chat", MODEL, "--no-think", "-n", "2", "--no-history")));
    CHECK(expect_prompt(&s));
    type(&s, "a secret\r");
    CHECK(expect(&s, "tok/s"));
    CHECK(expect_prompt(&s));
    leave();
    CHECK(stat(path, &st) != 0);
    CHECK(spawn(&s, ARGUMENTS("chat", MODEL, "--no-think", "-n", "2")));
    CHECK(expect_prompt(&s));
    type(&s, "the needle in it\r");
    CHECK(expect(&s, "tok/s"));
    CHECK(expect_prompt(&s));
    leave();
    CHECK(spawn(&s, ARGUMENTS("chat", MODEL, "--no-think", "-n", "2")));
    CHECK(expect_prompt(&s));
    type(&s, "\022needle");
    CHECK(expect(&s, "i-search"));
    type(&s, "\r");
    CHECK(expect(&s, "tok/s"));
    CHECK(expect_prompt(&s));
    char *text = shown(window_columns, window_rows);
    CHECK_MSG(strstr(text, "> the needle in it\n"), "%s", text);
    free(text);
    leave();
}

/* Keys at the prompt, and what stands there then. */
static void check_keys(const char *keys, const char *line)
{
    type(&s, keys);
    CHECK_MSG(expect_shown(line), "the keys do not make \"%s\"", line);
}

static void test_line_keys(void)
{
    static char inputrc[160];
    check_case("Alt-Enter, the arrows, words, the start and the end of a line");
    CHECK(spawn(&s, ARGUMENTS("chat", MODEL, "--no-think", "-n", "2", "--no-history")));
    CHECK(expect(&s, "/help") && expect_prompt(&s));
    check_keys("one\033\rtwo", "> one\ntwo\n");
    say("\r", "tok/s");
    check_keys("\033[A", "> one\ntwo\n"); /* comes back whole */
    check_keys("\025/no 日本 c", "> /no 日本 c\n");
    check_keys("\001\033[C\004\004N\033fO\005!\002\002", "> /N 日本O c!\n");
    type(&s, "\003"); /* with the cursor in the midst */
    CHECK_MSG(expect_shown("> /N 日本O c!^C\n"), "%.*s", (int)s.len, s.text);
    CHECK(expect_prompt(&s));
    type(&s, "/ctx\r");
    CHECK(expect(&s, "1 exchange") && expect_prompt(&s));
    leave();

    check_case("vi keys where ~/.inputrc wants them");
    snprintf(inputrc, sizeof inputrc, "INPUTRC=%s",
             write_file("inputrc", "set editing-mode vi\nset keyseq-timeout 50\n"));
    environment = (const char *const[]){ inputrc, NULL };
    CHECK(spawn(&s, ARGUMENTS("chat", MODEL, "--no-think", "-n", "2", "--no-history")));
    environment = NULL;
    CHECK(expect(&s, "/help") && expect_prompt(&s));
    check_keys("wrong words", "> wrong words\n");
    type(&s, "\033");
    usleep(200000);
    check_keys("0cwright\033", "> right words\n");
    usleep(200000);
    check_keys("$x", "> right word\n");
    say("\r", "tok/s");
    leave();
}

/* What comes is drawn below a few empty lines, since readline goes up from where it stands. */
static void fresh_screen(void)
{
    s.seen = 0;
    s.len = (size_t)snprintf(s.text, sizeof s.text, "\r\n\r\n\r\n\r\n");
}

static void test_resize_line(void)
{
    check_case("a line that is typed when the window changes its width is drawn anew, and sent whole");
    CHECK(spawn(&s, ARGUMENTS("chat", MODEL, "--no-think", "-n", "2", "--no-history")));
    CHECK(expect(&s, "/help") && expect_prompt(&s));
    type(&s, "/system 日本 these are words that take more than forty columns, all of them");
    CHECK(expect(&s, "all of them"));
    fresh_screen();
    resize(&s, 40, 30);
    window_columns = 40;
    window_rows = 30;
    check_keys(" .", "日本 these are words that take\n more than forty columns, all of them .\n");
    fresh_screen();
    resize(&s, 100, 40);
    window_columns = 100;
    window_rows = 40;
    check_keys(" .", "> /system 日本 these are words that take more than forty columns, all of them . .\n");
    say("\r", "set");
    say("/system\r", "all of them . .");
    leave();

    check_case("thinking in one line stays one line in a window that becomes narrow");
    CHECK(spawn(&s, ARGUMENTS("chat", MODEL, "--think", "on", "--logit-bias", never_end,
                              "--logit-bias", never_close, "--show-thinking", "fold")));
    CHECK(expect_prompt(&s));
    type(&s, "What is 12 + 13?\r");
    CHECK(expect(&s, "thinking… "));
    resize(&s, 40, 12);
    CHECK(expect(&s, "\033[J"));
    size_t from = s.seen;
    CHECK(expect(&s, "thinking… ") && expect(&s, "thinking… "));
    size_t to = s.len; /* as above */
    type(&s, "\003");
    CHECK(expect(&s, "a: answer now"));
    type(&s, "\003");
    CHECK(expect(&s, "stopped") && expect_prompt(&s));
    struct screen *screen = screen_open(40, 12);
    screen_write(screen, (struct str){ s.text + from, to - from }, true);
    CHECK_MSG(!screen->wrapped, "a line is wider than the window");
    free(screen);
    leave();
}

static void test_completion(void)
{
    static const struct {
        const char *keys, *line;
    } rows[] = {
        { "/thi\t", "/think " },           { "/set tem\t", "/set temp " },
        { "/think of\t", "/think off " },  { "/read LICEN\t", "/read LICENSE " },
        { "/read src/cli/chat_cop\t", "/read src/cli/chat_copy.c " },
        { "/read ~/two\t", "/read \"~/two words.txt\" " },
        { "/read \"~/two w\t", "/read \"~/two words.txt\" " },
        { "/export '~/tw\t", "/export \"~/two words.txt\" " },
        { "/heat ~/o\t", "/heat \"~/o'clock.svg\" " },
    };
    char line[80];
    check_case("Tab completes commands, settings, words and files, and nothing in a sentence");
    write_file("two words.txt", "What is 1 + 1?\n");
    write_file("o'clock.svg", "");
    CHECK(spawn(&s, ARGUMENTS("chat", MODEL, "--no-history")));
    CHECK(expect_prompt(&s));
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        type(&s, rows[i].keys);
        type(&s, "|");
        snprintf(line, sizeof line, "> %s|\n", rows[i].line);
        if (!CHECK_MSG(expect_shown(line), "%s does not become %s", rows[i].keys, rows[i].line))
            break;
        type(&s, "\025");
    }
    say("/read ~/two\t\r", "two words.txt: ");
    type(&s, "see LICEN\t.");
    CHECK(expect_shown("> see LICEN.\n"));
    type(&s, "\025");
    leave();
}

int main(void)
{
    if (!chat_tests_open("keys of the chat"))
        return check_finish();
    if (markdown_available()) {
        test_markdown();
        test_resize();
    }
    test_pipes();
    test_wide_line();
    test_thinking();
    test_paste();
    test_paste_ahead();
    test_editor();
    test_history();
    test_line_keys();
    test_resize_line();
    test_completion();
    return chat_tests_close();
}
