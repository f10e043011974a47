/* Sampling without sorting.
 *
 * Tokens have one total order: higher logit first, lower id first on equal logits. Every
 * filter keeps a prefix of that order, so every filter is a *cut*: the last token that stays.
 * top-k is the cut where the count reaches k, top-p the cut where the probability mass reaches
 * p, min-p the cut at a probability. A cut is found by radix selection: map logits to integers
 * that sort alike, add up counts (or masses) per leading digit, walk down from the top until
 * the goal is reached, and go on inside that digit only. That is linear for any input, flat or
 * peaked, ties included.
 *
 * After the cuts the survivors stand in the order of their ids, and the draw walks them in
 * that order. All sums are in double and in a fixed order; exp is our own, made of operations
 * that IEEE 754 defines to the last bit. So a seed means the same text on every machine. */
#include "src/text/sampler.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>

#include "src/base/mem.h"
#include "src/base/util.h"

#define MAX_WINDOW (1 << 20)
#define RADIX_BITS 11
#define RADIX (1 << RADIX_BITS)

struct sampler {
    struct sampler_options o;
    int n_vocab;
    uint64_t random[4]; /* xoshiro256** */

    int32_t *history; /* [penalty_window] ring of the last tokens, or NULL */
    int n_history, next;
    int32_t *n_seen; /* [n_vocab] how often each token is in the ring */

    int n; /* candidates so far, in the order of their ids */
    int32_t *id;    /* [n_vocab] */
    float *logit;   /* [n_vocab] of candidate i */
    float *weight;  /* [n_vocab] exp of its distance to the best */
    uint32_t *key;  /* [n_vocab] of candidate i, orders like its logit */
    int32_t *tied;  /* [n_vocab] scratch of find_cut: candidates still in question */
    double sum[2][RADIX]; /* even and odd ones apart: two additions in flight */
};

/* --- generator: xoshiro256** seeded by splitmix64 (Blackman and Vigna) ------------------------ */

static uint64_t splitmix64(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static uint64_t rotate_left(uint64_t x, int bits)
{
    return x << bits | x >> (64 - bits);
}

static uint64_t random_bits(uint64_t r[4])
{
    uint64_t result = rotate_left(r[1] * 5, 7) * 9;
    uint64_t shifted = r[1] << 17;
    r[2] ^= r[0];
    r[3] ^= r[1];
    r[1] ^= r[2];
    r[0] ^= r[3];
    r[2] ^= shifted;
    r[3] = rotate_left(r[3], 45);
    return result;
}

/* In [0, 1), 53 bits. */
static double random_unit(uint64_t r[4])
{
    return (double)(random_bits(r) >> 11) * 0x1p-53;
}

/* --- small mathematics ------------------------------------------------------------------------ */

union float_bits {
    float value;
    int32_t bits;
};

/* exp(-|x|) to 1 ulp, 0 from 87 on: 2^n times the Taylor series of the rest, which is at most
 * ln(2)/2 away from 0. Plain arithmetic and integer comparisons only: the same bits on every
 * machine, and the compiler makes it a vector loop. */
static inline float exp_minus(float x)
{
    const int32_t limit = 0x42ae0000; /* the bits of 87.0f; magnitudes order like their bits */
    union float_bits u = { x }, scale;
    int32_t magnitude = u.bits & INT32_MAX;
    u.bits = magnitude < limit ? magnitude : limit;
    int32_t n = (int32_t)(u.value * 1.44269504f + 0.5f);
    float r = (float)n * 0.693359375f - u.value - (float)n * 2.12194440e-4f; /* ln 2 in two parts */
    float p = 1.0f / 5040;
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    scale.bits = magnitude < limit ? (127 - n) * (1 << 23) : 0;
    return p * scale.value;
}

/* An unsigned integer that orders like the float; -0 counts as 0. */
static inline uint32_t order_key(float x)
{
    union float_bits u = { x + 0.0f };
    return (uint32_t)u.bits ^ ((uint32_t)(u.bits >> 31) | 0x80000000u);
}

static float clamp_finite(float x)
{
    return x > FLT_MAX ? FLT_MAX : x < -FLT_MAX ? -FLT_MAX : x;
}

/* --- opening ---------------------------------------------------------------------------------- */

struct sampler_options sampler_options_default(void)
{
    return (struct sampler_options){ .top_p = 1, .repeat_penalty = 1, .penalty_window = 64 };
}

static bool in_range(const char *name, double value, double low, double high, struct error *err)
{
    if (value >= low && value <= high)
        return true; /* false for NaN */
    return fail(err, ERR_USAGE, "%s is %g, expected %g to %g", name, value, low, high);
}

static bool check_options(const struct sampler_options *o, int n_vocab, struct error *err)
{
    bool ok = in_range("temperature", o->temperature, 0, 1000, err) &&
              in_range("top-k", o->top_k, 0, INT32_MAX, err) &&
              in_range("top-p", o->top_p, 0, 1, err) &&
              in_range("min-p", o->min_p, 0, 1, err) &&
              in_range("repeat penalty", o->repeat_penalty, 0.001, 1000, err) &&
              in_range("presence penalty", o->presence_penalty, -1000, 1000, err) &&
              in_range("frequency penalty", o->frequency_penalty, -1000, 1000, err) &&
              in_range("penalty window", o->penalty_window, 0, MAX_WINDOW, err);
    for (int i = 0; ok && i < o->n_bias; i++) {
        const struct logit_bias *b = &o->bias[i];
        if (b->id < 0 || b->id >= n_vocab)
            return fail(err, ERR_USAGE, "logit bias: token %d, expected 0 to %d", b->id,
                        n_vocab - 1);
        if (isnan(b->bias) || b->bias == INFINITY)
            return fail(err, ERR_USAGE, "logit bias of token %d is %g, expected a number or -inf",
                        b->id, b->bias);
    }
    return ok;
}

static bool has_penalties(const struct sampler_options *o)
{
    return o->penalty_window > 0 && (o->repeat_penalty != 1 || o->presence_penalty != 0 ||
                                     o->frequency_penalty != 0);
}

bool sampler_open(struct sampler **out, const struct sampler_options *o, int n_vocab,
                  struct error *err)
{
    *out = NULL;
    if (n_vocab <= 0)
        return fail(err, ERR_INTERNAL, "sampler for %d tokens", n_vocab);
    if (!check_options(o, n_vocab, err))
        return false;
    struct sampler *s = mem_alloc(1, sizeof *s, "sampler", err);
    if (!s)
        return false;
    s->o = *o;
    s->n_vocab = n_vocab;
    size_t n = (size_t)n_vocab;
    bool ok = (s->id = mem_alloc(n, sizeof *s->id, "sampler ids", err)) &&
              (s->logit = mem_alloc(n, sizeof *s->logit, "sampler logits", err)) &&
              (s->weight = mem_alloc(n, sizeof *s->weight, "sampler weights", err)) &&
              (s->key = mem_alloc(n, sizeof *s->key, "sampler keys", err)) &&
              (s->tied = mem_alloc(n, sizeof *s->tied, "sampler scratch", err));
    if (ok && has_penalties(o))
        ok = (s->history = mem_alloc((size_t)o->penalty_window, sizeof *s->history,
                                     "penalty window", err)) &&
             (s->n_seen = mem_alloc(n, sizeof *s->n_seen, "penalty counts", err));
    if (!ok) {
        sampler_close(s);
        return false;
    }
    sampler_reset(s);
    *out = s;
    return true;
}

void sampler_close(struct sampler *s)
{
    if (!s)
        return;
    mem_free(s->id);
    mem_free(s->logit);
    mem_free(s->weight);
    mem_free(s->key);
    mem_free(s->tied);
    mem_free(s->history);
    mem_free(s->n_seen);
    mem_free(s);
}

void sampler_reset(struct sampler *s)
{
    uint64_t state = s->o.seed;
    for (int i = 0; i < 4; i++)
        s->random[i] = splitmix64(&state);
    s->n_history = s->next = 0;
    if (s->n_seen)
        memset(s->n_seen, 0, (size_t)s->n_vocab * sizeof *s->n_seen);
}

void sampler_accept(struct sampler *s, int32_t token)
{
    if (!s->history || token < 0 || token >= s->n_vocab)
        return;
    if (s->n_history == s->o.penalty_window)
        s->n_seen[s->history[s->next]]--;
    else
        s->n_history++;
    s->history[s->next] = token;
    s->n_seen[token]++;
    s->next = (s->next + 1) % s->o.penalty_window;
}

/* Take back the newest of them; `gone`: what it had pushed out of a full window. */
static void unaccept(struct sampler *s, bool was_full, int32_t gone)
{
    s->next = (s->next + s->o.penalty_window - 1) % s->o.penalty_window;
    s->n_seen[s->history[s->next]]--;
    if (was_full) {
        s->history[s->next] = gone;
        s->n_seen[gone]++;
    } else {
        s->n_history--;
    }
}

/* --- from logits to candidates ---------------------------------------------------------------- */

/* A model that computes NaN or +inf is broken, and one that gives no number has nothing to say.
 * -inf is fine: that is how a grammar forbids tokens. */
static bool check_logits(const float *logits, int n, struct error *err)
{
    int n_bad = 0, n_finite = 0;
    for (int i = 0; i < n; i++) {
        n_bad += !(logits[i] <= FLT_MAX);
        n_finite += fabsf(logits[i]) <= FLT_MAX;
    }
    if (n_bad) {
        int i = 0;
        while (logits[i] <= FLT_MAX)
            i++;
        return fail(err, ERR_CHECK, "logit of token %d is %s (%d of %d are not finite)", i,
                    isnan(logits[i]) ? "NaN" : "+inf", n - n_finite, n);
    }
    if (!n_finite)
        return fail(err, ERR_CHECK, "none of %d logits is finite", n);
    return true;
}

/* Each token of the window is punished once, however often it occurs: the count is made negative as
 * a mark that it is done, and set right afterwards. */
static void punish_repetition(struct sampler *s, float *logits, int n_usable)
{
    const struct sampler_options *o = &s->o;
    for (int i = 0; i < s->n_history; i++) {
        int32_t token = s->history[i], count = s->n_seen[token];
        if (count < 0)
            continue;
        s->n_seen[token] = -count;
        if (token >= n_usable || logits[token] == -INFINITY)
            continue;
        float l = logits[token];
        l = l > 0 ? l / o->repeat_penalty : l * o->repeat_penalty;
        l -= o->presence_penalty + (float)count * o->frequency_penalty;
        logits[token] = clamp_finite(l);
    }
    for (int i = 0; i < s->n_history; i++)
        s->n_seen[s->history[i]] = abs(s->n_seen[s->history[i]]);
}

static void add_bias(const struct sampler_options *o, float *logits, int n_usable)
{
    for (int i = 0; i < o->n_bias; i++) {
        float *l = &logits[o->bias[i].id];
        if (o->bias[i].id >= n_usable)
            continue;
        bool forbidden = o->bias[i].bias == -INFINITY || *l == -INFINITY;
        *l = forbidden ? -INFINITY : clamp_finite(*l + o->bias[i].bias);
    }
}

/* Highest logit, lowest id on ties. */
static int32_t best_token(const float *logits, int n)
{
    int32_t best = 0;
    for (int32_t i = 1; i < n; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}

static double weigh(struct sampler *s, float best, float temperature)
{
    for (int i = 0; i < s->n; i++)
        s->weight[i] = exp_minus((s->logit[i] - best) / temperature);
    double part[4] = { 0 }; /* four additions in flight */
    for (int i = 0; i < s->n; i++)
        part[i & 3] += (double)s->weight[i];
    return (part[0] + part[1]) + (part[2] + part[3]);
}

/* --- cuts ------------------------------------------------------------------------------------- */

/* The last token that stays: all with a greater key, and those with this key up to this id. */
struct cut {
    uint32_t key;
    int32_t id;
};

/* The shortest prefix of the order whose mass reaches `goal` > 0; mass is weight[], or 1 each when
 * that is NULL. */
static struct cut find_cut(struct sampler *s, double goal, const float *weight)
{
    static const int shifts[] = { 21, 10, 0 }; /* digits of 11, 11 and 10 bits */
    int n_tied = s->n;
    for (int i = 0; i < s->n; i++) {
        s->key[i] = order_key(s->logit[i]);
        s->tied[i] = i;
    }
    double done = 0; /* mass above the digit we are in */
    for (int level = 0; level < 3; level++) {
        int shift = shifts[level];
        memset(s->sum, 0, sizeof s->sum);
        for (int i = 0; i < n_tied; i++) {
            int at = s->tied[i];
            s->sum[i & 1][s->key[at] >> shift & (RADIX - 1)] += weight ? (double)weight[at] : 1.0;
        }
        uint32_t digit = 0;
        double reached = done;
        for (uint32_t d = RADIX; d-- > 0 && reached < goal;) {
            double sum = s->sum[0][d] + s->sum[1][d];
            if (sum == 0)
                continue;
            digit = d; /* rounding may keep the goal just out of reach: then the lowest one */
            done = reached;
            reached += sum;
        }
        int n = 0;
        for (int i = 0; i < n_tied; i++) {
            int at = s->tied[i];
            s->tied[n] = at;
            n += (s->key[at] >> shift & (RADIX - 1)) == digit;
        }
        n_tied = n;
    }
    int last = 0;
    for (; last < n_tied - 1; last++) {
        done += weight ? (double)weight[s->tied[last]] : 1.0;
        if (done >= goal)
            break;
    }
    return (struct cut){ s->key[s->tied[last]], s->id[s->tied[last]] };
}

static void keep_until(struct sampler *s, struct cut cut)
{
    int n = 0;
    for (int i = 0; i < s->n; i++) {
        bool keep = s->key[i] > cut.key || (s->key[i] == cut.key && s->id[i] <= cut.id);
        s->id[n] = s->id[i];
        s->logit[n] = s->logit[i];
        n += keep;
    }
    s->n = n;
}

static void keep_probable(struct sampler *s, float min_p)
{
    int n = 0;
    for (int i = 0; i < s->n; i++) {
        s->id[n] = s->id[i];
        s->logit[n] = s->logit[i];
        n += s->weight[i] >= min_p; /* the best weighs 1, so one always stays */
    }
    s->n = n;
}

static int32_t draw(struct sampler *s, double total)
{
    double goal = random_unit(s->random) * total;
    double sum = 0;
    int32_t chosen = s->id[0];
    for (int i = 0; i < s->n; i++) {
        if (s->weight[i] <= 0)
            continue;
        chosen = s->id[i];
        sum += (double)s->weight[i];
        if (sum > goal)
            break;
    }
    return chosen;
}

bool sampler_choose(struct sampler *s, float *logits, int n_usable, int32_t *token,
                    struct error *err)
{
    const struct sampler_options *o = &s->o;
    if (n_usable <= 0 || n_usable > s->n_vocab)
        return fail(err, ERR_INTERNAL, "%d usable tokens of %d", n_usable, s->n_vocab);
    if (!check_logits(logits, n_usable, err))
        return false;
    add_bias(o, logits, n_usable);
    if (s->history)
        punish_repetition(s, logits, n_usable);

    int32_t best = best_token(logits, n_usable);
    if (logits[best] == -INFINITY)
        return fail(err, ERR_CHECK, "every token is forbidden");
    if (o->temperature == 0) {
        *token = best;
        return true;
    }

    s->n = n_usable;
    memcpy(s->logit, logits, (size_t)n_usable * sizeof *logits);
    for (int i = 0; i < n_usable; i++)
        s->id[i] = i;
    if (o->top_k > 0 && o->top_k < s->n)
        keep_until(s, find_cut(s, o->top_k, NULL));
    if (o->top_p < 1) {
        double total = weigh(s, logits[best], 1);
        keep_until(s, find_cut(s, max_of((double)o->top_p * total, DBL_MIN), s->weight));
    }
    if (o->min_p > 0) {
        weigh(s, logits[best], 1);
        keep_probable(s, o->min_p);
    }
    *token = draw(s, weigh(s, logits[best], o->temperature));
    return true;
}

/* --- looking ahead ---------------------------------------------------------------------------- */

int32_t sampler_foresee(struct sampler *s, float *logits, int n_usable, const int32_t *ahead,
                        int n_ahead)
{
    uint64_t random[4];
    struct {
        bool taken, was_full;
        int32_t gone;
    } undo[SAMPLER_AHEAD] = { 0 };
    assert(n_ahead >= 0 && n_ahead <= SAMPLER_AHEAD);
    memcpy(random, s->random, sizeof random);
    for (int i = 0; i < n_ahead; i++) {
        if (s->o.temperature > 0) /* one number per draw */
            random_bits(s->random);
        undo[i].taken = s->history && ahead[i] >= 0 && ahead[i] < s->n_vocab;
        undo[i].was_full = s->n_history == s->o.penalty_window;
        undo[i].gone = s->history ? s->history[s->next] : 0;
        sampler_accept(s, ahead[i]);
    }
    int32_t token = 0;
    struct error ignored = { 0 };
    bool ok = sampler_choose(s, logits, n_usable, &token, &ignored);
    for (int i = n_ahead; i-- > 0;)
        if (undo[i].taken)
            unaccept(s, undo[i].was_full, undo[i].gone);
    memcpy(s->random, random, sizeof random);
    return ok ? token : 0;
}
