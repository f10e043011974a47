/* Part of check_kernels.c: index_scores, whose bits are the same everywhere. */

#define I8(g) ((int8_t *)(g).data)

/* Bytes of -127 .. 127; those of a head that does not exist are 0. */
static struct guarded bytes_of(int64_t n, enum pattern p)
{
    struct guarded g = guarded((size_t)n);
    for (int64_t i = 0; i < n; i++)
        I8(g)[i] = (int8_t)(p == ZEROS      ? 0
                            : p == EXTREMES ? (check_random() & 1 ? 127 : -127)
                                            : (int)(check_random() % 255) - 127);
    return g;
}

static void check_index_scores(const struct kernels *new, const struct kernels *ref, int n_heads,
                               int dim, int64_t n, enum pattern p)
{
    struct guarded q = bytes_of((int64_t)n_heads * dim, p), keys = bytes_of(n * dim, p);
    struct guarded weights = floats(n_heads, RANDOM), scales = floats(n, RANDOM);
    struct guarded sums = floats(n_heads, ZEROS), out = floats(n, ZEROS);
    float *wanted = malloc((size_t)max_of(n, (int64_t)1) * sizeof *wanted);
    for (int64_t i = 0; i < (int64_t)n_heads * dim; i++)
        ((int32_t *)(void *)sums.data)[i / 4 % n_heads] += I8(q)[i];
    struct index_query x = { .n_heads = n_heads, .dim = dim, .q = I8(q), .weights = F(weights),
                             .sums = (const int32_t *)(const void *)sums.data };
    if (n > 3)
        F(scales)[2] = NAN;
    ref->index_scores(&x, I8(keys), F(scales), n, wanted);
    new->index_scores(&x, I8(keys), F(scales), n, F(out));
    for (int64_t i = 0; i < n; i++)
        CHECK_MSG(F(out)[i] == wanted[i] || (isnan(wanted[i]) && isnan(F(out)[i])),
                  "%d heads of %d, %s, key %d of %d: %.9g, wanted %.9g", n_heads, dim, pattern_name[p],
                  (int)i, (int)n, F(out)[i], wanted[i]);
    if (n > 0) { /* the definition, in double precision */
        double sum = 0, sum_abs = 0;
        for (int h = 0; h < n_heads; h++) {
            int64_t dot = 0;
            for (int c = 0; c < dim; c++)
                dot += I8(q)[(c / 4 * n_heads + h) * 4 + c % 4] * I8(keys)[c];
            sum += (double)F(weights)[h] * (double)max_of(dot, (int64_t)0);
            sum_abs += fabs((double)F(weights)[h]) * (double)max_of(dot, (int64_t)0);
        }
        CHECK_MSG(fabs((double)F(out)[0] - sum * (double)F(scales)[0]) <=
                      1e-5 * sum_abs * fabs((double)F(scales)[0]),
                  "%d heads of %d: %.9g, wanted %.9g", n_heads, dim, F(out)[0],
                  sum * (double)F(scales)[0]);
    }
    free(wanted);
    release(q), release(keys), release(weights), release(scales), release(sums), release(out);
}

static void check_index(const struct kernels *new, const struct kernels *ref)
{
    static const int dims[] = { 4, 28, 64, 100, 128, 192, 1024 };
    static const int counts[] = { 0, 1, 7, 15, 16, 17, 31, 32, 33, 70, 256 };
    for (size_t d = 0; d < ARRAY_LEN(dims); d++)
        for (size_t i = 0; i < ARRAY_LEN(counts); i++)
            for (int heads = INDEX_GROUP; heads <= 3 * INDEX_GROUP; heads += INDEX_GROUP)
                if (dims[d] < 1024 || (heads == INDEX_GROUP && counts[i] < 40))
                    check_index_scores(new, ref, heads, dims[d], counts[i],
                                       heads == INDEX_GROUP ? EXTREMES : RANDOM);
    check_index_scores(new, ref, INDEX_GROUP, 128, 33, ZEROS);
}
