#include "src/cli/paste.h"

#include <stdio.h>

#include "src/base/mem.h"

#define LONG_LINES 20
#define LONG_BYTES 2000

static struct kept {
    char mark[PASTE_MARK_SIZE];
    struct buf text;
} *kept;
static int n_kept;

static int count_lines(struct str text)
{
    int n = text.len > 0 && text.data[text.len - 1] != '\n';
    for (size_t i = 0; i < text.len; i++)
        n += text.data[i] == '\n';
    return n;
}

bool paste_is_long(struct str text)
{
    return text.len > LONG_BYTES || count_lines(text) > LONG_LINES;
}

bool paste_keep(struct str text, char mark[PASTE_MARK_SIZE])
{
    struct kept *bigger = mem_resize(kept, (size_t)n_kept + 1, sizeof *kept, "pasted text", NULL);
    if (!bigger)
        return false;
    kept = bigger;
    struct kept *k = &kept[n_kept];
    *k = (struct kept){ 0 };
    int n = count_lines(text);
    snprintf(k->mark, sizeof k->mark, "[paste %d: %d line%s]", n_kept + 1, n, n == 1 ? "" : "s");
    buf_add(&k->text, text.data, text.len);
    if (k->text.out_of_memory) {
        buf_release(&k->text);
        return false;
    }
    n_kept++;
    memcpy(mark, k->mark, PASTE_MARK_SIZE);
    return true;
}

/* The text whose mark stands at the start of `line`, or NULL. */
static const struct kept *at_start(const char *line)
{
    for (int i = 0; i < n_kept; i++)
        if (strncmp(line, kept[i].mark, strlen(kept[i].mark)) == 0)
            return &kept[i];
    return NULL;
}

void paste_expand(struct buf *out, const char *line)
{
    while (*line) {
        size_t plain = strcspn(line, "[");
        buf_add(out, line, plain);
        line += plain;
        const struct kept *k = *line ? at_start(line) : NULL;
        if (k) {
            buf_add(out, buf_str(&k->text).data, k->text.len);
            line += strlen(k->mark);
        } else if (*line) {
            buf_add(out, line++, 1);
        }
    }
}

bool paste_any(void)
{
    return n_kept > 0;
}

bool paste_broken(const char *before, const char *after, size_t *from, size_t *to)
{
    size_t n = strlen(before), rest = strlen(after), same = 0;
    while (same < rest && before[same] == after[same])
        same++;
    if (n <= rest || strcmp(before + n - (rest - same), after + same) != 0)
        return false; /* more happened than that something went */
    size_t gone = same + n - rest; /* what went is [same, gone) of `before` */
    *from = *to = same;
    for (size_t at = 0; at < gone; at++) {
        const struct kept *k = before[at] == '[' ? at_start(before + at) : NULL;
        size_t end = k ? at + strlen(k->mark) : 0;
        if (end <= same)
            continue;
        *from = min_of(*from, at);
        *to = max_of(*to, same + (end > gone ? end - gone : 0));
    }
    return *to > *from;
}

void paste_release(void)
{
    for (int i = 0; i < n_kept; i++)
        buf_release(&kept[i].text);
    mem_free(kept);
    kept = NULL;
    n_kept = 0;
}
