#include "src/cli/repair.h"

/* Bytes of the valid character at the start of s, 0 when it is malformed or cut short.
 * Table 3-7 of the Unicode standard: no overlong forms, no surrogates, nothing above U+10FFFF. */
static size_t character(const unsigned char *s, size_t len)
{
    size_t n = s[0] < 0x80 ? 1 : s[0] < 0xc2 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3
             : s[0] < 0xf5 ? 4 : 0;
    if (n == 0 || n > len)
        return 0;
    for (size_t i = 1; i < n; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) ||
        (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f))
        return 0;
    return n;
}

void buf_add_repaired(struct buf *out, struct str text)
{
    size_t at = 0;
    while (at < text.len) {
        size_t start = at, n = 0;
        while (at < text.len &&
               (n = character((const unsigned char *)text.data + at, text.len - at)) > 0)
            at += n;
        buf_add(out, text.data + start, at - start);
        if (at == text.len)
            break;
        buf_puts(out, "\xef\xbf\xbd");
        /* One replacement for a lead byte and the continuation bytes that follow it. */
        at++;
        while (at < text.len && ((unsigned char)text.data[at] & 0xc0) == 0x80)
            at++;
    }
}

size_t utf8_count(struct str text)
{
    size_t n = 0;
    for (size_t at = 0; at < text.len; n++) {
        size_t bytes = character((const unsigned char *)text.data + at, text.len - at);
        at += bytes ? bytes : 1;
    }
    return n;
}
