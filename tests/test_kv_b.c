/* Older files hold kv_b_proj whole: quantize writes its two halves in place of it. What they must
 * hold is written down here element by element. Everything happens in $B/tests/kv_b.PID. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "src/format/gguf_write.h"
#include "src/format/quant.h"
#include "tests/check.h"
#include "tools/kv_b.h"

enum { HEADS = 3, NOPE = 32, VALUE = 40, ROTARY = 8, RANK = 64, HIDDEN = 64 };

static char dir[64];

static const char *path(const char *name)
{
    static char ring[4][160];
    static int next;
    char *p = ring[next++ % 4];
    snprintf(p, sizeof ring[0], "%s/%s", dir, name);
    return p;
}

static float value_at(int head, int row, int col)
{
    return (float)(head * 4096 + row * 64 + col) / 16384;
}

static int quantize(const char *arguments)
{
    char command[700];
    snprintf(command, sizeof command, "cd %s && ../../tandem quantize %s >log 2>&1 </dev/null", dir,
             arguments);
    int status = system(command);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* One layer as files of 2024 have it. */
static void write_old(const char *name)
{
    static const struct {
        const char *name;
        uint64_t ne[2];
    } tensors[] = {
        { "token_embd.weight", { HIDDEN, 32 } },
        { "blk.0.attn_q.weight", { HIDDEN, HEADS * (NOPE + ROTARY) } },
        { "blk.0.attn_kv_a_mqa.weight", { HIDDEN, RANK + ROTARY } },
        { "blk.0.attn_kv_b.weight", { RANK, HEADS * (NOPE + VALUE) } },
        { "blk.0.attn_output.weight", { HEADS * VALUE, HIDDEN } },
    };
    static float values[RANK * HEADS * (NOPE + VALUE)];
    struct gguf_writer w = { 0 };
    struct error err = { 0 };
    bool ok = gguf_writer_add_str(&w, "general.architecture", "deepseek2", &err) &&
              gguf_writer_add_u32(&w, "deepseek2.block_count", 1, &err) &&
              gguf_writer_add_u32(&w, "deepseek2.attention.head_count", HEADS, &err) &&
              gguf_writer_add_u32(&w, "deepseek2.attention.head_count_kv", HEADS, &err) &&
              gguf_writer_add_u32(&w, "deepseek2.attention.key_length", NOPE + ROTARY, &err) &&
              gguf_writer_add_u32(&w, "deepseek2.attention.value_length", VALUE, &err);
    for (int i = 0; i < 5; i++)
        ok = ok && gguf_writer_add_tensor(&w, tensors[i].name, TYPE_F32, 2, tensors[i].ne, &err);
    ok = ok && gguf_writer_begin(&w, path(name), &err);
    for (int i = 0; ok && i < 5; i++) {
        int n = (int)(tensors[i].ne[0] * tensors[i].ne[1]);
        for (int k = 0; k < n; k++) {
            int row = k / RANK;
            values[k] = i == 3 ? value_at(row / (NOPE + VALUE), row % (NOPE + VALUE), k % RANK)
                               : (float)(k % 7);
        }
        ok = gguf_writer_data(&w, values, sizeof *values * (size_t)n, &err);
    }
    ok = ok && gguf_writer_finish(&w, &err);
    CHECK_MSG(ok, "%s", err.text);
    gguf_writer_release(&w);
}

static bool open_file(struct gguf *g, const char *name)
{
    struct error err = { 0 };
    return CHECK_MSG(gguf_open(g, path(name), &err), "%s", err.text);
}

static const struct tensor *want(const struct gguf *g, const char *name, enum tensor_type type,
                                 uint64_t a, uint64_t b)
{
    const struct tensor *t = gguf_tensor(g, name);
    bool ok = t && t->type == type && t->ne[0] == a && t->ne[1] == b && t->ne[2] == HEADS;
    CHECK_MSG(ok, "%s: missing, or another type or shape", name);
    return ok ? t : NULL;
}

static uint64_t key(const struct gguf *g, const char *name)
{
    uint64_t value = 0;
    struct error err = { 0 };
    char full[100];
    snprintf(full, sizeof full, "deepseek2.attention.%s", name);
    CHECK_MSG(gguf_get_u64(g, full, &value, &err), "%s", err.text);
    return value;
}

static void test_values(void)
{
    struct gguf g = { 0 };
    check_case("both halves, number for number, and the keys that go with them");
    CHECK_INT(quantize("old.gguf new.gguf f32"), 0);
    if (!open_file(&g, "new.gguf"))
        return;
    CHECK(!gguf_tensor(&g, "blk.0.attn_kv_b.weight"));
    CHECK_INT(g.n_tensors, 6);
    const struct tensor *k = want(&g, "blk.0.attn_k_b.weight", TYPE_F32, NOPE, RANK);
    const struct tensor *v = want(&g, "blk.0.attn_v_b.weight", TYPE_F32, RANK, VALUE);
    const float *kf = k ? k->data : NULL, *vf = v ? v->data : NULL;
    int wrong = 0;
    for (int h = 0; kf && vf && h < HEADS; h++)
        for (int r = 0; r < RANK; r++) {
            for (int i = 0; i < NOPE; i++)
                wrong += kf[(h * RANK + r) * NOPE + i] != value_at(h, i, r);
            for (int j = 0; j < VALUE; j++)
                wrong += vf[(h * VALUE + j) * RANK + r] != value_at(h, NOPE + j, r);
        }
    CHECK_INT(wrong, 0);
    CHECK_INT(key(&g, "head_count_kv"), 1);
    CHECK_INT(key(&g, "key_length"), RANK + ROTARY);
    CHECK_INT(key(&g, "value_length"), RANK);
    CHECK_INT(key(&g, "key_length_mla"), NOPE + ROTARY);
    CHECK_INT(key(&g, "value_length_mla"), VALUE);
    gguf_close(&g);
}

/* Rows of the value half are rows of kv_b: nothing is rounded again. */
static void test_copied(void)
{
    struct gguf a = { 0 }, b = { 0 };
    check_case("values of an equal type are copied, and --keep-kv-b leaves all as it was");
    CHECK_INT(quantize("old.gguf q8.gguf q8_0 --keep-kv-b"), 0);
    CHECK_INT(quantize("q8.gguf split.gguf q8_0"), 0);
    if (!open_file(&a, "q8.gguf"))
        return;
    const struct tensor *whole = gguf_tensor(&a, "blk.0.attn_kv_b.weight");
    CHECK(whole && whole->type == TYPE_Q8_0);
    CHECK_INT(key(&a, "head_count_kv"), HEADS);
    if (whole && open_file(&b, "split.gguf")) {
        const struct tensor *v = want(&b, "blk.0.attn_v_b.weight", TYPE_Q8_0, RANK, VALUE);
        size_t row = quant_row_bytes(TYPE_Q8_0, RANK);
        const uint8_t *from = whole->data, *to = v ? v->data : NULL;
        for (int h = 0; to && h < HEADS; h++)
            CHECK(memcmp(to + (size_t)h * VALUE * row,
                         from + (size_t)(h * (NOPE + VALUE) + NOPE) * row, VALUE * row) == 0);
        gguf_close(&b);
    }
    gguf_close(&a);
    CHECK_INT(quantize("old.gguf copy.gguf copy"), 0);
    if (open_file(&a, "copy.gguf"))
        CHECK(gguf_tensor(&a, "blk.0.attn_kv_b.weight"));
    gguf_close(&a);
}

/* ---- chunks that end anywhere ---- */

static bool counting_rows(const void *ctx, int64_t row, int64_t n, float *out, void *scratch,
                          struct error *err)
{
    (void)ctx, (void)scratch, (void)err;
    for (int64_t i = 0; i < n; i++)
        for (int64_t c = 0; c < RANK; c++)
            *out++ = value_at((int)((row + i) / (NOPE + VALUE)), (int)((row + i) % (NOPE + VALUE)),
                              (int)c);
    return true;
}

static void test_ranges(void)
{
    static const struct kv_b_shape shape = { HEADS, NOPE, VALUE, RANK };
    const struct transcode_source kv_b = { .rows = counting_rows };
    struct kv_b_view key_view, value_view;
    struct transcode_source keys = kv_b_keys(&key_view, &kv_b, &shape);
    struct transcode_source values = kv_b_values(&value_view, &kv_b, &shape, 0);
    static float some[RANK * RANK * HEADS], scratch[NOPE * RANK];
    check_case("any range of rows");
    CHECK_INT(keys.scratch_bytes, sizeof scratch);
    for (int trial = 0; trial < 200; trial++) {
        int n_rows = trial % 2 ? HEADS * RANK : HEADS * VALUE;
        int from = (int)(check_random() % (uint64_t)n_rows);
        int n = 1 + (int)(check_random() % (uint64_t)(n_rows - from)), wrong = 0;
        const struct transcode_source *s = trial % 2 ? &keys : &values;
        CHECK(s->rows(s->ctx, from, n, some, scratch, NULL));
        for (int row = from; row < from + n; row++)
            for (int c = 0; c < (trial % 2 ? NOPE : RANK); c++) {
                float found = some[(row - from) * (trial % 2 ? NOPE : RANK) + c];
                wrong += found != (trial % 2 ? value_at(row / RANK, c, row % RANK)
                                             : value_at(row / VALUE, NOPE + row % VALUE, c));
            }
        CHECK_INT(wrong, 0);
    }
}

int main(void)
{
    char command[128];
    const char *b = getenv("B");
    snprintf(dir, sizeof dir, "%s/tests/kv_b.%d", b ? b : "build", (int)getpid());
    check_case("an older file");
    CHECK(mkdir(dir, 0777) == 0);
    write_old("old.gguf");
    test_values();
    test_copied();
    test_ranges();
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    CHECK(system(command) == 0);
    return check_finish();
}
