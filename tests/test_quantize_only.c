/* tandem quantize --only: some tensors of a file made again, the others left as they are. */
#include <sys/stat.h>

#include "src/format/gguf.h"
#include "tests/command.h"
#include "tests/tiny_model.h"

static char in[256], out[256], whole[256], spare[256], said[4000];

/* Exit code of tandem quantize with these arguments behind IN and a file. */
static int quantize(const char *to, const char *arguments)
{
    char line[1200];
    snprintf(line, sizeof line, "quantize %s %s %s", in, to, arguments);
    return run_tandem(line, said, sizeof said);
}

#define QUANTIZE(code, to, arguments)                                                             \
    do {                                                                                          \
        int code_ = quantize(to, arguments);                                                      \
        CHECK_MSG(code_ == (code), "quantize %s: code %d, wanted %d: %s", arguments, code_, code, \
                  said);                                                                          \
    } while (0)

static bool same_tensor(const struct tensor *a, const struct tensor *b)
{
    return a && b && a->type == b->type && a->bytes == b->bytes &&
           memcmp(a->data, b->data, a->bytes) == 0;
}

static bool matches(const char *name)
{
    return strstr(name, "ffn_down_exps") != NULL;
}

/* Those that match are as in `made`, the others as in `left`. */
static void check_mixed(const char *path, const char *made, const char *left)
{
    struct gguf g = { 0 }, m = { 0 }, l = { 0 };
    struct error err = { 0 };
    int n_made = 0;
    if (CHECK_MSG(gguf_open(&g, path, &err) && gguf_open(&m, made, &err) &&
                  gguf_open(&l, left, &err), "%s", err.text)) {
        CHECK_INT(g.n_tensors, l.n_tensors);
        for (uint64_t i = 0; i < g.n_tensors; i++) {
            const char *name = g.tensors[i].name;
            CHECK_MSG(same_tensor(&g.tensors[i], gguf_tensor(matches(name) ? &m : &l, name)), "%s",
                      name);
            n_made += matches(name);
        }
        CHECK(n_made > 0);
    }
    gguf_close(&g);
    gguf_close(&m);
    gguf_close(&l);
}

/* Turn a byte of a tensor's data around. */
static void damage(const char *path, const char *name)
{
    struct gguf g = { 0 };
    struct error err = { 0 };
    uint8_t byte, other;
    if (!CHECK_MSG(gguf_open(&g, path, &err), "%s", err.text))
        return;
    const struct tensor *t = gguf_tensor(&g, name);
    long at = t ? (long)t->file_offset + 20 : -1;
    byte = t ? (uint8_t) ~((const uint8_t *)t->data)[20] : 0;
    gguf_close(&g);
    CHECK(tiny_patch(path, at, &byte, &other, 1));
}

static void test_new(void)
{
    check_case("into a new file: the rest as in the input");
    QUANTIZE(0, whole, "q4_k_m");
    QUANTIZE(0, out, "q4_k_m --only ffn_down_exps");
    CHECK_MSG(strstr(said, "are made, the others are copied"), "%s", said);
    check_mixed(out, whole, in);
}

static void test_redo(void)
{
    struct stat before, after;
    check_case("one damaged tensor of a finished file is made again");
    QUANTIZE(0, out, "q4_k_m --force");
    CHECK(check_same_files(out, whole));
    damage(out, "blk.1.ffn_down_exps.weight");
    CHECK(!check_same_files(out, whole));
    QUANTIZE(0, out, "q4_k_m --only 'blk.1.ffn_down_exps'");
    CHECK(check_same_files(out, whole));

    check_case("the same with another type");
    QUANTIZE(0, spare, "q6_k");
    QUANTIZE(0, out, "q6_k --only ffn_down_exps");
    check_mixed(out, spare, whole);

    check_case("a dry run writes nothing");
    CHECK(stat(out, &before) == 0);
    QUANTIZE(0, out, "q8_0 --only ffn_down_exps --dry-run");
    CHECK(stat(out, &after) == 0 && after.st_ino == before.st_ino);
}

static void test_refusals(void)
{
    check_case("what cannot be");
    QUANTIZE(2, out, "q4_k_m --only no_such_tensor");
    CHECK_MSG(strstr(said, "no tensor matches"), "%s", said);
    QUANTIZE(2, out, "q4_k_m --only '('");
    CHECK_MSG(strstr(said, "regular expression"), "%s", said);
    QUANTIZE(2, in, "q4_k_m --only ffn_down_exps");
    CHECK_MSG(strstr(said, "is the input"), "%s", said);
    CHECK(tiny_write(spare, "--arch llama"));
    QUANTIZE(2, spare, "q4_k_m --only ffn_down_exps");
    CHECK_MSG(strstr(said, "not made from it"), "%s", said);
}

int main(void)
{
    tiny_path(in, "only-in");
    tiny_path(out, "only-out");
    tiny_path(whole, "only-whole");
    tiny_path(spare, "only-spare");
    check_case("a model");
    if (tiny_write(in, "--arch deepseek2 --type f32")) {
        test_new();
        test_redo();
        test_refusals();
    }
    unlink(in);
    unlink(out);
    unlink(whole);
    unlink(spare);
    return check_finish();
}
