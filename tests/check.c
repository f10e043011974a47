#include "tests/check.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cpu/features.h"

static struct {
    char name[256];
    bool open, failed, skipped;
    int n_passed, n_failed, n_skipped;
} run;

static void close_case(void)
{
    if (!run.open)
        return;
    if (run.failed) {
        run.n_failed++;
        printf("FAIL  %s\n", run.name);
    } else if (run.skipped) {
        run.n_skipped++;
    } else {
        run.n_passed++;
    }
    run.open = run.failed = run.skipped = false;
    fflush(stdout);
}

/* TANDEM_CPU_ISA caps the kernels of a whole test run, as it does for the program. */
static void limit_isa(void)
{
    static bool done;
    unsigned mask;
    const char *name = getenv("TANDEM_CPU_ISA");
    if (!done && name && *name && cpu_isa_cap(name, &mask))
        cpu_isa_limit(mask);
    done = true;
}

void check_case(const char *format, ...)
{
    limit_isa();
    close_case();
    va_list args;
    va_start(args, format);
    vsnprintf(run.name, sizeof run.name, format, args);
    va_end(args);
    run.open = true;
}

void check_skip(const char *format, ...)
{
    char why[256];
    va_list args;
    va_start(args, format);
    vsnprintf(why, sizeof why, format, args);
    va_end(args);
    printf("skipped  %s: %s\n", run.name, why);
    run.skipped = true;
}

int check_finish(void)
{
    close_case();
    printf("%d passed, %d failed, %d skipped\n", run.n_passed, run.n_failed, run.n_skipped);
    return run.n_failed ? 1 : 0;
}

bool check_true(bool ok, const char *file, int line, const char *format, ...)
{
    if (ok)
        return true;
    if (!run.failed) { /* the first finding of a case says enough */
        va_list args;
        va_start(args, format);
        printf("%s:%d: %s: ", file, line, run.name);
        vprintf(format, args);
        printf("\n");
        va_end(args);
    }
    run.failed = true;
    return false;
}

bool check_string(const char *found, const char *wanted, const char *file, int line,
                  const char *what)
{
    return check_true(found && strcmp(found, wanted) == 0, file, line,
                      "%s is\n    \"%s\"\n  wanted\n    \"%s\"", what, found ? found : "(null)",
                      wanted);
}

const char *check_fixtures(void)
{
    const char *folder = getenv("TANDEM_FIXTURES");
    if (!folder || !*folder)
        folder = "../shared/fixtures";
    return access(folder, R_OK) == 0 ? folder : NULL;
}

/* For who must bring the fixtures elsewhere: $TANDEM_FIXTURES_USED lists those that were asked for. */
static void note_use(const char *relative)
{
    const char *list = getenv("TANDEM_FIXTURES_USED");
    FILE *f = list && check_fixtures() ? fopen(list, "a") : NULL;
    if (!f)
        return;
    fprintf(f, "%s\n", relative);
    fclose(f);
}

const char *check_fixture(const char *relative)
{
    static char ring[8][512];
    static int next;
    char *path = ring[next++ % 8];
    const char *folder = check_fixtures();
    snprintf(path, sizeof ring[0], "%s/%s", folder ? folder : ".", relative);
    note_use(relative);
    return path;
}

char *check_read_file(const char *path, size_t *size)
{
    FILE *f = fopen(path, "rb");
    if (!f)
        return NULL;
    char *bytes = NULL;
    if (fseek(f, 0, SEEK_END) == 0) {
        long n = ftell(f);
        rewind(f);
        bytes = malloc((size_t)n + 1);
        if (bytes && fread(bytes, 1, (size_t)n, f) == (size_t)n) {
            bytes[n] = 0;
            if (size)
                *size = (size_t)n;
        } else {
            free(bytes);
            bytes = NULL;
        }
    }
    fclose(f);
    return bytes;
}

bool check_same_files(const char *a, const char *b)
{
    size_t n = 0, k = 0;
    char *x = check_read_file(a, &n), *y = check_read_file(b, &k);
    bool same = x && y && n == k && memcmp(x, y, n) == 0;
    free(x);
    free(y);
    return same;
}

double check_cpu_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

uint64_t check_random(void)
{
    static uint64_t state;
    if (!state) {
        const char *seed = getenv("TANDEM_SEED");
        state = seed ? strtoull(seed, NULL, 10) : 20260101;
        state = state ? state : 1;
        printf("seed %llu\n", (unsigned long long)state);
    }
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

float check_random_float(float low, float high)
{
    return low + (high - low) * (float)(check_random() >> 40) / (float)(1 << 24);
}
