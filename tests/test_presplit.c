/* Pre-tokenizers: the published lists of expressions against pieces computed with another regex
 * engine, then properties that hold for any text. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/text/presplit.h"
#include "src/text/utf8.h"
#include "tests/check.h"

/* Pieces joined with a bar, which the texts below do not contain. */
struct joined {
    char text[1024];
    size_t n;
};

static bool join(void *ctx, struct str piece, struct error *err)
{
    struct joined *j = ctx;
    if (j->n + piece.len + 2 > sizeof j->text)
        return fail(err, ERR_INTERNAL, "too long");
    if (j->n > 0)
        j->text[j->n++] = '|';
    memcpy(j->text + j->n, piece.data, piece.len);
    j->n += piece.len;
    j->text[j->n] = 0;
    return true;
}

static void check_split(const char *name, const char *text, const char *wanted)
{
    check_case("%s splits \"%s\"", name, text);
    struct error err = { 0 };
    struct presplit *p;
    struct joined found = { 0 };
    bool ok = presplit_open(&p, name, &err) && presplit_run(p, str_of(text), join, &found, &err);
    CHECK_MSG(ok, "%s", err.text);
    CHECK_STR(found.text, wanted);
    presplit_close(p);
}

#define V3 "deepseek-v3"
#define LLM "deepseek-llm"
#define CODER "deepseek-coder"
#define QWEN "qwen2"
#define LLAMA "llama-bpe"
#define KIMI "kimi-k2"

static void check_tables(void)
{
    static const struct {
        const char *text;
        struct { const char *names, *pieces; } rows[5];
    } table[] = {
        { "Hello, world!  It's 12345 x",
          { { V3 " " LLAMA, "Hello|,| world|!| | It|'s| |123|45| x" },
            { LLM, "Hello|,| world|!| | It|'|s| |12345| x" },
            { CODER, "Hello|,| world|!| | It|'|s| |1|2|3|4|5| x" },
            { QWEN, "Hello|,| world|!| | It|'s| |1|2|3|4|5| x" } } },
        { "a  b\n\n  c",
          { { V3 " " QWEN " " LLAMA, "a| | b|\n\n| | c" },
            { LLM " " CODER, "a| | b|\n|\n| | c" } } },
        { "你好abc世界3.14",
          { { V3 " " LLM, "你好|abc|世界|3|.|14" },
            { CODER, "你好|abc|世界|3|.|1|4" },
            { QWEN, "你好abc世界|3|.|1|4" },
            { LLAMA, "你好abc世界|3|.|14" } } },
        { "foo_bar(x)->y;\n\tz",
          { { V3 " " QWEN " " LLAMA, "foo|_bar|(x|)->|y|;\n|\tz" },
            { LLM, "foo|_|bar|(|x|)->|y|;|\n|\tz" },
            { CODER, "foo|_|bar|(|x|)-|>|y|;|\n|\tz" } } },
        { "I'LL pay $1,000 — ok…",
          { { V3 " " LLAMA, "I|'LL| pay| $|1|,|000| —| ok|…" },
            { LLM, "I|'|LL| pay| $|1|,|000| |—| ok|…" },
            { CODER, "I|'|LL| pay| $|1|,|0|0|0| |—| ok|…" },
            { QWEN, "I|'LL| pay| $|1|,|0|0|0| —| ok|…" } } },
        { " 3\t ", { { V3 " " LLM " " CODER " " QWEN " " LLAMA, " |3|\t " } } },
        { "naïve e\u0301té ½m² 한글 カナ",
          { { V3, "naïve| e\u0301té| |½|m|²| 한글| |カナ" },
            { LLM, "na|ï|ve| e|\u0301|t|é| |½|m|²| |한글| |カナ" },
            { CODER, "naïve| e|\u0301|té| |½|m|²| |한글| |カナ" },
            { QWEN " " LLAMA, "naïve| e|\u0301té| |½|m|²| 한글| カナ" } } },
        { "HelloWorld'S don't XMLHttp",
          { { KIMI, "Hello|World'S| don't| XMLHttp" } } },
        { "中文abc々12345 日本の\n\n 。x",
          { { KIMI, "中文|abc|々|123|45| |日本|の|\n\n| 。|x" } } },
        { "a\u180e b\xC2\x85\u00a0" "c", /* U+180E is no white space any more, U+0085 is */
          { { V3 " " QWEN, "a|\u180e| b|\xC2\x85|\u00a0" "c" } } },
    };
    char names[128];
    for (size_t i = 0; i < ARRAY_LEN(table); i++)
        for (size_t k = 0; k < ARRAY_LEN(table[i].rows) && table[i].rows[k].names; k++) {
            snprintf(names, sizeof names, "%s", table[i].rows[k].names);
            for (char *name = strtok(names, " "); name; name = strtok(NULL, " "))
                check_split(name, table[i].text, table[i].rows[k].pieces);
        }
}

static void check_names(void)
{
    static const char *const pairs[][2] = {
        { "deepseek-llm", LLM }, { "deepseek-coder", CODER }, { "deepseek-v3", V3 },
        { "joyai-llm", V3 }, { "hunyuan-dense", V3 }, { "qwen2", QWEN },
        { "deepseek-r1-qwen", QWEN }, { "llama-bpe", LLAMA }, { "llama3", LLAMA },
        { "llama-v3", LLAMA }, { "kimi-k2", KIMI } };
    check_case("names and aliases");
    for (size_t i = 0; i < ARRAY_LEN(pairs); i++)
        CHECK_STR(presplit_name(str_of(pairs[i][0])), pairs[i][1]);
    CHECK(!presplit_name(str_of("deepseek-v33")));
    CHECK(!presplit_name(str_of("")));
}

/* ---- Properties ---- */

static const char *const all_names[] = { LLM, CODER, V3, QWEN, LLAMA, KIMI };

struct cover {
    const char *next; /* where the next piece must begin */
    size_t n;
};

static bool covers(void *ctx, struct str piece, struct error *err)
{
    struct cover *c = ctx;
    if (piece.data != c->next || piece.len == 0)
        return fail(err, ERR_INTERNAL, "piece %zu: wrong place or empty", c->n);
    c->next += piece.len;
    c->n++;
    return true;
}

static void check_cover(const struct presplit *p, struct str text)
{
    struct error err = { 0 };
    struct cover c = { .next = text.data };
    CHECK_MSG(presplit_run(p, text, covers, &c, &err), "%s", err.text);
    CHECK_INT(c.next - text.data, text.len);
}

/* Code points of many kinds, and the classes' edges. */
static uint32_t random_code(void)
{
    static const uint32_t some[] = { ' ', ' ', '\n', '\r', '\t', 0x85, 0xA0, 0x3000, 0x180E, '\'',
        's', 'T', 'a', 'Z', '0', '9', 0xBD, 0x663, 0x4E00, 0x9FA5, 0x3042, 0x30AB, 0xAC00, 0xD7A3,
        0x300, 0x200D, 0xFE0F, 0x1F468, 0x1F1E9, 0xE000, 0x10FFFF, 0x2028, 0x17F, 0x212A, 0x1C5 };
    uint64_t r = check_random();
    if (r % 4)
        return some[r / 4 % ARRAY_LEN(some)];
    uint32_t code = (uint32_t)(r / 4 % (r & 64 ? 0x3000 : 0x110000));
    return code >= 0xD800 && code <= 0xDFFF ? 0xFFFD : code;
}

static void check_random_texts(void)
{
    for (size_t i = 0; i < ARRAY_LEN(all_names); i++) {
        check_case("%s: every byte in one piece", all_names[i]);
        struct error err = { 0 };
        struct presplit *p;
        CHECK_MSG(presplit_open(&p, all_names[i], &err), "%s", err.text);
        for (int n = 0; n < 300; n++) {
            char text[400];
            size_t len = 0, n_codes = check_random() % 90;
            for (size_t k = 0; k < n_codes; k++)
                len += utf8_encode(random_code(), text + len);
            check_cover(p, (struct str){ text, len });
        }
        presplit_close(p);
    }
}

/* Texts that drive careless expressions into quadratic time; each takes milliseconds. */
static void check_long_texts(void)
{
    static const char *const units[] = { " ", "a", "\n", " \n", "\t ", "1", "中", "A", "'", "e\u0301",
                                         "Aa", "\u3000", "!", "\x01" };
    size_t room = 1 << 20;
    char *text = malloc(room + 8);
    for (size_t i = 0; i < ARRAY_LEN(all_names); i++) {
        check_case("%s: a megabyte of one thing", all_names[i]);
        struct error err = { 0 };
        struct presplit *p;
        CHECK_MSG(presplit_open(&p, all_names[i], &err), "%s", err.text);
        double start = check_cpu_s();
        for (size_t k = 0; k < ARRAY_LEN(units); k++) {
            size_t len = 0, step = strlen(units[k]);
            for (; len + step <= room; len += step)
                memcpy(text + len, units[k], step);
            check_cover(p, (struct str){ text, len });
            text[len] = 'x'; /* the run does not reach the end */
            check_cover(p, (struct str){ text, len + 1 });
        }
        CHECK_MSG(check_cpu_s() - start < 60, "took %.1f s", check_cpu_s() - start);
        presplit_close(p);
    }
    free(text);
}

int main(void)
{
    check_names();
    check_tables();
    check_random_texts();
    check_long_texts();
    return check_finish();
}
