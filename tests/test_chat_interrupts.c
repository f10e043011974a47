/* Ctrl-C, Ctrl-Z and signals at every stage of a chat: loading, reading, thinking, answering, at the
 * prompt, in the editor. None may be lost, and the terminal is always given back. */
#include "tests/chat_pty.h"
#include "tests/tiny_model.h"

/* Wait for the program to stop (as Ctrl-Z makes it); the terminal must be as it was. */
static bool expect_stopped(void)
{
    int status = 0;
    pid_t got;
    for (double end = now_s() + patience(&s);
         (got = waitpid(s.pid, &status, WNOHANG | WUNTRACED)) == 0 && now_s() < end;)
        pump(&s, 0.02);
    return CHECK(got == s.pid && WIFSTOPPED(status)) && CHECK(terminal_restored(&s));
}

static bool seen(const char *text)
{
    return memmem(s.text, s.len, text, strlen(text)) != NULL;
}

/* ---- loading --------------------------------------------------------------------------------- */

/* Start to load a model of more than half a GiB, all holes, and halt the program in the midst of it.
 * False: it was faster every time. */
static bool halt_in_load(const char *path)
{
    for (int i = 0; i < 5; i++) {
        if (!CHECK(spawn(&s, ARGUMENTS("chat", path, "--load", "copy", "-c", "512", "-ngl", "0"))) ||
            !CHECK(expect(&s, "loading")))
            return false;
        if (halt(&s) && !seen("/help"))
            return true;
        kill(s.pid, SIGKILL);
        kill(s.pid, SIGCONT);
        finish(&s);
        close(s.master);
    }
    return false;
}

static void test_load(void)
{
    char path[256];
    check_case("Ctrl-C while the model is loaded leaves with 130");
    tiny_path(path, "slow-load");
    if (!tiny_write(path, "--like v2-lite --layers 2 --vocab 320 --type q8_0 --sparse"))
        return;
    bool loaded = true; /* by the time it was halted: once more */
    for (int i = 0; loaded && i < 5; i++) {
        if (!halt_in_load(path)) {
            check_skip("this machine loads half a GiB at once");
            unlink(path);
            return;
        }
        type(&s, "\003");
        kill(s.pid, SIGCONT);
        for (double end = now_s() + patience(&s); !has_ended(&s) && !seen("> ") && now_s() < end;)
            pump(&s, 0.05);
        loaded = seen("> ");
        if (loaded)
            type(&s, "\004");
        int code = finish(&s);
        CHECK_MSG(loaded || code == 130, "code %d", code);
        CHECK(terminal_restored(&s));
        close(s.master);
    }
    CHECK(!loaded && !seen("/help"));

    check_case("Ctrl-Z while the model is loaded, fg: it goes on loading");
    if (halt_in_load(path)) {
        kill(s.pid, SIGCONT); /* first: it would take a stop that waits away */
        type(&s, "\032");
        if (expect_stopped())
            kill(s.pid, SIGCONT);
        CHECK(expect(&s, "/help") && expect_prompt(&s));
        leave();
    }
    check_case("where nothing can be drawn over, one plain line says that it loads");
    environment = (const char *const[]){ "TERM=dumb", NULL };
    CHECK(spawn(&s, ARGUMENTS("chat", path, "--load", "copy", "-c", "512", "-ngl", "0")));
    environment = NULL;
    CHECK(expect(&s, "/help") && expect_prompt(&s));
    if (seen("loading ...\r\n"))
        CHECK(!memchr(s.text, '\033', s.len));
    else
        check_skip("half a GiB is loaded within a tenth of a second");
    leave();
    unlink(path);

    check_case("signals at forty moments of the start: the right code, terminal and session as before");
    const char *const *arguments = ARGUMENTS("chat", MODEL, "--no-think", "--session", "kept");
    CHECK(spawn(&s, arguments));
    CHECK(expect(&s, "/help") && expect_prompt(&s));
    say("What is 1 + 1?\r", "tok/s");
    leave();
    for (int i = 0; i < 40 && !s.lost; i++) {
        int number = i % 4 ? SIGINT : SIGTERM;
        CHECK(spawn(&s, arguments));
        usleep((useconds_t)(check_random() % 40000));
        kill(s.pid, number);
        double end = now_s() + patience(&s);
        while (!has_ended(&s) && !seen("> ") && now_s() < end)
            pump(&s, 0.05);
        if (!has_ended(&s))
            type(&s, "\004");
        int code = finish(&s);
        CHECK_MSG(code == 128 + number || (code == 0 && number == SIGINT && seen("> ")) ||
                      code == 1000 + number, "exit code %d", code);
        CHECK(code == 1000 + number || terminal_restored(&s)); /* before there was a handler */
        close(s.master);
    }
    CHECK(spawn(&s, arguments));
    CHECK(expect(&s, "resumed \"kept\"") && expect_prompt(&s));
    say("/ctx\r", " 1 exchange\r");
    leave();
}

/* ---- reading and answering ------------------------------------------------------------------- */

static void test_reading(void)
{
    static char question[20000];
    check_case("Ctrl-C and Ctrl-Z while a message is read");
    for (size_t i = 0; i + 1 < sizeof question; i++)
        question[i] = i % 7 == 6 ? ' ' : (char)('a' + i * i % 26);
    CHECK(spawn(&s, ARGUMENTS("chat", MODEL, "-c", "80000", "-t", "1", "-b", "8", "-p", question)));
    CHECK(expect(&s, "reading"));
    type(&s, "\032");
    if (expect_stopped())
        kill(s.pid, SIGCONT);
    CHECK(expect(&s, "tok"));
    type(&s, "\003");
    CHECK(expect(&s, "stopped before"));
    CHECK(expect_prompt(&s));
    say("/ctx\r", "0 exchanges");
    leave();
}

static void test_behind_enter(void)
{
    check_case("Ctrl-C right behind Enter stops what that began, however early it comes");
    CHECK(spawn(&s, ARGUMENTS("chat", MODEL, "--no-think", "--logit-bias", never_end)));
    CHECK(expect_prompt(&s));
    for (int i = 0; i < 12 && !s.lost; i++) {
        type(&s, "hi");
        CHECK(expect(&s, "hi"));
        type(&s, "\r");
        CHECK(expect(&s, "\r\n"));
        usleep((useconds_t)(i < 4 ? 0 : check_random() % 4000));
        type(&s, "\003");
        CHECK(expect(&s, "stopped"));
        CHECK(expect_prompt(&s));
    }
    check_case("/retry N stops as a whole");
    say("/clear\r", "anew");
    type(&s, "hi\r");
    watch_grow(&s, 400);
    type(&s, "\003");
    CHECK(expect(&s, "stopped"));
    CHECK(expect_prompt(&s));
    type(&s, "/retry 5\r");
    CHECK(expect(&s, "retry-1:"));
    watch_grow(&s, 400);
    type(&s, "\003");
    CHECK(expect(&s, "stopped"));
    CHECK(expect(&s, "/branches lists"));
    CHECK(expect_prompt(&s));
    CHECK(!seen("retry-2"));
    leave();
}

static void test_stop_and_go(void)
{
    check_case("Ctrl-Z in thinking, at its question and in the answer; fg: it goes on");
    CHECK(spawn(&s, ARGUMENTS("chat", MODEL, "--think", "on", "--logit-bias", never_end,
                              "--logit-bias", never_close, "--show-thinking", "fold")));
    CHECK(expect_prompt(&s));
    type(&s, "What is 12 + 13?\r");
    CHECK(expect(&s, "thinking… "));
    type(&s, "\032");
    if (expect_stopped())
        kill(s.pid, SIGCONT);
    s.seen = s.len;
    CHECK(expect(&s, "thinking… "));
    type(&s, "\003");
    CHECK(expect(&s, "a: answer now"));
    type(&s, "\032");
    if (expect_stopped())
        kill(s.pid, SIGCONT);
    type(&s, "a");
    CHECK(expect(&s, "thought "));
    watch_grow(&s, 300);
    type(&s, "\032");
    if (expect_stopped())
        kill(s.pid, SIGCONT);
    size_t from = s.len;
    watch_grow(&s, 400);
    CHECK(s.len > from);
    type(&s, "\003");
    CHECK(expect(&s, "stopped"));
    CHECK(expect_prompt(&s));
    leave();
}

/* ---- at the prompt --------------------------------------------------------------------------- */

static void test_editor(void)
{
    static char visual[160];
    check_case("Ctrl-C in an editor is the editor's");
    const char *script = write_file("editor.sh", "#!/bin/sh\nn=0\ntrap 'n=$((n+1)); echo got $n' INT\n"
                                                 "echo in the editor\n"
                                                 "while [ $n -lt 2 ]; do sleep 0.02; done\n"
                                                 "echo 'What is 1 + 1?' >\"$1\"\n");
    snprintf(visual, sizeof visual, "VISUAL=sh %s", script);
    environment = (const char *const[]){ visual, NULL };
    CHECK(spawn(&s, ARGUMENTS("chat", MODEL, "--no-think", "--temp", "0")));
    environment = NULL;
    CHECK(expect_prompt(&s));
    for (int i = 0; i < 2; i++) { /* Ctrl-G, then /edit */
        type(&s, i ? "/edit\r" : "\007");
        CHECK(expect(&s, "in the editor"));
        type(&s, "\003");
        CHECK(expect(&s, "got 1"));
        type(&s, "\003");
        CHECK(expect(&s, "got 2"));
        if (i == 0) {
            CHECK(expect(&s, "What is 1 + 1?"));
            type(&s, "\r");
            CHECK(expect(&s, "tok/s"));
        } else {
            CHECK(expect(&s, "nothing was changed"));
        }
        CHECK(expect_prompt(&s));
    }
    leave();
}

static void test_question_of_tab(void)
{
    char path[160];
    check_case("Ctrl-C where Tab asks whether to list many names");
    snprintf(path, sizeof path, "%s/many", home);
    CHECK(mkdir(path, 0700) == 0);
    for (int i = 0; i < 120; i++) {
        char name[64];
        snprintf(name, sizeof name, "many/file-%d", i);
        write_file(name, "");
    }
    CHECK(spawn(&s, ARGUMENTS("chat", MODEL, "--no-history")));
    CHECK(expect_prompt(&s));
    type(&s, "/read ~/many/\t\t\t");
    CHECK(expect(&s, "(y or n)"));
    type(&s, "\003");
    CHECK(expect(&s, "^C"));
    CHECK(expect_prompt(&s));
    say("/ctx\r", "0 exchanges");
    leave();
}

static void test_status(void)
{
    check_case("SIGUSR1 says how far things are, at the prompt and in an answer");
    CHECK(spawn(&s, ARGUMENTS("chat", MODEL, "--no-think", "--logit-bias", never_end)));
    CHECK(expect_prompt(&s));
    type(&s, "half a li");
    CHECK(expect(&s, "half a li"));
    kill(s.pid, SIGUSR1);
    CHECK(expect(&s, "waiting for a message; 0 exchanges"));
    CHECK(expect(&s, "half a li"));
    type(&s, "ne\r");
    watch_grow(&s, 400);
    kill(s.pid, SIGUSR1);
    CHECK(expect(&s, " tokens written, "));
    type(&s, "\003");
    CHECK(expect(&s, "stopped"));
    CHECK(expect_prompt(&s));
    leave();
}

int main(void)
{
    if (!chat_tests_open("Ctrl-C and signals in a chat"))
        return check_finish();
    test_load();
    test_reading();
    test_behind_enter();
    test_stop_and_go();
    test_editor();
    test_question_of_tab();
    test_status();
    return chat_tests_close();
}
