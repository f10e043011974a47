/* Layout of the older format, all little-endian and unaligned:
 *   i32 n_entries, then per entry: i32 name length, name, i32 n_calls, i32 n_values, f32 values;
 *   optionally i32 n_chunks, i32 length, name of the data set.
 * A value is n_calls times the mean. */
#include "tools/imatrix.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/base/log.h"
#include "src/base/mem.h"
#include "tools/journal.h"

#define MAX_ENTRIES (1 << 17)
#define MAX_NAME 255
#define MAX_VALUES (1 << 28)
#define MAX_MEAN 1e18f

typedef unsigned long long ull;

static float float_at(const uint8_t *floats, uint64_t i)
{
    float f;
    memcpy(&f, floats + 4 * i, 4);
    return f;
}

static bool check_values(const char *path, struct str name, const uint8_t *floats, uint64_t n,
                         struct error *err)
{
    for (uint64_t i = 0; i < n; i++) {
        float f = float_at(floats, i);
        if (!isfinite(f) || f < 0)
            return fail(err, ERR_FILE, "%s: %.*s: value %llu is %g, expected a finite number not "
                        "below 0", path, (int)name.len, name.data, (ull)i, (double)f);
    }
    return true;
}

/* Means are multiplied with squared weights and added up: they must stay far from overflow. */
static bool check_means(const char *path, const struct imatrix_entry *e, struct error *err)
{
    uint64_t per_count = e->n_counts ? e->n_values / e->n_counts : 1;
    for (uint64_t i = 0; i < e->n_values; i++) {
        float count = e->n_counts ? float_at(e->counts, i / per_count) : e->divisor;
        if (count > 0 && !(float_at(e->sums, i) / count <= MAX_MEAN))
            return fail(err, ERR_FILE, "%s: %.*s: value %llu is %g for %g tokens, expected a mean of "
                        "at most %g", path, (int)e->name.len, e->name.data, (ull)i,
                        (double)float_at(e->sums, i), (double)count, (double)MAX_MEAN);
    }
    return true;
}

/* ---- the older format ---- */

struct reader {
    const char *path;
    const uint8_t *at;
    uint64_t left;
};

static bool take(struct reader *r, uint64_t n, const uint8_t **bytes, struct error *err)
{
    if (n > r->left)
        return fail(err, ERR_FILE, "%s: ends %llu bytes too early", r->path, (ull)(n - r->left));
    *bytes = r->at;
    r->at += n;
    r->left -= n;
    return true;
}

static bool take_i32(struct reader *r, const char *what, int32_t low, int32_t high, int32_t *value,
                     struct error *err)
{
    const uint8_t *p = NULL;
    if (!take(r, 4, &p, err))
        return false;
    *value = (int32_t)((uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 |
                       (uint32_t)p[3] << 24);
    return (*value >= low && *value <= high) ||
           fail(err, ERR_FILE, "%s: %s is %d, expected %d to %d", r->path, what, *value, low, high);
}

static bool read_old_entry(struct reader *r, struct imatrix_entry *e, struct error *err)
{
    int32_t len, n_calls, n_values;
    const uint8_t *name = NULL;
    if (!take_i32(r, "the length of a name", 1, MAX_NAME, &len, err) ||
        !take(r, (uint64_t)len, &name, err) ||
        !take_i32(r, "a number of calls", INT32_MIN, INT32_MAX, &n_calls, err) ||
        !take_i32(r, "a number of values", 1, MAX_VALUES, &n_values, err) ||
        !take(r, 4 * (uint64_t)n_values, &e->sums, err))
        return false;
    e->name = (struct str){ (const char *)name, (size_t)len };
    e->n_values = (uint64_t)n_values;
    e->divisor = n_calls > 0 ? (float)n_calls : 1;
    return check_values(r->path, e->name, e->sums, e->n_values, err) &&
           check_means(r->path, e, err);
}

static bool read_old(struct imatrix *m, const char *path, struct error *err)
{
    struct reader r = { path, m->bytes, m->n_bytes };
    int32_t n, n_chunks, len;
    const uint8_t *text = NULL;
    if (!take_i32(&r, "the number of entries", 1, MAX_ENTRIES, &n, err))
        return false;
    if ((uint64_t)n > r.left / 13) /* the least an entry takes */
        return fail(err, ERR_FILE, "%s: %d entries in %llu bytes", path, n, (ull)r.left);
    m->entries = mem_alloc((size_t)n, sizeof *m->entries, "importance matrix", err);
    if (!m->entries)
        return false;
    for (; m->n_entries < (size_t)n; m->n_entries++)
        if (!read_old_entry(&r, &m->entries[m->n_entries], err))
            return false;
    if (r.left < 8) /* older writers end here */
        return true;
    if (!take_i32(&r, "the number of chunks", INT32_MIN, INT32_MAX, &n_chunks, err) ||
        !take_i32(&r, "the length of the data set's name", 0, 1 << 16, &len, err) ||
        !take(&r, (uint64_t)len, &text, err))
        return false;
    m->n_chunks = n_chunks > 0 ? (uint64_t)n_chunks : 0;
    m->dataset = (struct str){ (const char *)text, (size_t)len };
    return true;
}

static bool map_file(struct imatrix *m, const char *path, bool *is_gguf, struct error *err)
{
    struct stat st;
    char magic[4];
    m->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (m->fd < 0 || fstat(m->fd, &st) != 0)
        return fail(err, ERR_FILE, "%s: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode) || st.st_size < 8)
        return fail(err, ERR_FILE, "%s: not an importance matrix", path);
    *is_gguf = pread(m->fd, magic, 4, 0) == 4 && memcmp(magic, "GGUF", 4) == 0;
    if (*is_gguf)
        return true;
    void *map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, m->fd, 0);
    if (map == MAP_FAILED)
        return fail(err, ERR_FILE, "%s: cannot be mapped: %s", path, strerror(errno));
    m->bytes = map;
    m->n_bytes = (uint64_t)st.st_size;
    return true;
}

/* ---- GGUF ---- */

#define SUMS ".in_sum2"

static bool read_gguf_entry(struct imatrix *m, const char *path, const struct tensor *t,
                            struct error *err)
{
    char counts_name[80];
    size_t len = strlen(t->name) - strlen(SUMS);
    struct imatrix_entry *e = &m->entries[m->n_entries++];
    snprintf(counts_name, sizeof counts_name, "%.*s.counts", (int)len, t->name);
    const struct tensor *c = gguf_tensor(&m->gguf, counts_name);
    if (!c)
        return fail(err, ERR_FILE, "%s: %s without %s", path, t->name, counts_name);
    if (t->type != TYPE_F32 || c->type != TYPE_F32)
        return fail(err, ERR_FILE, "%s: %s and its counts are expected to be F32", path, t->name);
    e->name = (struct str){ t->name, len };
    e->sums = t->data;
    e->counts = c->data;
    e->n_values = t->bytes / 4;
    e->n_counts = c->bytes / 4;
    e->divisor = 1;
    if (e->n_values % e->n_counts)
        return fail(err, ERR_FILE, "%s: %s has %llu values and %llu counts", path, t->name,
                    (ull)e->n_values, (ull)e->n_counts);
    return check_values(path, e->name, e->sums, e->n_values, err) &&
           check_values(path, e->name, e->counts, e->n_counts, err) && check_means(path, e, err);
}

static bool read_gguf(struct imatrix *m, const char *path, struct error *err)
{
    struct str kind = { 0 };
    if (!gguf_get_str(&m->gguf, "general.type", &kind, err))
        return false;
    if (!str_is(kind, "imatrix"))
        return fail(err, ERR_FILE, "%s: a GGUF file, but no importance matrix", path);
    m->entries = mem_alloc(m->gguf.n_tensors, sizeof *m->entries, "importance matrix", err);
    for (uint64_t i = 0; m->entries && i < m->gguf.n_tensors; i++) {
        const struct tensor *t = &m->gguf.tensors[i];
        size_t len = strlen(t->name);
        if (len > strlen(SUMS) && strcmp(t->name + len - strlen(SUMS), SUMS) == 0 &&
            !read_gguf_entry(m, path, t, err))
            return false;
    }
    const struct gguf_kv *sets = gguf_array(&m->gguf, "imatrix.datasets", GGUF_KIND_STRING, NULL);
    if (sets) {
        struct gguf_cursor c = gguf_strings(sets);
        gguf_next_string(&c, &m->dataset);
    }
    return m->entries && gguf_get_u64(&m->gguf, "imatrix.chunk_count", &m->n_chunks, err);
}

/* ---- both ---- */

static int compare_names(struct str a, struct str b)
{
    int order = memcmp(a.data, b.data, min_of(a.len, b.len));
    return order ? order : (a.len > b.len) - (a.len < b.len);
}

static int by_name(const void *a, const void *b)
{
    const struct imatrix_entry *x = a, *y = b;
    return compare_names(x->name, y->name);
}

/* In order, each name once, and what all of them together are. */
static bool index_entries(struct imatrix *m, const char *path, struct error *err)
{
    if (!m->n_entries)
        return fail(err, ERR_FILE, "%s: an importance matrix without entries", path);
    qsort(m->entries, m->n_entries, sizeof *m->entries, by_name);
    for (size_t i = 0; i < m->n_entries; i++) {
        const struct imatrix_entry *e = &m->entries[i];
        if (i && compare_names(m->entries[i - 1].name, e->name) == 0)
            return fail(err, ERR_FILE, "%s: %.*s occurs twice", path, (int)e->name.len,
                        e->name.data);
        m->crc = crc32c(m->crc, e->name.data, e->name.len);
        m->crc = crc32c(m->crc, &e->divisor, sizeof e->divisor);
        m->crc = crc32c(m->crc, e->sums, 4 * e->n_values);
        m->crc = crc32c(m->crc, e->counts, 4 * e->n_counts);
    }
    return true;
}

bool imatrix_open(struct imatrix *m, const char *path, struct error *err)
{
    bool is_gguf = false;
    *m = (struct imatrix){ .fd = -1 };
    return map_file(m, path, &is_gguf, err) &&
           (is_gguf ? gguf_open(&m->gguf, path, err) && read_gguf(m, path, err)
                    : read_old(m, path, err)) &&
           index_entries(m, path, err);
}

bool imatrix_open_memory(struct imatrix *m, const void *bytes, size_t size, struct error *err)
{
    bool is_gguf = size >= 4 && memcmp(bytes, "GGUF", 4) == 0;
    *m = (struct imatrix){ .fd = -1, .bytes = bytes, .n_bytes = size };
    return (is_gguf ? gguf_open_memory(&m->gguf, bytes, size, err) && read_gguf(m, "memory", err)
                    : read_old(m, "memory", err)) &&
           index_entries(m, "memory", err);
}

void imatrix_close(struct imatrix *m)
{
    gguf_close(&m->gguf);
    if (m->fd > 0) { /* 0 in a zeroed struct; the standard streams are never closed */
        if (m->bytes)
            munmap((void *)m->bytes, m->n_bytes);
        close(m->fd);
    }
    mem_free(m->entries);
    *m = (struct imatrix){ .fd = -1 };
}

static const struct imatrix_entry *find(const struct imatrix *m, const char *name)
{
    struct imatrix_entry key = { .name = str_of(name) };
    return bsearch(&key, m->entries, m->n_entries, sizeof key, by_name);
}

/* Tensors that multiply the same input. */
static const char *const same_input[][2] = {
    { "attn_v_b.", "attn_kv_b." },
    { "attn_kv_b.", "attn_v_b." },
    { "ffn_gate_exps.", "ffn_up_exps." },
    { "ffn_up_exps.", "ffn_gate_exps." },
    { "ffn_gate_exps.", "ffn_gate_up_exps." },
    { "ffn_up_exps.", "ffn_gate_up_exps." },
    { "ffn_gate_up_exps.", "ffn_up_exps." },
    { "ffn_gate_up_exps.", "ffn_gate_exps." },
    { "ffn_gate_shexp.", "ffn_up_shexp." },
    { "ffn_up_shexp.", "ffn_gate_shexp." },
    { "ffn_gate.", "ffn_up." },
    { "ffn_up.", "ffn_gate." },
};

const struct imatrix_entry *imatrix_find(const struct imatrix *m, const char *tensor, bool *exact)
{
    const struct imatrix_entry *e = find(m, tensor);
    *exact = e != NULL;
    for (size_t i = 0; !e && i < ARRAY_LEN(same_input); i++) {
        const char *part = strstr(tensor, same_input[i][0]);
        char other[128];
        if (!part)
            continue;
        snprintf(other, sizeof other, "%.*s%s%s", (int)(part - tensor), tensor, same_input[i][1],
                 part + strlen(same_input[i][0]));
        e = find(m, other);
    }
    return e;
}

bool imatrix_fit(const struct imatrix_entry *e, const char *tensor, uint64_t cols,
                 uint64_t n_matrices, struct imatrix_entry *fitted, struct error *err)
{
    *fitted = *e;
    if (e->n_values == cols)
        fitted->n_matrices = 1;
    else if (e->n_values % cols == 0 && e->n_values / cols == n_matrices)
        fitted->n_matrices = n_matrices;
    else
        return fail(err, ERR_FILE, "%s: the importance matrix has %llu values, expected %llu or "
                    "%llu x %llu: it is of another model", tensor, (ull)e->n_values, (ull)cols,
                    (ull)n_matrices, (ull)cols);
    fitted->n_unseen = 0;
    for (uint64_t i = 0; i < e->n_counts; i++)
        fitted->n_unseen += float_at(e->counts, i) <= 0;
    return true;
}

void imatrix_row(const struct imatrix_entry *e, uint64_t matrix, int64_t cols, float *out)
{
    uint64_t at = e->n_matrices > 1 ? matrix : 0;
    float count = e->divisor, sum = 0;
    if (e->counts) /* as many as matrices, or one for all */
        count = float_at(e->counts, at * e->n_counts / e->n_matrices);
    for (int64_t i = 0; i < cols; i++) {
        float v = float_at(e->sums, at * (uint64_t)cols + (uint64_t)i);
        out[i] = count > 0 ? v / count : 0;
        sum += out[i];
    }
    for (int64_t i = 0; !(sum > 0) && i < cols; i++)
        out[i] = 1;
}
