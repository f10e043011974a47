/* Markdown in the terminal: layout of each kind of block, and that a stream of pieces ends with the
 * same screen as the whole text at once, whatever the pieces and the window. The screen is that of a
 * small terminal which knows the sequences that view.c writes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/cli/blocks.h"
#include "src/cli/view.h"
#include "src/cli/wrap.h"
#include "tests/screen.h"

/* ---- the text -------------------------------------------------------------------------------- */

static void set_window(int columns, int rows)
{
    char text[16];
    snprintf(text, sizeof text, "%d", columns);
    setenv("COLUMNS", text, 1);
    snprintf(text, sizeof text, "%d", rows);
    setenv("LINES", text, 1);
}

/* The lines that the whole text gives. */
static char *whole(const char *source, int columns, enum palette palette)
{
    struct blocks b = { .options = { columns, palette, -1 }, .number = -1, .last_number = -1 };
    CHECK(blocks_feed(&b, source, strlen(source), NULL) && blocks_end(&b, NULL));
    char *text = strdup(buf_str(&b.done).data);
    blocks_release(&b);
    return text;
}

static void check_layout(const char *name, const char *source, int columns, const char *wanted)
{
    check_case("%s", name);
    char *found = whole(source, columns, PALETTE_PLAIN);
    CHECK_STR(found, wanted);
    free(found);
}

static void test_layout(void)
{
    check_layout("paragraphs wrap at words, line ends stay", "One two three four.\nFive\n\nSix", 12,
                 "One two\nthree four.\nFive\n\nSix\n");
    check_layout("wide characters take two columns", "日本語の文章です", 10, "日本語の文\n章です\n");
    check_layout("a word longer than the window is cut", "abcdefghijkl mn", 8, "abcdefgh\nijkl mn\n");
    check_layout("headings, also of two lines", "# A\ntext\n## B\nC\n===", 40,
                 "# A\ntext\n## B\n# C\n");
    check_layout("lists nest and wrap below their text",
                 "- one two three\n  - inner\n- next\n\n1. a\n1. b\n   more\n1. c", 12,
                 "• one two\n  three\n  ◦ inner\n• next\n\n1. a\n2. b\n   more\n3. c\n");
    check_layout("numbers that are written stay", "3. a\n7. b", 20, "3. a\n7. b\n");
    check_layout("tasks", "- [ ] open\n- [x] done", 20, "☐ open\n☑ done\n");
    check_layout("quotes keep their bar on every line", "> aa bb cc dd\n>\n> e", 11,
                 "│ aa bb cc\n│ dd\n│\n│ e\n");
    check_layout("code keeps its blanks and has rules", "```c\nint  a;\n\n\tb\n```\nend", 30,
                 "── c ───────────────────\nint  a;\n\n    b\n────────────────────────\nend\n");
    check_layout("code in an item", "- a\n  ```\n  x\n\n  y\n  ```\n- b", 30,
                 "• a\n  ────────────────────────\n  x\n\n  y\n  ────────────────────────\n• b\n");
    check_layout("code that never ends is closed", "~~~\nx", 30,
                 "────────────────────────\nx\n────────────────────────\n");
    check_layout("tables align", "| a | b | c |\n|:--|--:|:-:|\n| long | 1 | x |\n| l | 22 | yyy |", 40,
                 "a    │  b │  c\n─────┼────┼────\nlong │  1 │  x\nl    │ 22 │ yyy\n");
    check_layout("tables wrap in a narrow window", "|a|b|\n|---|---|\n|one two|three four|", 14,
                 "a     │ b\n──────┼──────\none   │ three\ntwo   │ four\n");
    check_layout("tables that cannot fit become lists",
                 "|a|b|c|d|\n|---|---|---|---|\n|11111|22222|33333|44444|\n|5|6|7|8|", 12,
                 "a: 11111\nb: 22222\nc: 33333\nd: 44444\n\na: 5\nb: 6\nc: 7\nd: 8\n");
    check_layout("links show where they lead", "[here](http://x.org) and http://y.org", 60,
                 "here (http://x.org) and http://y.org\n");
    check_layout("marks stay where no look can show them", "**a** *b* `c` ~~d~~", 60,
                 "**a** *b* `c` ~~d~~\n");
    check_layout("nothing is lost: definitions, HTML, entities", "[x]: http://x.org\n\n<b>a</b> &lt;", 60,
                 "[x]: http://x.org\n\n<b>a</b> <\n");
    check_layout("rules", "a\n\n***\n\nb", 10, "a\n\n──────────\n\nb\n");

    check_case("looks: bold, code, link, keyword");
    char *found = whole("**a** `b`\n```c\nint x = 1; // y\n```", 60, PALETTE_COLOURS);
    CHECK(strstr(found, "\033[0;1ma\033[0m \033[0;36mb\033[0m\n"));
    CHECK(strstr(found, "\033[0;35mint\033[0m x = \033[0;33m1\033[0m; \033[0;90m// y\033[0m\n"));
    free(found);
    check_case("NO_COLOR leaves bold and takes colours");
    found = whole("**a** `b`", 60, PALETTE_ATTRIBUTES);
    CHECK(strstr(found, "\033[0;1ma") && !strstr(found, ";36m"));
    free(found);
    check_case("a comment goes on over lines");
    found = whole("```c\n/* a\nint */ int\n```", 60, PALETTE_COLOURS);
    CHECK(strstr(found, "\033[0;90mint */\033[0m \033[0;35mint"));
    free(found);
}

/* ---- streams --------------------------------------------------------------------------------- */

static const char *const texts[] = {
    "Hello **bold and *both* here** and `code with words` in a longer paragraph that wraps.\n\n"
    "# Title\nText under it\n\n- item one which is long enough to wrap around\n- item **two**\n"
    "  - nested 日本語 characters that are wide\n\n1. first\n\n1. second\n\n"
    "| name | value |\n|---|--:|\n| a | 1 |\n| a much longer name than before | 22222 |\n"
    "| **b** | `x` |\n\nDone.",
    "```python\ndef f(x):\n    return \"\"\"long\nstring\"\"\" + 'a' # end\n\n\nx = 日本語\n```\n"
    "After the code\n---\n> quote\ngoes on\n\n* * *\n\nlast `unfinished",
    "A\n\n\n\nB\n- x\n\n      code in x\n\n    indented\n~~~\n``` inside ~~~\n~~~\n| not | a table\n\n**",
    "1\n2\n3\n4. a\n5. b\n10) c\n#hash\n####### seven\n\\*not\\* &amp; \360\237\230\200\360\237\230\200",
    "",
    "\n\n\nafter blanks\n\n",
};

/* Feed in pieces of random length, drawing after each. */
static char *streamed(const char *source, int columns, int rows, int most, bool *wrapped)
{
    set_window(columns, rows);
    struct blocks b = { .options = { columns - 1, PALETTE_COLOURS, -1 }, .number = -1,
                        .last_number = -1 };
    struct view view = { 0 };
    struct screen *s = screen_open(columns, rows);
    size_t len = strlen(source);
    for (size_t at = 0; at <= len;) {
        struct buf open = { 0 }, out = { 0 };
        size_t n = 1 + check_random() % (size_t)most;
        n = n > len - at ? len - at : n;
        bool last = at == len;
        CHECK(last ? blocks_end(&b, NULL)
                   : blocks_feed(&b, source + at, n, NULL) && blocks_preview(&b, &open, NULL));
        view_show(&view, buf_str(&b.done), buf_str(&open), &out);
        screen_write(s, buf_str(&out), false);
        buf_clear(&b.done);
        buf_release(&open);
        buf_release(&out);
        at = last ? len + 1 : at + n;
    }
    char *text = screen_text(s);
    *wrapped = s->wrapped;
    CHECK_INT(s->column, 0);
    blocks_release(&b);
    buf_release(&view.shown);
    free(s);
    return text;
}

static void test_streams(void)
{
    static const int windows[][2] = { { 80, 24 }, { 200, 60 }, { 40, 12 }, { 30, 4 }, { 20, 3 } };
    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        for (size_t w = 0; w < ARRAY_LEN(windows); w++) {
            int columns = windows[w][0], rows = windows[w][1];
            check_case("text %zu in pieces ends as in one, %d x %d", i, columns, rows);
            bool wrapped;
            char *one = streamed(texts[i], columns, rows, 1 << 20, &wrapped);
            char *lines = whole(texts[i], columns - 1, PALETTE_PLAIN);
            if (strlen(lines) == 0 || !strpbrk(texts[i], "*`#")) /* nothing but looks differs */
                CHECK_STR(one, *lines ? lines : one);
            free(lines);
            for (int most = 1; most < 40; most = most * 3) {
                char *many = streamed(texts[i], columns, rows, most, &wrapped);
                CHECK_STR(many, one);
                CHECK(!wrapped);
                free(many);
            }
            free(one);
        }
}

static void test_resize(void)
{
    check_case("a window that changes its width: the rest is laid out for the new one");
    setenv("XTERM_VERSION", "XTerm(390)", 1); /* which leaves what stands there */
    set_window(60, 24);
    struct blocks b = { .options = { 59, PALETTE_PLAIN, -1 }, .number = -1, .last_number = -1 };
    struct view view = { 0 };
    struct screen *s = screen_open(60, 24);
    const char *parts[] = { "A first block.\n\nWords that go on and on for a while, ",
                            "then the window has become narrow and they wrap." };
    for (int i = 0; i < 2; i++) {
        struct buf open = { 0 }, out = { 0 };
        set_window(i ? 30 : 60, 24);
        s->columns = i ? 30 : 60;
        b.options.columns = s->columns - 1;
        CHECK(blocks_feed(&b, parts[i], strlen(parts[i]), NULL));
        CHECK(i ? blocks_end(&b, NULL) : blocks_preview(&b, &open, NULL));
        view_show(&view, buf_str(&b.done), buf_str(&open), &out);
        screen_write(s, buf_str(&out), false);
        buf_clear(&b.done);
        buf_release(&open);
        buf_release(&out);
    }
    char *text = screen_text(s);
    CHECK_STR(text, "A first block.\n\nWords that go on and on for a\nwhile, then the window has\n"
                    "become narrow and they wrap.\n");
    free(text);
    free(s);
    blocks_release(&b);
    buf_release(&view.shown);
}

static void test_wrap(void)
{
    static const struct {
        const char *text, *lines;
        int columns;
    } rows[] = {
        { "fits", "fits\n", 4 },
        { "", "", 10 },
        { "\n\nx\n", "\n\nx\n", 10 },
        { "plain words that go on\n", "plain\nwords that\ngo on\n", 10 },
        { "memory    weights 6.6 MiB mapped, cache 4.5 MiB", "memory    weights 6.6 MiB\n          mapped, cache\n"
                                                           "          4.5 MiB\n", 26 },
        { "  a row of a list\n  two", "  a row of\n    a list\n  two\n", 12 },
        { "日本  語語語語 語語 x", "日本  語語語語\n      語語 x\n", 16 },
        { "averylongword", "averylon\ngword\n", 8 },
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        check_case("\"%.20s\" in %d columns", rows[i].text, rows[i].columns);
        struct buf out = { 0 };
        wrap_lines(&out, str_of(rows[i].text), rows[i].columns);
        CHECK_STR(buf_str(&out).data, rows[i].lines);
        buf_release(&out);
    }
}

/* Narrower: lines break where the terminal's edge is now, the cursor goes with its line. */
static void reflow(struct screen *s, int columns)
{
    static char old[40][MAX_COLUMNS][8];
    int n = s->row + 1; /* nothing stands below the cursor */
    memcpy(old, s->cell, sizeof old);
    for (int r = 0; r < MAX_LINES; r++)
        screen_clear(s, r, 0, MAX_COLUMNS);
    s->row = 0;
    for (int r = 0; r < n; r++) {
        int len = s->columns;
        while (len > 0 && strcmp(old[r][len - 1], " ") == 0)
            len--;
        s->row += r > 0;
        s->column = 0;
        for (int c = 0; c < len; c++) {
            if (s->column == columns) {
                s->row++;
                s->column = 0;
            }
            strcpy(s->cell[s->row][s->column++], old[r][c]);
        }
    }
    s->columns = columns;
    s->n_lines = s->row + 1;
    s->top = s->row < s->rows ? 0 : s->row - s->rows + 1;
}

static void test_reflow(void)
{
    check_case("a terminal that breaks its lines anew when it gets narrow: nothing stale stays behind");
    setenv("TERM", "xterm-256color", 1);
    unsetenv("XTERM_VERSION");
    set_window(60, 24);
    struct view view = { 0 };
    struct screen *s = screen_open(60, 24);
    static const struct {
        int columns;
        const char *done, *open;
    } steps[] = {
        { 60, "done\n", "\033[2mone line of the region that is long, up to\033[0m\nhere\n  status ·\n" },
        { 25, "", "one line of the region\nthat is long, up to here\n  status · 2\n" },
        { 12, "", "one line of\n" },
        { 12, "one line\n", "" },
    };
    for (size_t i = 0; i < ARRAY_LEN(steps); i++) {
        struct buf out = { 0 };
        set_window(steps[i].columns, 24);
        if (steps[i].columns != s->columns)
            reflow(s, steps[i].columns);
        view_show(&view, str_of(steps[i].done), str_of(steps[i].open), &out);
        screen_write(s, buf_str(&out), false);
        CHECK(!s->wrapped);
        buf_release(&out);
    }
    char *text = screen_text(s);
    CHECK_STR(text, "done\none line\n");
    free(text);
    free(s);
    buf_release(&view.shown);
}

static void test_noise(void)
{
    static const char alphabet[] = "ab *_`~|#>-1.\n\n  [](:<&;\\\t";
    check_case("random text in random pieces ends as in one, and shows every letter");
    for (int round = 0; round < 150; round++) {
        char text[160];
        bool wrapped;
        size_t n = 1 + check_random() % (sizeof text - 1);
        for (size_t i = 0; i < n; i++)
            text[i] = alphabet[check_random() % (sizeof alphabet - 1)];
        text[n - 1] = 0;
        char *one = streamed(text, 40, 10, 1 << 20, &wrapped);
        char *many = streamed(text, 40, 10, 5, &wrapped);
        if (!CHECK_MSG(strcmp(one, many) == 0, "\"%s\" gives \"%s\", in one piece \"%s\"", text, many,
                       one))
            round = 1000;
        free(one);
        free(many);
    }
}

int main(void)
{
    width_use_utf8();
    if (!markdown_available()) {
        check_case("Markdown");
        check_skip("this build has no Markdown parser");
        return check_finish();
    }
    test_layout();
    test_streams();
    test_resize();
    test_reflow();
    test_wrap();
    test_noise();
    return check_finish();
}
