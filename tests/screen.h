/* A small terminal: what a program writes becomes lines of characters. Knows the sequences that
 * Tandem and readline use; another one fails the case. */
#ifndef TANDEM_TESTS_SCREEN_H
#define TANDEM_TESTS_SCREEN_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/cli/buf.h"
#include "src/cli/width.h"
#include "tests/check.h"

#define MAX_COLUMNS 220
#define MAX_LINES 4000

/* Lines of cells, all of history; `top` is the first line of the window. */
struct screen {
    char cell[MAX_LINES][MAX_COLUMNS][8]; /* "" behind a wide character */
    int columns, rows, top, row, column;
    int n_lines;  /* lines that were ever touched */
    bool wrapped; /* a character had to go to the next line by itself */
};

static inline void screen_clear(struct screen *s, int row, int from, int to)
{
    for (int c = from; c < to; c++)
        strcpy(s->cell[row][c], " ");
}

static inline struct screen *screen_open(int columns, int rows)
{
    struct screen *s = calloc(1, sizeof *s);
    for (int r = 0; r < MAX_LINES; r++)
        screen_clear(s, r, 0, MAX_COLUMNS);
    s->columns = columns;
    s->rows = rows;
    return s;
}

static inline void screen_newline(struct screen *s)
{
    if (s->row + 1 < MAX_LINES)
        s->row++;
    if (s->row >= s->top + s->rows)
        s->top = s->row - s->rows + 1;
}

/* What stands behind ESC [ up to its last byte. */
static inline void screen_control(struct screen *s, int value, char final)
{
    int n = value > 0 ? value : 1;
    char(*line)[8] = s->cell[s->row];
    switch (final) {
    case 'A':
        CHECK_MSG(s->row - n >= s->top, "the cursor leaves the window");
        s->row = s->row - n < s->top ? s->top : s->row - n;
        break;
    case 'C':
        s->column = s->column + n < s->columns ? s->column + n : s->columns - 1;
        break;
    case 'D':
        s->column = s->column > n ? s->column - n : 0;
        break;
    case 'H': /* home, before the window is cleared */
        s->row = s->top;
        s->column = 0;
        break;
    case 'K':
    case 'J':
        screen_clear(s, s->row, value == 2 ? 0 : s->column, MAX_COLUMNS);
        for (int r = s->row + 1; final == 'J' && r < MAX_LINES; r++)
            screen_clear(s, r, 0, MAX_COLUMNS);
        break;
    case 'P':
        for (int c = s->column; c < s->columns; c++)
            strcpy(line[c], c + n < s->columns ? line[c + n] : " ");
        break;
    case '@':
        for (int c = s->columns - 1; c >= s->column; c--)
            strcpy(line[c], c - n >= s->column ? line[c - n] : " ");
        break;
    default:
        CHECK_MSG(strchr("mhl", final), "an unknown sequence ends with %c", final);
    }
}

/* A sequence at the start of `text`: its length. */
static inline size_t screen_sequence(struct screen *s, struct str text)
{
    size_t n = 2;
    int value = 0;
    if (text.len > 1 && text.data[1] == ']') { /* up to the bell */
        while (n < text.len && text.data[n] != '\a')
            n++;
        return n + 1 < text.len ? n + 1 : text.len;
    }
    for (; n < text.len && strchr("0123456789;?", text.data[n]); n++)
        value = text.data[n] == ';' || text.data[n] == '?' ? 0
              : 10 * value + (text.data[n] - '0');
    if (n < text.len && text.len > 1 && text.data[1] == '[')
        screen_control(s, value, text.data[n++]);
    return n < text.len ? n : text.len;
}

/* crlf: a newline alone moves down only, as where the system has translated it already. */
static inline void screen_write(struct screen *s, struct str text, bool crlf)
{
    while (text.len > 0) {
        size_t n = 1;
        char c = text.data[0];
        if (c == '\n') {
            screen_newline(s);
            s->column = crlf ? s->column : 0;
        } else if (c == '\r') {
            s->column = 0;
        } else if (c == '\b') {
            s->column -= s->column > 0;
        } else if (c == '\033') {
            n = screen_sequence(s, text);
        } else {
            int w = width_next(text, &n);
            if (s->column + w > s->columns) {
                s->wrapped = true;
                screen_newline(s);
                s->column = 0;
            }
            if (w > 0) {
                snprintf(s->cell[s->row][s->column], 8, "%.*s", (int)n, text.data);
                if (w == 2)
                    s->cell[s->row][s->column + 1][0] = 0;
                s->column += w;
            }
        }
        if (s->row >= s->n_lines)
            s->n_lines = s->row + 1;
        text.data += n;
        text.len -= n;
    }
}

/* Everything that was ever written, blanks at the end of lines left out. The caller frees it. */
static inline char *screen_text(const struct screen *s)
{
    struct buf out = { 0 };
    for (int r = 0; r < s->n_lines && r < MAX_LINES; r++) {
        for (int c = 0; c < MAX_COLUMNS; c++)
            buf_puts(&out, s->cell[r][c]);
        while (out.len && out.data[out.len - 1] == ' ')
            out.data[--out.len] = 0;
        buf_puts(&out, "\n");
    }
    while (out.len > 1 && out.data[out.len - 1] == '\n' && out.data[out.len - 2] == '\n')
        out.data[--out.len] = 0;
    char *text = strdup(buf_str(&out).data);
    buf_release(&out);
    return text;
}

#endif
