/* "Did you mean": distance between words by insertions, deletions, changes and swaps. */
#include "src/cli/options.h"

#define LONGEST 40

static int distance(const char *a, const char *b)
{
    int la = (int)strlen(a), lb = (int)strlen(b);
    if (la > LONGEST || lb > LONGEST)
        return LONGEST;
    int row[3][LONGEST + 1];
    for (int j = 0; j <= lb; j++)
        row[0][j] = j;
    for (int i = 1; i <= la; i++) {
        int *now = row[i % 3], *up = row[(i + 2) % 3], *up2 = row[(i + 1) % 3];
        now[0] = i;
        for (int j = 1; j <= lb; j++) {
            int change = up[j - 1] + (a[i - 1] != b[j - 1]);
            now[j] = min_of(change, min_of(up[j], now[j - 1]) + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                now[j] = min_of(now[j], up2[j - 2] + 1);
        }
    }
    return row[la % 3][lb];
}

const char *nearest_name(const char *word, const char *const *names, int n)
{
    const char *best = NULL;
    int best_distance = max_of(1, (int)strlen(word) / 3) + 1;
    for (int i = 0; i < n; i++) {
        int d = distance(word, names[i]);
        /* A word that begins a name, or is begun by one, is as good as one typing error. */
        size_t shared = min_of(strlen(word), strlen(names[i]));
        if (d > 1 && shared >= 5 && strncmp(word, names[i], shared) == 0)
            d = 1;
        if (d < best_distance) {
            best_distance = d;
            best = names[i];
        }
    }
    return best;
}
