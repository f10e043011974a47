#include "src/cli/ascii.h"

#include <stdlib.h>
#include <strings.h>

#include "src/text/utf8.h"

bool ascii_wanted(void)
{
    static const char *const names[] = { "LC_ALL", "LC_CTYPE", "LANG" };
    const char *set = NULL;
    for (size_t i = 0; i < ARRAY_LEN(names) && (!set || !*set); i++)
        set = getenv(names[i]);
    if (!set || !*set)
        return false;
    const char *dot = strchr(set, '.');
    if (!dot) /* a language alone does not tell */
        return strcmp(set, "C") == 0 || strcmp(set, "POSIX") == 0;
    return strncasecmp(dot, ".UTF-8", 6) != 0 && strncasecmp(dot, ".utf8", 5) != 0;
}

static const struct {
    uint32_t code;
    const char *ascii;
} likes[] = {
    { 0xb0, "o" },    { 0xb1, "~" },    { 0xb5, "u" },    { 0xb7, "-" },    { 0xd7, "x" },
    { 0x2013, "-" },  { 0x2014, "-" },  { 0x2018, "'" },  { 0x2019, "'" },  { 0x201c, "\"" },
    { 0x201d, "\"" }, { 0x2022, "*" },  { 0x2026, ".." }, { 0x2500, "-" },  { 0x2502, "|" },
    { 0x2514, "+" },  { 0x2524, "+" },  { 0x253c, "+" },  { 0x2580, "#" },  { 0x2588, "#" },
    { 0x2591, "." },  { 0x2592, "=" },  { 0x2593, "#" },  { 0x25aa, "-" },  { 0x25e6, "o" },
    { 0x2610, "_" },  { 0x2611, "x" },
};

void ascii_add(struct buf *out, struct str text)
{
    while (text.len > 0) {
        size_t n = 1;
        uint32_t code;
        const char *like = NULL;
        if ((unsigned char)text.data[0] >= 0x80) {
            n = utf8_decode(text, &code);
            for (size_t i = 0; i < ARRAY_LEN(likes) && !like; i++)
                like = likes[i].code == code ? likes[i].ascii : NULL;
        } else {
            while (n < text.len && (unsigned char)text.data[n] < 0x80)
                n++;
        }
        if (like)
            buf_puts(out, like);
        else
            buf_add(out, text.data, n);
        text = (struct str){ text.data + n, text.len - n };
    }
}
