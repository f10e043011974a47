#include "src/cli/width.h"

#include <langinfo.h>
#include <locale.h>
#include <stdlib.h>
#include <wchar.h>

#include "src/text/utf8.h"

void width_use_utf8(void)
{
    static const char *const names[] = { "C.UTF-8", "en_US.UTF-8" };
    setlocale(LC_CTYPE, "");
    for (size_t i = 0; i < ARRAY_LEN(names) && strcmp(nl_langinfo(CODESET), "UTF-8") != 0; i++)
        if (setlocale(LC_CTYPE, names[i]))
            setenv("LC_ALL", names[i], 1);
}

int width_next(struct str s, size_t *bytes)
{
    uint32_t code;
    if ((unsigned char)s.data[0] < 0x80) {
        *bytes = 1;
        return s.data[0] >= 0x20 && s.data[0] != 0x7f;
    }
    *bytes = utf8_decode(s, &code);
    int columns = wcwidth((wchar_t)code);
    return columns < 0 ? 1 : columns; /* a character that this system does not know */
}

int width_of(struct str s)
{
    int columns = 0;
    for (size_t n; s.len > 0; s.data += n, s.len -= n)
        columns += width_next(s, &n);
    return columns;
}

struct str width_cut(struct str s, int columns)
{
    struct str rest = s;
    for (size_t n; rest.len > 0; rest.data += n, rest.len -= n) {
        columns -= width_next(rest, &n);
        if (columns < 0)
            break;
    }
    return (struct str){ s.data, s.len - rest.len };
}
