/* Twin of line.c for builds without libraries: no editing, no history. */
#include "src/cli/line.h"

void line_open(const struct line_hooks *hooks)
{
    (void)hooks;
}

void line_close(void)
{
}

enum line_result line_read(const char *prompt, struct buf *text, struct error *err)
{
    return line_plain(prompt, text, err);
}

void line_again(struct str text)
{
    (void)text;
}

void line_history_load(const char *path)
{
    (void)path;
}

void line_history_add(const char *text)
{
    (void)text;
}

void line_history_save(const char *path)
{
    (void)path;
}

const char *line_library(void)
{
    return "plain";
}
