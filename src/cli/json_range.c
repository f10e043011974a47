#include "src/cli/json_range.h"

#include <stdio.h>

#include "src/base/util.h"
#include "src/cli/buf.h"

/* All numbers of n digits between low and high, which have n digits (leading zeros count): the
 * first digit of low with what is at least its rest, digits between with anything, the first of
 * high with what is at most its rest. */
static void write_digits(struct buf *out, const char *low, const char *high, int n)
{
    while (n > 0 && *low == *high) {
        buf_printf(out, "\"%c\" ", *low);
        low++, high++, n--;
    }
    if (n == 0)
        return;
    bool from_zero = strspn(low + 1, "0") >= (size_t)n - 1;
    bool to_nine = strspn(high + 1, "9") >= (size_t)n - 1;
    char from = (char)(*low + !from_zero), to = (char)(*high - !to_nine);
    const char *bar = "";
    buf_puts(out, "(");
    if (!from_zero) {
        buf_printf(out, "\"%c\" ", *low);
        write_digits(out, low + 1, "9999999999999999", n - 1);
        bar = "| ";
    }
    if (from <= to) {
        buf_printf(out, "%s[%c-%c] ", bar, from, to);
        if (n > 1)
            buf_printf(out, "[0-9]{%d} ", n - 1);
        bar = "| ";
    }
    if (!to_nine) {
        buf_printf(out, "%s\"%c\" ", bar, *high);
        write_digits(out, "0000000000000000", high + 1, n - 1);
    }
    buf_puts(out, ") ");
}

/* low..high, 0 <= low <= high: one alternative for each number of digits. */
static void write_naturals(struct buf *out, int64_t low, int64_t high)
{
    int64_t end = 9;
    for (int n = 1; low <= high; n++, end = end * 10 + 9) {
        if (low > end)
            continue;
        char a[24], b[24];
        snprintf(a, sizeof a, "%lld", (long long)low);
        snprintf(b, sizeof b, "%lld", (long long)min_of(end, high));
        write_digits(out, a, b, n);
        low = end + 1;
        if (low <= high)
            buf_puts(out, "| ");
    }
}

void integers_between(struct buf *out, int64_t low, int64_t high)
{
    buf_puts(out, "(");
    if (low < 0) {
        buf_puts(out, "\"-\" (");
        write_naturals(out, max_of(1, -high), -low);
        buf_puts(out, high >= 0 ? ") | " : ")");
    }
    if (high >= 0)
        write_naturals(out, max_of(0, low), high);
    buf_puts(out, ")");
}
