/* The real chat in a pseudo-terminal: keys are typed, the screen is read, the terminal's state is
 * compared. Answers come from the demo model, so cases check how they are shown, not what they
 * say. */
#include "src/cli/json.h"
#include "src/text/tokenizer.h"
#include "tests/pty.h"

static char never_end[32];

/* After the text: "context: USED of", as /ctx says. */
static long context_used(struct pty *s)
{
    type(s, "/ctx\r");
    if (!expect(s, "context: "))
        return -1;
    expect(s, " of");
    char *at = s->text + s->seen;
    while (strncmp(at, "context: ", 9) != 0)
        at--;
    return strtol(at + 9, NULL, 10);
}

/* ---- cases ----------------------------------------------------------------------------------- */

static void test_conversation(void)
{
    static struct pty s;
    check_case("an answer stopped by Ctrl-C is kept, the next question goes on from it");
    if (!CHECK(spawn(&s, ARGUMENTS("chat", MODEL, "--temp", "0", "--no-think", "--logit-bias",
                                   never_end))))
        return;
    CHECK(expect(&s, "/help"));
    CHECK(expect_prompt(&s));
    type(&s, "Tell me a story.\r");
    watch_grow(&s, 400);
    type(&s, "\003");
    CHECK(expect(&s, "stopped"));
    CHECK(expect_prompt(&s));
    long first = context_used(&s);
    CHECK(first > 10);
    CHECK(expect(&s, "1 exchange"));
    CHECK(expect_prompt(&s));

    type(&s, "And then?\r");
    watch_grow(&s, 400);
    type(&s, "\003");
    CHECK(expect(&s, "stopped"));
    CHECK(expect_prompt(&s));
    CHECK(context_used(&s) > first);
    CHECK(expect(&s, "2 exchanges"));
    type(&s, "/stats\r");
    CHECK(expect(&s, "answer    read "));
    char *at = memmem(s.text + s.seen, s.len - s.seen, "(", 1);
    for (double end = now_s() + PATIENCE_S; !at && now_s() < end;) {
        pump(&s, 0.1);
        at = memmem(s.text + s.seen, s.len - s.seen, "(", 1);
    }
    CHECK_MSG(at && strtol(at + 1, NULL, 10) > first / 2,
              "the first exchange was not found in the cache: %.60s", at ? at : "");
    type(&s, "\004");
    CHECK_INT(finish(&s), 0);
    CHECK(terminal_restored(&s));
    close(s.master);
}

static void test_editing(void)
{
    static struct pty s;
    check_case("pasted lines and blocks are one message, Ctrl-C clears a line, keys wait");
    if (!CHECK(spawn(&s, ARGUMENTS("chat", MODEL, "--temp", "0", "-n", "8", "--no-think"))))
        return;
    CHECK(expect_prompt(&s));
    type(&s, "\033[200~line one\nline two \346\227\245\346\234\254\n\nline four\033[201~");
    CHECK(expect(&s, "line four"));
    type(&s, "\r");
    CHECK(expect(&s, "context "));
    CHECK(expect_prompt(&s));
    CHECK(context_used(&s) > 0);
    CHECK(expect(&s, "1 exchange\r\n"));

    CHECK(expect_prompt(&s));
    type(&s, "\"\"\"first\r");
    CHECK(expect(&s, "... "));
    type(&s, "second\r");
    CHECK(expect(&s, "... "));
    type(&s, "\"\"\"\r");
    CHECK(expect(&s, "context "));
    CHECK(expect_prompt(&s));

    type(&s, "never sent");
    CHECK(expect(&s, "never sent"));
    type(&s, "\003");
    CHECK(expect(&s, "^C"));
    CHECK(expect_prompt(&s));
    /* Typed while the answer streams: waits for the prompt. */
    type(&s, "hi\r/ctx\r");
    CHECK(expect(&s, "context: "));
    CHECK(expect(&s, "3 exchanges"));
    CHECK(expect_prompt(&s));
    type(&s, "/quit\r");
    CHECK_INT(finish(&s), 0);
    CHECK(terminal_restored(&s));
    close(s.master);

    check_case("the history is private and holds each line once");
    char path[128];
    struct stat st = { 0 };
    size_t size = 0;
    snprintf(path, sizeof path, "%s/.local/state/tandem/history", home);
    CHECK(stat(path, &st) == 0 && (st.st_mode & 0777) == 0600);
    char *history = check_read_file(path, &size);
    CHECK(history &&
          strstr(history, "line one\\nline two \346\227\245\346\234\254\\n\\nline four\n"));
    char *first = history ? strstr(history, "/ctx\n") : NULL;
    CHECK(first && !strstr(first + 1, "/ctx\n"));
    CHECK(history && !strstr(history, "never sent"));
    free(history);
}

static void test_signals(void)
{
    static struct pty s;
    int status;

    check_case("Ctrl-C twice at the prompt leaves with 130");
    CHECK(spawn(&s, ARGUMENTS("chat", MODEL)));
    CHECK(expect_prompt(&s));
    type(&s, "\003");
    CHECK(expect(&s, "Ctrl-D"));
    CHECK(expect_prompt(&s));
    type(&s, "\003");
    CHECK_INT(finish(&s), 130);
    CHECK(terminal_restored(&s));
    close(s.master);

    check_case("SIGTERM during an answer leaves with 143, the terminal as it was");
    CHECK(spawn(&s, ARGUMENTS("chat", MODEL, "--logit-bias", never_end, "-p", "Tell me a story.")));
    CHECK(expect(&s, "story."));
    watch_grow(&s, 400);
    kill(s.pid, SIGTERM);
    CHECK_INT(finish(&s), 143);
    CHECK(terminal_restored(&s));
    close(s.master);

    check_case("a closed terminal ends the chat");
    CHECK(spawn(&s, ARGUMENTS("chat", MODEL)));
    CHECK(expect_prompt(&s));
    close(s.master);
    double end = now_s() + PATIENCE_S;
    pid_t got;
    while ((got = waitpid(s.pid, &status, WNOHANG)) == 0 && now_s() < end)
        usleep(20000);
    CHECK_INT(got, s.pid);
    CHECK(got == s.pid && WIFEXITED(status));
    if (got != s.pid)
        kill(s.pid, SIGKILL);

    check_case("Ctrl-Z gives the terminal back, continuing brings the line back");
    CHECK(spawn(&s, ARGUMENTS("chat", MODEL, "-n", "4")));
    CHECK(expect_prompt(&s));
    type(&s, "/ct");
    CHECK(expect(&s, "/ct"));
    type(&s, "\032");
    for (end = now_s() + PATIENCE_S; (got = waitpid(s.pid, &status, WNOHANG | WUNTRACED)) == 0 &&
                                     now_s() < end;)
        pump(&s, 0.05);
    CHECK(got == s.pid && WIFSTOPPED(status));
    CHECK(terminal_restored(&s));
    kill(s.pid, SIGCONT);
    CHECK(expect(&s, "/ct"));
    type(&s, "x\r");
    CHECK(expect(&s, "context: 0 of"));
    CHECK(expect_prompt(&s));
    type(&s, "\004");
    CHECK_INT(finish(&s), 0);
    CHECK(terminal_restored(&s));
    close(s.master);

    check_case("Ctrl-C while a long prompt is read cancels it");
    size_t n = 100000;
    char *prompt = malloc(n + 1);
    for (size_t i = 0; i < n; i++)
        prompt[i] = i % 7 == 6 ? ' ' : (char)('a' + i * i % 26);
    prompt[n] = 0;
    CHECK(spawn(&s, ARGUMENTS("chat", MODEL, "-c", "80000", "-t", "1", "-b", "64", "-p", prompt)));
    free(prompt);
    CHECK(expect(&s, "reading"));
    type(&s, "\003");
    CHECK(expect(&s, "stopped before"));
    CHECK(expect_prompt(&s));
    type(&s, "\004");
    CHECK_INT(finish(&s), 0);
    close(s.master);
}

/* "ID+F" options that make the model say `wanted`, one byte per token: each byte is likelier than
 * all that follow, and once said the presence penalty buries it. The bytes must differ. */
static int force_bytes(const struct tokenizer *t, const char *wanted, char options[][32],
                       const char **arguments)
{
    int n = 0;
    for (const char *p = wanted; *p; p++) {
        for (int32_t id = 0; id < tokenizer_n_tokens(t); id++) {
            struct str bytes = tokenizer_bytes(t, id, false);
            if (bytes.len != 1 || bytes.data[0] != *p)
                continue;
            snprintf(options[p - wanted], sizeof *options, "%d+%d", id,
                     900 - 20 * (int)(p - wanted));
            arguments[n++] = "--logit-bias";
            arguments[n++] = options[p - wanted];
            break;
        }
    }
    return n;
}

static void test_characters(const struct tokenizer *t)
{
    static struct pty s;
    static const char wanted[] = "\346\227\245\360\237\230\200\033";
    char options[16][32], count[8];
    const char *arguments[32] = { "chat", MODEL, "--temp", "0", "--no-think", "-n", count,
                                  "--presence-penalty", "1000" };
    int n = 9;
    snprintf(count, sizeof count, "%zu", strlen(wanted));
    n += force_bytes(t, wanted, options, arguments + n);

    check_case("characters of several tokens come whole, control bytes are shown on a terminal");
    CHECK_INT(n, 9 + 2 * (int)strlen(wanted));
    CHECK(spawn(&s, arguments));
    CHECK(expect_prompt(&s));
    type(&s, "hi\r");
    CHECK(expect(&s, "\346\227\245\360\237\230\200\\x1b"));
    CHECK(expect_prompt(&s));
    type(&s, "\004");
    CHECK_INT(finish(&s), 0);
    close(s.master);

    /* A packet pipe keeps the borders of writes: no piece may end inside a character. */
    check_case("no write to a pipe ends inside a character, control bytes pass");
    int ends[2];
    if (pipe2(ends, O_DIRECT) != 0) {
        check_skip("no packet pipes here");
        return;
    }
    arguments[0] = "run";
    arguments[n++] = "-p";
    arguments[n++] = "hi";
    memmove(arguments + 1, arguments, (size_t)n * sizeof *arguments);
    arguments[0] = binary;
    pid_t pid = fork();
    if (pid == 0) {
        int null = open("/dev/null", O_RDWR);
        dup2(null, 0);
        dup2(ends[1], 1);
        close(ends[0]);
        close(ends[1]);
        execv(binary, (char *const *)arguments);
        _exit(127);
    }
    close(ends[1]);
    char all[4096] = "", packet[4096];
    ssize_t got;
    while ((got = read(ends[0], packet, sizeof packet - 1)) > 0) {
        packet[got] = 0;
        CHECK_MSG(utf8_complete((struct str){ packet, (size_t)got }) == (size_t)got,
                  "a write ends inside a character");
        strncat(all, packet, sizeof all - strlen(all) - 1);
    }
    close(ends[0]);
    waitpid(pid, NULL, 0);
    CHECK_STR(all, "\346\227\245\360\237\230\200\033\n");
}

static void test_interrupted_run(void)
{
    static struct pty s;
    check_case("Ctrl-C ends run with 130 and a whole line");
    CHECK(spawn(&s, ARGUMENTS("run", MODEL, "-p", "Tell me a story.", "--logit-bias", never_end)));
    watch_grow(&s, 400);
    type(&s, "\003");
    CHECK_INT(finish(&s), 130);
    CHECK(memmem(s.text, s.len, "\r\n", 2));
    close(s.master);
}

int main(void)
{
    const char *build = getenv("B");
    struct gguf g = { 0 };
    struct tokenizer *t = NULL;
    snprintf(binary, sizeof binary, "%s/tandem", build && *build ? build : "build");
    snprintf(home, sizeof home, "/tmp/tandem-test-XXXXXX");
    signal(SIGHUP, SIG_IGN);
    if (access(MODEL, R_OK) != 0 || access(binary, X_OK) != 0) {
        check_case("chat in a terminal");
        check_skip("%s or %s is not there", MODEL, binary);
        return check_finish();
    }
    if (!js_available(NULL)) {
        check_case("chat in a terminal");
        check_skip("this build has no libraries to read and write text with");
        return check_finish();
    }
    check_case("the demo model has a vocabulary");
    CHECK(mkdtemp(home) && gguf_open(&g, MODEL, NULL) && tokenizer_open(&t, &g, NULL) && t);
    if (t) {
        snprintf(never_end, sizeof never_end, "%d-inf", tokenizer_eos(t));
        test_conversation();
        test_editing();
        test_signals();
        test_characters(t);
        test_interrupted_run();
    }
    tokenizer_close(t);
    gguf_close(&g);
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", home);
    if (system(command) != 0)
        printf("%s stays behind\n", home);
    return check_finish();
}
