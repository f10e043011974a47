/* Vocabularies without a list of merges: ranks in, tokens and merges out, and files that lie. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/check.h"
#include "tools/hf_tiktoken.h"

static char text[60000];

static void add_line(const char *bytes, size_t n, int rank)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char code[64];
    size_t k = 0;
    for (size_t i = 0; i < n; i += 3) {
        unsigned v = (unsigned)(uint8_t)bytes[i] << 16;
        v |= i + 1 < n ? (unsigned)(uint8_t)bytes[i + 1] << 8 : 0;
        v |= i + 2 < n ? (unsigned)(uint8_t)bytes[i + 2] : 0;
        code[k++] = digits[v >> 18];
        code[k++] = digits[v >> 12 & 63];
        code[k++] = i + 1 < n ? digits[v >> 6 & 63] : '=';
        code[k++] = i + 2 < n ? digits[v & 63] : '=';
    }
    snprintf(text + strlen(text), sizeof text - strlen(text), "%.*s %d\n", (int)k, code, rank);
}

static void add_bytes(void)
{
    text[0] = 0;
    for (int byte = 0; byte < 256; byte++) {
        char one = (char)byte;
        add_line(&one, 1, byte);
    }
}

static bool read(struct tiktoken *t, struct arena *arena, struct error *err)
{
    return tiktoken_read(t, str_of(text), 1000, arena, err);
}

static void test_merges(void)
{
    static const char *const more[] = { "in", "th", " t", "the", " the", "ing", "thing", " thing" };
    static const char *const merges[] = { "i n",    "t h",   "\xC4\xA0 t", "th e",
                                          "\xC4\xA0 the", "in g", "th ing", "\xC4\xA0 thing" };
    struct tiktoken t;
    struct arena arena = { 0 };
    struct error err = { 0 };
    check_case("ranks become tokens and merges");
    add_bytes();
    for (int i = 0; i < 8; i++)
        add_line(more[i], strlen(more[i]), 256 + i);
    add_line("zqx", 3, 300); /* no two tokens make this one: never produced, never merged */
    if (CHECK_MSG(read(&t, &arena, &err), "%s", err.text)) {
        CHECK_INT(t.n_tokens, 301);
        CHECK(str_is(t.tokens[' '], "\xC4\xA0") && str_is(t.tokens['A'], "A"));
        CHECK(str_is(t.tokens[0xAD], "\xC5\x83") && str_is(t.tokens[0x7F], "\xC4\xA1"));
        CHECK(str_is(t.tokens[260], "\xC4\xA0the"));
        CHECK(!t.tokens[264].data && str_is(t.tokens[300], "zqx"));
        CHECK_INT(t.n_merges, 8);
        for (size_t i = 0; i < 8 && i < t.n_merges; i++)
            CHECK_MSG(str_is(t.merges[i], merges[i]), "merge %zu is %.*s", i, (int)t.merges[i].len,
                      t.merges[i].data);
    }
    arena_release(&arena);
}

static void refuse(const char *what, const char *line, const char *word)
{
    struct tiktoken t;
    struct arena arena = { 0 };
    struct error err = { 0 };
    check_case("refused: %s", what);
    if (line)
        strcat(text, line);
    CHECK_MSG(!read(&t, &arena, &err) && err.code == ERR_FILE && strstr(err.text, word), "%s",
              err.text);
    arena_release(&arena);
}

static void test_hostile(void)
{
    static const struct { const char *what, *line, *word; } cases[] = {
        { "no rank", "aGk=\n", "line 257" },          { "no number", "aGk= x\n", "line 257" },
        { "a rank too high", "aGk= 1000\n", "1000" }, { "a huge rank", "aGk= 99999999999999999999\n",
                                                        "1000" },
        { "a rank twice", "aGk= 7\n", "rank 7" },     { "a token twice", "QQ== 256\n", "rank 65" },
        { "not base64", "a*k= 256\n", "base64" },     { "a digit alone", "a 256\n", "base64" },
        { "an empty token", " 256\n", "base64" },     { "behind the rank", "aGk= 256 1\n", "rank" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        add_bytes();
        refuse(cases[i].what, cases[i].line, cases[i].word);
    }
    text[0] = 0;
    refuse("nothing", NULL, "0x00");
    add_bytes();
    *strstr(text, "QQ== 65\n") = 0;
    refuse("bytes without a token", NULL, "0x41");
}

#define LETTERS(first) "[\\p{" first "\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]"
#define Q "\"\"\""

static void test_pre(void)
{
    static const char head[] = "class X:\n    pat_str = \"|\".join(\n        [\n            r" Q "[\\p{Han}]+" Q ",\n"
        "            r" Q "[^\\r\\n\\p{L}\\p{N}]?" LETTERS("Lu}\\p{Lt}") "*" LETTERS("Ll}")
        "+(?i:'s|'t|'re|'ve|'m|'ll|'d)?" Q ",\n            r" Q "[^\\r\\n\\p{L}\\p{N}]?"
        LETTERS("Lu}\\p{Lt}") "+" LETTERS("Ll}") "*(?i:'s|'t|'re|'ve|'m|'ll|'d)?" Q ",\n"
        "            r" Q "\\p{N}{1,3}" Q ",\n            r" Q " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" Q ",\n"
        "            r" Q "\\s*[\\r\\n]+" Q ",\n            r" Q "\\s+(?!\\S)" Q ",\n";
    char python[2000];
    check_case("the pre-tokenizer of Kimi-K2, and others");
    snprintf(python, sizeof python, "%s            r" Q "\\s+" Q ",\n        ]\n    )\n", head);
    const char *found = tiktoken_pre(str_of(python));
    CHECK_STR(found ? found : "none", "kimi-k2");
    snprintf(python, sizeof python, "%s            r" Q "\\s+" Q ", r" Q "x" Q "]\n    )\n", head);
    CHECK(!tiktoken_pre(str_of(python)));
    snprintf(python, sizeof python, "%s        ]\n    )\n", head);
    CHECK(!tiktoken_pre(str_of(python)));
    check_case("a zero byte behind the expression, and more");
    size_t n = (size_t)snprintf(python, sizeof python, "%s            r" Q "\\s+@@@@" Q ",\n]", head);
    *strchr(python, '@') = 0;
    CHECK(!tiktoken_pre((struct str){ python, n }));
    snprintf(python, sizeof python, "%s            r" Q "\\s", head);
    CHECK(!tiktoken_pre(str_of(python)));
    CHECK(!tiktoken_pre(str_of("")) && !tiktoken_pre(str_of("pat_str = r" Q "\\p{L}" Q "]")));
}

int main(void)
{
    test_merges();
    test_hostile();
    test_pre();
    return check_finish();
}
