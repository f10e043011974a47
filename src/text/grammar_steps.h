/* The compiled form of a grammar, between grammar.c and acceptor.c. */
#ifndef TANDEM_TEXT_GRAMMAR_STEPS_H
#define TANDEM_TEXT_GRAMMAR_STEPS_H

#include "src/text/grammar.h"

enum step_kind {
    STEP_RETURN, /* the rule is complete */
    STEP_BYTE,   /* one byte low..high, then `next` */
    STEP_EITHER, /* go on at `next` and at `other` */
    STEP_CALL,   /* the rule `other`, then `next` */
};

struct step {
    uint8_t kind, low, high;
    int32_t next, other;
};

struct grammar {
    struct step *steps; /* step 0 is STEP_RETURN, shared by all rules */
    int32_t n_steps, capacity;
    int32_t *entries; /* [n_rules] first step of each rule */
    int32_t n_rules, root;
};

#endif
