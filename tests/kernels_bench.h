/* Rates of the dot products, for check_kernels --bench [word]. Included there only.
 *
 *   memory   GB/s of weights with one token, rows streamed from a buffer larger than the caches,
 *            by one thread and by two
 *   cache    the same by one thread from rows that stay in L2: what the unpacking alone allows
 *   GOPS     by one thread with 1, 8 and 128 tokens, rows in L2; a multiply-add is two operations
 *   tiles    GOPS of gemm by one thread with 4, 16 and 128 tokens, rows from memory;
 *            wide: gemm_wide */
#ifndef TANDEM_TESTS_KERNELS_BENCH_H
#define TANDEM_TESTS_KERNELS_BENCH_H

#include <pthread.h>

#define BENCH_COLS 4096
#define BENCH_TOKENS 128
#define BENCH_ROWS 64
#define BENCH_MEMORY ((size_t)256 << 20)
#define BENCH_CACHE ((size_t)256 << 10)

struct bench {
    const struct kernels *k;
    enum tensor_type type;
    const uint8_t *rows;
    size_t row_bytes;
    const uint8_t *act;
    size_t act_stride;
    int64_t first, last; /* rows of one thread */
    int n_tokens, repeats;
    gemm_fn *tiles; /* NULL: dot */
    double seconds; /* out */
};

/* CPU time of this thread: what other programs do meanwhile does not count. */
static double thread_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void *bench_rows(void *arg)
{
    struct bench *b = arg;
    static _Thread_local float out[BENCH_TOKENS * BENCH_ROWS];
    double start = thread_s();
    for (int r = 0; r < b->repeats; r++) {
        for (int64_t i = b->first; b->tiles && i + BENCH_ROWS <= b->last; i += BENCH_ROWS)
            b->tiles(BENCH_COLS, b->rows + (size_t)i * b->row_bytes, b->row_bytes,
                                BENCH_ROWS, b->act, b->act_stride, b->n_tokens, out, BENCH_ROWS);
        bool matvec = !b->tiles && b->k->matvec[b->type] && b->n_tokens == 1;
        for (int64_t i = b->first; matvec && i < b->last; i += BENCH_ROWS)
            b->k->matvec[b->type](BENCH_COLS, b->rows + (size_t)i * b->row_bytes, b->row_bytes,
                                  (int)min_of(b->last - i, BENCH_ROWS), b->act, out);
        for (int64_t i = b->first; !b->tiles && !matvec && i < b->last; i++)
            b->k->dot[b->type](BENCH_COLS, b->rows + (size_t)i * b->row_bytes, b->act,
                               b->act_stride, b->n_tokens, out);
    }
    b->seconds = thread_s() - start;
    return NULL;
}

/* Seconds for all rows by so many threads, the slower one counts: the best of five runs. */
static double bench_seconds(struct bench b, int64_t n_rows, int n_threads)
{
    double best = INFINITY;
    for (int run = 0; run < 5; run++) {
        struct bench half[2] = { b, b };
        half[0].first = 0;
        half[0].last = half[1].first = n_threads == 2 ? n_rows / 2 : n_rows;
        half[1].last = n_rows;
        pthread_t other;
        bool forked = n_threads == 2 && pthread_create(&other, NULL, bench_rows, &half[1]) == 0;
        bench_rows(&half[0]);
        if (forked)
            pthread_join(other, NULL);
        best = min_of(best, max_of(half[0].seconds, forked ? half[1].seconds : 0));
    }
    return best;
}

static void bench_tiles(struct bench b, const char *name, gemm_fn *gemm)
{
    static const int tokens[] = { 4, 16, BENCH_TOKENS };
    int64_t n_rows = (int64_t)(BENCH_MEMORY / b.row_bytes / 8) / BENCH_ROWS * BENCH_ROWS;
    b.tiles = gemm;
    b.repeats = 1;
    for (size_t i = 0; gemm && i < ARRAY_LEN(tokens); i++) {
        b.n_tokens = tokens[i];
        double s = bench_seconds(b, n_rows, 1);
        printf("  %s %6.1f", i == 0 ? name : "",
               2e-9 * (double)n_rows * BENCH_COLS * tokens[i] / s);
    }
}

static void bench_type(const char *isa, const struct kernels *k, enum tensor_type type,
                       uint8_t *memory)
{
    const struct quant_traits *traits = quant_traits(type);
    size_t row_bytes = quant_row_bytes(type, BENCH_COLS);
    size_t act_bytes = quant_row_bytes(traits->act, BENCH_COLS);
    float *x = malloc(BENCH_COLS * sizeof *x);
    uint8_t *act = malloc(BENCH_TOKENS * act_bytes);
    for (int t = 0; t < BENCH_TOKENS; t++) {
        fill_floats(x, BENCH_COLS, RANDOM);
        k->quantize[traits->act](x, act + (size_t)t * act_bytes, BENCH_COLS);
    }
    free(x);
    int64_t n_rows = (int64_t)(BENCH_MEMORY / row_bytes);
    fill_weights(type, memory, BENCH_COLS, RANDOM);
    for (int64_t i = 1; i < n_rows; i++)
        memcpy(memory + (size_t)i * row_bytes, memory, row_bytes);

    struct bench b = { .k = k, .type = type, .rows = memory, .row_bytes = row_bytes, .act = act,
                       .act_stride = act_bytes, .n_tokens = 1, .repeats = 1 };
    double gb = 1e-9 * (double)row_bytes * (double)n_rows;
    printf("%-8s %-7s memory %5.1f %5.1f", traits->name, isa, gb / bench_seconds(b, n_rows, 1),
           gb / bench_seconds(b, n_rows, 2));
    n_rows = (int64_t)(BENCH_CACHE / row_bytes);
    gb = 1e-9 * (double)row_bytes * (double)n_rows;
    static const int tokens[] = { 1, 8, BENCH_TOKENS };
    for (size_t i = 0; i < ARRAY_LEN(tokens); i++) {
        b.n_tokens = tokens[i];
        b.repeats = 1 + 128 / tokens[i];
        double s = bench_seconds(b, n_rows, 1) / b.repeats;
        if (i == 0)
            printf("  cache %5.1f GB/s  GOPS", gb / s);
        printf(" %6.1f", 2e-9 * (double)n_rows * BENCH_COLS * tokens[i] / s);
    }
    bench_tiles(b, "tiles", k->gemm[type]);
    bench_tiles(b, "wide", k->gemm_wide[type]);
    printf("\n");
    fflush(stdout);
    free(act);
}

/* The yardstick: adding up memory as eight-byte words. */
static void bench_read(const uint8_t *memory)
{
    double best = INFINITY;
    volatile uint64_t sink = 0;
    for (int run = 0; run < 5; run++) {
        double start = thread_s();
        uint64_t sum[8] = { 0 }, x;
        for (size_t i = 0; i < BENCH_MEMORY; i += 64)
            for (int j = 0; j < 8; j++) {
                memcpy(&x, memory + i + 8 * j, sizeof x);
                sum[j] += x;
            }
        for (int j = 0; j < 8; j++)
            sink += sum[j];
        best = min_of(best, thread_s() - start);
    }
    printf("plain reading by one thread: %.1f GB/s\n", 1e-9 * (double)BENCH_MEMORY / best);
}

static void bench_all(const char *word)
{
    uint8_t *memory = malloc(BENCH_MEMORY);
    if (!memory)
        return;
    memset(memory, 1, BENCH_MEMORY);
    bench_read(memory);
    struct kernels before, k;
    memset(&before, 0, sizeof before);
    for (size_t i = 1; i < ARRAY_LEN(isa_ladder); i++) {
        unsigned cap;
        if (!cpu_isa_cap(isa_ladder[i], &cap) || !(cpu_isa() & cap))
            continue;
        kernels_init(&k, cpu_isa() & cap);
        for (int type = 0; type < N_TENSOR_TYPES; type++) {
            struct kernels ref;
            kernels_init(&ref, ISA_REF);
            bool new = k.dot[type] != before.dot[type] || k.matvec[type] != before.matvec[type] ||
                       k.gemm_wide[type] != before.gemm_wide[type];
            if (k.dot[type] && new && k.dot[type] != ref.dot[type] &&
                strstr(quant_traits((uint32_t)type)->name, word))
                bench_type(isa_ladder[i], &k, (enum tensor_type)type, memory);
        }
        before = k;
    }
    free(memory);
}

#endif
