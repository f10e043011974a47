/* How far to guess ahead: by what steps cost and how guesses fare, both measured while decoding.
 *
 * A step with k guesses costs c_k seconds and yields E_k = 1 + a_1 + a_1 a_2 + ... tokens, where a_j
 * is how often guess j is right when those before it are. It beats plain decoding by E_k c_0 / c_k,
 * and the k for which that is highest is used: 0 where none is worth it. The costs of a mixture of
 * experts leave no simpler rule: k + 1 tokens read up to k + 1 times the experts of one.
 *
 * What is not known must be tried, and what was known grows old: contexts grow, texts change,
 * machines get other work. Trials cost time, so there is an account. Each step with guesses is
 * entered with the plain steps that it saved, less the seconds that it took; old gains count for a
 * few steps only. A step that could bring the account below
 *     - (LOSS of all time so far + GRACE plain steps)
 * is not made. Every step yields one token at least and so loses c_k - c_0 at most: so decoding is
 * never slower than plain by more than that, whatever the guesses are worth.
 *
 * Pure arithmetic on what it is told: no clock, no model. Zeroed, with `most` set, is new. */
#ifndef TANDEM_ENGINE_BREAK_EVEN_H
#define TANDEM_ENGINE_BREAK_EVEN_H

#include "src/engine/engine.h"

struct break_even {
    int most; /* longest guess, at most DRAFT_MOST; 0: none at all */
    double step_s[DRAFT_MOST + 1];   /* recent seconds of a step with 0, 1 .. guesses */
    int64_t n_steps[DRAFT_MOST + 1]; /* measured */
    int64_t seen_at[DRAFT_MOST + 1]; /* the step of the last measurement */
    double then_s[DRAFT_MOST + 1];   /* step_s at the last plain step: does the machine change speed? */
    double tries[DRAFT_MOST], hits[DRAFT_MOST]; /* of guess j with all before it right; fading */
    double pair_s;                   /* recent seconds of reading one of many pairs; 0: not known */
    int64_t n_reads;                 /* of many pairs */
    /* the account, in seconds; steps since the last plain one wait for the next plain one. A token is
     * worth a cheap plain step of late: floor_s; least_s is the cheapest of all. */
    double settled_s, waiting_s, total_s, floor_s, least_s;
    double waiting, worth; /* tokens, as plain steps; what each of the last step counts for */
    int64_t n, since_plain, since_try, plain_due;
    int64_t idle, wait; /* plain steps since the last trial, and until the next */
};

/* Guesses of the next step, 0 .. most; `room`: as many as fit the context. n_behind: pairs that the
 * block must catch up with first. */
int break_even_length(const struct break_even *b, int room, int64_t n_behind);
/* A step with k guesses took so long; then, with k > 0, what became of them: `right` of them, and,
 * unless nobody asked further, one that was wrong. */
void break_even_step(struct break_even *b, int k, double seconds);
void break_even_judged(struct break_even *b, int right, bool wrong);
/* The block has read n pairs at once; late: because a session goes back to guessing, and what a guess took
 * that was not to be had (n 0). */
void break_even_read(struct break_even *b, int64_t n, double seconds, bool late);
/* How many pairs are worth reading late; 0: not known. */
int64_t break_even_pairs(const struct break_even *b);

/* The length that pays best by what is known, 0: none does; and why. */
int break_even_best(const struct break_even *b, int room);
enum draft_reason break_even_reason(const struct break_even *b);
/* Speed against plain decoding, as far as it is known; k > 0. */
double break_even_gain(const struct break_even *b, int k);
/* Plain steps gained so far, less than 0: lost, by the account. */
double break_even_balance(const struct break_even *b);

#endif
