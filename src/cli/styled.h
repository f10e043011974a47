/* Text in which every byte has a look, broken into lines for a terminal.
 *
 * Lines go to a buf, each ended by a newline and complete by itself: its escape sequences end where
 * the line does, so lines can be drawn in any order, and alone. */
#ifndef TANDEM_CLI_STYLED_H
#define TANDEM_CLI_STYLED_H

#include "src/cli/buf.h"

/* A look is a set of attributes and at most one colour. */
enum look {
    LOOK_BOLD = 1, LOOK_ITALIC = 2, LOOK_UNDERLINE = 4, LOOK_STRIKE = 8, LOOK_DIM = 16,
    LOOK_CODE = 1 << 5, LOOK_KEYWORD = 2 << 5, LOOK_STRING = 3 << 5, LOOK_COMMENT = 4 << 5,
    LOOK_NUMBER = 5 << 5, LOOK_LINK = 6 << 5, LOOK_REMOVED = 7 << 5,
};
#define LOOK_COLOURS 0xe0

/* What may be written: nothing but text; attributes such as bold (NO_COLOR); colours too. */
enum palette { PALETTE_PLAIN, PALETTE_ATTRIBUTES, PALETTE_COLOURS };

/* look.data[i] belongs to text.data[i]. Zeroed is empty. */
struct styled {
    struct buf text, look;
};

/* Tabs become spaces, up to the next multiple of four columns. */
void styled_add(struct styled *s, struct str text, unsigned look);
void styled_clear(struct styled *s);
void styled_release(struct styled *s);

/* What stands before the lines of nested blocks: bullets, bars, indentation. */
struct margin {
    char first[32], rest[32]; /* before the first line, and before those below it */
    int columns;              /* of either */
    bool used;                /* the first line is written */
};
#define MAX_MARGINS 12
struct margins {
    struct margin of[MAX_MARGINS];
    int n, n_deeper; /* n_deeper: nested so far that nothing is added any more */
};
void margins_push(struct margins *m, const char *first, const char *rest);
void margins_pop(struct margins *m);
int margins_columns(const struct margins *m);
/* Write what stands before the next line; `empty`: nothing follows, so no blanks at the end. */
void margins_put(struct margins *m, struct buf *out, bool empty, enum palette palette);

/* The next line of at most `columns` columns, from byte *at on: [*begin, *end), and its columns as
 * the result. Breaks at newlines, else behind blanks, else between two wide characters, else
 * anywhere (`anywhere`: right away). *at moves behind it. False at the end. */
bool styled_next_line(const struct styled *s, int columns, bool anywhere, size_t *at, size_t *begin,
                      size_t *end, int *taken);

/* Bytes [begin, end) with their escape sequences. */
void styled_put(struct buf *out, const struct styled *s, size_t begin, size_t end,
                enum palette palette);

/* All of it as lines, margins included in `columns`. Empty text gives one line. */
void styled_wrap(struct buf *out, const struct styled *s, struct margins *m, int columns,
                 bool anywhere, enum palette palette);

#endif
