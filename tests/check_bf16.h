/* Part of check_kernels.c: the bf16_ rows, each against its definition in double precision. They
 * stand or fall together: where bf16_gemm is NULL there is none of them. */

#define U32(g) ((uint32_t *)(void *)(g).data)

static struct guarded random_bf16(int64_t n)
{
    struct guarded g = guarded((size_t)n * sizeof(uint16_t));
    for (int64_t i = 0; i < n; i++)
        H(g)[i] = f32_to_bf16(random_normal());
    return g;
}

/* Element (r, c) of a matrix that lies as pairs. */
static float paired(const uint32_t *pairs, int64_t ld, int64_t r, int64_t c)
{
    uint32_t word = pairs[r / 2 * ld + c];
    return bf16_to_f32((uint16_t)(r % 2 ? word >> 16 : word));
}

/* a [m, k] and pairs of b [k, n] in rows a little longer than needed. */
static void check_bf16_gemm(const struct kernels *new, int m, int n, int k, bool add)
{
    int64_t lda = k + 16, ldb = n + 16, ldc = n + 8;
    struct guarded a = random_bf16((m - 1) * lda + k), b = random_bf16(2 * ((k / 2 - 1) * ldb + n));
    struct guarded c = floats((m - 1) * ldc + n, RANDOM);
    float *before = malloc(c.size);
    memcpy(before, c.data, c.size);
    new->bf16_gemm(m, n, k, H(a), lda, U32(b), ldb, add, F(c), ldc);
    for (int i = 0; i < m; i++) {
        for (int j = 0; j < n; j++) {
            double sum = add ? before[i * ldc + j] : 0, sum_abs = 1;
            for (int p = 0; p < k; p++) {
                double x = (double)bf16_to_f32(H(a)[i * lda + p]) * paired(U32(b), ldb, p, j);
                sum += x;
                sum_abs += fabs(x);
            }
            CHECK_MSG(close_to(F(c)[i * ldc + j], sum, 1e-6 * sum_abs),
                      "%d x %d x %d: c[%d, %d] is %.9g, wanted %.9g", m, n, k, i, j,
                      F(c)[i * ldc + j], sum);
        }
        for (int64_t j = n; i + 1 < m && j < ldc; j++)
            CHECK_MSG(F(c)[i * ldc + j] == before[i * ldc + j], "wrote between the rows");
    }
    free(before);
    release(a);
    release(b);
    release(c);
}

static void check_bf16_rounding(const struct kernels *new, int64_t n, enum pattern p)
{
    struct guarded x = floats(n, p), z = floats(n, RANDOM), y = halves(n, ZEROS);
    struct guarded pairs = floats(n, ZEROS);
    for (int64_t i = 0; i < n; i += 7) { /* ties, both ways */
        uint32_t bits = (uint32_t)check_random() & 0x3fff0000u;
        bits |= 0x8000;
        memcpy(&F(x)[i], &bits, sizeof bits);
    }
    if (n > 4) {
        F(x)[1] = INFINITY;
        F(x)[2] = -INFINITY;
        F(x)[3] = NAN;
    }
    new->bf16_round(F(x), 1, H(y), n);
    for (int64_t i = 0; i < n; i++)
        CHECK_MSG(H(y)[i] == f32_to_bf16(F(x)[i]) ||
                      (isnan(F(x)[i]) && isnan(bf16_to_f32(H(y)[i]))),
                  "%.9g becomes %.9g", F(x)[i], bf16_to_f32(H(y)[i]));
    new->bf16_pair_rows(F(x), F(z), U32(pairs), n);
    for (int64_t i = 0; i < n; i++) {
        uint16_t odd = f32_to_bf16(F(z)[i]);
        CHECK_MSG(U32(pairs)[i] == ((uint32_t)odd << 16 | H(y)[i]), "pair %lld: %08x", (long long)i,
                  U32(pairs)[i]);
    }
    new->bf16_round(F(z), 0.3f, H(y), n);
    for (int64_t i = 0; i < n; i++)
        CHECK_MSG(H(y)[i] == f32_to_bf16(F(z)[i] * 0.3f), "scaled %.9g", F(z)[i]);
    release(x);
    release(z);
    release(y);
    release(pairs);
}

static void check_bf16_lay_halves(const struct kernels *new, int64_t n, enum pattern p)
{
    int64_t ldr = n + 3;
    struct guarded even = halves(n, p), odd = halves(n, RANDOM), rows = halves(ldr + n, ZEROS);
    struct guarded pairs = floats(n, ZEROS), only = floats(n, ZEROS);
    new->bf16_lay_halves(H(even), H(odd), n, H(rows), ldr, U32(pairs));
    for (int64_t i = 0; i < n; i++) {
        uint16_t a = f32_to_bf16(f16_to_f32(H(even)[i])), b = f32_to_bf16(f16_to_f32(H(odd)[i]));
        CHECK_MSG(H(rows)[i] == a && H(rows)[ldr + i] == b, "row element %lld", (long long)i);
        CHECK_MSG(U32(pairs)[i] == ((uint32_t)b << 16 | a), "pair %lld", (long long)i);
    }
    new->bf16_lay_halves(H(even), H(odd), n, NULL, 0, U32(only));
    CHECK(memcmp(only.data, pairs.data, pairs.size) == 0);
    memset(even.data, 0, even.size);
    memset(odd.data, 0, odd.size);
    new->bf16_lay_halves(H(even), H(odd), n, H(rows), ldr, NULL);
    for (int64_t i = 0; i < n; i++)
        CHECK(H(rows)[i] == 0 && H(rows)[ldr + i] == 0);
    release(even);
    release(odd);
    release(rows);
    release(pairs);
    release(only);
}

static void check_bf16_transpose(const struct kernels *new, int rows, int columns)
{
    int64_t ldx = columns + 3, ldy = rows + 5;
    struct guarded x = random_bf16(2 * ((rows - 1) * ldx + columns));
    struct guarded y = random_bf16(2 * ((columns - 1) * ldy + rows));
    new->bf16_transpose(U32(x), ldx, rows, columns, U32(y), ldy);
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j++)
            CHECK_MSG(U32(y)[j * ldy + i] == U32(x)[i * ldx + j], "%d x %d: word (%d, %d)", rows,
                      columns, i, j);
    release(x);
    release(y);
}

/* Two blocks in a row, lanes that see all, some and none of each. */
static void check_bf16_softmax(const struct kernels *new, int n, int n_lanes, bool spread)
{
    int64_t ld = n_lanes + 16;
    float max[64], sum[64], shrink[64];
    double wanted_max[64], wanted_sum[64];
    int32_t seen[64];
    for (int i = 0; i < n_lanes; i++) {
        max[i] = BF16_NOTHING_SEEN;
        sum[i] = 0;
        wanted_max[i] = -INFINITY;
        wanted_sum[i] = 0;
    }
    for (int block = 0; block < 2; block++) {
        struct guarded x = floats((n - 1) * ld + n_lanes, RANDOM);
        struct guarded w = floats((n / 2 - 1) * ld + n_lanes, ZEROS);
        for (int64_t i = 0; i < (n - 1) * ld + n_lanes; i++)
            F(x)[i] *= spread ? 60 : 4;
        for (int i = 0; i < n_lanes; i++)
            seen[i] = i % 5 == 0 ? n : i % 5 == 1 ? 0 : (int32_t)(check_random() % (unsigned)n);
        new->bf16_softmax(F(x), ld, n, n_lanes, seen, max, sum, shrink, U32(w), ld);
        for (int i = 0; i < n_lanes; i++) {
            double old = wanted_max[i], added = 0;
            for (int p = 0; p < seen[i]; p++) {
                double score = F(x)[p * ld + i];
                wanted_max[i] = score > wanted_max[i] ? score : wanted_max[i];
            }
            for (int p = 0; p < n; p++) {
                double e = p < seen[i] ? exp2(F(x)[p * ld + i] - wanted_max[i]) : 0;
                float found = paired(U32(w), ld, p, i);
                added += e;
                CHECK_MSG(fabs(found - e) <= 0.00396 * e + 1e-37, "weight is %.9g, wanted %.9g",
                          found, e);
            }
            if (isinf(wanted_max[i])) {
                CHECK_MSG(sum[i] == 0, "a lane that saw nothing has a sum of %g", sum[i]);
                continue;
            }
            double factor = isinf(old) ? 0 : exp2(old - wanted_max[i]);
            wanted_sum[i] = wanted_sum[i] * factor + added;
            CHECK_MSG(max[i] == (float)wanted_max[i], "max is %g", max[i]);
            CHECK_MSG(close_to(shrink[i], factor, 1e-4 * factor + 1e-37), "shrink is %g, not %g",
                      shrink[i], factor);
            CHECK_MSG(close_to(sum[i], wanted_sum[i], 1e-4 * wanted_sum[i]), "sum is %g, not %g",
                      sum[i], wanted_sum[i]);
        }
        release(x);
        release(w);
    }
}

static void check_bf16_scale_lanes(const struct kernels *new, int rows, int n_lanes)
{
    int64_t ld = n_lanes + 3;
    struct guarded x = floats((rows - 1) * ld + n_lanes, RANDOM), factor = floats(n_lanes, RANDOM);
    float *before = malloc(x.size);
    memcpy(before, x.data, x.size);
    for (int i = 0; i < 16; i++)
        F(factor)[i] = 1;
    new->bf16_scale_lanes(F(x), ld, rows, n_lanes, F(factor));
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < n_lanes; i++)
            CHECK_MSG(F(x)[r * ld + i] == before[r * ld + i] * F(factor)[i], "row %d, lane %d", r,
                      i);
    free(before);
    release(x);
    release(factor);
}

static void check_bf16(const char *isa, const struct kernels *new)
{
    static const int sizes[] = { 16, 32, 48, 64, 112 };
    check_case("%s bf16_gemm", isa);
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++)
        for (size_t j = 0; j < ARRAY_LEN(sizes); j++)
            for (int k = 32; k <= 192; k += 160)
                check_bf16_gemm(new, sizes[i], sizes[j], k, (i + j) % 2);
    check_case("%s bf16_round, bf16_pair_rows, bf16_lay_halves", isa);
    int64_t lengths[24];
    size_t n_lengths = sizes_for(1, lengths);
    for (size_t i = 0; i < n_lengths; i++)
        for (int p = 0; p < N_PATTERNS; p++) {
            check_bf16_rounding(new, lengths[i], (enum pattern)p);
            check_bf16_lay_halves(new, lengths[i], (enum pattern)p);
        }
    check_case("%s bf16_transpose", isa);
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++)
        check_bf16_transpose(new, sizes[i], sizes[ARRAY_LEN(sizes) - 1 - i]);
    check_case("%s bf16_softmax", isa);
    for (int lanes = 16; lanes <= 64; lanes += 16) {
        check_bf16_softmax(new, 32, lanes, false);
        check_bf16_softmax(new, 96, lanes, true);
    }
    check_case("%s bf16_scale_lanes", isa);
    check_bf16_scale_lanes(new, 1, 16);
    check_bf16_scale_lanes(new, 33, 64);
}
