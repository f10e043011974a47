/* /ctx N: a context that changes its size while the chat goes on. The answers behind it are those of
 * a chat that began with that size, and nothing is read again. */
#include <dirent.h>

#include "tests/chat_pty.h"

#define EMULATED_GPU "tests/tandem-gpu-emulated.so"
#define FIRST "What is 1 + 1?\r"
#define SECOND "And 2 + 3?\r"

static char temporary[96], temporary_variable[128];

/* What stands behind `from` up to `to`, from where nothing was expected yet. */
static void take(char *text, size_t size, const char *from, const char *to)
{
    *text = 0;
    if (!CHECK(expect(&s, from)))
        return;
    size_t start = s.seen;
    if (CHECK(expect(&s, to)))
        snprintf(text, size, "%.*s", (int)(s.seen - start - strlen(to)), s.text + start);
}

/* The second answer, as /copy sends it, and how many tokens were read for it. */
struct outcome {
    char answer[1024], n_read[32], n_cached[32];
};

static void ask_second(struct outcome *o)
{
    say(SECOND, "tok/s");
    type(&s, "/copy\r");
    take(o->answer, sizeof o->answer, "\033]52;c;", "\a");
    CHECK(expect_prompt(&s));
    type(&s, "/stats\r");
    take(o->n_read, sizeof o->n_read, "read ", " tokens");
    take(o->n_cached, sizeof o->n_cached, "tok/s (", " were");
    CHECK(expect_prompt(&s));
}

static bool begin(const char *const *more)
{
    const char *arguments[24] = { "chat", MODEL, "--no-think", "--temp", "0", "-n", "12",
                                  "--no-history", "--logit-bias", never_end };
    for (int n = 10; *more && n < 23; n++)
        arguments[n] = *more++;
    return CHECK(spawn(&s, arguments)) && CHECK(expect(&s, "/help")) && CHECK(expect_prompt(&s));
}

/* One chat: a question, maybe another size (then `told` shows), another question. */
static void chat_with(const char *const *arguments, const char *resize, const char *told,
                      struct outcome *o)
{
    *o = (struct outcome){ 0 };
    if (!begin(arguments))
        return;
    say(FIRST, "tok/s");
    if (resize)
        say(resize, told);
    ask_second(o);
    leave();
}

static void check_same(const struct outcome *a, const struct outcome *b)
{
    CHECK_MSG(*a->answer && strcmp(a->answer, b->answer) == 0, "\"%s\" and \"%s\"", a->answer,
              b->answer);
    CHECK_MSG(strcmp(a->n_read, b->n_read) == 0, "%s and %s tokens read", a->n_read, b->n_read);
    CHECK_MSG(strcmp(a->n_cached, b->n_cached) == 0, "%s and %s tokens in the cache", a->n_cached,
              b->n_cached);
    CHECK_MSG(atoi(a->n_cached) > 12, "%s", a->n_cached);
}

static void check_nothing_left(void)
{
    int n = 0;
    DIR *d = opendir(temporary);
    CHECK(d);
    while (d && readdir(d))
        n++;
    CHECK_INT(n, 2); /* . and .. */
    if (d)
        closedir(d);
}

static void test_grow(void)
{
    static const char grow[] = "/ctx 512\r", grown[] = "holds 512 tokens now, 64 before";
    struct outcome wanted, got;
    check_case("a chat that grew answers as one that began so, and reads nothing again");
    chat_with(ARGUMENTS("-c", "512"), NULL, NULL, &wanted);
    chat_with(ARGUMENTS("-c", "64"), grow, grown, &got);
    check_same(&wanted, &got);
    check_case("likewise where nothing is saved, and no file stays behind");
    chat_with(ARGUMENTS("-c", "64", "--no-save"), grow, grown, &got);
    check_same(&wanted, &got);
    check_nothing_left();
    check_case("likewise with guesses, a smaller size, and the size it has");
    chat_with(ARGUMENTS("-c", "64", "--draft", "2"), grow, grown, &got);
    check_same(&wanted, &got);
    chat_with(ARGUMENTS("-c", "2048"), "/ctx 512\r", "holds 512 tokens now, 2048 before", &got);
    check_same(&wanted, &got);
    chat_with(ARGUMENTS("-c", "512"), grow, "holds 512 tokens", &got);
    check_same(&wanted, &got);
}

static void test_full(void)
{
    check_case("a full context names the size, and goes on with it");
    if (!begin(ARGUMENTS("-c", "64", "-n", "500")))
        return;
    say(FIRST, "/ctx 128 ");
    say("/ctx\r", "of 64 tokens");
    say("/ctx 30\r", "an answer needs room too");
    say("/ctx \t\r", "holds 128 tokens now, 64 before; 64 that were computed are kept");
    say("/plan\r", "cache for 128 tokens");
    say(SECOND, "context of 128 tokens is full");
    leave();

    check_case("a message that is too long names the size that holds it");
    char message[700] = "";
    for (int i = 0; i < 40; i++)
        snprintf(message + strlen(message), sizeof message - strlen(message), "%d + 1 = ", i);
    if (!begin(ARGUMENTS("-c", "64")))
        return;
    say(FIRST, "tok/s");
    type(&s, message);
    type(&s, "\r");
    char size[32];
    take(size, sizeof size, "\n/ctx ", " makes the context larger");
    CHECK_MSG(atoi(size) >= 256 && atoi(size) <= 1024, "%s", size);
    CHECK(expect_prompt(&s));
    leave();
}

static void test_refused(void)
{
    check_case("what does not fit is refused before anything is closed");
    if (!begin(ARGUMENTS("-c", "64", "--ram", "1G")))
        return;
    struct outcome got, wanted;
    say(FIRST, "tok/s");
    say("/ctx 4000000\r", "the context stays at 64 tokens: does not fit");
    say("/ctx\r", "of 64 tokens");
    ask_second(&got);
    leave();
    chat_with(ARGUMENTS("-c", "64"), NULL, NULL, &wanted);
    check_same(&wanted, &got);
}

static void test_interrupted(void)
{
    check_case("Ctrl-C meanwhile: one size or the other, and nothing is lost");
    struct outcome wanted, got;
    chat_with(ARGUMENTS("-c", "512"), NULL, NULL, &wanted);
    if (!begin(ARGUMENTS("-c", "256")))
        return;
    say(FIRST, "tok/s");
    for (int i = 0; i < 4; i++) {
        char line[32];
        snprintf(line, sizeof line, "/ctx %d\r", 300 + i);
        type(&s, line);
        CHECK(expect(&s, "keeping") || expect(&s, "holds"));
        usleep((useconds_t)(i * 700));
        kill(s.pid, SIGINT);
        CHECK(expect_prompt(&s));
        pump(&s, 0.3); /* a Ctrl-C at the prompt draws another one */
        s.seen = s.len;
        say("/ctx\r", "1 exchange");
    }
    ask_second(&got);
    leave();
    check_same(&wanted, &got);
}

/* Per cent of the experts that the plan has copies of in so many KiB of VRAM; 0: none. */
static double planned_share(const char *gpu, int vram_kib, const char *n_ctx)
{
    char command[2048], text[8192];
    snprintf(command, sizeof command, "HOME='%s' env '%s' '%s' plan " MODEL " --draft off -b 16 "
             "--vram %dK -c %s 2>/dev/null", home, gpu, binary, vram_kib, n_ctx);
    FILE *f = popen(command, "r");
    if (!CHECK(f))
        return 0;
    text[fread(text, 1, sizeof text - 1, f)] = 0;
    pclose(f);
    const char *row = strstr(text, "expert cache ");
    return row ? strtod(row + strlen("expert cache "), NULL) : 0;
}

static void test_gpu(void)
{
    char gpu[1024], folder[512], vram[32], *slash;
    check_case("with a GPU copies of experts make room, and come back");
    snprintf(folder, sizeof folder, "%s", binary);
    slash = strrchr(folder, '/');
    CHECK(slash);
    *slash = 0;
    snprintf(gpu, sizeof gpu, "TANDEM_GPU=%.400s/" EMULATED_GPU, folder);
    if (access(gpu + strlen("TANDEM_GPU="), R_OK) != 0) {
        check_skip("there is no emulated GPU");
        return;
    }
    int kib = 467000;
    double small = 0, large = 0;
    for (; kib < 474000 && !(large > 0 && large < small); kib += 500) {
        small = planned_share(gpu, kib, "64");
        large = small > 0 ? planned_share(gpu, kib, "512") : 0;
    }
    if (!CHECK_MSG(large > 0 && large < small, "no such VRAM"))
        return;
    snprintf(vram, sizeof vram, "%dK", kib - 500);
    struct outcome wanted, got = { 0 };
    environment = (const char *const[]){ gpu, temporary_variable, NULL };
    const char *const *chat = ARGUMENTS("-c", "64", "--vram", vram, "-b", "16", "--draft", "off");
    chat_with(chat, NULL, NULL, &wanted);
    if (!begin(chat))
        return;
    say(FIRST, "tok/s");
    say("/ctx 512\r", "copies of experts on the GPU, per layer: ");
    say("/ctx 64\r", "copies of experts on the GPU, per layer: ");
    ask_second(&got);
    leave();
    check_same(&wanted, &got);
}

int main(void)
{
    if (!chat_tests_open("the size of the context"))
        return check_finish();
    snprintf(temporary, sizeof temporary, "%s/temporary", home);
    snprintf(temporary_variable, sizeof temporary_variable, "TMPDIR=%s", temporary);
    CHECK(mkdir(temporary, 0700) == 0);
    static const char *variables[2];
    variables[0] = temporary_variable;
    environment = variables;
    test_grow();
    test_full();
    test_refused();
    test_interrupted();
    test_gpu();
    return chat_tests_close();
}
