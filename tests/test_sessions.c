/* Sessions as users have them: chats that go on after the program ended, whatever ended it; tandem
 * sessions; run --prefix-cache. Answers are those of the demo model, without randomness. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "src/base/util.h"
#include "src/cli/json.h"
#include "src/engine/engine.h"
#include "src/text/chat.h"
#include "tests/check.h"

#define MODEL "models/demo.gguf"
#define PATIENCE_S 60
#define MOST_TEXT 65536

static char binary[512], home[512];

/* ---- running tandem --------------------------------------------------------------------------- */

/* A program with pipes for all it says. */
struct run {
    pid_t pid;
    int in, out, err;
    char said[MOST_TEXT], noted[MOST_TEXT];
    size_t n_said, n_noted;
};

static bool start(struct run *r, const char *const *arguments)
{
    const char *argv[32] = { binary };
    int n = 1, in[2], out[2], err[2];
    while (*arguments && n < 31)
        argv[n++] = *arguments++;
    memset(r, 0, sizeof *r);
    if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC))
        return false;
    r->pid = fork();
    if (r->pid == 0) {
        dup2(in[0], 0);
        dup2(out[1], 1);
        dup2(err[1], 2);
        execv(binary, (char *const *)argv);
        _exit(127);
    }
    close(in[0]);
    close(out[1]);
    close(err[1]);
    r->in = in[1];
    r->out = out[0];
    r->err = err[0];
    return r->pid > 0;
}

static void give(struct run *r, const char *text)
{
    size_t n = strlen(text);
    while (n > 0) {
        ssize_t done = write(r->in, text, n);
        if (done <= 0)
            return; /* it is gone: what it said tells */
        text += done;
        n -= (size_t)done;
    }
}

static bool take_from(int *fd, char *text, size_t *n)
{
    ssize_t got = read(*fd, text + *n, MOST_TEXT - 1 - *n);
    if (got <= 0) {
        close(*fd);
        *fd = -1;
        return false;
    }
    *n += (size_t)got;
    text[*n] = 0;
    return true;
}

/* Read what comes within the time, until `wanted` stands on stderr, or both ends are closed. */
static bool listen_until(struct run *r, const char *wanted, double seconds)
{
    double end = now_s() + seconds;
    while ((r->out >= 0 || r->err >= 0) && now_s() < end) {
        struct pollfd from[2] = { { .fd = r->out, .events = POLLIN },
                                  { .fd = r->err, .events = POLLIN } };
        int wait_ms = (int)((end - now_s()) * 1000) + 1;
        if (poll(from, 2, wait_ms) <= 0)
            continue;
        if (from[0].revents)
            take_from(&r->out, r->said, &r->n_said);
        if (from[1].revents)
            take_from(&r->err, r->noted, &r->n_noted);
        if (wanted && strstr(r->noted, wanted))
            return true;
    }
    return false;
}

/* Wait for its end: the exit code, 1000 + signal, -1 when it had to be killed. */
static int finish(struct run *r)
{
    int status = 0;
    bool late = false;
    if (r->in >= 0)
        close(r->in);
    listen_until(r, NULL, PATIENCE_S);
    for (double end = now_s() + PATIENCE_S; waitpid(r->pid, &status, WNOHANG) == 0;) {
        late = late || now_s() > end;
        if (late)
            kill(r->pid, SIGKILL);
        usleep(1000);
    }
    if (r->out >= 0)
        close(r->out);
    if (r->err >= 0)
        close(r->err);
    return late ? -1 : WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

#define ARGUMENTS(...) (const char *const[]){ __VA_ARGS__, NULL }

/* Start, say, wait. */
static int tandem(struct run *r, const char *input, const char *const *arguments)
{
    if (!CHECK(start(r, arguments)))
        return -1;
    give(r, input);
    return finish(r);
}

static int chat_with(struct run *r, const char *name, const char *input)
{
    return tandem(r, input, ARGUMENTS("chat", MODEL, "--session", name, "--temp", "0"));
}

static void forget_all(void)
{
    char command[600];
    snprintf(command, sizeof command, "rm -rf '%s/tandem'", home);
    CHECK(system(command) == 0);
}

static const char *file_of(const char *name, const char *file)
{
    static char path[700];
    snprintf(path, sizeof path, "%s/tandem/sessions/%s/%s", home, name, file);
    return path;
}

/* The session as JSON; the caller frees. */
static struct json *session_json(const char *name)
{
    static struct run r;
    struct error err = { 0 };
    CHECK_INT(tandem(&r, "", ARGUMENTS("sessions", "show", name, "--json")), 0);
    struct json *j = js_parse((struct str){ r.said, r.n_said }, &err);
    CHECK_MSG(j, "%s: %s", err.text, r.said);
    return j;
}

static struct str message(const struct json *session, size_t i)
{
    struct str text = { "", 0 };
    js_as_text(js_get(js_at(js_get(session, "messages"), i), "content"), &text);
    return text;
}

/* ---- going on --------------------------------------------------------------------------------- */

static const char *const talk[] = { "What is 3 + 4?\n", "Tell me a story about a fox.\n",
                                    "What is 12 + 30?\n", "Sort these numbers: 9, 17, 2\n" };

/* The figure behind `key` in the last line of /stats. */
static long stat_of(const struct run *r, const char *key)
{
    const char *at = r->noted, *last = NULL;
    while ((at = strstr(at, key)))
        last = at += strlen(key);
    return last ? strtol(last, NULL, 10) : -1;
}

static void test_going_on(void)
{
    static struct run whole, part;
    char input[1024] = "", said[MOST_TEXT] = "";
    long read_whole = 0;
    forget_all();
    check_case("one chat in four programs says what it says in one");
    for (size_t i = 0; i < ARRAY_LEN(talk); i++)
        strcat(input, talk[i]);
    strcat(input, "/stats\n");
    CHECK_INT(tandem(&whole, input, ARGUMENTS("chat", MODEL, "--temp", "0")), 0);
    read_whole = stat_of(&whole, "answer    read ");
    for (size_t i = 0; i < ARRAY_LEN(talk); i++) {
        snprintf(input, sizeof input, "%s/stats\n", talk[i]);
        CHECK_INT(chat_with(&part, "parts", input), 0);
        strcat(said, part.said);
    }
    CHECK_STR(said, whole.said);

    check_case("and computes no token more");
    CHECK(read_whole > 0);
    CHECK_INT(stat_of(&part, "answer    read "), read_whole);

    check_case("a chat through a pipe is kept only when it has a name");
    static struct run r;
    CHECK_INT(tandem(&r, "", ARGUMENTS("sessions", "list")), 0);
    CHECK(strstr(r.said, "parts") && !strchr(strchr(r.said, '\n') + 1, '\n'));

    check_case("--continue takes the latest, its model is the default");
    CHECK_INT(chat_with(&r, "newer", talk[0]), 0);
    CHECK_INT(tandem(&r, "/sessions\n", ARGUMENTS("chat", "--continue")), 0);
    CHECK_MSG(strstr(r.noted, "* newer"), "%s", r.noted);

    check_case("all is private");
    struct stat st;
    CHECK(stat(file_of("parts", ""), &st) == 0 && (st.st_mode & 0777) == 0700);
    static const char *const files[] = { "talk", "cache", "lock" };
    for (int i = 0; i < 3; i++)
        CHECK(stat(file_of("parts", files[i]), &st) == 0 && (st.st_mode & 0777) == 0600);

    check_case("without a cache, or with a damaged one, answers are the same");
    CHECK_INT(chat_with(&r, "parts", ""), 0);
    for (int way = 0; way < 3; way++) {
        forget_all();
        CHECK_INT(chat_with(&r, "again", talk[0]), 0);
        if (way == 0) {
            CHECK(unlink(file_of("again", "cache")) == 0);
        } else {
            int fd = open(file_of("again", "cache"), O_RDWR);
            CHECK(pwrite(fd, "junk", 4, way == 1 ? 2 : 1000) == 4);
            close(fd);
        }
        CHECK_INT(chat_with(&r, "again", talk[2]), 0);
        CHECK_STR(r.said, "42\n");
        CHECK((strstr(r.noted, "read again") != NULL) == (way > 0));
    }
}

static void test_refusals(void)
{
    static struct run r, other;
    forget_all();
    check_case("nothing to continue, options that contradict each other, names that are none");
    CHECK_INT(tandem(&r, "", ARGUMENTS("chat", MODEL, "--continue")), 3);
    CHECK_INT(tandem(&r, "", ARGUMENTS("chat", MODEL, "--continue", "--session", "a")), 2);
    CHECK_INT(tandem(&r, "", ARGUMENTS("chat", MODEL, "--no-save", "--session", "a")), 2);
    CHECK_INT(tandem(&r, "", ARGUMENTS("chat", MODEL, "--session", "../a")), 2);
    CHECK_INT(tandem(&r, "", ARGUMENTS("sessions", "show", "nothing")), 3);
    CHECK_INT(tandem(&r, "", ARGUMENTS("sessions", "lst")), 2);
    CHECK(strstr(r.noted, "did you mean list?"));
    CHECK_INT(tandem(&r, "", ARGUMENTS("sessions", "rm")), 2);
    for (int i = 0; i < 3; i++) {
        const char *const names[] = { "gone-1", "gone-2", "gone-3" };
        CHECK_INT(tandem(&r, "hi\n", ARGUMENTS("chat", "--session", names[i], "--no-think", "-n", "2")), 0);
    }
    CHECK_INT(tandem(&r, "", ARGUMENTS("sessions", "rm", "gone-1", "gone-2", "gone-3")), 0);
    CHECK_INT(tandem(&r, "", ARGUMENTS("sessions", "show", "gone-3")), 3);

    check_case("a session that is open is refused by name and process");
    if (!CHECK(start(&r, ARGUMENTS("chat", MODEL, "--session", "busy", "--temp", "0"))))
        return;
    give(&r, "What is 3 + 4?\n/branches\n");
    CHECK(listen_until(&r, "* main", PATIENCE_S));
    char wanted[64];
    snprintf(wanted, sizeof wanted, "process %ld", (long)r.pid);
    CHECK_INT(chat_with(&other, "busy", ""), 2);
    CHECK_MSG(strstr(other.noted, wanted), "%s", other.noted);
    CHECK_INT(tandem(&other, "", ARGUMENTS("sessions", "rm", "busy")), 2);
    CHECK_INT(tandem(&other, "", ARGUMENTS("sessions", "show", "busy")), 0);
    CHECK(strstr(other.said, "What is 3 + 4?"));
    CHECK_INT(finish(&r), 0);

    check_case("shown, exported, removed");
    char path[700];
    snprintf(path, sizeof path, "%s/busy.md", home);
    CHECK_INT(tandem(&r, "", ARGUMENTS("sessions", "export", "bu", "-o", path)), 0);
    CHECK_INT(tandem(&r, "", ARGUMENTS("sessions", "export", "bu", "-o", path)), 2);
    CHECK_INT(tandem(&r, "", ARGUMENTS("sessions", "rm", "bu")), 0);
    CHECK_INT(tandem(&r, "", ARGUMENTS("sessions", "list")), 0);
    CHECK_INT(r.n_said, 0);
    unlink(path);

    check_case("an empty chat leaves no session");
    CHECK_INT(chat_with(&r, "empty", ""), 0);
    CHECK(access(file_of("empty", ""), F_OK) != 0);
}

static void test_tree(void)
{
    static struct run r;
    forget_all();
    check_case("/branch, /undo, /retry and /trim, as the next program finds them");
    CHECK_INT(chat_with(&r, "tree", "What is 3 + 4?\nWhat is 12 + 30?\n/branch side\n/undo\n"
                                    "What is 5 + 6?\n/branch main\n/retry 2\n/branch main\n"), 0);
    struct json *j = session_json("tree");
    CHECK_INT(js_count(js_get(j, "branches")), 4);
    CHECK_INT(js_count(js_get(j, "messages")), 4);
    CHECK(str_is(message(j, 0), "What is 3 + 4?") && str_is(message(j, 1), "7"));
    CHECK(str_is(message(j, 2), "What is 12 + 30?") && str_is(message(j, 3), "42"));
    js_free(j);
    CHECK_INT(chat_with(&r, "tree", "/branch side\n/trim\nWhat is 2 + 2?\n"), 0);
    CHECK_STR(r.said, "4\n");
    j = session_json("tree");
    CHECK_INT(js_count(js_get(j, "messages")), 4);
    CHECK(str_is(message(j, 0), "What is 5 + 6?") && str_is(message(j, 1), "11"));
    js_free(j);

    check_case("settings come back");
    CHECK_INT(chat_with(&r, "tree", "/system Be kind.\n/think off\nWhat is 2 + 3?\n"), 0);
    CHECK_INT(chat_with(&r, "tree", "/system\n/think\n"), 0);
    CHECK_MSG(strstr(r.noted, "system prompt: Be kind.") && strstr(r.noted, "thinking is off"), "%s",
              r.noted);

    check_case("/save gives a name, /load changes over");
    CHECK_INT(tandem(&r, "What is 3 + 4?\n/save named\n/load tree\n/branches\n",
                     ARGUMENTS("chat", MODEL, "--temp", "0")), 0);
    CHECK_MSG(strstr(r.noted, "saved \"named\"") && strstr(r.noted, "* side"), "%s", r.noted);
    j = session_json("named");
    CHECK_INT(js_count(js_get(j, "messages")), 2);
    js_free(j);
    CHECK_INT(chat_with(&r, "named", "/save other\nWhat is 12 + 30?\n"), 0);
    CHECK(access(file_of("named", ""), F_OK) != 0);
    j = session_json("other");
    CHECK_INT(js_count(js_get(j, "messages")), 4);
    js_free(j);
}

static void test_run_session(void)
{
    static struct run r;
    forget_all();
    check_case("run --save-session begins a session that chat goes on with");
    CHECK_INT(tandem(&r, "", ARGUMENTS("run", MODEL, "-p", "What is 12 + 30?", "--temp", "0",
                                       "--save-session", "begun", "-sys", "Be brief.")), 0);
    CHECK_STR(r.said, "42\n");
    CHECK_INT(chat_with(&r, "begun", "/system\nWhat is 3 + 4?\n/stats\n"), 0);
    CHECK_STR(r.said, "7\n");
    CHECK(strstr(r.noted, "Be brief."));
    CHECK_MSG(strstr(r.noted, "were in the cache") && !strstr(r.noted, "(0 were"), "%s", r.noted);
    CHECK_INT(tandem(&r, "", ARGUMENTS("run", MODEL, "-p", "x", "--save-session", "begun")), 2);
    CHECK_INT(tandem(&r, "", ARGUMENTS("run", MODEL, "-p", "x", "--raw", "--save-session", "z")), 2);
    CHECK_INT(tandem(&r, "", ARGUMENTS("run", "missing.gguf", "-p", "x", "--save-session", "z")), 3);
    CHECK_INT(tandem(&r, "", ARGUMENTS("run", MODEL, "-p", "x", "--template", "no-such-format",
                                       "--save-session", "z")), 2);
    CHECK(access(file_of("z", ""), F_OK) != 0);
}

/* ---- killed ----------------------------------------------------------------------------------- */

/* The messages of a session as text, so that later ones can be compared. */
static size_t transcript(const char *name, char *text, size_t *n_messages)
{
    struct json *j = access(file_of(name, "talk"), F_OK) == 0 ? session_json(name) : NULL;
    size_t n = 0;
    *n_messages = j ? js_count(js_get(j, "messages")) : 0;
    for (size_t i = 0; i < *n_messages; i++) {
        struct str m = message(j, i);
        memcpy(text + n, m.data, m.len);
        n += m.len;
        text[n++] = '\n';
    }
    text[n] = 0;
    if (j)
        js_free(j);
    return n;
}

static size_t count_lines(const char *text)
{
    size_t n = 0;
    while ((text = strchr(text, '\n')))
        n++, text++;
    return n;
}

static void kill_rounds(const char *name, int signal, int rounds)
{
    static struct run r;
    static char before[MOST_TEXT], after[MOST_TEXT];
    size_t n_before = 0, n_after, length = 0, killed = 0;
    char input[1024] = "";
    for (int i = 0; i < 3; i++)
        for (size_t k = 0; k < ARRAY_LEN(talk); k++)
            strcat(input, talk[k]);
    before[0] = 0;
    for (int i = 0; i < rounds || (killed * 2 < (size_t)rounds && i < 10 * rounds); i++) {
        if (!CHECK(start(&r, ARGUMENTS("chat", MODEL, "--session", name, "--temp", "0", "-c",
                                       "2048"))))
            return;
        give(&r, input);
        listen_until(&r, NULL, 1e-3 * (double)(check_random() % 300));
        kill(r.pid, signal);
        int code = finish(&r);
        killed += code != 0;
        bool early = r.n_said == 0 && r.n_noted == 0; /* before it listens to signals */
        CHECK_MSG(code == 0 || (signal != SIGKILL && code == 128 + signal) ||
                      (code == 1000 + signal && (signal == SIGKILL || early)),
                  "code %d: %s", code, r.noted);
        CHECK_MSG(!strstr(r.noted, "damaged"), "%s", r.noted);
        transcript(name, after, &n_after);
        /* All that was there still is, and what was answered since, the last answer left out. */
        CHECK(n_after >= n_before && strncmp(after, before, length) == 0);
        size_t shown = count_lines(r.said);
        CHECK_MSG(n_after / 2 + 1 >= n_before / 2 + shown, "%zu messages after %zu and %zu answers",
                  n_after, n_before, shown);
        CHECK_INT(n_after % 2, 0);
        if (n_after > 60) { /* the context fills up */
            forget_all();
            n_after = 0;
            after[0] = 0;
        }
        length = strlen(after);
        memcpy(before, after, length + 1);
        n_before = n_after;
    }
    CHECK_MSG(killed * 2 >= (size_t)rounds, "only %zu of %d were hit", killed, rounds);

    /* What is kept is right: the next answer is that of a program that reads all anew. */
    static struct run cached;
    CHECK_INT(chat_with(&cached, name, "What is 5 + 6?\n/undo\n"), 0);
    unlink(file_of(name, "cache"));
    CHECK_INT(chat_with(&r, name, "What is 5 + 6?\n"), 0);
    CHECK_STR(cached.said, r.said);
}

static void test_killed(void)
{
    int rounds = getenv("TANDEM_TEST_LONG") ? 50 : 10;
    forget_all();
    check_case("kill -9 at %d moments: nothing is lost but the running answer", rounds);
    kill_rounds("killed", SIGKILL, rounds);
    check_case("SIGTERM and SIGHUP likewise");
    kill_rounds("ended", SIGTERM, rounds / 5 + 2);
    kill_rounds("hung-up", SIGHUP, rounds / 5 + 2);
}

static void test_partial(void)
{
    static struct run r;
    forget_all();
    check_case("SIGTERM in the middle of an answer keeps what there is of it");
    if (!CHECK(start(&r, ARGUMENTS("chat", MODEL, "--session", "partial", "--temp", "0",
                                   "--no-think", "--logit-bias", "2-100", "-c", "8192"))))
        return;
    give(&r, "Tell me a story about a fox.\n");
    while (r.n_said < 20 && r.out >= 0)
        listen_until(&r, NULL, 0.01);
    kill(r.pid, SIGTERM);
    int code = finish(&r);
    CHECK_INT(code, 143);
    struct json *j = session_json("partial");
    if (CHECK(js_count(js_get(j, "messages")) == 2)) {
        struct str text = message(j, 1);
        CHECK(text.len >= 15);
    }
    js_free(j);
}

/* ---- prefixes --------------------------------------------------------------------------------- */

static int64_t field(const struct run *r, const char *key)
{
    int64_t value = -1;
    struct json *j = js_parse((struct str){ r->said, r->n_said }, NULL);
    js_as_int(js_get(j, key), &value);
    if (j)
        js_free(j);
    return value;
}

static void test_prefix_cache(void)
{
    static struct run r, plain;
    char path[700], folder[700], prompt[2000] = "", text[2100];
    snprintf(path, sizeof path, "%s/prompts", home);
    snprintf(folder, sizeof folder, "%s/folder", home);
    for (int i = 0; i < 12; i++)
        strcat(prompt, "The fox has 3 apples and the bear has 4 pears. ");
    snprintf(text, sizeof text, "%sWhat is 3 + 4?", prompt);
#define RUN(P, FILE) ARGUMENTS("run", MODEL, "-p", P, "--temp", "0", "-n", "30", "--json", \
                               "--prefix-cache", FILE)
    check_case("the second run reads one token, and says the same");
    CHECK_INT(tandem(&plain, "", ARGUMENTS("run", MODEL, "-p", text, "--temp", "0", "-n", "30",
                                           "--json")), 0);
    int64_t n = field(&plain, "prompt_tokens");
    CHECK_INT(field(&plain, "cached_tokens"), 0);
    CHECK_INT(tandem(&r, "", RUN(text, path)), 0);
    CHECK_INT(field(&r, "cached_tokens"), 0);
    CHECK_INT(tandem(&r, "", RUN(text, path)), 0);
    CHECK_INT(field(&r, "cached_tokens"), n - 1);
    CHECK_INT(field(&r, "completion_tokens"), field(&plain, "completion_tokens"));

    check_case("another prompt that begins alike reads the difference");
    snprintf(text, sizeof text, "%sSort these words: pear, apple", prompt);
    CHECK_INT(tandem(&r, "", RUN(text, path)), 0);
    CHECK_MSG(field(&r, "cached_tokens") > field(&r, "prompt_tokens") - 40, "%s", r.said);
    CHECK_INT(tandem(&r, "", RUN(text, path)), 0);
    CHECK_INT(field(&r, "cached_tokens"), field(&r, "prompt_tokens") - 1);

    check_case("in a folder each model and type of cache has its own");
    CHECK(mkdir(folder, 0700) == 0);
    for (int i = 0; i < 2; i++) {
        CHECK_INT(tandem(&r, "", RUN(text, folder)), 0);
        CHECK_INT(field(&r, "cached_tokens"), i ? field(&r, "prompt_tokens") - 1 : 0);
    }
    CHECK_INT(tandem(&r, "", ARGUMENTS("run", MODEL, "-p", text, "--temp", "0", "-n", "3", "--json",
                                       "--prefix-cache", folder, "--cache-type", "f32")), 0);
    CHECK_INT(field(&r, "cached_tokens"), 0);

    check_case("a file of something else is refused, untouched");
    CHECK_INT(tandem(&r, "", ARGUMENTS("run", MODEL, "-p", "x", "-n", "1", "--prefix-cache", path,
                                       "--cache-type", "f32")), 3);
    CHECK_MSG(strstr(r.noted, "another model"), "%s", r.noted);
    CHECK_INT(tandem(&r, "", RUN("x", MODEL)), 3);
    CHECK_INT(tandem(&r, "", RUN(text, path)), 0);
    CHECK_INT(field(&r, "cached_tokens"), field(&r, "prompt_tokens") - 1);
    CHECK_INT(tandem(&r, "", RUN("x", "/nowhere/at/all")), 1);
    snprintf(text, sizeof text, "rm -rf '%s' '%s'", path, folder);
    CHECK(system(text) == 0);
#undef RUN
}

/* ---- thinking that is left out ---------------------------------------------------------------- */

static bool count_batches(void *ctx, int64_t done, int64_t total)
{
    (void)done, (void)total;
    ++*(int64_t *)ctx;
    return true;
}

static void test_stripped_thinking(void)
{
    struct error err = { 0 };
    struct engine *e = NULL;
    struct session *s = NULL;
    struct tokenizer *t = NULL;
    struct engine_options eo = { .n_threads = 1, .n_batch = 1 };
    struct session_options so = { .n_ctx = 512 };
    check_case("where the template leaves out thinking, nothing before it is computed again");
    if (!CHECK_MSG(engine_open(&e, MODEL, &eo, &err) && session_open(&s, e, &so, &err) &&
                       tokenizer_open(&t, &engine_model(e)->gguf, &err), "%s", err.text)) {
        session_close(s);
        engine_close(e);
        return;
    }
    const char *why;
    const struct chat_format *f = chat_format_detect(&engine_model(e)->gguf, &why);
    struct chat_message m[3] = {
        { .role = ROLE_USER, .content = str_of("What is 12 + 30?") },
        { .role = ROLE_ASSISTANT, .content = str_of("42") }, /* as it is stored */
        { .role = ROLE_USER, .content = str_of("And 3 + 4?") },
    };
    struct tokens first = { 0 }, second = { 0 }, answer = { 0 };
    CHECK(chat_render(f, t, m, 1, THINK_ON, &first, NULL, NULL, &err) &&
          chat_render(f, t, m, 3, THINK_ON, &second, NULL, NULL, &err) &&
          tokenizer_encode(t, str_of("ones 2+0=2, tens 1+3=4</think>42"), true, &answer, &err));
    CHECK(session_prefill(s, first.ids, (int64_t)first.n, NULL, NULL, &err));
    for (size_t i = 0; i < answer.n; i++)
        CHECK(session_decode(s, answer.ids[i], &err));
    int64_t common = 0, n_computed = 0, n = (int64_t)second.n;
    while (common < n && session_tokens(s)[common] == second.ids[common])
        common++;
    CHECK_MSG(common >= (int64_t)first.n - 1, "%lld of %zu tokens of the first prompt",
              (long long)common, first.n);
    CHECK(session_prefill(s, second.ids, n, count_batches, &n_computed, &err));
    CHECK_INT(n_computed, n - common);
    tokens_release(&first);
    tokens_release(&second);
    tokens_release(&answer);
    tokenizer_close(t);
    session_close(s);
    engine_close(e);
}

int main(void)
{
    const char *b = getenv("B");
    char *whole = NULL;
    if (!js_available(NULL)) {
        check_case("sessions");
        check_skip("this build, made without libraries, cannot read the demo model's text");
        return check_finish();
    }
    signal(SIGPIPE, SIG_IGN);
    snprintf(binary, sizeof binary, "%s/tandem", b ? b : "build");
    snprintf(home, sizeof home, "%s/tests/sessions.%d", b ? b : "build", (int)getpid());
    check_case("a home");
    if (!CHECK(mkdir(home, 0700) == 0 && (whole = realpath(home, NULL))))
        return check_finish();
    snprintf(home, sizeof home, "%s", whole);
    free(whole);
    setenv("XDG_STATE_HOME", home, 1);
    setenv("XDG_CONFIG_HOME", home, 1);
    setenv("TANDEM_GPU", "none", 1);
    test_going_on();
    test_refusals();
    test_tree();
    test_run_session();
    test_partial();
    test_killed();
    test_prefix_cache();
    test_stripped_thinking();
    char command[600];
    snprintf(command, sizeof command, "rm -rf '%s'", home);
    CHECK(system(command) == 0);
    return check_finish();
}
