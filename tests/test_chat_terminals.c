/* Chats on terminals that can do little, and where nothing can be written. */
#include "tests/chat_pty.h"

#define EMULATED_GPU "tests/tandem-gpu-emulated.so"

/* A short chat: thinking, an answer with Markdown, a map, lists. */
static bool short_chat(const char *const *with)
{
    environment = with;
    CHECK(spawn(&s, ARGUMENTS("chat", MODEL, "--temp", "0", "--think", "on", "--no-history", "--grammar",
                              write_file("list.gbnf", "root ::= \"# Title\\n\\n- one\\n- two\\n\\n"
                                                      "| a | b |\\n|---|---|\\n| 1 | 2 |\\n\"\n"))));
    environment = NULL;
    if (!CHECK(expect(&s, "/help") && expect_prompt(&s)))
        return false;
    say("What is 12 + 7?\r", "tok/s");
    say("/heat\r", "Evenness");
    say("/sessions\r", "12 + 7");
    say("/help\r", "a slash.");
    leave();
    return !s.lost;
}

static void test_dumb(void)
{
    static const char *const kinds[] = { "TERM=dumb", "TERM" };
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        check_case(i ? "without TERM nothing is drawn over" : "TERM=dumb: nothing is drawn over");
        if (!short_chat((const char *const[]){ kinds[i], NULL }))
            continue;
        CHECK_MSG(!memchr(s.text, '\033', s.len), "a sequence in\n%.*s", (int)s.len, s.text);
        CHECK(memmem(s.text, s.len, "# Title\r\n\r\n- one", 16)); /* as the model wrote it */
        CHECK(memmem(s.text, s.len, "so 19", 5));                 /* the thinking, as it came */
    }
}

static void test_ascii(void)
{
    static const char *const sets[] = { "LC_ALL=C", "LC_CTYPE=POSIX", "LANG=de_DE.ISO-8859-1" };
    for (size_t i = 0; i < ARRAY_LEN(sets); i++) {
        check_case("%s: nothing but ASCII is drawn", sets[i]);
        if (!short_chat((const char *const[]){ sets[i], NULL }))
            continue;
        size_t n = 0;
        for (size_t at = 0; at < s.len; at++)
            n += (unsigned char)s.text[at] >= 0x80;
        CHECK_MSG(n == 0, "%zu bytes of other characters in\n%.*s", n, (int)s.len, s.text);
        CHECK(expect_shown("\n* one\n") && expect_shown(" - context "));
    }
    check_case("a UTF-8 terminal by name, and where nothing is said, gets what we draw");
    if (short_chat((const char *const[]){ "LC_ALL=", "LANG=C.UTF-8", NULL }))
        CHECK(expect_shown("\n• one\n") && expect_shown(" · context "));
    if (short_chat(NULL))
        CHECK(expect_shown("\n• one\n") && expect_shown(" · context "));
}

static void test_unwritable(void)
{
    check_case("no folder for sessions: told once, with its name; the chat goes on");
    environment = (const char *const[]){ "XDG_STATE_HOME=/dev/null/state", NULL };
    CHECK(spawn(&s, ARGUMENTS("chat", MODEL, "--no-think", "-n", "4")));
    CHECK(expect(&s, "/help") && expect_prompt(&s));
    type(&s, "hi\r");
    CHECK(expect(&s, "/dev/null/state/tandem: Not a directory"));
    CHECK(expect(&s, "goes on unsaved"));
    CHECK(expect(&s, "tok/s") && expect_prompt(&s));
    size_t from = s.len;
    say("again\r", "tok/s");
    CHECK(!memmem(s.text + from, s.len - from, "unsaved", 7));
    say("/save fox\r", "Not a directory");
    say("/ctx\r", "2 exchanges");
    leave();
    CHECK(spawn(&s, ARGUMENTS("chat", MODEL, "--session", "fox")));
    CHECK(expect(&s, "Not a directory"));
    CHECK_INT(finish(&s), 1);
    CHECK(terminal_restored(&s));
    close(s.master);
    environment = NULL;
}

static void test_live(void)
{
    static char gpu[512], nvml[512];
    const char *build = getenv("B");
    const char *folder = build && *build ? build : "build";
    check_case("--live says what the answer is bound by");
    CHECK(spawn(&s, ARGUMENTS("chat", MODEL, "--no-think", "--live", "--logit-bias", never_end)));
    CHECK(expect_prompt(&s));
    type(&s, "hi\r");
    CHECK(expect(&s, " tok/s · "));
    double end = now_s() + patience(&s);
    bool said = false;
    while (!said && pump_until(&s, end))
        said = memmem(s.text, s.len, "most", 4) || memmem(s.text, s.len, "bound by", 8);
    CHECK(said);
    type(&s, "\003");
    CHECK(expect(&s, "stopped") && expect_prompt(&s));
    leave();

    check_case("--live tells how busy a GPU is, the status line whose energy was counted");
    snprintf(gpu, sizeof gpu, "TANDEM_GPU=%.400s/" EMULATED_GPU, folder);
    snprintf(nvml, sizeof nvml, "TANDEM_NVML=%.400s/" EMULATED_GPU, folder);
    if (access(gpu + strlen("TANDEM_GPU="), R_OK) != 0) {
        check_skip("there is no emulated GPU");
        return;
    }
    environment = (const char *const[]){ gpu, nvml, NULL };
    CHECK(spawn(&s, ARGUMENTS("chat", MODEL, "--no-think", "--live", "-n", "3", "-ngl", "all", "-c",
                              "256")));
    environment = NULL;
    CHECK(expect(&s, "/help") && expect_prompt(&s));
    type(&s, "hi\r");
    CHECK(expect(&s, "GPU busy 40 %"));
    CHECK(expect(&s, "J/token"));
    CHECK(expect_prompt(&s));
    leave();
}

int main(void)
{
    if (!chat_tests_open("chats on other terminals"))
        return check_finish();
    test_dumb();
    test_ascii();
    test_unwritable();
    test_live();
    return chat_tests_close();
}
