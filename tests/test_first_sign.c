/* Whoever waits sees something: each command that may take long shows a word on the terminal before
 * its work is done, on jobs that end only when they are stopped, and Ctrl-C stops them. Counted, not
 * timed: the word must come while the job is still running. */
#include "tests/pty.h"

#include <sys/stat.h>

static char work[64];
static struct pty s;

static const char *in_work(const char *name)
{
    static char ring[4][128];
    static int next;
    char *path = ring[next++ % 4];
    snprintf(path, sizeof ring[0], "%s/%s", work, name);
    return path;
}

/* `word` appears, the job goes on, Ctrl-C ends it with 130 and gives the terminal back. Should this
 * test have been given no time until the job had ended, it looks again. */
static void check_sign(const char *what, const char *const *arguments, const char *word)
{
    bool ended = true;
    check_case("%s: \"%s\" before the work is done", what, word);
    for (int i = 0; ended && i < 5; i++) {
        if (!CHECK(spawn(&s, arguments)) || !CHECK(expect(&s, word))) {
            kill(s.pid, SIGKILL);
            finish(&s);
            return;
        }
        type(&s, "\3");
        int code = finish(&s);
        ended = code == 0;
        CHECK_MSG(ended || code == 130, "code %d", code);
        CHECK(terminal_restored(&s));
        close(s.master);
    }
    CHECK_MSG(!ended, "the job was too small: it has ended");
}

/* Short jobs draw their word first of all, too: nothing stands before it. */
static void check_first(const char *what, const char *const *arguments, const char *word)
{
    check_case("%s begins with \"%s\"", what, word);
    if (!CHECK(spawn(&s, arguments)))
        return;
    int code = finish(&s);
    CHECK_MSG(code == 0, "code %d: %.*s", code, (int)s.len, s.text);
    size_t at = strspn(s.text, "\r\033[K");
    CHECK_MSG(strncmp(s.text + at, word, strlen(word)) == 0, "it begins with \"%.60s\"", s.text + at);
    close(s.master);
}

/* A model of some GB, all of it holes: seconds of work that takes no room. */
static bool write_large(void)
{
    char line[300];
    const char *b = getenv("B");
    snprintf(line, sizeof line, "%s/tiny %s --like v2-lite --layers 5 --type q8_0 --sparse >/dev/null",
             b ? b : "build", in_work("large.gguf"));
    CHECK_INT(system(line), 0);
    return access(in_work("large.gguf"), R_OK) == 0;
}

static void check_large(void)
{
    const char *large = in_work("large.gguf");
    check_sign("run", ARGUMENTS("run", large, "-p", "hi", "--load", "mmap", "--raw"), "loading");
    check_sign("chat", ARGUMENTS("chat", large, "-p", "hi", "--load", "mmap"), "loading");
    check_sign("eval", ARGUMENTS("eval", large, "--ppl", "LICENSE", "--load", "mmap"), "loading");
    check_sign("bench", ARGUMENTS("bench", large, "--load", "mmap", "--limits", "kept"), "loading");
    check_sign("inspect --verify", ARGUMENTS("inspect", large, "--verify"), "verifying");
    check_sign("inspect --hash", ARGUMENTS("inspect", large, "--hash"), "hashing");
    check_sign("inspect --diff", ARGUMENTS("inspect", large, "--diff", in_work("other.gguf")),
               "comparing");
}

int main(void)
{
    const char *b = getenv("B");
    snprintf(binary, sizeof binary, "%s/tandem", b ? b : "build");
    snprintf(work, sizeof work, "/tmp/tandem-sign-XXXXXX");
    if (!mkdtemp(work)) {
        perror(work);
        return 1;
    }
    snprintf(home, sizeof home, "%s", work);
    setenv("TANDEM_GPU", "none", 1);
    setenv("XDG_CACHE_HOME", work, 1);
    check_case("a pipe that nobody writes into");
    CHECK(mkfifo(in_work("pipe"), 0600) == 0);
    if (access(MODEL, R_OK) != 0) {
        check_skip("%s is not there", MODEL);
    } else {
        check_sign("run -f", ARGUMENTS("run", MODEL, "-f", in_work("pipe")), "waiting for");
        check_sign("run --batch", ARGUMENTS("run", MODEL, "--batch", in_work("pipe")), "waiting for");
        check_sign("run, a long prompt", ARGUMENTS("run", MODEL, "-f", "README.md", "-c", "100000",
                                                   "-b", "1", "--cpu-isa", "ref"), "reading");
        check_first("plan", ARGUMENTS("plan", MODEL), "measuring");
        check_sign("bench --probe", ARGUMENTS("bench", "--probe"), "measuring");
        check_first("quantize", ARGUMENTS("quantize", MODEL, in_work("q.gguf"), "q8_0",
                                          "--allow-requantize"), "tandem: warning");
        if (write_large()) {
            char line[300];
            snprintf(line, sizeof line, "cp --sparse=always %s %s", in_work("large.gguf"),
                     in_work("other.gguf"));
            CHECK_INT(system(line), 0);
            check_large();
        }
    }
    char line[200];
    snprintf(line, sizeof line, "rm -rf %s", work);
    CHECK_INT(system(line), 0);
    return check_finish();
}
