/* Fuzz target: a hostile importance matrix of either format. What is accepted must answer every
 * question a quantizer asks with finite weights that are not below 0.
 *
 *     make fuzz            one minute for each target, needs clang
 *
 * test_imatrix.c includes this file and feeds it damaged files. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "tools/imatrix.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MAX_COLS 4096 /* of which weights are looked at */

static void must(bool ok)
{
    if (!ok)
        abort();
}

/* The rows of an entry as `n` matrices. */
static void ask(const struct imatrix_entry *e, uint64_t n)
{
    struct imatrix_entry fitted;
    float row[MAX_COLS];
    uint64_t cols = n ? e->n_values / n : 0;
    if (!cols || cols > MAX_COLS || !imatrix_fit(e, "tensor", cols, n, &fitted, NULL))
        return;
    must(fitted.n_unseen <= e->n_counts);
    for (uint64_t m = 0; m < n && m < 8; m++) {
        float sum = 0;
        imatrix_row(&fitted, m, (int64_t)cols, row);
        for (uint64_t i = 0; i < cols; i++) {
            must(isfinite(row[i]) && row[i] >= 0);
            sum += row[i];
        }
        must(sum > 0 && isfinite(sum));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct imatrix m;
    struct error err = { 0 };
    bool ok = imatrix_open_memory(&m, data, size, &err);
    must(ok || (err.code == ERR_FILE && err.text[0]));
    for (size_t i = 0; ok && i < m.n_entries; i++) {
        const struct imatrix_entry *e = &m.entries[i];
        char name[256];
        bool exact;
        size_t len = e->name.len < sizeof name - 1 ? e->name.len : sizeof name - 1;
        memcpy(name, e->name.data, len);
        name[len] = 0;
        const struct imatrix_entry *found = imatrix_find(&m, name, &exact);
        must(memchr(name, 0, len) || (found == e && exact));
        ask(e, 1);
        ask(e, e->n_counts);
        ask(e, 3);
        ask(e, e->n_values);
    }
    imatrix_close(&m);
    return 0;
}
