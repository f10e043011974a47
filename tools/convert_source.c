#include "tools/convert_source.h"

#include <math.h>

#include "src/format/quant_blocks.h"

typedef unsigned long long ull;

static float e4m3[256];

void convert_source_init(void)
{
    for (int i = 0; i < 256; i++)
        e4m3[i] = e4m3_to_f32((uint8_t)i);
}

bool is_fp4(const struct st_tensor *t)
{
    return t->dtype == ST_BYTE;
}

/* ---- one stretch of rows of one tensor ---- */

/* Rows first .. first + n - 1 of tensor `number`. */
struct stretch {
    const struct convert_source *s;
    const struct st_tensor *tensor, *scale;
    int64_t first, n;
};

static void decode(enum st_dtype dtype, const uint8_t *raw, float *out, int64_t n)
{
    switch (dtype) {
    case ST_F16:
        quant_traits(TYPE_F16)->dequantize(raw, out, n);
        break;
    case ST_BF16:
        quant_traits(TYPE_BF16)->dequantize(raw, out, n);
        break;
    case ST_F8_E8M0:
        for (int64_t i = 0; i < n; i++)
            out[i] = e8m0_to_f32(raw[i]);
        break;
    default: /* ST_F8_E4M3: nothing else gets here */
        for (int64_t i = 0; i < n; i++)
            out[i] = e4m3[raw[i]];
    }
}

/* `count` numbers from number `from` on; raw: room for them as stored. */
static bool read_numbers(const struct checkpoint *c, const struct st_tensor *t, uint64_t from,
                         size_t count, float *out, uint8_t *raw, struct error *err)
{
    size_t size = st_dtype_bytes(t->dtype);
    if (t->dtype == ST_F32)
        return checkpoint_read(c, t, from * size, out, count * size, err);
    if (!checkpoint_read(c, t, from * size, raw, count * size, err))
        return false;
    decode(t->dtype, raw, out, (int64_t)count);
    return true;
}

static bool no_number(const struct stretch *x, const float *values, struct error *err)
{
    int64_t cols = x->s->cols, i = 0;
    while (isfinite(values[i]))
        i++;
    return fail(err, ERR_FILE, "%s: row %lld, column %lld is %s", x->tensor->name,
                (long long)(x->first + i / cols), (long long)(i % cols),
                isnan(values[i]) ? "NaN" : "infinite");
}

/* Exact products of 4 and up to 24 bits, rounded once. */
static bool fp8_rows(const struct stretch *x, float *out, float *scratch, struct error *err)
{
    const struct checkpoint *c = x->s->checkpoint;
    int64_t cols = x->s->cols, blocks = (cols + FP8_BLOCK - 1) / FP8_BLOCK;
    int64_t from = x->first / FP8_BLOCK, to = (x->first + x->n - 1) / FP8_BLOCK;
    size_t n_scales = (size_t)((to - from + 1) * blocks);
    float *scales = scratch, sum = 0;
    uint8_t *raw = (uint8_t *)(scratch + n_scales);
    if (!read_numbers(c, x->scale, (uint64_t)(from * blocks), n_scales, scales, raw, err) ||
        !read_numbers(c, x->tensor, (uint64_t)(x->first * cols), (size_t)(x->n * cols), out, raw,
                      err))
        return false;
    for (int64_t r = 0; r < x->n; r++) {
        const float *scale = scales + ((x->first + r) / FP8_BLOCK - from) * blocks;
        float *row = out + r * cols;
        for (int64_t b = 0; b < blocks; b++)
            for (int64_t k = b * FP8_BLOCK; k < min_of((b + 1) * FP8_BLOCK, cols); k++) {
                row[k] *= scale[b];
                sum += row[k] * 0.0f; /* stays 0 unless a value is not finite */
            }
    }
    return sum == 0 || no_number(x, out, err);
}

/* One block: codes of columns 2j and 2j + 1 in byte j become those of columns j and j + 16. */
static void repack(const uint8_t *codes, uint8_t *qs)
{
    for (int j = 0; j < FP4_BLOCK / 2; j++) {
        int shift = 4 * (j & 1);
        int low = codes[j / 2] >> shift & 15, high = codes[(j + 16) / 2] >> shift & 15;
        qs[j] = (uint8_t)(low | high << 4);
    }
}

/* The rows as MXFP4 blocks. scratch: room for codes and scales. */
static bool fp4_blocks(const struct stretch *x, struct block_mxfp4 *blocks, uint8_t *scratch,
                       struct error *err)
{
    const struct checkpoint *c = x->s->checkpoint;
    int64_t per_row = x->s->cols / FP4_BLOCK, n = x->n * per_row;
    uint8_t *codes = scratch, *scales = scratch + n * (FP4_BLOCK / 2);
    if (!checkpoint_read(c, x->tensor, (uint64_t)(x->first * per_row * (FP4_BLOCK / 2)), codes,
                         (size_t)n * (FP4_BLOCK / 2), err) ||
        !checkpoint_read(c, x->scale, (uint64_t)(x->first * per_row), scales, (size_t)n, err))
        return false;
    for (int64_t i = 0; i < n; i++) {
        if (scales[i] == 255)
            return fail(err, ERR_FILE, "%s: row %lld, block %lld is NaN", x->scale->name,
                        (long long)(x->first + i / per_row), (long long)(i % per_row));
        blocks[i].e = scales[i];
        repack(codes + i * (FP4_BLOCK / 2), blocks[i].qs);
    }
    return true;
}

static bool fp4_rows(const struct stretch *x, float *out, float *scratch, struct error *err)
{
    int64_t n = x->n * x->s->cols;
    struct block_mxfp4 *blocks = (struct block_mxfp4 *)scratch;
    if (!fp4_blocks(x, blocks, (uint8_t *)(blocks + n / FP4_BLOCK), err))
        return false;
    quant_traits(TYPE_MXFP4)->dequantize(blocks, out, n);
    return true;
}

static bool stretch_rows(const struct stretch *x, float *out, void *scratch, struct error *err)
{
    if (is_fp4(x->tensor))
        return fp4_rows(x, out, scratch, err);
    if (x->scale)
        return fp8_rows(x, out, scratch, err);
    return read_numbers(x->s->checkpoint, x->tensor, (uint64_t)(x->first * x->s->cols),
                        (size_t)(x->n * x->s->cols), out, scratch, err);
}

/* ---- rows over all tensors ---- */

/* Where row r of the file comes from within its matrix: pair p of a head is (p, p + half) in the
 * checkpoint and (2p, 2p + 1) in the file. */
static int64_t rotary_row(int64_t r, int64_t head_rows)
{
    int64_t in_head = r % head_rows;
    return r - in_head + in_head % 2 * (head_rows / 2) + in_head / 2;
}

/* As many of the n rows from `row` on as lie one behind the other in one tensor. */
static struct stretch next_stretch(const struct convert_source *s, int64_t row, int64_t n)
{
    int64_t matrix = row / s->rows, first = row % s->rows;
    struct stretch x = { s, s->tensors[matrix], s->scales[matrix], first,
                         min_of(n, s->rows - first) };
    if (s->head_rows) {
        x.first = rotary_row(first, s->head_rows);
        x.n = 1;
    }
    return x;
}

static bool all_rows(const void *ctx, int64_t row, int64_t n, float *out, void *scratch,
                     struct error *err)
{
    const struct convert_source *s = ctx;
    while (n > 0) {
        struct stretch x = next_stretch(s, row, n);
        if (!stretch_rows(&x, out, scratch, err))
            return false;
        row += x.n;
        n -= x.n;
        out += x.n * s->cols;
    }
    return true;
}

/* Row by row of each in turn. */
static bool rows_beside(const void *ctx, int64_t row, int64_t n, float *out, void *scratch,
                        struct error *err)
{
    const struct convert_source *s = ctx;
    for (int64_t i = 0; i < 2 * n; i++, out += s->cols) {
        struct stretch x = { s, s->tensors[i % 2], s->scales[i % 2], row + i / 2, 1 };
        if (!stretch_rows(&x, out, scratch, err))
            return false;
    }
    return true;
}

/* ---- bytes that are taken over ---- */

static bool copied_fp4(const void *ctx, uint64_t at, size_t size, void *out, void *scratch,
                       struct error *err)
{
    const struct convert_source *s = ctx;
    int64_t per_row = s->cols / FP4_BLOCK, row_bytes = per_row * (int64_t)sizeof(struct block_mxfp4);
    int64_t row = (int64_t)at / row_bytes, n = (int64_t)size / row_bytes;
    struct block_mxfp4 *to = out;
    while (n > 0) {
        struct stretch x = next_stretch(s, row, n);
        if (!fp4_blocks(&x, to, scratch, err))
            return false;
        row += x.n;
        n -= x.n;
        to += x.n * per_row;
    }
    return true;
}

static bool copied_integers(const void *ctx, uint64_t at, size_t size, void *out, void *scratch,
                            struct error *err)
{
    const struct convert_source *s = ctx;
    const struct st_tensor *t = s->tensors[0];
    size_t n = size / sizeof(int32_t), from = (size_t)at / sizeof(int32_t);
    size_t width = st_dtype_bytes(t->dtype);
    const uint8_t *raw = scratch;
    int32_t *to = out;
    if (!checkpoint_read(s->checkpoint, t, from * width, scratch, n * width, err))
        return false;
    for (size_t i = 0; i < n; i++) {
        int64_t value = 0;
        int32_t narrow;
        if (width == 8)
            memcpy(&value, raw + 8 * i, 8);
        else
            memcpy(&narrow, raw + 4 * i, 4), value = narrow;
        if (value < 0 || value >= s->limit)
            return fail(err, ERR_FILE, "%s: row %llu, column %llu is %lld, expected 0 to %lld",
                        t->name, (ull)(from + i) / (ull)s->cols, (ull)(from + i) % (ull)s->cols,
                        (long long)value, (long long)s->limit - 1);
        to[i] = (int32_t)value;
    }
    return true;
}

/* ---- scratch ---- */

/* For n rows: floats of the scales they touch, then the larger of scales and rows as stored.
 *     8 (n / 128 + 2) (cols / 128 + 1) + 2 n cols  <=  3 n cols + 16 (cols / 128 + 1) + 16        */
struct transcode_source convert_rows(const struct convert_source *s, size_t n)
{
    struct transcode_source out = { .rows = all_rows, .ctx = s, .scratch_per_element = 3,
                                    .scratch_bytes = 32 + 16 * (size_t)(s->cols / FP8_BLOCK + 1) };
    enum st_dtype first = s->tensors[0]->dtype;
    bool fp4 = true;
    for (size_t i = 0; i < n; i++)
        fp4 = fp4 && is_fp4(s->tensors[i]);
    if (s->beside)
        out.rows = rows_beside;
    else if (fp4)
        out.bytes = copied_fp4;
    if (first == ST_I32 || first == ST_I64) {
        out.rows = NULL;
        out.bytes = copied_integers;
        out.scratch_per_element = st_dtype_bytes(first);
    }
    return out;
}
