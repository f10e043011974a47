/* tandem inspect --verify, --hash and --diff on the demo model and a coarser file of it, against
 * counts of our own: extremes and errors in double precision, CRC-32C bit by bit. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "src/format/gguf_write.h"
#include "src/format/quant.h"
#include "tests/check.h"
#include "tests/command.h"

#define DEMO "models/demo.gguf"

static char folder[] = "/tmp/tandem-scan-XXXXXX";
static char other_path[300];
static char said[1 << 20];

static int tandem(const char *arguments)
{
    return run_tandem(arguments, said, sizeof said);
}

/* Where in the output the entry of a tensor begins, and a field of it. */
static const char *entry_of(const char *name)
{
    char key[200];
    snprintf(key, sizeof key, "\"name\": \"%s\"", name);
    return strstr(said, key);
}

static const char *field(const char *entry, const char *name)
{
    char key[64];
    snprintf(key, sizeof key, "\"%s\": ", name);
    const char *at = entry ? strstr(entry, key) : NULL;
    return at ? at + strlen(key) : "nan";
}

static uint32_t crc_by_bits(const uint8_t *bytes, uint64_t n)
{
    uint32_t crc = 0xffffffff;
    for (uint64_t i = 0; i < n; i++) {
        crc ^= bytes[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78 : 0);
    }
    return ~crc;
}

static float *values_of(const struct tensor *t, uint64_t *n)
{
    *n = t->ne[0] * tensor_rows(t);
    float *all = malloc(*n * sizeof *all);
    if (all)
        quant_traits(t->type)->dequantize(t->data, all, (int64_t)*n);
    return all;
}

static bool close_to(double x, double y)
{
    return fabs(x - y) <= 1e-6 * fabs(y) + 1e-12;
}

static void test_verify(const struct gguf *g)
{
    check_case("--verify: extremes, root mean square and checksum of each tensor");
    CHECK_INT(tandem("inspect " DEMO " --verify --json"), 0);
    for (uint64_t i = 0; i < g->n_tensors; i++) {
        const struct tensor *t = &g->tensors[i];
        const char *entry = entry_of(t->name);
        char crc[16];
        uint64_t n;
        float *x = values_of(t, &n);
        double low = INFINITY, high = -INFINITY, sum = 0;
        for (uint64_t k = 0; x && k < n; k++) {
            low = fmin(low, (double)x[k]);
            high = fmax(high, (double)x[k]);
            sum += (double)x[k] * (double)x[k];
        }
        snprintf(crc, sizeof crc, "\"%08x\"", (unsigned)crc_by_bits(t->data, t->bytes));
        CHECK_MSG(strncmp(field(entry, "crc32c"), crc, 10) == 0, "checksum of %s", t->name);
        CHECK_MSG(close_to(strtod(field(entry, "min"), NULL), low) &&
                  close_to(strtod(field(entry, "max"), NULL), high) &&
                  close_to(strtod(field(entry, "rms"), NULL), sqrt(sum / (double)n)),
                  "values of %s", t->name);
        free(x);
    }
}

static void test_diff(const struct gguf *g)
{
    char line[1000];
    struct gguf other = { 0 };
    struct error err = { 0 };
    int n_changed = 0, n_told = 0;
    check_case("--diff: types and errors of a coarser file");
    snprintf(line, sizeof line, "quantize %s %s q2_k --allow-requantize", DEMO, other_path);
    CHECK_MSG(tandem(line) == 0, "%s", said);
    snprintf(line, sizeof line, "inspect %s --diff %s --json", DEMO, other_path);
    CHECK_INT(tandem(line), 1);
    if (!CHECK_MSG(gguf_open(&other, other_path, &err), "%s", err.text))
        return;
    for (uint64_t i = 0; i < g->n_tensors; i++) {
        const struct tensor *a = &g->tensors[i], *b = gguf_tensor(&other, a->name);
        const char *entry = entry_of(a->name);
        bool same = b && a->type == b->type && memcmp(a->data, b->data, a->bytes) == 0;
        uint64_t n, m;
        double sum = 0;
        CHECK_MSG(b && same == !entry, "%s is told: %d", a->name, entry != NULL);
        n_changed += !same;
        if (same || !b)
            continue;
        float *x = values_of(a, &n), *y = values_of(b, &m);
        for (uint64_t k = 0; x && y && k < n; k++)
            sum += pow((double)x[k] - (double)y[k], 2);
        CHECK_MSG(close_to(strtod(field(entry, "rms_difference"), NULL), sqrt(sum / (double)n)),
                  "error of %s: %.12s, wanted %.9g", a->name, field(entry, "rms_difference"),
                  sqrt(sum / (double)n));
        free(x);
        free(y);
    }
    for (const char *at = said; (at = strstr(at, "\"change\": \"type\"")); at++)
        n_told++;
    CHECK(n_changed > 10);
    CHECK_INT(n_told, n_changed);
    gguf_close(&other);

    check_case("--diff: a key and a tensor that only one file has, a shape that changed");
    static const char *const told[] = {
        "- only.a = 1", "+ only.b = 2", "~ both = 3 -> 4", "- gone.weight: F32 32",
        "+ new.weight: F32 32", "~ shape.weight: F32 32 -> F32 64",
    };
    char path[2][320];
    for (int i = 0; i < 2; i++) {
        struct gguf_writer w = { 0 };
        static const float zeros[64];
        struct { const char *name; uint64_t cols; } of[] = {
            { i ? "new.weight" : "gone.weight", 32 }, { "shape.weight", i ? 64 : 32 },
        };
        snprintf(path[i], sizeof path[i], "%s/%d.gguf", folder, i);
        bool ok = gguf_writer_add_u32(&w, i ? "only.b" : "only.a", i ? 2 : 1, &err) &&
                  gguf_writer_add_u32(&w, "both", i ? 4 : 3, &err);
        for (int k = 0; k < 2; k++)
            ok = ok && gguf_writer_add_tensor(&w, of[k].name, TYPE_F32, 1, &of[k].cols, &err);
        ok = ok && gguf_writer_begin(&w, path[i], &err);
        for (int k = 0; k < 2; k++)
            ok = ok && gguf_writer_data(&w, zeros, of[k].cols * 4, &err);
        ok = ok && gguf_writer_finish(&w, &err);
        CHECK_MSG(ok, "%s", err.text);
        gguf_writer_release(&w);
    }
    snprintf(line, sizeof line, "inspect %s --diff %s", path[0], path[1]);
    CHECK_INT(tandem(line), 1);
    for (size_t i = 0; i < sizeof told / sizeof *told; i++)
        CHECK_MSG(strstr(said, told[i]), "\"%s\" is not in: %s", told[i], said);
    unlink(path[0]);
    unlink(path[1]);
}

int main(void)
{
    struct gguf g = { 0 };
    struct error err = { 0 };
    check_case("the demo model opens");
    if (!mkdtemp(folder) || !CHECK_MSG(gguf_open(&g, DEMO, &err), "%s", err.text))
        return check_finish();
    snprintf(other_path, sizeof other_path, "%s/coarse.gguf", folder);
    tandem("--version");
    if (strstr(said, "left out")) {
        check_case("inspect with values");
        check_skip("this build has no JSON");
    } else {
        test_verify(&g);
        test_diff(&g);
    }
    gguf_close(&g);
    unlink(other_path);
    rmdir(folder);
    return check_finish();
}
