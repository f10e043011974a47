#include "src/engine/break_even.h"

#include <math.h>
#include <string.h>

#include "src/base/util.h"

#define LOSS 0.01          /* of the time, that trying may cost in the long run, */
#define GRACE 1.25         /* and plain steps at once: else a short answer could never try */
#define SURPLUS 8          /* plain steps of old gains that new losses may use up */
#define WORTH 1.05         /* speed against plain decoding that is worth guessing */

#define PLAIN_FIRST 4      /* plain steps measured before the first guess; one more warms up */
#define PLAIN_EVERY 20     /* steps with guesses to one plain step, which says what they save */
#define TRY_EVERY 64       /* steps of the best length to one of a neighbour */
#define WAIT_FIRST 64      /* plain steps until guessing is tried again; doubles, */
#define WAIT_MOST 512      /* up to this */

#define RECENT 0.25        /* weight of a new measurement, */
#define RECENT_RARE 0.5    /* of one after STALE steps without, */
#define STALE 32
#define SPIKE 2            /* and times the mean that it counts for at most */
#define FLOOR 0.1          /* weight of a dearer plain step in what a token is worth */
#define CHANGE 0.2         /* of a cost, that asks for new plain steps */
#define CHANGE_ONE 0.3     /* of a single step that was so much cheaper */
#define CHANGE_STEPS 2     /* further plain steps where one has shown a change */

#define FADE (1 - 1.0 / 48) /* of judged guesses with each new one */
#define FADE_TRIAL 0.5     /* with each trial: texts change */
#define PRIOR 0.8          /* acceptance before anything is known: of the first guess, */
#define PRIOR_NEXT 0.9     /* of each further one as a share of the one before, */
#define PRIOR_TRIES 2      /* counted as so many */
#define COST_FIRST 1.5     /* a step with one guess, in plain steps, before it was measured: a hope; */
#define COST_MOST 1.1      /* each guess costs so many more at most: what the account must cover */
#define HICCUP 2           /* times that most: what is beyond is the machine's, not the guesses' */
#define COST_PAIR (1 / 128.0) /* reading a pair, in plain steps, before it was measured */
#define CATCH_UP 0.5       /* plain steps that reading pairs before a trial may cost */

/* ---- what is known ---- */

static double acceptance(const struct break_even *b, int j)
{
    double prior = j == 0 ? PRIOR : PRIOR_NEXT * acceptance(b, j - 1);
    return (b->hits[j] + PRIOR_TRIES * prior) / (b->tries[j] + PRIOR_TRIES);
}

/* Measured twice at least, since a first step may fetch what later ones find; before, as far above the
 * length before as that one is above its own. */
static double cost(const struct break_even *b, int k)
{
    if (k == 0 || b->n_steps[k] > 1)
        return b->step_s[k];
    double hope = COST_FIRST * b->step_s[0];
    if (k > 1)
        hope = cost(b, k - 1) + max_of(0.0, cost(b, k - 1) - cost(b, k - 2));
    return b->n_steps[k] > 0 ? min_of(b->step_s[k], hope) : hope;
}

double break_even_gain(const struct break_even *b, int k)
{
    double tokens = 1, all = 1;
    for (int j = 0; j < k; j++)
        tokens += all *= acceptance(b, j);
    double s = cost(b, k);
    return s > 0 ? tokens * b->step_s[0] / s : 1;
}

static int most_promising(const struct break_even *b, int most)
{
    int best = 1;
    for (int k = 2; k <= most; k++)
        best = break_even_gain(b, k) > break_even_gain(b, best) ? k : best;
    return best;
}

int break_even_best(const struct break_even *b, int room)
{
    int most = min_of(b->most, room);
    if (most < 1 || b->n_steps[0] <= PLAIN_FIRST)
        return 0;
    int best = most_promising(b, most);
    return break_even_gain(b, best) >= WORTH ? best : 0;
}

/* ---- the account ---- */

static double balance_s(const struct break_even *b)
{
    return b->settled_s + b->waiting * b->floor_s - b->waiting_s;
}

double break_even_balance(const struct break_even *b)
{
    return b->step_s[0] > 0 ? balance_s(b) / b->step_s[0] : 0;
}

/* A plain step was measured: what waits for it is entered. */
static void settle(struct break_even *b)
{
    b->settled_s += b->waiting * b->floor_s - b->waiting_s;
    b->settled_s = min_of(b->settled_s, SURPLUS * b->step_s[0]);
    b->waiting_s = b->waiting = 0;
}

static bool affordable(const struct break_even *b, int k, int64_t n_behind)
{
    double plain = b->step_s[0];
    double pair = b->pair_s > 0 ? b->pair_s : COST_PAIR * plain;
    double risk = b->n_steps[k] > 1 ? max_of(0.0, b->step_s[k] - plain)
                                    : k * COST_MOST * min_of(plain, b->floor_s);
    risk += pair * (double)n_behind;
    return balance_s(b) - risk >= -LOSS * b->total_s - GRACE * b->least_s;
}

/* ---- the decision ---- */

int break_even_length(const struct break_even *b, int room, int64_t n_behind)
{
    int most = min_of(b->most, room);
    if (most < 1 || b->n_steps[0] <= PLAIN_FIRST || b->plain_due > 0 ||
        b->since_plain >= PLAIN_EVERY)
        return 0;
    int best = break_even_best(b, most), k = best;
    if (best == 0 && b->idle >= b->wait)
        k = most_promising(b, most);
    if (best > 0 && b->since_try >= TRY_EVERY) {
        int up = best + 1, down = best - 1;
        bool up_older = up <= most && (down < 1 || b->seen_at[up] <= b->seen_at[down]);
        k = up_older ? up : max_of(down, 1);
    }
    while (k > 0 && !affordable(b, k, n_behind))
        k--;
    return k;
}

enum draft_reason break_even_reason(const struct break_even *b)
{
    if (b->n_steps[0] <= PLAIN_FIRST)
        return DRAFT_MEASURES;
    if (break_even_best(b, b->most) == 0)
        return DRAFT_LOSES;
    for (int k = 1; k <= b->most; k++)
        if (affordable(b, k, 0))
            return DRAFT_PAYS;
    return DRAFT_RECOVERS;
}

/* ---- what happened ---- */

/* Plain steps until the next trial: twice as many each time, and so many that the cheapest length that
 * was tried costs no more than LOSS of them. */
static int64_t next_wait(const struct break_even *b)
{
    double loss = WAIT_MOST * b->step_s[0];
    for (int k = 1; k <= b->most; k++)
        if (b->n_steps[k] > 0)
            loss = min_of(loss, max_of(0.0, cost(b, k) - b->step_s[0]));
    int64_t twice = min_of(2 * max_of(b->wait, WAIT_FIRST / 2), WAIT_MOST);
    return max_of(twice, (int64_t)(loss / (LOSS * b->step_s[0])));
}

/* The first few say how fast it can be: they touch what nobody has touched yet. */
static void measure(struct break_even *b, int k, double seconds)
{
    double *mean = &b->step_s[k];
    bool rare = k == 0 ? b->since_plain > 0 : b->n - b->seen_at[k] > STALE;
    if (b->n_steps[k] == 0)
        *mean = seconds;
    else if (b->n_steps[k] < 3)
        *mean = min_of(*mean, seconds);
    else
        *mean += (rare ? RECENT_RARE : RECENT) * (min_of(seconds, SPIKE * *mean) - *mean);
    b->n_steps[k]++;
    b->seen_at[k] = b->n;
}

static bool differ(double now, double then)
{
    return then > 0 && fabs(now / then - 1) > CHANGE;
}

/* What makes plain steps dearer does so with all: costs that were not measured since follow. */
static void follow_plain(struct break_even *b, double before, int64_t before_at)
{
    for (int k = 1; k <= b->most; k++)
        if (b->n_steps[k] > 0 && b->seen_at[k] < before_at)
            b->step_s[k] *= b->step_s[0] / before;
}

static void note_plain(struct break_even *b, double seconds)
{
    double before = b->step_s[0];
    int64_t before_at = b->seen_at[0];
    bool other = b->n_steps[0] > PLAIN_FIRST && differ(seconds, before);
    if (b->n++ == 0)
        return;
    measure(b, 0, seconds);
    if (before > 0)
        follow_plain(b, before, before_at);
    bool dearer = b->n_steps[0] > 1 && seconds > b->floor_s;
    b->floor_s += (dearer ? FLOOR : 1) * (seconds - b->floor_s);
    b->least_s = b->n_steps[0] > 1 ? min_of(b->least_s, seconds) : seconds;
    settle(b);
    b->plain_due = other && b->since_plain > 0 ? CHANGE_STEPS : max_of((int64_t)0, b->plain_due - 1);
    memcpy(b->then_s, b->step_s, sizeof b->then_s);
    b->total_s += seconds;
    b->since_plain = 0;
    b->idle++;
}

void break_even_step(struct break_even *b, int k, double seconds)
{
    if (k == 0) {
        note_plain(b, seconds);
        return;
    }
    int best = break_even_best(b, b->most);
    if (best == 0) {
        for (int j = 0; j < b->most; j++) {
            b->tries[j] *= FADE_TRIAL;
            b->hits[j] *= FADE_TRIAL;
        }
    }
    b->n++;
    measure(b, k, seconds);
    bool sooner = b->then_s[k] > 0 && seconds < b->then_s[k]; /* so would plain steps be */
    b->worth = sooner ? seconds / b->then_s[k] : 1;
    if (b->worth < 1 - CHANGE_ONE || (b->n_steps[k] > 3 && differ(b->step_s[k], b->then_s[k])))
        b->plain_due = max_of(b->plain_due, (int64_t)1);
    b->waiting_s += min_of(seconds, HICCUP * (1 + COST_MOST * k) * b->step_s[0]);
    b->waiting += b->worth;
    b->total_s += seconds;
    b->since_plain++;
    b->wait = best > 0 ? WAIT_FIRST : next_wait(b);
    b->idle = 0;
    b->since_try = k == best || best == 0 ? b->since_try + 1 : 0;
}

void break_even_judged(struct break_even *b, int right, bool wrong)
{
    b->waiting += right * b->worth;
    for (int j = 0; j < right + wrong && j < DRAFT_MOST; j++) {
        b->tries[j] = FADE * b->tries[j] + 1;
        b->hits[j] = FADE * b->hits[j] + (j < right);
    }
}

int64_t break_even_pairs(const struct break_even *b)
{
    return b->pair_s > 0 ? (int64_t)(CATCH_UP * b->step_s[0] / b->pair_s) : 0;
}

/* The first reading brings the block's weights from the disk, the next few more of its experts: what
 * they take is paid once, and says little of what a later one would. */
static void measure_pair(struct break_even *b, double seconds)
{
    double *mean = &b->pair_s;
    if (b->n_reads == 1)
        *mean = seconds;
    else if (b->n_reads < 4)
        *mean = min_of(*mean, seconds);
    else
        *mean += RECENT_RARE * (min_of(seconds, SPIKE * *mean) - *mean);
    b->n_reads += seconds > 0;
}

void break_even_read(struct break_even *b, int64_t n, double seconds, bool late)
{
    if (n > 0 && b->n_reads > 0)
        measure_pair(b, seconds / (double)n);
    else if (n > 0)
        b->n_reads = 1;
    if (!late)
        return;
    b->waiting_s += seconds;
    b->total_s += seconds;
}
