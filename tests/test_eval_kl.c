/* tandem eval --kl-base and --kl against a count of our own: both models' logits computed here, the
 * divergence summed over them in double precision without any file between. And files that are
 * damaged or of another vocabulary. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/cli/kl_file.h"
#include "src/engine/engine.h"
#include "tests/check.h"
#include "tests/command.h"
#include "tools/journal.h"

#define DEMO "models/demo.gguf"
#define WINDOW 64
#define CHUNKS 4

static char folder[] = "/tmp/tandem-kl-XXXXXX";
static char base_path[300], coarse_path[300], text_path[300], bad_path[300];

/* Exit code of a command line for tandem; what it said is in `said`. */
static char said[4096];
static int tandem(const char *arguments)
{
    return run_tandem(arguments, said, sizeof said);
}

static double field(const char *name)
{
    char key[64];
    snprintf(key, sizeof key, "\"%s\": ", name);
    const char *at = strstr(said, key);
    return at ? strtod(at + strlen(key), NULL) : NAN;
}

/* ---- the count of our own ---- */

struct logits {
    float *rows;
    int64_t n_vocab;
};

static bool keep(void *ctx, int64_t first, int n_rows, const float *rows, struct error *err)
{
    struct logits *l = ctx;
    (void)err;
    memcpy(l->rows + first * l->n_vocab, rows, (size_t)n_rows * (size_t)l->n_vocab * 4);
    return true;
}

/* Logits of all windows, [CHUNKS * WINDOW][n_vocab]. */
static float *logits_of(const char *path, const int32_t *ids, int64_t *n_vocab)
{
    struct engine *e = NULL;
    struct session *s = NULL;
    struct error err = { 0 };
    float *all = NULL;
    bool ok = engine_open(&e, path, &(struct engine_options){ .act_f32 = true }, &err) &&
              session_open(&s, e, &(struct session_options){ .n_ctx = WINDOW }, &err);
    if (ok) {
        *n_vocab = engine_model(e)->params.n_vocab;
        all = malloc((size_t)(CHUNKS * WINDOW * *n_vocab) * sizeof *all);
    }
    for (int i = 0; all && i < CHUNKS; i++) {
        struct logits l = { all + i * WINDOW * *n_vocab, *n_vocab };
        session_truncate(s, 0);
        ok = session_eval(s, ids + i * WINDOW, WINDOW, 0, keep, &l, &err) && ok;
    }
    CHECK_MSG(ok, "%s", err.text);
    session_close(s);
    engine_close(e);
    return all;
}

static double log_sum(const float *row, int64_t n)
{
    double top = -INFINITY, sum = 0;
    for (int64_t v = 0; v < n; v++)
        top = fmax(top, (double)row[v]);
    for (int64_t v = 0; v < n; v++)
        sum += exp((double)row[v] - top);
    return top + log(sum);
}

static int64_t top_of(const float *row, int64_t n)
{
    int64_t top = 0;
    for (int64_t v = 1; v < n; v++)
        top = row[v] > row[top] ? v : top;
    return top;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void near(const char *name, double wanted, double tolerance)
{
    double found = field(name);
    CHECK_MSG(fabs(found - wanted) <= tolerance, "%s is %.9g, wanted %.9g", name, found, wanted);
}

/* Compare what `tandem --kl --json` said with sums over the logits of both models. */
static void compare(const float *p, const float *q, const int32_t *ids, int64_t n_vocab)
{
    static double kl[CHUNKS * WINDOW];
    double sum = 0, sum2 = 0, loss_p = 0, loss_q = 0;
    int n = 0, same = 0;
    for (int i = 0; i < CHUNKS * WINDOW; i++) {
        const float *a = p + i * n_vocab, *b = q + i * n_vocab;
        if (i % WINDOW < WINDOW / 2 || i % WINDOW == WINDOW - 1)
            continue;
        double za = log_sum(a, n_vocab), zb = log_sum(b, n_vocab), d = 0;
        for (int64_t v = 0; v < n_vocab; v++)
            d += exp((double)a[v] - za) * (((double)a[v] - za) - ((double)b[v] - zb));
        kl[n++] = d;
        sum += d;
        sum2 += d * d;
        same += top_of(a, n_vocab) == top_of(b, n_vocab);
        loss_p += za - (double)a[ids[i + 1]];
        loss_q += zb - (double)b[ids[i + 1]];
    }
    qsort(kl, (size_t)n, sizeof *kl, ascending);
    double mean = sum / n, at = 0.99 * (n - 1), part = at - floor(at);
    CHECK_INT(field("n_scored"), n);
    CHECK_MSG(mean > 1e-3 && mean < 1, "the mean is small and positive: %g", mean);
    near("kl", mean, 1e-4 * mean); /* what the rounding in the file may add */
    near("kl_error", sqrt((sum2 / n - mean * mean) / (n - 1)), 1e-4 * mean);
    near("kl_median", (kl[(n - 1) / 2] + kl[n / 2]) / 2, 1e-4 * mean);
    near("kl_p99", kl[(int)at] * (1 - part) + kl[(int)at + 1] * part, 1e-3 * mean);
    near("kl_max", kl[n - 1], 1e-3 * mean);
    near("same_top", (double)same / n, 1e-9);
    near("ppl_base", exp(loss_p / n), 1e-5 * exp(loss_p / n));
    near("ppl", exp(loss_q / n), 1e-5 * exp(loss_q / n));
    near("ppl_ratio", exp((loss_q - loss_p) / n), 1e-5 * exp((loss_q - loss_p) / n));
}

static void test_numbers(void)
{
    char line[1200];
    struct kl_reader r;
    struct error err = { 0 };
    int64_t n_vocab = 0;

    check_case("a model does not differ from itself");
    snprintf(line, sizeof line, "eval %s --ppl %s --kl-base %s --act f32 -c %d --chunks %d", DEMO,
             text_path, base_path, WINDOW, CHUNKS);
    CHECK_MSG(tandem(line) == 0, "%s", said);
    snprintf(line, sizeof line, "eval %s --kl %s --act f32 --json", DEMO, base_path);
    CHECK_MSG(tandem(line) == 0, "%s", said);
    near("kl", 0, 1e-6);
    near("kl_max", 0, 1e-6);
    near("same_top", 1, 0);
    near("ppl_ratio", 1, 1e-6);

    check_case("a coarser file of it: the sums of a count in double precision");
    snprintf(line, sizeof line, "quantize %s %s q2_k --allow-requantize", DEMO, coarse_path);
    CHECK_MSG(tandem(line) == 0, "%s", said);
    snprintf(line, sizeof line, "eval %s --kl %s --act f32 --json", coarse_path, base_path);
    CHECK_MSG(tandem(line) == 0, "%s", said);
    if (!CHECK_MSG(kl_open(&r, base_path, &err), "%s", err.text))
        return;
    CHECK(r.head.window == WINDOW && r.head.n_windows == CHUNKS && r.head.first == WINDOW / 2);
    float *p = logits_of(DEMO, r.ids, &n_vocab), *q = logits_of(coarse_path, r.ids, &n_vocab);
    if (CHECK(p && q && n_vocab == r.head.n_vocab))
        compare(p, q, r.ids, n_vocab);
    free(p);
    free(q);
    kl_close(&r);
}

/* ---- files that are none ---- */

static void put(const char *bytes, size_t n)
{
    FILE *f = fopen(bad_path, "wb");
    if (CHECK(f != NULL)) {
        CHECK(fwrite(bytes, 1, n, f) == n);
        fclose(f);
    }
}

static void refused(const char *why)
{
    struct kl_reader r;
    struct kl_row row;
    struct error err = { 0 };
    bool ok = kl_open(&r, bad_path, &err);
    while (ok && r.next < r.n_rows)
        ok = kl_next(&r, &row, &err);
    kl_close(&r);
    CHECK_MSG(!ok && err.code == ERR_FILE && strstr(err.text, why), "wanted \"%s\", got %d \"%s\"",
              why, err.code, err.text);
}

static void test_damage(void)
{
    size_t size = 0;
    char *good = check_read_file(base_path, &size), line[1200];
    uint32_t crc;
    check_case("damaged files are refused");
    if (!CHECK(good != NULL))
        return;
    static const size_t cuts[] = { 0, 7, 55, 56, 100, 1000 };
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
        put(good, cuts[i]);
        refused(cuts[i] < 56 ? "ends too early" : "cut short");
    }
    put(good, size - 1);
    refused("cut short");
    for (size_t at = 0; at < 56 + 4 * WINDOW * CHUNKS + 40; at += 3) {
        good[at] ^= 0x10;
        put(good, size);
        refused(at < 8 ? "not a file of" : at < 12 ? "layout version" : "damaged");
        good[at] ^= 0x10;
    }
    good[size - 1] ^= 1;
    put(good, size);
    refused("row 123 of 124 is damaged");
    good[size - 1] ^= 1;

    check_case("sizes that would wrap are refused");
    char head[56];
    memcpy(head, good, 56);
    memset(head + 24, 0x7f, 8); /* n_windows */
    crc = crc32c(0, head, 52);
    memcpy(head + 52, &crc, 4);
    put(head, 56);
    refused("cut short");

    check_case("a file of another vocabulary is refused");
    good[44] ^= 1;
    crc = crc32c(0, good, 52);
    memcpy(good + 52, &crc, 4);
    put(good, size);
    snprintf(line, sizeof line, "eval %s --kl %s", DEMO, bad_path);
    CHECK_INT(tandem(line), 3);
    CHECK_MSG(strstr(said, "another vocabulary"), "%s", said);
    free(good);
}

static void test_rows(void)
{
    struct error err = { 0 };
    struct kl_writer w;
    struct kl_reader r;
    struct kl_row row;
    float logits[300];
    int32_t ids[3] = { 1, 2, 299 };
    struct kl_head head = { .n_vocab = 300, .window = 3, .first = 0, .n_windows = 1, .n_text = 3 };
    check_case("rows come back within half a step, equal logits included");
    CHECK(kl_create(&w, bad_path, &head, ids, &err));
    for (int v = 0; v < 300; v++)
        logits[v] = check_random_float(-30, 20);
    double z = log_sum(logits, 300);
    CHECK(kl_append(&w, logits, z, 1.5, &err));
    float flat[300] = { 0 };
    CHECK(kl_append(&w, flat, log(300), 2.5, &err));
    CHECK(kl_finish(&w, true, &err));
    CHECK(kl_open(&r, bad_path, &err) && kl_next(&r, &row, &err));
    CHECK(row.loss == 1.5f && row.top == top_of(logits, 300));
    for (int v = 0; v < 300; v++)
        CHECK(fabs((double)row.low + (double)row.step * row.q[v] - ((double)logits[v] - z)) <
              0.51 * (double)row.step + 1e-5);
    CHECK(fabs(kl_divergence(&row, logits, z, 300)) < 1e-6);
    CHECK(kl_next(&r, &row, &err) && row.step == 0 && row.top == 0);
    CHECK(fabs(kl_divergence(&row, flat, log(300), 300)) < 1e-12);
    kl_close(&r);

    check_case("logits that are not finite are refused, and no file is left");
    unlink(bad_path);
    CHECK(kl_create(&w, bad_path, &head, ids, &err));
    flat[7] = -INFINITY;
    bool ok = kl_append(&w, flat, log(299), 1, &err);
    CHECK(!kl_finish(&w, ok, &err) && err.code == ERR_CHECK);
    CHECK(access(bad_path, F_OK) != 0);
}

int main(void)
{
    if (!mkdtemp(folder))
        return 1;
    snprintf(base_path, sizeof base_path, "%s/base.kl", folder);
    snprintf(coarse_path, sizeof coarse_path, "%s/coarse.gguf", folder);
    snprintf(text_path, sizeof text_path, "%s/text", folder);
    snprintf(bad_path, sizeof bad_path, "%s/bad.kl", folder);
    test_rows();
    FILE *f = fopen(text_path, "w");
    for (int i = 0; f && i < 60; i++)
        fprintf(f, "What is %d plus %d? The answer is %d. ", 7 * i, 3 * i + 1, 10 * i + 1);
    if (f)
        fclose(f);
    tandem("--version");
    if (strstr(said, "left out")) {
        check_case("against the engine");
        check_skip("this build has no JSON");
    } else {
        test_numbers();
        test_damage();
    }
    unlink(base_path);
    unlink(coarse_path);
    unlink(text_path);
    unlink(bad_path);
    rmdir(folder);
    return check_finish();
}
