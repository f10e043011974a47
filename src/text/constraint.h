/* Which tokens may come next when a text must follow a grammar.
 *
 *     constraint_open(&c, grammar, tokenizer, n_usable, err)        once
 *     constraint_reset(c)                                           before each answer
 *     loop: if (constraint_is_complete(c)) stop: nothing may follow
 *           constraint_apply(c, logits, err), choose a token
 *           constraint_accept(c, token, err)
 *
 * The bytes of all tokens are one trie, laid out in the order of a walk. A mask is one walk through
 * it together with the grammar; the mask of a situation that was met before is kept. End marks are
 * allowed exactly where the grammar may end; other special tokens never are. */
#ifndef TANDEM_TEXT_CONSTRAINT_H
#define TANDEM_TEXT_CONSTRAINT_H

#include "src/text/grammar.h"
#include "src/text/tokenizer.h"

struct constraint;

/* n_usable: tokens that the sampler looks at. Takes the grammar, also when it fails; borrows the
 * tokenizer. ERR_FIT. */
bool constraint_open(struct constraint **out, struct grammar *g, const struct tokenizer *t,
                     int32_t n_usable, struct error *err);
void constraint_close(struct constraint *c);

void constraint_reset(struct constraint *c);

/* Set the logits [n_usable] of forbidden tokens to -inf. ERR_RUN when no token goes on: the
 * vocabulary cannot spell what the grammar wants. */
bool constraint_apply(struct constraint *c, float *logits, struct error *err);

/* Forbid the end marks and nothing else: for text in front of what the grammar describes. */
void constraint_forbid_end(const struct constraint *c, float *logits);

/* What constraint_apply would do behind `ahead` [n], tokens that are not appended yet. Nothing but masks
 * is remembered. False, the logits as they were: nothing but an end mark can follow there, the text has
 * left the grammar, or it cannot be told now. */
bool constraint_foresee(struct constraint *c, const int32_t *ahead, int n, float *logits);

/* A token was appended. ERR_INTERNAL when the mask did not allow it. */
bool constraint_accept(struct constraint *c, int32_t token, struct error *err);

/* May the text end here / must it, because no token goes on? constraint_is_complete computes a
 * mask, hence the error; *complete is false then. */
bool constraint_may_end(const struct constraint *c);
bool constraint_is_complete(struct constraint *c, bool *complete, struct error *err);

#endif
