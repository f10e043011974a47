/* Stop strings in a stream against a search of the whole text. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/mem.h"
#include "src/base/util.h"
#include "src/text/sampler.h"
#include "tests/check.h"

#define MAX_TEXT 200

/* What the first `len` bytes of text give: the number of bytes to show, and whether a stop string
 * is in there. The text ends with the first byte that completes one. */
static size_t search_slowly(const char *const *words, int n, const char *text, size_t len,
                            bool *stopped)
{
    *stopped = false;
    for (size_t end = 1; end <= len && !*stopped; end++) {
        size_t begin = end;
        for (int w = 0; w < n; w++) {
            size_t size = strlen(words[w]);
            if (size <= end && memcmp(text + end - size, words[w], size) == 0)
                begin = min_of(begin, end - size), *stopped = true;
        }
        if (*stopped)
            return begin;
    }
    for (size_t at = 0; at < len; at++) /* the longest tail that some string starts with */
        for (int w = 0; w < n; w++)
            if (strlen(words[w]) > len - at && memcmp(words[w], text + at, len - at) == 0)
                return at;
    return len;
}

static void feed_by(const char *const *words, int n, const char *text, size_t len, size_t max_piece)
{
    struct stop_matcher *m;
    struct error err = { 0 };
    CHECK_MSG(stop_open(&m, words, n, &err), "%s", err.text);
    char shown[MAX_TEXT + 1];
    size_t n_shown = 0, fed = 0;
    bool done = false, stopped = false;
    const char *ready;
    size_t n_ready;
    while (fed < len && !done) {
        size_t any = 1 + check_random() % max_piece, piece = min_of(any, len - fed);
        done = stop_feed(m, text + fed, piece, &ready, &n_ready);
        memcpy(shown + n_shown, ready, n_ready);
        n_shown += n_ready;
        fed += piece;
        size_t wanted = search_slowly(words, n, text, fed, &stopped);
        CHECK_INT(done, stopped);
        CHECK_INT(n_shown, wanted); /* nothing too early, nothing held for too long */
    }
    if (done) {
        CHECK(stop_feed(m, "more", 4, &ready, &n_ready));
        CHECK_INT(n_ready, 0);
    }
    stop_flush(m, &ready, &n_ready);
    memcpy(shown + n_shown, ready, n_ready);
    n_shown += n_ready;
    if (!done)
        CHECK_INT(n_shown, len);
    CHECK(memcmp(shown, text, n_shown) == 0);
    stop_close(m);
}

static void test_rows(void)
{
    static const struct {
        const char *words[3];
        const char *text, *shown;
        bool stops;
    } rows[] = {
        { { "\n\nUser" }, "hi\n\n\nUser: no", "hi\n", true },
        { { "\n\nUser" }, "hi\n\nUse", "hi\n\nUse", false },
        { { "\n\nUser", "\n\nAssistant" }, "a\n\nUsA\n\nAssistant", "a\n\nUsA", true },
        { { "aab" }, "aaab", "a", true },
        { { "abab", "abc" }, "ababc", "", true },
        { { "abcd", "bc" }, "xabcd", "xa", true },
        { { "bc", "abc" }, "xabc", "x", true },
        { { "é" }, "caf\xc3\xa8 caf\xc3\xa9!", "caf\xc3\xa8 caf", true },
        { { "</s>" }, "a < b </ s> <</s>", "a < b </ s> <", true },
        { { "x" }, "", "", false },
        { { NULL }, "all of it", "all of it", false },
    };
    for (size_t r = 0; r < ARRAY_LEN(rows); r++) {
        check_case("stop strings, row %zu", r);
        int n = 0;
        while (n < 3 && rows[r].words[n])
            n++;
        size_t len = strlen(rows[r].text);
        bool stopped;
        size_t found = search_slowly(rows[r].words, n, rows[r].text, len, &stopped);
        CHECK_INT(stopped, rows[r].stops);
        if (stopped)
            CHECK_INT(found, strlen(rows[r].shown));
        for (size_t piece = 1; piece <= 8; piece++)
            feed_by(rows[r].words, n, rows[r].text, len, piece);
    }
}

static void test_random(void)
{
    check_case("random strings over two letters, random pieces");
    for (int trial = 0; trial < 3000; trial++) {
        char words[3][8], text[MAX_TEXT + 1];
        const char *list[3];
        int n = 1 + (int)(check_random() % 3);
        for (int w = 0; w < n; w++) {
            size_t len = 1 + check_random() % 7;
            for (size_t i = 0; i < len; i++)
                words[w][i] = "ab"[check_random() % 2];
            words[w][len] = 0;
            list[w] = words[w];
        }
        size_t len = check_random() % 40;
        for (size_t i = 0; i < len; i++)
            text[i] = "ab"[check_random() % 2];
        feed_by(list, n, text, len, 1 + check_random() % 9);
    }
}

static void test_edges(void)
{
    check_case("an empty stop string is refused");
    struct stop_matcher *m;
    struct error err = { 0 };
    CHECK(!stop_open(&m, (const char *const[]){ "a", "" }, 2, &err));
    CHECK(m == NULL);
    CHECK_INT(err.code, ERR_USAGE);

    check_case("a piece longer than the buffer");
    static char big[100000], word[20000];
    memset(big, 'x', sizeof big);
    memset(word, 'x', sizeof word - 2);
    word[sizeof word - 2] = 'y';
    const char *ready;
    size_t n_ready;
    CHECK(stop_open(&m, (const char *const[]){ word }, 1, NULL));
    CHECK(!stop_feed(m, big, sizeof big, &ready, &n_ready));
    CHECK_INT(n_ready, sizeof big - (sizeof word - 2));
    uint64_t before = mem_allocations();
    for (int i = 0; i < 100; i++)
        CHECK(!stop_feed(m, big, 100, &ready, &n_ready) && n_ready == 100);
    CHECK_INT(mem_allocations() - before, 0);
    CHECK(stop_feed(m, "y", 1, &ready, &n_ready));
    CHECK_INT(n_ready, 0);
    stop_close(m);

    check_case("without memory for a long piece the text ends");
    CHECK(stop_open(&m, (const char *const[]){ "ab" }, 1, NULL));
    CHECK(!stop_feed(m, "a", 1, &ready, &n_ready));
    mem_fail_after(0);
    CHECK(stop_feed(m, big, sizeof big, &ready, &n_ready));
    mem_fail_never();
    CHECK_INT(n_ready, 0);
    stop_close(m);

    check_case("every failed allocation is reported and nothing leaks");
    uint64_t n = 0;
    for (bool ok = false; !ok && n < 20; n++) {
        err = (struct error){ 0 };
        mem_fail_after(n);
        ok = stop_open(&m, (const char *const[]){ "one", "two" }, 2, &err);
        mem_fail_never();
        CHECK_INT(err.code, ok ? ERR_NONE : ERR_FIT);
        stop_close(m);
    }
    CHECK_INT(n, 8);
    stop_close(NULL);
}

int main(void)
{
    test_rows();
    test_random();
    test_edges();
    return check_finish();
}
