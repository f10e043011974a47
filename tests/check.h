/* The test harness: named cases, checks that print what was found, a count at the end.
 *
 *     int main(void)
 *     {
 *         check_case("adds");
 *         CHECK_INT(1 + 1, 2);
 *         return check_finish();
 *     }
 *
 * A case fails once however many of its checks fail. The last line of the program is
 * "N passed, N failed, N skipped" and the exit code is 1 when something failed. */
#ifndef TANDEM_TESTS_CHECK_H
#define TANDEM_TESTS_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Start a case; ends the one before it. */
void check_case(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* The current case cannot run here; one line says why. */
void check_skip(const char *format, ...) __attribute__((format(printf, 1, 2)));
int check_finish(void);

bool check_true(bool ok, const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

#define CHECK(cond) check_true((cond), __FILE__, __LINE__, "%s", #cond)
#define CHECK_MSG(cond, ...) check_true((cond), __FILE__, __LINE__, __VA_ARGS__)
#define CHECK_INT(found, wanted)                                                                  \
    do {                                                                                          \
        long long found_ = (long long)(found), wanted_ = (long long)(wanted);                     \
        check_true(found_ == wanted_, __FILE__, __LINE__, "%s is %lld, wanted %lld", #found,      \
                   found_, wanted_);                                                              \
    } while (0)
#define CHECK_STR(found, wanted) check_string((found), (wanted), __FILE__, __LINE__, #found)
bool check_string(const char *found, const char *wanted, const char *file, int line,
                  const char *what);

/* Folder of the shared fixtures: $TANDEM_FIXTURES, else ../shared/fixtures; NULL when absent (then
 * call check_skip). */
const char *check_fixtures(void);
/* Path of a file below it, in a static ring of buffers. */
const char *check_fixture(const char *relative);
/* Whole file as malloc'ed bytes with a 0 behind; NULL when it cannot be read. */
char *check_read_file(const char *path, size_t *size);
/* Do both exist, with the same bytes? */
bool check_same_files(const char *a, const char *b);

/* Seconds that this process has computed, on all cores. Limits are put on these: those of the clock on
 * the wall pass elsewhere, too, while a busy machine leaves no time for the test. */
double check_cpu_s(void);

/* xorshift generator with a printed seed: TANDEM_SEED or a fixed default. */
uint64_t check_random(void);
float check_random_float(float low, float high);

#endif
