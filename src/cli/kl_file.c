#include "src/cli/kl_file.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/base/crc32c.h"
#include "src/base/mem.h"
#include "src/base/util.h"

#define MAGIC "TANDEMKL"
#define VERSION 1
#define HEAD 56
#define ROW_HEAD 20
#define MOST_VOCAB (1 << 24)

static uint64_t row_bytes(int64_t n_vocab)
{
    return ROW_HEAD + 2 * (uint64_t)n_vocab;
}

static int64_t rows_of(const struct kl_head *h)
{
    return h->n_windows * (h->window - 1 - h->first);
}

static uint32_t row_crc(const uint8_t *row, int64_t n_vocab)
{
    return crc32c(crc32c(0, row, 16), row + ROW_HEAD, 2 * (size_t)n_vocab);
}

void kl_identify(const struct gguf *g, uint32_t *model_crc, uint32_t *vocab_crc)
{
    const struct gguf_kv *tokens = gguf_find(g, "tokenizer.ggml.tokens");
    *model_crc = crc32c(0, g->shards[0].map, (size_t)g->shards[0].data_start);
    *vocab_crc = tokens ? crc32c(0, tokens->data, (size_t)tokens->bytes) : 0;
}

/* ---- writing --------------------------------------------------------------------------------- */

static void pack_head(uint8_t *to, const struct kl_head *h, uint32_t ids_crc)
{
    const uint32_t version = VERSION;
    memcpy(to, MAGIC, 8);
    memcpy(to + 8, &version, 4);
    memcpy(to + 12, &h->n_vocab, 4);
    memcpy(to + 16, &h->window, 4);
    memcpy(to + 20, &h->first, 4);
    memcpy(to + 24, &h->n_windows, 8);
    memcpy(to + 32, &h->n_text, 8);
    memcpy(to + 40, &h->model_crc, 4);
    memcpy(to + 44, &h->vocab_crc, 4);
    memcpy(to + 48, &ids_crc, 4);
    uint32_t crc = crc32c(0, to, 52);
    memcpy(to + 52, &crc, 4);
}

bool kl_create(struct kl_writer *w, const char *path, const struct kl_head *head,
               const int32_t *ids, struct error *err)
{
    uint8_t bytes[HEAD];
    size_t ids_bytes = 4 * (size_t)head->n_windows * (size_t)head->window;
    pack_head(bytes, head, crc32c(0, ids, ids_bytes));
    w->file.fd = -1;
    w->n_vocab = head->n_vocab;
    w->row = mem_alloc(1, row_bytes(head->n_vocab), "a row of probabilities", err);
    return w->row && output_open(&w->file, path, err) &&
           output_write(&w->file, bytes, HEAD, err) && output_write(&w->file, ids, ids_bytes, err);
}

bool kl_append(struct kl_writer *w, const float *logits, double log_sum, double loss,
               struct error *err)
{
    uint16_t *q = (uint16_t *)(w->row + ROW_HEAD);
    float min = logits[0], low, step, stored_loss = (float)loss;
    int32_t top = 0;
    for (int32_t v = 1; v < w->n_vocab; v++) {
        min = logits[v] < min ? logits[v] : min;
        top = logits[v] > logits[top] ? v : top;
    }
    low = (float)((double)min - log_sum);
    step = (logits[top] - min) / 65535;
    if (!isfinite(low) || !isfinite(step))
        return fail(err, ERR_CHECK, "the logits are not finite");
    double per_step = step > 0 ? 1 / (double)step : 0;
    for (int32_t v = 0; v < w->n_vocab; v++) {
        double x = ((double)logits[v] - (double)min) * per_step;
        q[v] = (uint16_t)lrint(min_of(x, 65535));
    }
    memcpy(w->row, &low, 4);
    memcpy(w->row + 4, &step, 4);
    memcpy(w->row + 8, &top, 4);
    memcpy(w->row + 12, &stored_loss, 4);
    uint32_t crc = row_crc(w->row, w->n_vocab);
    memcpy(w->row + 16, &crc, 4);
    return output_write(&w->file, w->row, row_bytes(w->n_vocab), err);
}

bool kl_finish(struct kl_writer *w, bool ok, struct error *err)
{
    mem_free(w->row);
    w->row = NULL;
    return output_close(&w->file, ok, err);
}

/* ---- reading --------------------------------------------------------------------------------- */

static bool read_whole(struct kl_reader *r, void *to, size_t n, struct error *err)
{
    for (uint8_t *at = to; n > 0; ) {
        ssize_t got = read(r->fd, at, n);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return fail(err, ERR_RUN, "%s: cannot read: %s", r->path, strerror(errno));
        if (got == 0)
            return fail(err, ERR_FILE, "%s: the file ends too early", r->path);
        at += got;
        n -= (size_t)got;
    }
    return true;
}

static bool unpack_head(struct kl_reader *r, uint32_t *ids_crc, struct error *err)
{
    struct kl_head *h = &r->head;
    uint8_t bytes[HEAD];
    uint32_t version, crc;
    if (!read_whole(r, bytes, HEAD, err))
        return false;
    if (memcmp(bytes, MAGIC, 8) != 0)
        return fail(err, ERR_FILE, "%s: not a file of eval --kl-base", r->path);
    memcpy(&version, bytes + 8, 4);
    memcpy(&crc, bytes + 52, 4);
    if (version != VERSION)
        return fail(err, ERR_FILE, "%s: layout version %u, this program reads %d", r->path,
                    (unsigned)version, VERSION);
    memcpy(&h->n_vocab, bytes + 12, 4);
    memcpy(&h->window, bytes + 16, 4);
    memcpy(&h->first, bytes + 20, 4);
    memcpy(&h->n_windows, bytes + 24, 8);
    memcpy(&h->n_text, bytes + 32, 8);
    memcpy(&h->model_crc, bytes + 40, 4);
    memcpy(&h->vocab_crc, bytes + 44, 4);
    memcpy(ids_crc, bytes + 48, 4);
    if (crc != crc32c(0, bytes, 52) || h->n_vocab < 1 || h->n_vocab > MOST_VOCAB ||
        h->window < 2 || h->first < 0 || h->first > h->window - 2 || h->n_windows < 1)
        return fail(err, ERR_FILE, "%s: the head is damaged", r->path);
    return true;
}

/* Is the file exactly as long as its head says? Nothing is allocated before. */
static bool check_size(struct kl_reader *r, struct error *err)
{
    const struct kl_head *h = &r->head;
    struct stat st;
    uint64_t per_window = 4 * (uint64_t)h->window +
                          (uint64_t)(h->window - 1 - h->first) * row_bytes(h->n_vocab);
    uint64_t wanted;
    if (fstat(r->fd, &st) != 0)
        return fail(err, ERR_RUN, "%s: %s", r->path, strerror(errno));
    if (__builtin_mul_overflow(per_window, (uint64_t)h->n_windows, &wanted) ||
        __builtin_add_overflow(wanted, (uint64_t)HEAD, &wanted) || wanted != (uint64_t)st.st_size)
        return fail(err, ERR_FILE, "%s: %lld bytes, but its head promises %llu: cut short, or not "
                    "written to the end", r->path, (long long)st.st_size,
                    (unsigned long long)wanted);
    return true;
}

static bool read_ids(struct kl_reader *r, uint32_t ids_crc, struct error *err)
{
    size_t n = (size_t)r->head.n_windows * (size_t)r->head.window;
    r->ids = mem_alloc(n, sizeof *r->ids, "token ids", err);
    if (!r->ids || !read_whole(r, r->ids, 4 * n, err))
        return false;
    bool ok = crc32c(0, r->ids, 4 * n) == ids_crc;
    for (size_t i = 0; ok && i < n; i++)
        ok = r->ids[i] >= 0 && r->ids[i] < r->head.n_vocab;
    return ok || fail(err, ERR_FILE, "%s: the token ids are damaged", r->path);
}

bool kl_open(struct kl_reader *r, const char *path, struct error *err)
{
    struct stat st;
    uint32_t ids_crc = 0;
    *r = (struct kl_reader){ .path = path };
    r->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe without writer must not hang */
    if (r->fd < 0)
        return fail(err, ERR_FILE, "%s: %s", path, strerror(errno));
    r->open = true;
    bool ok = (fstat(r->fd, &st) == 0 && S_ISREG(st.st_mode)) ||
              fail(err, ERR_FILE, "%s: not a regular file", path);
    ok = ok && unpack_head(r, &ids_crc, err) && check_size(r, err) && read_ids(r, ids_crc, err);
    r->n_rows = ok ? rows_of(&r->head) : 0;
    r->row = ok ? mem_alloc(1, row_bytes(r->head.n_vocab), "a row of probabilities", err) : NULL;
    if (!r->row)
        kl_close(r);
    return r->open;
}

bool kl_next(struct kl_reader *r, struct kl_row *row, struct error *err)
{
    uint32_t crc;
    if (!read_whole(r, r->row, row_bytes(r->head.n_vocab), err))
        return false;
    memcpy(&row->low, r->row, 4);
    memcpy(&row->step, r->row + 4, 4);
    memcpy(&row->top, r->row + 8, 4);
    memcpy(&row->loss, r->row + 12, 4);
    memcpy(&crc, r->row + 16, 4);
    row->q = (const uint16_t *)(r->row + ROW_HEAD);
    if (crc != row_crc(r->row, r->head.n_vocab) || !isfinite(row->low) || !(row->step >= 0) ||
        !isfinite(row->step) || !isfinite(row->loss) || row->top < 0 ||
        row->top >= r->head.n_vocab)
        return fail(err, ERR_FILE, "%s: row %lld of %lld is damaged", r->path, (long long)r->next,
                    (long long)r->n_rows);
    r->next++;
    return true;
}

void kl_close(struct kl_reader *r)
{
    if (r->open)
        close(r->fd);
    mem_free(r->ids);
    mem_free(r->row);
    *r = (struct kl_reader){ 0 };
}

/* ---- comparing ------------------------------------------------------------------------------- */

double kl_divergence(const struct kl_row *base, const float *logits, double log_sum,
                     int32_t n_vocab)
{
    double low = (double)base->low, step = (double)base->step, sum = 0, kl = 0;
    for (int32_t v = 0; v < n_vocab; v++) {
        double ln_p = low + step * base->q[v], p = exp(ln_p);
        sum += p;
        kl += p * (ln_p - ((double)logits[v] - log_sum));
    }
    return kl / sum - log(sum); /* rounding made the sum differ from 1 */
}
