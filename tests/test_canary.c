/* The canary of a model file: written, checked, mismatched; with parts, kills, and models that cannot
 * be run. */
#include <signal.h>

#include "src/format/gguf.h"
#include "tests/command.h"
#include "tests/tiny_model.h"
#include "tools/canary.h"

static char in[256], out[256], other[256], said[200000];

#define RUN(code, words, ...)                                                                     \
    do {                                                                                          \
        char line_[1400];                                                                         \
        snprintf(line_, sizeof line_, __VA_ARGS__);                                               \
        int code_ = run_tandem(line_, said, sizeof said);                                         \
        CHECK_MSG(code_ == (code) && strstr(said, words), "%s: code %d, wanted %d and \"%s\": %s", \
                  line_, code_, code, words, said);                                               \
    } while (0)

static bool read_canary(const char *path, struct canary *c)
{
    struct gguf g = { 0 };
    struct error err = { 0 };
    bool found = false;
    bool ok = gguf_open(&g, path, &err) && canary_read(&g, c, &found, &err);
    CHECK_MSG(ok, "%s", err.text);
    gguf_close(&g);
    return ok && found;
}

/* Turn the low halves of a row's bytes around, which keeps every value finite. */
static void damage(const char *path, const char *name)
{
    struct gguf g = { 0 };
    struct error err = { 0 };
    uint8_t bytes[512], before[512];
    if (!CHECK_MSG(gguf_open(&g, path, &err), "%s", err.text))
        return;
    const struct tensor *t = gguf_tensor(&g, name);
    CHECK(t && t->type == TYPE_Q8_0 && t->bytes >= 4 * sizeof bytes);
    long at = t ? (long)t->file_offset : -1;
    for (size_t i = 0; t && i < sizeof bytes; i++) {
        bytes[i] = ((const uint8_t *)t->data)[i];
        bytes[i] ^= i % 34 < 2 ? 0 : 0x7f; /* not the scales */
    }
    gguf_close(&g);
    CHECK(tiny_patch(path, at, bytes, before, sizeof bytes));
}

static void test_arch(const char *arch, const char *options)
{
    char words[100];
    struct canary c;
    check_case("%s: written by quantize, checked by inspect --verify", arch);
    snprintf(words, sizeof words, "--arch %s %s --type f16", arch, options);
    if (!tiny_write(in, words))
        return;
    CHECK(!read_canary(in, &c));
    RUN(0, "bits per weight", "quantize %s %s q8_0 --force -t 1", in, out);
    CHECK(read_canary(out, &c));
    for (int i = 0; i < CANARY_POSITIONS * CANARY_TOP; i++)
        CHECK(c.ids[i] >= 0 && (i % CANARY_TOP == 0 || c.logits[i] <= c.logits[i - 1]));
    RUN(0, "the canary answers", "inspect %s --verify", out);
    RUN(0, "\"canary_difference\": 0.0", "inspect %s --verify --json", out);
    check_case("%s: the same bytes with other threads", arch);
    RUN(0, "bits per weight", "quantize %s %s q8_0 --force -t 3", in, other);
    CHECK(check_same_files(out, other));
    check_case("%s: damage that leaves all values finite", arch);
    damage(out, "blk.0.attn_output.weight");
    RUN(6, "the canary has changed", "inspect %s --verify", out);
}

static void test_refresh(void)
{
    struct canary a, b;
    check_case("another type, another answer; without, none is left over");
    RUN(0, "bits per weight", "quantize %s %s q8_0 --force", in, out);
    RUN(0, "bits per weight", "quantize %s %s q4_0 --force", out, other);
    CHECK(read_canary(out, &a) && read_canary(other, &b));
    CHECK(memcmp(a.tokens, b.tokens, sizeof a.tokens) == 0);
    CHECK(memcmp(a.logits, b.logits, sizeof a.logits) != 0);
    RUN(0, "bits per weight", "quantize %s %s q8_0 --force --canary off", out, other);
    CHECK(!read_canary(other, &b));
    RUN(0, "every value is finite", "inspect %s --verify", other);
    CHECK(!strstr(said, "canary"));
}

static void test_parts(void)
{
    char first[300], part[300];
    check_case("of a file in parts");
    unlink(other);
    RUN(0, "and the following", "quantize %s %s q8_0 --split-max-size 700K", in, other);
    struct canary c;
    int n = 0;
    const char *count = strstr(said, "-00001-of-");
    CHECK(count && sscanf(count, "-00001-of-%d", &n) == 1 && n > 1);
    int base = (int)strlen(other) - 5;
    snprintf(first, sizeof first, "%.*s-00001-of-%05d.gguf", base, other, n);
    CHECK(read_canary(first, &c));
    RUN(0, "the canary answers", "inspect %s --verify", first);
    RUN(0, "bits per weight", "quantize %s %s copy --force", first, other);
    CHECK(check_same_files(other, out));
    for (int i = 1; i <= n; i++) {
        snprintf(part, sizeof part, "%.*s-%05d-of-%05d.gguf", base, other, i, n);
        CHECK(unlink(part) == 0);
    }
}

/* Runs are killed at any moment, so also while the answer is computed or written. */
static void test_kill(void)
{
    char program[300], hidden[300];
    int kills = 0;
    check_case("SIGKILL at random moments: the same bytes, the same canary");
    RUN(0, "bits per weight", "quantize %s %s q8_0 --force", in, out);
    unlink(other);
    snprintf(program, sizeof program, "%s/tandem", build_folder());
    for (int round = 0; round < 25 && (kills == 0 || access(other, F_OK) != 0); round++) {
        int status;
        unlink(other); /* there only when no kill came in time, on a busy machine */
        fflush(NULL);
        pid_t child = fork();
        if (child == 0) {
            if (!freopen("/dev/null", "w", stderr))
                _exit(99);
            execl(program, program, "quantize", in, other, "q8_0", "--resume", (char *)NULL);
            _exit(99);
        }
        usleep((useconds_t)(check_random() % (uint64_t)(10000 + 4000 * round)));
        kill(child, SIGKILL);
        waitpid(child, &status, 0);
        kills += WIFSIGNALED(status);
        CHECK_MSG(WIFSIGNALED(status) || WEXITSTATUS(status) == 0, "code %d", WEXITSTATUS(status));
    }
    CHECK_MSG(kills > 0, "%d kills", kills);
    if (access(other, F_OK) != 0)
        RUN(0, "bits per weight", "quantize %s %s q8_0 --resume", in, other);
    CHECK(check_same_files(out, other));
    const char *slash = strrchr(other, '/');
    snprintf(hidden, sizeof hidden, "%.*s/.%s.journal", (int)(slash - other), other, slash + 1);
    unlink(hidden); /* where the last kill came behind the rename */
}

/* A half-written answer in the header must not make the finished work worthless. */
static void test_torn(void)
{
    struct gguf_writer w = { 0 }, v = { 0 };
    struct error err = { 0 };
    uint64_t ne[1] = { 8 };
    float zeros[8] = { 0 }, values[8] = { 1, 2, 3, 4, 5, 6, 7, 8 };
    bool found = false;
    check_case("a header with half of a later value is the same header");
    unlink(other);
    for (int i = 0; i < 2; i++) {
        struct gguf_writer *x = i ? &v : &w;
        CHECK(gguf_writer_add_str(x, "general.architecture", "test", &err) &&
              gguf_writer_add_array(x, "some.numbers", GGUF_F32, zeros, 8, &err) &&
              gguf_writer_add_tensor(x, "t", TYPE_F32, 1, ne, &err));
        gguf_writer_later(x, "some.numbers");
    }
    CHECK_MSG(gguf_writer_begin(&w, other, &err) && gguf_writer_data(&w, values, sizeof values, &err),
              "%s", err.text);
    CHECK(!gguf_writer_fill(&w, "some.numbers", GGUF_F32, values, 4, NULL)); /* another count */
    CHECK_MSG(gguf_writer_fill(&w, "some.numbers", GGUF_F32, values, 8, &err), "%s", err.text);
    gguf_writer_keep(&w);
    gguf_writer_release(&w);
    CHECK_MSG(gguf_writer_resume(&v, other, &found, &err) && found, "%s", err.text);
    gguf_writer_trust(&v, sizeof values);
    CHECK_MSG(gguf_writer_fill(&v, "some.numbers", GGUF_F32, values, 8, &err) &&
              gguf_writer_finish(&v, &err), "%s", err.text);
    gguf_writer_release(&v);
    struct gguf g = { 0 };
    if (CHECK_MSG(gguf_open(&g, other, &err), "%s", err.text)) {
        const struct gguf_kv *kv = gguf_array(&g, "some.numbers", GGUF_KIND_FLOAT, &err);
        CHECK(kv && kv->count == 8 && gguf_float_at(kv, 7) == 8);
        CHECK(memcmp(gguf_tensor(&g, "t")->data, values, sizeof values) == 0);
    }
    gguf_close(&g);
}

static void test_nonsense(void)
{
    char before[4];
    int32_t far = 1 << 30;
    struct canary c;
    check_case("a canary that makes no sense");
    RUN(0, "bits per weight", "quantize %s %s q8_0 --force", in, out);
    CHECK(read_canary(out, &c));
    long at = tiny_value_offset(out, "tandem.canary.tokens");
    CHECK(tiny_patch(out, at + 12, &far, before, 4)); /* behind element type and count */
    RUN(3, "of a vocabulary of", "inspect %s --verify", out);
}

int main(void)
{
    tiny_path(in, "canary-in");
    tiny_path(out, "canary-out");
    tiny_path(other, "canary-other");
    test_arch("llama", "");
    test_arch("deepseek2", "");
    test_refresh();
    RUN(0, "bits per weight", "quantize %s %s q8_0 --force", in, out);
    test_parts();
    test_kill();
    test_torn();
    test_nonsense();
    unlink(in);
    unlink(out);
    unlink(other);
    return check_finish();
}
