/* A grammar as written: what grammar_parse.c reads and grammar.c checks and compiles. */
#ifndef TANDEM_TEXT_GRAMMAR_TREE_H
#define TANDEM_TEXT_GRAMMAR_TREE_H

#include "src/base/arena.h"
#include "src/text/grammar.h"

enum part_kind { PART_BYTES, PART_CLASS, PART_SEQUENCE, PART_CHOICE, PART_REPEAT, PART_RULE };

struct code_range {
    uint32_t low, high;
};

struct part {
    enum part_kind kind;
    struct part *first, *next; /* children; siblings */
    struct str bytes;
    struct code_range *ranges; /* ascending, disjoint, without surrogates */
    int n_ranges;
    int min, max; /* max -1: no limit */
    int32_t rule;
};

struct rule {
    struct str name;
    struct part *body; /* NULL: only used so far */
    size_t at;         /* where it is defined, before that where it is first used */
};

struct grammar_tree {
    struct arena arena;
    struct str text;
    struct rule *rules;
    int32_t n_rules, capacity;
};

/* ERR_USAGE naming line and column. A half-read tree may be released. */
bool grammar_read(struct grammar_tree *t, struct str text, struct error *err);
void grammar_tree_release(struct grammar_tree *t);

/* Fails with "line, column: message" for the place `at` of the text. */
bool grammar_fail(const struct grammar_tree *t, size_t at, struct error *err, const char *format,
                  ...) __attribute__((format(printf, 4, 5)));

#endif
