/* The GGUF writer: what it writes, our reader finds; nothing half-written gets a name. */
#include "tests/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/base/mem.h"
#include "src/format/gguf_write.h"

static char folder[] = "/tmp/tandem-write-XXXXXX";

static const char *in_folder(const char *name)
{
    static char ring[4][256];
    static int next;
    char *path = ring[next++ % 4];
    snprintf(path, sizeof ring[0], "%s/%s", folder, name);
    return path;
}

static bool exists(const char *name)
{
    return access(in_folder(name), F_OK) == 0;
}

/* Byte k of tensor i: anything that differs between tensors. */
static uint8_t data_byte(size_t tensor, size_t k)
{
    return (uint8_t)(37 * tensor + k * 5 + k / 256);
}

#define N_TENSORS 5
static const struct {
    const char *name;
    enum tensor_type type;
    int n_dims;
    uint64_t ne[4];
    size_t bytes;
} tensors[N_TENSORS] = {
    { "token_embd.weight", TYPE_F32, 2, { 3, 5 }, 60 },
    { "blk.0.odd", TYPE_Q4_0, 1, { 32 }, 18 },
    { "blk.0.experts", TYPE_Q6_K, 3, { 256, 3, 2 }, 1260 },
    { "blk.0.one", TYPE_F16, 1, { 1 }, 2 },
    { "output.weight", TYPE_BF16, 4, { 2, 2, 2, 2 }, 32 },
};

static bool add_all(struct gguf_writer *w, struct error *err)
{
    static const int32_t numbers[] = { -1, 0, 2147483647 };
    static const double doubles[] = { 0.5, -1e300 };
    static const uint8_t flags[] = { 1, 0, 1 };
    struct str words[] = { str_of("alpha"), { "", 0 }, { "a\0b", 3 } };
    bool ok = gguf_writer_add_u32(w, "zeta.rest", 7, err) &&
              gguf_writer_add_strings(w, "tokenizer.ggml.tokens", words, 3, err) &&
              gguf_writer_add_array(w, "tiny.numbers", GGUF_I32, numbers, 3, err) &&
              gguf_writer_add_array(w, "tiny.doubles", GGUF_F64, doubles, 2, err) &&
              gguf_writer_add_array(w, "tiny.flags", GGUF_BOOL, flags, 3, err) &&
              gguf_writer_add_array(w, "tiny.none", GGUF_U32, numbers, 0, err) &&
              gguf_writer_add_str(w, "tiny.empty", "", err) &&
              gguf_writer_add_u64(w, "tiny.big", UINT64_MAX, err) &&
              gguf_writer_add_i32(w, "tiny.negative", -5, err) &&
              gguf_writer_add_f32(w, "tiny.eps", 1e-6f, err) &&
              gguf_writer_add_bool(w, "tiny.yes", true, err) &&
              gguf_writer_add_str(w, "general.name", "first", err) &&
              gguf_writer_add_str(w, "general.architecture", "tiny", err) &&
              gguf_writer_add_str(w, "general.name", "second", err);
    for (int i = 0; ok && i < N_TENSORS; i++)
        ok = gguf_writer_add_tensor(w, tensors[i].name, tensors[i].type, tensors[i].n_dims,
                                    tensors[i].ne, err);
    return ok;
}

/* All tensor bytes as one stream, in pieces that ignore tensor boundaries. */
static bool stream_data(struct gguf_writer *w, size_t piece, struct error *err)
{
    uint8_t all[2048];
    size_t n = 0;
    for (int i = 0; i < N_TENSORS; i++)
        for (size_t k = 0; k < tensors[i].bytes; k++)
            all[n++] = data_byte((size_t)i, k);
    for (size_t at = 0; at < n; at += piece)
        if (!gguf_writer_data(w, all + at, min_of(piece, n - at), err))
            return false;
    return true;
}

static bool write_file(const char *path, int n_shards, size_t piece, struct error *err)
{
    struct gguf_writer w = { 0 };
    if (n_shards)
        gguf_writer_split(&w, n_shards, 0, 0);
    bool ok = add_all(&w, err) && gguf_writer_begin(&w, path, err) &&
              stream_data(&w, piece, err) && gguf_writer_finish(&w, err);
    gguf_writer_release(&w);
    return ok;
}

static void check_contents(const char *path, int n_shards)
{
    struct gguf g;
    struct error err = { 0 };
    if (!CHECK_MSG(gguf_open(&g, path, &err), "%s", err.text))
        return;
    CHECK_INT(g.n_shards, n_shards);
    CHECK_INT(g.version, 3);
    CHECK_INT(g.n_kv, 11 + (n_shards > 1 ? 3 : 0));
    static const char *const order[] = { "general.name", "general.architecture", "tiny.numbers",
                                         "tiny.doubles", "tiny.flags", "tiny.big", "tiny.negative",
                                         "tiny.eps", "tiny.yes", "tokenizer.ggml.tokens",
                                         "zeta.rest" };
    for (size_t i = 0; i < ARRAY_LEN(order); i++)
        CHECK_MSG(str_is(g.kv[i].key, order[i]), "key %zu is not %s", i, order[i]);
    struct str name = { 0 };
    CHECK(gguf_get_str(&g, "general.name", &name, &err) && str_is(name, "second"));
    uint64_t big = 0;
    CHECK(gguf_get_u64(&g, "tiny.big", &big, &err) && big == UINT64_MAX);
    bool yes = false;
    CHECK(gguf_get_bool(&g, "tiny.yes", &yes, &err) && yes);
    double eps = 0;
    CHECK(gguf_get_f64(&g, "tiny.eps", &eps, &err) && eps == (double)1e-6f);
    const struct gguf_kv *numbers = gguf_array(&g, "tiny.numbers", GGUF_KIND_INT, &err);
    CHECK(numbers && numbers->count == 3 && gguf_int_at(numbers, 0) == -1 &&
          gguf_int_at(numbers, 2) == 2147483647);
    const struct gguf_kv *doubles = gguf_array(&g, "tiny.doubles", GGUF_KIND_FLOAT, &err);
    CHECK(doubles && gguf_float_at(doubles, 1) == -1e300);
    const struct gguf_kv *words = gguf_array(&g, "tokenizer.ggml.tokens", GGUF_KIND_STRING, &err);
    if (CHECK(words && words->count == 3)) {
        struct gguf_cursor c = gguf_strings(words);
        struct str s[3] = { { 0 } };
        for (int i = 0; i < 3; i++)
            CHECK(gguf_next_string(&c, &s[i]));
        CHECK(str_is(s[0], "alpha") && s[1].len == 0);
        CHECK(s[2].len == 3 && memcmp(s[2].data, "a\0b", 3) == 0);
    }
    CHECK(!gguf_has(&g, "tiny.none") && !gguf_has(&g, "tiny.empty"));
    CHECK_INT(g.n_tensors, N_TENSORS);
    for (uint64_t i = 0; i < g.n_tensors; i++) {
        const struct tensor *t = &g.tensors[i];
        CHECK_STR(t->name, tensors[i].name);
        CHECK_INT(t->bytes, tensors[i].bytes);
        CHECK_INT(t->n_dims, tensors[i].n_dims);
        CHECK_INT(t->ne[0], tensors[i].ne[0]);
        const uint8_t *bytes = t->data;
        for (size_t k = 0; k < t->bytes; k++)
            if (!CHECK_MSG(bytes[k] == data_byte(i, k), "%s byte %zu", t->name, k))
                break;
    }
    for (int i = 0; i < g.n_shards; i++)
        CHECK_INT(g.shards[i].size % 32, 0);
    gguf_close(&g);
}

static void test_one_file(void)
{
    struct error err = { 0 };
    check_case("one file: keys, tensors and bytes come back");
    CHECK_MSG(write_file(in_folder("one.gguf"), 0, 4096, &err), "%s", err.text);
    check_contents(in_folder("one.gguf"), 1);
    CHECK(!exists(".one.gguf.part"));

    check_case("one file: any piece size gives the same bytes");
    size_t n = 0, m = 0;
    char *a = check_read_file(in_folder("one.gguf"), &n);
    for (size_t piece = 1; piece < 70; piece += 17) {
        CHECK_MSG(write_file(in_folder("again.gguf"), 0, piece, &err), "%s", err.text);
        char *b = check_read_file(in_folder("again.gguf"), &m);
        CHECK(a && b && n == m && memcmp(a, b, n) == 0);
        free(b);
    }
    free(a);
}

static void test_sets(void)
{
    for (int n = 2; n <= N_TENSORS; n++) {
        char name[64];
        struct error err = { 0 };
        check_case("set of %d files", n);
        snprintf(name, sizeof name, "set%d.gguf", n);
        CHECK_MSG(write_file(in_folder(name), n, 100, &err), "%s", err.text);
        for (int i = 1; i <= n; i++) { /* any of them opens all */
            snprintf(name, sizeof name, "set%d-%05d-of-%05d.gguf", n, i, n);
            check_contents(in_folder(name), n);
        }
    }
    check_case("set by bytes and by count");
    for (int by_count = 0; by_count < 2; by_count++) {
        struct gguf_writer w = { 0 };
        struct error err = { 0 };
        gguf_writer_split(&w, 0, by_count ? 0 : 100, by_count ? 2 : 0);
        bool ok = add_all(&w, &err) && gguf_writer_begin(&w, in_folder("limit.gguf"), &err) &&
                  stream_data(&w, 64, &err) && gguf_writer_finish(&w, &err);
        CHECK_MSG(ok, "%s", err.text);
        gguf_writer_release(&w);
        check_contents(in_folder("limit-00001-of-00003.gguf"), 3);
    }
}

/* Only complete files get their names. */
static void test_unfinished(void)
{
    check_case("an unfinished file leaves nothing, the old one stays");
    struct error err = { 0 };
    size_t n = 0, m = 0;
    char *before = check_read_file(in_folder("one.gguf"), &n);
    struct gguf_writer w = { 0 };
    CHECK(add_all(&w, &err) && gguf_writer_begin(&w, in_folder("one.gguf"), &err));
    CHECK(gguf_writer_data(&w, "abc", 3, &err));
    CHECK(exists(".one.gguf.part"));
    struct gguf_writer second = { 0 };
    struct error busy = { 0 };
    CHECK(add_all(&second, &busy) && !gguf_writer_begin(&second, in_folder("one.gguf"), &busy));
    CHECK(strstr(busy.text, "another run") != NULL);
    gguf_writer_release(&second);
    CHECK(!gguf_writer_finish(&w, &err) && strstr(err.text, "written, expected"));
    gguf_writer_release(&w);
    CHECK(!exists(".one.gguf.part"));
    char *after = check_read_file(in_folder("one.gguf"), &m);
    CHECK(before && after && n == m && memcmp(before, after, n) == 0);
    free(before);
    free(after);

    check_case("data beyond the tensors is refused");
    struct gguf_writer v = { 0 };
    error_clear(&err);
    CHECK(add_all(&v, &err) && gguf_writer_begin(&v, in_folder("x.gguf"), &err));
    CHECK(!gguf_writer_write_at(&v, 1, 10, "123456789", 9, &err));
    error_clear(&err);
    CHECK(stream_data(&v, 999, &err) && !gguf_writer_data(&v, "x", 1, &err));
    gguf_writer_release(&v);
}

/* Write `n` of the five tensors and stop, leaving the hidden files. */
static bool stop_after(int n, int n_shards, struct error *err)
{
    struct gguf_writer w = { 0 };
    gguf_writer_split(&w, n_shards, 0, 0);
    bool ok = add_all(&w, err) && gguf_writer_begin(&w, in_folder("long.gguf"), err);
    for (int i = 0; ok && i < n; i++)
        for (size_t k = 0; ok && k < tensors[i].bytes; k++) {
            uint8_t byte = data_byte((size_t)i, k);
            ok = gguf_writer_write_at(&w, (size_t)i, k, &byte, 1, err);
        }
    ok = ok && gguf_writer_sync(&w, err);
    gguf_writer_keep(&w);
    gguf_writer_release(&w);
    return ok;
}

/* Go on: trust what is right in the file, write the rest. */
static bool go_on(int n_shards, bool *found, int *n_trusted, struct error *err)
{
    struct gguf_writer w = { 0 };
    gguf_writer_split(&w, n_shards, 0, 0);
    bool ok = add_all(&w, err) && gguf_writer_resume(&w, in_folder("long.gguf"), found, err);
    *n_trusted = 0;
    for (int i = 0; ok && i < N_TENSORS; i++) {
        uint8_t wanted[2048], there[2048];
        for (size_t k = 0; k < tensors[i].bytes; k++)
            wanted[k] = data_byte((size_t)i, k);
        ok = gguf_writer_read_at(&w, (size_t)i, 0, there, tensors[i].bytes, err);
        if (ok && memcmp(wanted, there, tensors[i].bytes) == 0) {
            gguf_writer_trust(&w, tensors[i].bytes);
            ++*n_trusted;
        } else if (ok) {
            ok = gguf_writer_write_at(&w, (size_t)i, 0, wanted, tensors[i].bytes, err);
        }
    }
    ok = ok && gguf_writer_finish(&w, err);
    gguf_writer_release(&w);
    return ok;
}

static void test_resume(void)
{
    for (int n_shards = 1; n_shards <= 3; n_shards += 2)
        for (int n = 0; n <= N_TENSORS; n++) {
            check_case("stopped after %d tensors of %d files and resumed", n, n_shards);
            struct error err = { 0 };
            bool found = false;
            int n_trusted = 0;
            CHECK_MSG(stop_after(n, n_shards, &err), "%s", err.text);
            CHECK_MSG(go_on(n_shards, &found, &n_trusted, &err), "%s", err.text);
            CHECK(found);
            CHECK_INT(n_trusted, n);
            const char *name = n_shards == 1 ? "long.gguf" : "long-00001-of-00003.gguf";
            check_contents(in_folder(name), n_shards);
            CHECK(!exists(".long.gguf.part") && !exists(".long-00001-of-00003.gguf.part"));
        }

    check_case("unfinished files of another layout are written anew");
    struct error err = { 0 };
    bool found = true;
    int n_trusted = 0;
    CHECK(stop_after(N_TENSORS, 3, &err));
    /* one byte of the second header differs: the whole set is begun again */
    FILE *f = fopen(in_folder(".long-00002-of-00003.gguf.part"), "r+b");
    CHECK(f && fseek(f, 30, SEEK_SET) == 0 && fputc('!', f) == '!' && fclose(f) == 0);
    CHECK_MSG(go_on(3, &found, &n_trusted, &err), "%s", err.text);
    CHECK(!found);
    CHECK_INT(n_trusted, 0);
    check_contents(in_folder("long-00001-of-00003.gguf"), 3);

    check_case("resume without anything to resume is a beginning");
    CHECK_MSG(go_on(1, &found, &n_trusted, &err), "%s", err.text);
    CHECK(!found);
    CHECK_INT(n_trusted, 0);
    check_contents(in_folder("long.gguf"), 1);
}

static void test_refusals(void)
{
    struct error err = { 0 };
    struct gguf_writer w = { 0 };
    const uint64_t ne[4] = { 32, 1, 1, 1 }, odd[4] = { 31, 1, 1, 1 }, none[4] = { 0, 1, 1, 1 };
    char long_name[80];
    memset(long_name, 'n', sizeof long_name);
    long_name[64] = 0;
#define REFUSED(call)                                                                             \
    do {                                                                                          \
        error_clear(&err);                                                                        \
        CHECK(!(call));                                                                           \
        CHECK_INT(err.code, ERR_USAGE);                                                           \
    } while (0)
    check_case("what the format forbids is refused");
    REFUSED(gguf_writer_add_u32(&w, "", 1, &err));
    REFUSED(gguf_writer_add_u32(&w, "Upper", 1, &err));
    REFUSED(gguf_writer_add_str(&w, "a b", "x", &err));
    REFUSED(gguf_writer_add_str(&w, "bad key", "", &err));
    REFUSED(gguf_writer_add_array(&w, "a", GGUF_STRING, "x", 1, &err));
    REFUSED(gguf_writer_add_tensor(&w, "", TYPE_F32, 1, ne, &err));
    REFUSED(gguf_writer_add_tensor(&w, long_name, TYPE_F32, 1, ne, &err));
    REFUSED(gguf_writer_add_tensor(&w, "t", TYPE_F32, 0, ne, &err));
    REFUSED(gguf_writer_add_tensor(&w, "t", TYPE_F32, 5, ne, &err));
    REFUSED(gguf_writer_add_tensor(&w, "t", (enum tensor_type)4, 1, ne, &err));
    REFUSED(gguf_writer_add_tensor(&w, "t", TYPE_Q4_0, 1, odd, &err));
    REFUSED(gguf_writer_add_tensor(&w, "t", TYPE_F32, 1, none, &err));
    error_clear(&err);
    long_name[63] = 0;
    CHECK(gguf_writer_add_tensor(&w, long_name, TYPE_F32, 1, ne, &err));
    CHECK(gguf_writer_add_tensor(&w, long_name, TYPE_F32, 1, ne, &err));
    REFUSED(gguf_writer_begin(&w, in_folder("twice.gguf"), &err));
    CHECK(strstr(err.text, "twice") != NULL);
    gguf_writer_release(&w);

    check_case("targets that cannot be files");
    struct gguf_writer v = { 0 };
    REFUSED(gguf_writer_begin(&v, folder, &err));
    REFUSED(gguf_writer_begin(&v, in_folder("new/"), &err));
    error_clear(&err);
    CHECK(!gguf_writer_begin(&v, in_folder("missing/x.gguf"), &err));
    CHECK_INT(err.code, ERR_RUN);
    gguf_writer_release(&v);
}

static void test_copy(void)
{
    check_case("copied metadata is the same metadata");
    struct error err = { 0 };
    struct gguf from, to;
    struct gguf_writer w = { 0 };
    if (!CHECK_MSG(gguf_open(&from, in_folder("set2-00002-of-00002.gguf"), &err), "%s", err.text))
        return;
    CHECK(gguf_writer_copy_all_kv(&w, &from, &err));
    CHECK(gguf_writer_add_str(&w, "general.name", "third", &err));
    bool ok = gguf_writer_begin(&w, in_folder("copy.gguf"), &err) && gguf_writer_finish(&w, &err);
    CHECK_MSG(ok, "%s", err.text);
    gguf_writer_release(&w);
    if (CHECK_MSG(gguf_open(&to, in_folder("copy.gguf"), &err), "%s", err.text)) {
        CHECK_INT(to.n_kv, from.n_kv - 3); /* without split.* */
        for (uint64_t i = 0; i < to.n_kv; i++) {
            const struct gguf_kv *a = &from.kv[i], *b = &to.kv[i];
            CHECK(a->type == b->type && a->elem == b->elem && a->count == b->count);
            if (!str_is(b->key, "general.name"))
                CHECK(a->bytes == b->bytes && memcmp(a->data, b->data, a->bytes) == 0);
        }
        gguf_close(&to);
    }
    gguf_close(&from);
}

/* Whatever allocation fails, nothing leaks and no file gets a name. */
static void test_no_memory(void)
{
    check_case("every failed allocation is reported");
    bool done = false;
    for (uint64_t n = 0; n < 200 && !done; n++) {
        struct error err = { 0 };
        mem_fail_after(n);
        done = write_file(in_folder("memory.gguf"), 2, 512, &err);
        mem_fail_never();
        if (!done) {
            CHECK_INT(err.code, ERR_FIT);
            CHECK(!exists("memory-00001-of-00002.gguf"));
        }
    }
    CHECK(done && exists("memory-00001-of-00002.gguf"));
}

int main(void)
{
    if (!mkdtemp(folder))
        return 1;
    test_one_file();
    test_sets();
    test_unfinished();
    test_resume();
    test_refusals();
    test_copy();
    test_no_memory();
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    if (system(command) != 0)
        return 1;
    return check_finish();
}
