#include "src/cli/option_value.h"

#include <errno.h>
#include <stdlib.h>

static bool read_int(const struct option *row, const char *value, int64_t *out, struct error *err)
{
    char *end;
    errno = 0;
    long long n = strtoll(value, &end, 10);
    if (end == value || *end || errno || (double)n < row->low || (double)n > row->high)
        return fail(err, ERR_USAGE, "wants a whole number from %.0f to %.0f, got \"%s\"", row->low,
                    row->high, value);
    *out = n;
    return true;
}

static bool read_real(const struct option *row, const char *value, double *out, struct error *err)
{
    char *end;
    errno = 0;
    double x = strtod(value, &end);
    if (end == value || *end || (errno && x != 0) || !(x >= row->low && x <= row->high))
        return fail(err, ERR_USAGE, "wants a number from %g to %g, got \"%s\"", row->low, row->high,
                    value);
    *out = x;
    return true;
}

static bool read_sizes(const struct option *row, const char *value, struct size_list *out,
                       struct error *err)
{
    struct size_list list = { .n = 0 };
    for (const char *at = value;; at++) {
        char number[24];
        size_t len = strcspn(at, ",");
        if (list.n == MAX_SIZES)
            return fail(err, ERR_USAGE, "takes at most %d numbers", MAX_SIZES);
        if (len >= sizeof number)
            return fail(err, ERR_USAGE, "wants whole numbers between commas, got \"%s\"", value);
        memcpy(number, at, len);
        number[len] = 0;
        if (!read_int(row, number, &list.items[list.n++], err))
            return false;
        at += len;
        if (*at != ',')
            break;
    }
    *out = list;
    return true;
}

static bool read_choice(const struct option *row, const char *value, int *out, struct error *err)
{
    int index = 0;
    for (const char *at = row->choices;; index++) {
        size_t len = strcspn(at, "|");
        if (strlen(value) == len && memcmp(at, value, len) == 0) {
            *out = index;
            return true;
        }
        if (!at[len])
            return fail(err, ERR_USAGE, "wants one of %s, got \"%s\"",
                        row->argument && strchr(row->argument, '|') ? row->argument : row->choices,
                        value);
        at += len + 1;
    }
}

bool option_apply(struct options *o, const struct option *row, const char *value, struct error *err)
{
    void *field = (char *)o + row->offset;
    struct text_list *list = field;
    switch (row->kind) {
    case OPT_FLAG:
        *(bool *)field = true;
        return true;
    case OPT_COUNT:
        ++*(int *)field;
        return true;
    case OPT_CONST:
        *(int *)field = (int)row->low;
        return true;
    case OPT_INT:
        return read_int(row, value, field, err);
    case OPT_REAL:
        return read_real(row, value, field, err);
    case OPT_TEXT:
        *(const char **)field = value;
        return true;
    case OPT_LIST:
        if (list->n == MAX_LIST)
            return fail(err, ERR_USAGE, "is given more than %d times", MAX_LIST);
        list->items[list->n++] = value;
        return true;
    case OPT_SIZES:
        return read_sizes(row, value, field, err);
    case OPT_ACTION:
        return row->read(o, NULL, err);
    case OPT_SIZE:
        return option_size(value, (int64_t)row->low, field) ||
               fail(err, ERR_USAGE, "wants a size such as 48G, got \"%s\"", value);
    case OPT_CHOICE:
        return read_choice(row, value, field, err);
    case OPT_CUSTOM:
        return row->read(o, value, err);
    case OPT_MAYBE:
        *(bool *)field = true;
        *(const char **)((char *)o + row->offset2) = value;
        return true;
    }
    return false;
}

bool option_wants_value(const struct option *row)
{
    return row->kind > OPT_CONST && row->kind != OPT_MAYBE;
}

int yes_or_no(const char *value)
{
    static const char *const words[] = { "0", "off", "no", "false", "1", "on", "yes", "true" };
    for (size_t i = 0; i < ARRAY_LEN(words); i++)
        if (strcmp(value, words[i]) == 0)
            return i >= 4;
    return -1;
}

bool option_apply_named(struct options *o, const struct option *row, const char *value,
                        struct error *err)
{
    if (option_wants_value(row))
        return option_apply(o, row, value, err);
    int answer = yes_or_no(value);
    if (answer < 0 && row->kind == OPT_MAYBE)
        return option_apply(o, row, value, err);
    if (answer < 0)
        return fail(err, ERR_USAGE, "wants on or off, got \"%s\"", value);
    return answer == 0 || option_apply(o, row, NULL, err);
}
