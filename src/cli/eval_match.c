#include "src/cli/eval.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>

#define Z_95 1.959963984540054

bool match_find(struct str name, enum match *match)
{
    static const char *const names[] = { "exact", "last_number", "contains", "no_think" };
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (str_is(name, names[i])) {
            *match = (enum match)i;
            return true;
        }
    }
    return false;
}

static struct str trim(struct str s)
{
    while (s.len && isspace((unsigned char)s.data[0]))
        s = (struct str){ s.data + 1, s.len - 1 };
    while (s.len && isspace((unsigned char)s.data[s.len - 1]))
        s.len--;
    return s;
}

static bool same(struct str a, struct str b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

/* The last number of a text, thousands' commas allowed: "-1,234.5". */
static bool last_number(struct str s, double *value)
{
    char digits[64];
    size_t end = s.len;
    while (end && !isdigit((unsigned char)s.data[end - 1]))
        end--;
    size_t start = end;
    while (start && (isdigit((unsigned char)s.data[start - 1]) ||
                     ((s.data[start - 1] == ',' || s.data[start - 1] == '.') && start > 1 &&
                      isdigit((unsigned char)s.data[start - 2]))))
        start--;
    /* A minus belongs to the number unless it stands between two: "7-3" ends with 3. */
    if (start && start < end && s.data[start - 1] == '-' &&
        (start == 1 || !isalnum((unsigned char)s.data[start - 2])))
        start--;
    size_t n = 0;
    for (size_t i = start; i < end && n + 1 < sizeof digits; i++)
        if (s.data[i] != ',')
            digits[n++] = s.data[i];
    digits[n] = 0;
    *value = strtod(digits, NULL);
    return n > 0;
}

bool match_answer(enum match match, struct str wanted, struct str answer, struct str thinking)
{
    double a, b;
    answer = trim(answer);
    wanted = trim(wanted);
    switch (match) {
    case MATCH_EXACT:
        return same(answer, wanted);
    case MATCH_LAST_NUMBER:
        return last_number(answer, &a) && last_number(wanted, &b) && a == b;
    case MATCH_CONTAINS:
        return wanted.len == 0 || memmem(answer.data, answer.len, wanted.data, wanted.len) != NULL;
    case MATCH_NO_THINK:
        return trim(thinking).len == 0;
    }
    return false;
}

void wilson(int64_t right, int64_t n, double *low, double *high)
{
    *low = 0;
    *high = 1;
    if (n <= 0)
        return;
    double p = (double)right / (double)n, z2 = Z_95 * Z_95 / (double)n;
    double centre = (p + z2 / 2) / (1 + z2);
    double half = Z_95 * sqrt(p * (1 - p) / (double)n + z2 / (4 * (double)n)) / (1 + z2);
    *low = fmax(0, centre - half);
    *high = fmin(1, centre + half);
}
