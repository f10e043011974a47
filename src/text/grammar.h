/* Grammars that an answer must follow, in a subset of GBNF.
 *
 *     root   ::= "yes" | "no" | number      # the rule root is the whole text
 *     number ::= "-"? [0-9]{1,3} ("." [0-9]+)?
 *
 * There are literals in double quotes, classes [a-z_] and [^"\\], "." for any character, groups,
 * * + ? {m} {m,} {m,n}, alternatives, and comments from # to the end of the line. Escapes: \n \r
 * \t \\ \" \[ \] \^ \- and \xHH \uHHHH \UHHHHHHHH, all of them characters (not bytes). Ends of lines
 * are spaces: a rule ends where the next "name ::=" begins.
 *
 * A grammar is compiled to steps over the bytes of UTF-8 with calls between rules, so that text may
 * come in pieces that cut characters. Refused, because the matching below could not end or the text
 * could not: left recursion, and rules that nothing finite satisfies. */
#ifndef TANDEM_TEXT_GRAMMAR_H
#define TANDEM_TEXT_GRAMMAR_H

#include "src/base/error.h"
#include "src/base/util.h"

#define GRAMMAR_RULES 16384      /* most rules */
#define GRAMMAR_STEPS (1 << 21)  /* most compiled steps; a repetition is compiled as often as it says */
#define GRAMMAR_REPEAT 10000     /* highest bound of a repetition */
#define GRAMMAR_DEPTH 200        /* groups within groups */

struct grammar;

/* ERR_USAGE with line and column of a mistake, ERR_FIT without memory. The caller closes. */
bool grammar_parse(struct grammar **out, struct str text, struct error *err);
void grammar_close(struct grammar *g);

/* What may come next in a text that follows a grammar.
 *
 * Positions are numbers: state 0 is "no text goes on like this", others are made while stepping
 * and stay valid until acceptor_shrink. The same situation has the same number, so that callers may
 * keep what they found out about it. */
struct acceptor;

#define ACCEPTOR_DEAD 0

/* Borrows the grammar. */
bool acceptor_open(struct acceptor **out, const struct grammar *g, struct error *err);
void acceptor_close(struct acceptor *a);

int32_t acceptor_start(const struct acceptor *a);
/* The state after one more byte. ERR_RUN when the grammar is too ambiguous to follow, ERR_FIT. */
bool acceptor_step(struct acceptor *a, int32_t state, unsigned char byte, int32_t *next,
                   struct error *err);
bool acceptor_may_end(const struct acceptor *a, int32_t state);

/* Forget all states but this one, which gets a new number, and the start. */
bool acceptor_shrink(struct acceptor *a, int32_t *state, struct error *err);
size_t acceptor_bytes(const struct acceptor *a); /* memory in use */

#endif
