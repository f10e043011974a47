/* Reading a grammar: a recursive descent over its characters, whose depth is bounded. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "src/base/mem.h"
#include "src/text/grammar_tree.h"
#include "src/text/maps.h"
#include "src/text/utf8.h"

#define REPEATS 8 /* most * + ? {} behind one element */
#define CODE_LAST 0x10FFFFu
#define SURROGATE_FIRST 0xD800u
#define SURROGATE_LAST 0xDFFFu

struct reader {
    struct grammar_tree *t;
    struct str s;
    size_t at;
    int depth;
    int32_t *slots; /* [mask + 1] rules by the hash of their names, from 1; 0: free */
    size_t mask;
    uint64_t seed;
    struct error *err;
};

bool grammar_fail(const struct grammar_tree *t, size_t at, struct error *err, const char *format,
                  ...)
{
    char message[256];
    int line = 1, column = 1;
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    for (size_t i = 0; i < at && i < t->text.len; i++) {
        unsigned char c = (unsigned char)t->text.data[i];
        column = c == '\n' ? 1 : column + ((c & 0xC0) != 0x80);
        line += c == '\n';
    }
    return fail(err, ERR_USAGE, "line %d, column %d: %s", line, column, message);
}

static int peek(const struct reader *r)
{
    return r->at < r->s.len ? (unsigned char)r->s.data[r->at] : -1;
}

static void skip_space(struct reader *r)
{
    for (int c = peek(r); c == ' ' || c == '\t' || c == '\r' || c == '\n' || c == '#'; c = peek(r)) {
        if (c == '#')
            while (peek(r) >= 0 && peek(r) != '\n')
                r->at++;
        else
            r->at++;
    }
}

static bool is_name(int c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           c == '-' || c == '_';
}

static struct str read_name(struct reader *r)
{
    size_t start = r->at;
    while (is_name(peek(r)))
        r->at++;
    return (struct str){ r->s.data + start, r->at - start };
}

static bool at_definition(const struct reader *r)
{
    struct reader ahead = *r;
    struct str name = read_name(&ahead);
    skip_space(&ahead);
    return name.len && ahead.s.len - ahead.at >= 3 &&
           memcmp(ahead.s.data + ahead.at, "::=", 3) == 0;
}

/* The number of the rule with this name, made when it is new; -1 on failure. */
static int32_t rule_named(struct reader *r, struct str name, size_t at)
{
    struct grammar_tree *t = r->t;
    size_t slot = (size_t)hash_bytes(name, r->seed) & r->mask;
    for (; r->slots[slot]; slot = (slot + 1) & r->mask) {
        struct str other = t->rules[r->slots[slot] - 1].name;
        if (other.len == name.len && memcmp(other.data, name.data, name.len) == 0)
            return r->slots[slot] - 1;
    }
    if (t->n_rules == GRAMMAR_RULES) {
        grammar_fail(t, at, r->err, "more than %d rules", GRAMMAR_RULES);
        return -1;
    }
    if (t->n_rules == t->capacity) {
        int32_t wanted = max_of(64, 2 * t->capacity);
        struct rule *rules = mem_resize(t->rules, (size_t)wanted, sizeof *rules, "grammar rules",
                                        r->err);
        if (!rules)
            return -1;
        t->rules = rules;
        t->capacity = wanted;
    }
    t->rules[t->n_rules] = (struct rule){ name, NULL, at };
    r->slots[slot] = ++t->n_rules;
    return t->n_rules - 1;
}

static struct part *new_part(struct reader *r, enum part_kind kind)
{
    struct part *p = arena_alloc(&r->t->arena, 1, sizeof *p, r->err);
    if (p)
        p->kind = kind;
    return p;
}

static bool read_hex(struct reader *r, int digits, uint32_t *code)
{
    *code = 0;
    for (int i = 0; i < digits; i++, r->at++) {
        int c = peek(r), lower = c | 0x20;
        if (!(c >= '0' && c <= '9') && !(lower >= 'a' && lower <= 'f'))
            return grammar_fail(r->t, r->at, r->err, "an escape wants %d hexadecimal digits", digits);
        *code = *code << 4 | (uint32_t)(c <= '9' ? c - '0' : lower - 'a' + 10);
    }
    return true;
}

/* One character of a literal or class, escapes undone. */
static bool read_code(struct reader *r, uint32_t *code)
{
    size_t start = r->at;
    if (peek(r) != '\\') {
        struct str rest = { r->s.data + r->at, r->s.len - r->at };
        r->at += utf8_decode(rest, code);
        return true;
    }
    r->at++;
    int c = peek(r);
    r->at++;
    switch (c) {
    case 'n': *code = '\n'; return true;
    case 'r': *code = '\r'; return true;
    case 't': *code = '\t'; return true;
    case '\\': case '"': case '[': case ']': case '^': case '-': *code = (uint32_t)c; return true;
    case 'x': case 'u': case 'U':
        if (!read_hex(r, c == 'x' ? 2 : c == 'u' ? 4 : 8, code))
            return false;
        if (*code > CODE_LAST || (*code >= SURROGATE_FIRST && *code <= SURROGATE_LAST))
            return grammar_fail(r->t, start, r->err, "U+%04X is no character", *code);
        return true;
    default:
        return grammar_fail(r->t, start, r->err, "unknown escape after \\");
    }
}

/* Bytes from here to the mark that closes a literal or class, to the end of the line at most. */
static size_t length_to(const struct reader *r, char close)
{
    size_t i = r->at;
    for (; i < r->s.len && r->s.data[i] != close && r->s.data[i] != '\n'; i++)
        i += r->s.data[i] == '\\';
    return i - r->at;
}

static struct part *read_literal(struct reader *r)
{
    size_t start = r->at++;
    struct part *p = new_part(r, PART_BYTES);
    /* Undoing escapes never makes text longer: \xHH is 4 bytes for at most 2. */
    char *bytes = p ? arena_alloc(&r->t->arena, length_to(r, '"') + 4, 1, r->err) : NULL;
    size_t n = 0;
    while (bytes && peek(r) != '"') {
        uint32_t code;
        if (peek(r) < 0 || peek(r) == '\n') {
            grammar_fail(r->t, start, r->err, "the literal has no closing \"");
            return NULL;
        }
        if (!read_code(r, &code))
            return NULL;
        n += utf8_encode(code, bytes + n);
    }
    if (!bytes)
        return NULL;
    r->at++;
    p->bytes = (struct str){ bytes, n };
    return p;
}

static int by_low(const void *a, const void *b)
{
    uint32_t x = ((const struct code_range *)a)->low, y = ((const struct code_range *)b)->low;
    return (x > y) - (x < y);
}

/* Sort, join, complement if wanted, cut the surrogates out; `out` has room for 2 n + 3. */
static int tidy_ranges(struct code_range *in, int n, bool negated, struct code_range *out)
{
    int m = 0, k = 0;
    in[n++] = (struct code_range){ SURROGATE_FIRST, SURROGATE_LAST }; /* complement: cut below */
    if (!negated)
        n--;
    qsort(in, (size_t)n, sizeof *in, by_low);
    for (int i = 0; i < n; i++) {
        if (m > 0 && in[i].low <= in[m - 1].high + 1)
            in[m - 1].high = max_of(in[m - 1].high, in[i].high);
        else
            in[m++] = in[i];
    }
    uint32_t from = 0;
    for (int i = 0; negated && i <= m; i++) {
        uint32_t to = i < m ? in[i].low : CODE_LAST + 1;
        if (to > from)
            out[k++] = (struct code_range){ from, to - 1 };
        from = i < m ? in[i].high + 1 : from;
    }
    for (int i = 0; !negated && i < m; i++) {
        if (in[i].low < SURROGATE_FIRST)
            out[k++] = (struct code_range){ in[i].low, min_of(in[i].high, SURROGATE_FIRST - 1) };
        if (in[i].high > SURROGATE_LAST)
            out[k++] = (struct code_range){ max_of(in[i].low, SURROGATE_LAST + 1), in[i].high };
    }
    return k;
}

static struct part *read_class(struct reader *r)
{
    size_t start = r->at++;
    bool negated = peek(r) == '^';
    struct part *p = new_part(r, PART_CLASS);
    r->at += negated;
    size_t room = length_to(r, ']') + 1; /* no more ranges than bytes */
    struct code_range *in = p ? arena_alloc(&r->t->arena, room + 2, sizeof *in, r->err) : NULL;
    struct code_range *out = in ? arena_alloc(&r->t->arena, 2 * room + 4, sizeof *in, r->err) : NULL;
    int n = 0;
    if (!out)
        return NULL;
    while (peek(r) != ']') {
        if (peek(r) < 0 || peek(r) == '\n') {
            grammar_fail(r->t, start, r->err, "the class has no closing ]");
            return NULL;
        }
        struct code_range *c = &in[n++];
        size_t at = r->at;
        if (!read_code(r, &c->low))
            return NULL;
        c->high = c->low;
        bool range = peek(r) == '-' && r->at + 1 < r->s.len && r->s.data[r->at + 1] != ']' &&
                     r->s.data[r->at + 1] != '\n';
        r->at += range;
        if (range && !read_code(r, &c->high))
            return NULL;
        if (c->high < c->low) {
            grammar_fail(r->t, at, r->err, "the range of a class runs backwards");
            return NULL;
        }
    }
    r->at++;
    p->ranges = out;
    p->n_ranges = tidy_ranges(in, n, negated, out);
    if (p->n_ranges == 0) {
        grammar_fail(r->t, start, r->err, "no character is in this class");
        return NULL;
    }
    return p;
}

static struct part *read_any(struct reader *r)
{
    struct part *p = new_part(r, PART_CLASS);
    struct code_range none[1];
    r->at++;
    if (p)
        p->ranges = arena_alloc(&r->t->arena, 4, sizeof *p->ranges, r->err);
    if (!p || !p->ranges)
        return NULL;
    p->n_ranges = tidy_ranges(none, 0, true, p->ranges);
    return p;
}

static struct part *read_choice(struct reader *r);

static struct part *read_group(struct reader *r)
{
    size_t start = r->at++;
    if (++r->depth > GRAMMAR_DEPTH) {
        grammar_fail(r->t, start, r->err, "more than %d groups within groups", GRAMMAR_DEPTH);
        return NULL;
    }
    struct part *p = read_choice(r);
    r->depth--;
    if (p && peek(r) != ')') {
        grammar_fail(r->t, start, r->err, "the group has no closing )");
        return NULL;
    }
    r->at++;
    return p;
}

static struct part *read_call(struct reader *r)
{
    size_t start = r->at;
    struct part *p = new_part(r, PART_RULE);
    if (!p || (p->rule = rule_named(r, read_name(r), start)) < 0)
        return NULL;
    return p;
}

static bool read_bound(struct reader *r, int *bound)
{
    size_t start = r->at;
    int64_t n = 0;
    while (peek(r) >= '0' && peek(r) <= '9') {
        n = min_of(n * 10 + (peek(r) - '0'), (int64_t)INT32_MAX);
        r->at++;
    }
    if (r->at == start)
        return grammar_fail(r->t, start, r->err, "a repetition wants a number here");
    if (n > GRAMMAR_REPEAT)
        return grammar_fail(r->t, start, r->err, "a repetition goes to %d at most", GRAMMAR_REPEAT);
    *bound = (int)n;
    skip_space(r);
    return true;
}

/* {m} {m,} {m,n} */
static bool read_bounds(struct reader *r, struct part *p)
{
    size_t start = r->at++;
    skip_space(r);
    if (!read_bound(r, &p->min))
        return false;
    p->max = p->min;
    if (peek(r) == ',') {
        r->at++;
        skip_space(r);
        p->max = -1;
        if (peek(r) != '}' && !read_bound(r, &p->max))
            return false;
    }
    if (peek(r) != '}')
        return grammar_fail(r->t, start, r->err, "the repetition has no closing }");
    r->at++;
    return (p->max < 0 || p->max >= p->min) ||
           grammar_fail(r->t, start, r->err, "the repetition ends below its beginning");
}

/* What stands behind an element: any number of * + ? {…}. */
static struct part *read_repeats(struct reader *r, struct part *inner)
{
    int n = 0;
    skip_space(r);
    for (int c = peek(r); inner && (c == '*' || c == '+' || c == '?' || c == '{'); c = peek(r)) {
        if (++n > REPEATS) {
            grammar_fail(r->t, r->at, r->err, "more than %d repetitions of one element", REPEATS);
            return NULL;
        }
        struct part *p = new_part(r, PART_REPEAT);
        if (!p)
            return NULL;
        p->first = inner;
        p->min = c == '+';
        p->max = c == '?' ? 1 : -1;
        if (c == '{' && !read_bounds(r, p))
            return NULL;
        r->at += c != '{';
        inner = p;
        skip_space(r);
    }
    return inner;
}

static struct part *read_element(struct reader *r)
{
    int c = peek(r);
    struct part *p = c == '"' ? read_literal(r)
                   : c == '[' ? read_class(r)
                   : c == '(' ? read_group(r)
                   : c == '.' ? read_any(r)
                              : read_call(r);
    return p ? read_repeats(r, p) : NULL;
}

static struct part *read_sequence(struct reader *r)
{
    struct part *sequence = new_part(r, PART_SEQUENCE);
    if (!sequence)
        return NULL;
    struct part **tail = &sequence->first;
    for (skip_space(r);; skip_space(r)) {
        int c = peek(r);
        bool begins = c == '"' || c == '[' || c == '(' || c == '.' || is_name(c);
        if (!begins || (is_name(c) && at_definition(r)))
            return sequence;
        if (!(*tail = read_element(r)))
            return NULL;
        tail = &(*tail)->next;
    }
}

static struct part *read_choice(struct reader *r)
{
    struct part *choice = new_part(r, PART_CHOICE);
    if (!choice)
        return NULL;
    struct part **tail = &choice->first;
    do {
        r->at += choice->first != NULL; /* the | */
        if (!(*tail = read_sequence(r)))
            return NULL;
        tail = &(*tail)->next;
    } while (peek(r) == '|');
    return choice;
}

static bool read_rule(struct reader *r)
{
    size_t start = r->at;
    if (!at_definition(r))
        return grammar_fail(r->t, start, r->err, "\"name ::=\" is expected here");
    struct str name = read_name(r);
    int32_t rule = rule_named(r, name, start);
    if (rule < 0)
        return false;
    if (r->t->rules[rule].body)
        return grammar_fail(r->t, start, r->err, "the rule %.*s is defined twice",
                            (int)min_of(name.len, 60u), name.data);
    skip_space(r);
    r->at += 3;
    struct part *body = read_choice(r);
    if (!body)
        return false;
    r->t->rules[rule].body = body;
    r->t->rules[rule].at = start;
    return true;
}

bool grammar_read(struct grammar_tree *t, struct str text, struct error *err)
{
    struct reader r = { .t = t, .s = text, .seed = hash_seed(), .err = err };
    t->text = text;
    r.mask = hash_slots(GRAMMAR_RULES) - 1;
    r.slots = arena_alloc(&t->arena, r.mask + 1, sizeof *r.slots, err);
    if (!r.slots)
        return false;
    if (!utf8_is_strict(text))
        return fail(err, ERR_USAGE, "a grammar must be valid UTF-8");
    for (skip_space(&r); r.at < text.len; skip_space(&r))
        if (!read_rule(&r))
            return false;
    for (int32_t i = 0; i < t->n_rules; i++) {
        const struct rule *rule = &t->rules[i];
        if (!rule->body)
            return grammar_fail(t, rule->at, err, "no rule is called %.*s",
                                (int)min_of(rule->name.len, 60u), rule->name.data);
    }
    return true;
}

void grammar_tree_release(struct grammar_tree *t)
{
    arena_release(&t->arena);
    mem_free(t->rules);
    memset(t, 0, sizeof *t);
}
