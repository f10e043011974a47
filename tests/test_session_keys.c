/* Sessions in a real pseudo-terminal: every chat is one, what Tab offers, the editor, the ways back. */
#include "src/cli/json.h"
#include "tests/pty.h"

static struct pty s;

static const char *write_script(const char *name, const char *text)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", home, name);
    FILE *f = fopen(path, "w");
    CHECK(f && fputs(text, f) >= 0 && fclose(f) == 0 && chmod(path, 0700) == 0);
    return path;
}

static void say(const char *keys, const char *wanted)
{
    type(&s, keys);
    CHECK(expect(&s, wanted));
    CHECK(expect_prompt(&s));
}

static void leave(const char *wanted)
{
    type(&s, "\004");
    CHECK(expect(&s, wanted));
    CHECK_INT(finish(&s), 0);
    CHECK(terminal_restored(&s));
    close(s.master);
}

static bool begin(const char *option, const char *value, const char *greeting)
{
    if (!CHECK(spawn(&s, ARGUMENTS("chat", MODEL, "--temp", "0", "--no-think", "--markdown", "off",
                                   option, value))))
        return false;
    return CHECK(expect(&s, greeting)) && CHECK(expect_prompt(&s));
}

static void test_automatic(void)
{
    check_case("a chat on a terminal is a session, named by date");
    if (!begin(NULL, NULL, "/help"))
        return;
    say("What is 3 + 4?\r", "7");
    leave("saved \"20");
    CHECK(!memmem(s.text, s.len, "\n\r\nsaved", 8)); /* Ctrl-D ends its line once */

    check_case("--continue goes on with it and says so");
    if (!begin("--continue", NULL, "resumed \"20"))
        return;
    say("/ctx\r", "1 exchange");
    say("/save fox\r", "saved \"fox\", which was \"20");
    say("/sessions\r", "* fox");
    leave("saved \"fox\"");

    check_case("--no-save leaves nothing");
    if (!begin("--no-save", NULL, "context"))
        return;
    say("What is 3 + 4?\r", "7");
    say("/save\r", "not saved");
    type(&s, "\004");
    CHECK_INT(finish(&s), 0);
    CHECK(!memmem(s.text, s.len, "saved \"", 7));
    close(s.master);
}

static void test_ways_back(void)
{
    check_case("/edit asks what the editor made of the last question");
    if (!begin("--session", "fox", "resumed \"fox\""))
        return;
    say("/edit\r", "11");
    say("/ctx\r", "1 exchange");

    check_case("/branch with Tab, /retry, /undo");
    say("/branch side\r", "a new branch \"side\" begins here; /branch main goes back");
    say("What is 3 + 4?\r", "7");
    say("/retry\r", "7");
    say("/branch m\t\r", "branch \"main\": 1 exchange");
    say("/branches\r", "side");
    say("/undo\r", "0 tokens kept");

    check_case("/load with Tab changes over and back");
    say("/save\r", "saved \"fox\"");
    leave("saved \"fox\"");
    if (!begin("--session", "other", "/help"))
        return;
    say("What is 2 + 2?\r", "4");
    say("/load f\t\r", "resumed \"fox\"");
    say("/branch side\r", "2 exchanges");
    say("/load nothing\r", "there is no session \"nothing\"");
    leave("saved \"fox\"");

    check_case("a second chat on an open session is refused");
    static struct pty first;
    if (!begin("--session", "fox", "resumed"))
        return;
    first = s;
    CHECK(spawn(&s, ARGUMENTS("chat", MODEL, "--session", "fox")));
    CHECK(expect(&s, "is open in another tandem"));
    CHECK_INT(finish(&s), 2);
    CHECK(terminal_restored(&s));
    close(s.master);
    s = first;
    leave("saved \"fox\"");
}

int main(void)
{
    const char *build = getenv("B");
    static char visual[160], command[128];
    snprintf(binary, sizeof binary, "%s/tandem", build && *build ? build : "build");
    snprintf(home, sizeof home, "/tmp/tandem-test-XXXXXX");
    if (access(MODEL, R_OK) != 0 || access(binary, X_OK) != 0 || !js_available(NULL)) {
        check_case("sessions in a terminal");
        check_skip("%s, %s or the libraries for text are not there", MODEL, binary);
        return check_finish();
    }
    check_case("a home");
    if (!CHECK(mkdtemp(home)))
        return check_finish();
    snprintf(visual, sizeof visual, "VISUAL=%s",
             write_script("editor", "#!/bin/sh\nprintf 'What is 5 + 6?\\n' >\"$1\"\n"));
    environment = (const char *const[]){ visual, "TANDEM_GPU=none", NULL };
    test_automatic();
    test_ways_back();
    snprintf(command, sizeof command, "rm -rf %s", home);
    CHECK(system(command) == 0);
    return check_finish();
}
