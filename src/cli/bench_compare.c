/* tandem bench --compare: the same tests of an older file, and what became of their speed. */
#include <math.h>
#include <stdio.h>

#include "src/cli/bench.h"
#include "src/cli/term.h"

/* A json file is one array of rows; a jsonl file has one row per line. */
static struct json *parse_rows(const struct buf *text, struct error *err)
{
    struct str all = buf_str(text);
    size_t at = strspn(all.data, " \t\r\n");
    if (all.data[at] == '[')
        return js_parse(all, err);
    struct json *rows = js_array();
    for (const char *line = all.data; *line;) {
        size_t len = strcspn(line, "\n");
        if (strspn(line, " \t\r") < len) {
            struct json *row = js_parse((struct str){ line, len }, err);
            if (!row) {
                js_free(rows);
                return NULL;
            }
            js_push(rows, row);
        }
        line += len + (line[len] == '\n');
    }
    return rows;
}

static bool same_count(const struct json *old, const char *name, int64_t value)
{
    int64_t found;
    const struct json *member = js_get(old, name);
    return !member || (js_as_int(member, &found) && found == value);
}

/* The median of the old row that tested the same; NAN when there is none. Files of other programs may
 * lack threads and batch: then the name decides. */
static double old_rate(const struct json *rows, const struct bench_row *r)
{
    for (size_t i = 0; i < js_count(rows); i++) {
        const struct json *old = js_at(rows, i);
        struct str test;
        double rate;
        if (js_as_text(js_get(old, "test"), &test) && str_is(test, r->test) &&
            same_count(old, "threads", r->threads) && same_count(old, "batch", r->batch) &&
            js_as_real(js_get(old, "tok_s_median"), &rate) && rate > 0)
            return rate;
    }
    return NAN;
}

/* A line per test where people read, a note elsewhere: rows for programs stay unmixed. */
static bool tell(const struct bench *b, const char *line, struct error *err)
{
    struct buf out = { 0 };
    if (b->o->format != TABLE_MD) {
        note("%s", line);
        return true;
    }
    buf_printf(&out, "%s\n", line);
    bool ok = buf_ok(&out, err) && out_write(out.data, out.len, err);
    buf_release(&out);
    return ok;
}

static bool grade(const struct bench *b, const struct json *rows, const char *path,
                  double max_loss, struct error *err)
{
    char name[64], line[256], worst[256] = "";
    double worst_loss = max_loss;
    int n_compared = 0;
    for (int i = 0; i < b->n_rows; i++) {
        const struct bench_row *r = &b->rows[i];
        double old = old_rate(rows, r), now = row_median(r), loss = 1 - now / old;
        row_name(b, r, name, sizeof name);
        if (!isfinite(old)) {
            snprintf(line, sizeof line, "%s: not in %.128s", name, path);
        } else {
            n_compared++;
            snprintf(line, sizeof line, "%s: %.2f -> %.2f tok/s, %+.1f %%", name, old, now,
                     -100 * loss);
        }
        if (isfinite(old) && loss > worst_loss) {
            worst_loss = loss;
            memcpy(worst, line, sizeof worst);
        }
        if (!tell(b, line, err))
            return false;
    }
    if (n_compared == 0)
        return fail(err, ERR_CHECK, "%s: none of these tests is in it", path);
    return !*worst || fail(err, ERR_CHECK, "slower than in %s by more than %g %%: %s", path,
                           100 * max_loss, worst);
}

bool compare_rows(const struct bench *b, const char *path, double max_loss, struct error *err)
{
    struct buf text = { 0 };
    struct json *rows = NULL;
    bool ok = buf_read_file(&text, path, err);
    if (ok) {
        rows = parse_rows(&text, err);
        ok = rows || error_prefix(err, "%s", path);
    }
    ok = ok && (js_is_array(rows) || fail(err, ERR_FILE, "%s: no rows of tandem bench", path));
    ok = ok && grade(b, rows, path, max_loss, err);
    js_free(rows);
    buf_release(&text);
    return ok;
}
