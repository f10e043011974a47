#include "src/base/pattern.h"

#include <string.h>

#include "src/base/util.h"

/* Behind a set, which begins at the "[". */
static const char *skip_set(const char *at)
{
    at++;
    at += *at == '^';
    at += *at == ']';
    while (*at && *at != ']') {
        char kind = at[0] == '[' ? at[1] : 0, end[] = { kind, ']', 0 };
        const char *to = kind && strchr(".:=", kind) ? strstr(at + 2, end) : NULL;
        at = to ? to + 2 : at + 1;
    }
    return at + (*at == ']');
}

/* Behind "{m,n}", and how many copies it asks for; behind the "{" alone where it is none. */
static const char *read_bounds(const char *at, size_t *copies)
{
    const char *inner = at + 1;
    size_t number = 0, most = 0;
    for (; (*inner >= '0' && *inner <= '9') || *inner == ','; inner++) {
        number = *inner == ',' ? 0 : min_of(10 * number + (size_t)(*inner - '0'),
                                            (size_t)PATTERN_PARTS);
        most = max_of(most, number);
    }
    if (*inner != '}')
        return at + 1;
    *copies = most + 1;
    return inner + 1;
}

/* What a pattern holds when its repetitions are written out, above PATTERN_PARTS: too much.
 * `sum` counts an open group, `last` is its latest element, which a repetition would multiply. */
static bool is_small(const char *at)
{
    struct { size_t sum, last; } open[PATTERN_DEPTH + 1] = { 0 };
    int depth = 0;
    while (*at && open[depth].sum <= PATTERN_PARTS) {
        size_t copies = 1, one = 1;
        switch (*at) {
        case '(':
            if (depth == PATTERN_DEPTH)
                return false;
            depth++;
            open[depth].sum = open[depth].last = 0;
            at++;
            continue;
        case ')':
            one += open[depth].sum;
            depth -= depth > 0;
            at++;
            break;
        case '+':
            copies = 2;
            at++;
            break;
        case '{':
            at = read_bounds(at, &copies);
            break;
        case '[':
            at = skip_set(at);
            break;
        case '\\':
            at += at[1] ? 2 : 1;
            break;
        case '*': case '?':
            open[depth].sum++;
            at++;
            continue;
        default:
            at++;
        }
        if (copies > 1)
            one = open[depth].last * (copies - 1);
        open[depth].last = copies > 1 ? open[depth].last * copies : one;
        open[depth].sum += one;
    }
    return *at == 0 && open[depth].sum <= PATTERN_PARTS;
}

static bool refers_back(const char *at)
{
    for (; (at = strchr(at, '\\')) && at[1]; at += 2)
        if (at[1] >= '1' && at[1] <= '9')
            return true;
    return false;
}

bool pattern_open(regex_t *re, const char *text, struct error *err)
{
    if (!is_small(text))
        return fail(err, ERR_USAGE, "\"%.200s\": repetitions within repetitions, or groups within "
                    "groups, make this pattern too large: expected at most %d parts and %d groups "
                    "deep", text, PATTERN_PARTS, PATTERN_DEPTH);
    if (refers_back(text))
        return fail(err, ERR_USAGE, "\"%.200s\": back-references such as \\1 are not supported",
                    text);
    int bad = regcomp(re, text, REG_EXTENDED | REG_NOSUB);
    if (bad) {
        char why[128];
        regerror(bad, re, why, sizeof why);
        return fail(err, ERR_USAGE, "\"%.200s\" is no regular expression: %s", text, why);
    }
    return true;
}
