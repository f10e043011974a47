/* Checks of a grammar, and its compilation to steps.
 *
 * A part is compiled backwards: given the step that follows it, compile() returns the step that
 * begins it. So sequences need no joints, and a call at the end of a rule is seen as such. */
#include "src/text/grammar_tree.h"

#include "src/base/mem.h"
#include "src/text/grammar_steps.h"
#include "src/text/utf8.h"

/* ---- what is true of rules ------------------------------------------------------------------- */

/* A rule has a fact when its body has it, given what is known of the others so far; so a rule is
 * looked at again when one that it mentions got the fact. */
enum fact {
    FACT_EMPTY,  /* can be the empty text */
    FACT_ENDS,   /* some finite text satisfies it */
    FACT_MOVES,  /* always reads a byte before it comes back to itself: no left recursion */
    N_FACTS
};

struct facts {
    const struct grammar_tree *t;
    bool *of[N_FACTS];  /* [n_rules] */
    size_t *first_user; /* [n_rules + 1] rule r stands in users[first_user[r] .. first_user[r + 1]) */
    int32_t *users;
    int32_t *queue;     /* [n_rules] a ring of rules to look at, */
    bool *queued;       /* [n_rules] each at most once */
};

/* Visit the rules that a part mentions: count them, or (users) write down who mentions them, from
 * the last place of each on. */
static void note_uses(const struct part *p, int32_t user, size_t *places, int32_t *users)
{
    if (p->kind == PART_RULE && users)
        users[--places[p->rule]] = user;
    else if (p->kind == PART_RULE)
        places[p->rule]++;
    for (const struct part *c = p->first; c; c = c->next)
        note_uses(c, user, places, users);
}

static bool open_facts(struct facts *f, struct grammar_tree *t, struct error *err)
{
    size_t n = (size_t)t->n_rules;
    *f = (struct facts){ .t = t };
    for (int i = 0; i < N_FACTS; i++)
        if (!(f->of[i] = arena_alloc(&t->arena, n, 1, err)))
            return false;
    f->queue = arena_alloc(&t->arena, n, sizeof *f->queue, err);
    f->queued = arena_alloc(&t->arena, n, 1, err);
    f->first_user = arena_alloc(&t->arena, n + 1, sizeof *f->first_user, err);
    if (!f->queue || !f->queued || !f->first_user)
        return false;
    for (int32_t i = 0; i < t->n_rules; i++)
        note_uses(t->rules[i].body, i, f->first_user, NULL);
    for (size_t i = 1; i <= n; i++)
        f->first_user[i] += f->first_user[i - 1];
    f->users = arena_alloc(&t->arena, f->first_user[n], sizeof *f->users, err);
    for (int32_t i = 0; f->users && i < t->n_rules; i++)
        note_uses(t->rules[i].body, i, f->first_user, f->users);
    return f->users != NULL;
}

static bool has_fact(const struct facts *f, enum fact fact, const struct part *p)
{
    switch (p->kind) {
    case PART_BYTES: return fact != FACT_EMPTY || p->bytes.len == 0;
    case PART_CLASS: return fact != FACT_EMPTY;
    case PART_RULE:  return f->of[fact][p->rule];
    case PART_REPEAT:
        if (fact == FACT_MOVES)
            return p->max == 0 || has_fact(f, fact, p->first);
        return p->min == 0 || has_fact(f, fact, p->first);
    case PART_CHOICE:
        for (const struct part *c = p->first; c; c = c->next)
            if (has_fact(f, fact, c) != (fact == FACT_MOVES))
                return fact != FACT_MOVES;
        return fact == FACT_MOVES;
    case PART_SEQUENCE:
        for (const struct part *c = p->first; c; c = c->next) {
            if (!has_fact(f, fact, c))
                return false;
            if (fact == FACT_MOVES && !has_fact(f, FACT_EMPTY, c))
                break; /* what stands behind it does not stand in front */
        }
        return true;
    }
    return false;
}

static void find_fact(struct facts *f, enum fact fact)
{
    int32_t n = f->t->n_rules, at = 0, n_queued = n;
    for (int32_t i = 0; i < n; i++) {
        f->queue[i] = n - 1 - i; /* rules mostly come before those that they mention */
        f->queued[i] = true;
    }
    for (; n_queued > 0; n_queued--) {
        int32_t r = f->queue[at];
        at = (at + 1) % n;
        f->queued[r] = false;
        if (!has_fact(f, fact, f->t->rules[r].body))
            continue;
        f->of[fact][r] = true;
        for (size_t u = f->first_user[r]; u < f->first_user[r + 1]; u++) {
            int32_t user = f->users[u];
            if (f->of[fact][user] || f->queued[user])
                continue;
            f->queue[(at + n_queued++ - 1) % n] = user;
            f->queued[user] = true;
        }
    }
}

/* A rule without FACT_MOVES that this part begins with; -1: none. */
static int32_t stuck_rule(const struct facts *f, const struct part *p)
{
    if (p->kind == PART_RULE)
        return f->of[FACT_MOVES][p->rule] ? -1 : p->rule;
    for (const struct part *c = p->first; c; c = c->next) {
        int32_t rule = stuck_rule(f, c);
        if (rule >= 0)
            return rule;
        if (p->kind == PART_SEQUENCE && !has_fact(f, FACT_EMPTY, c))
            break;
    }
    return -1;
}

static bool fail_rule(const struct grammar_tree *t, int32_t rule, const char *what,
                      struct error *err)
{
    const struct rule *r = &t->rules[rule];
    return grammar_fail(t, r->at, err, "the rule %.*s %s", (int)min_of(r->name.len, 60u),
                        r->name.data, what);
}

static bool check_rules(struct grammar_tree *t, int32_t *root, struct error *err)
{
    struct facts f;
    *root = -1;
    for (int32_t i = 0; i < t->n_rules; i++)
        if (str_is(t->rules[i].name, "root"))
            *root = i;
    if (*root < 0)
        return fail(err, ERR_USAGE, "there is no rule root, with which a grammar begins");
    if (!open_facts(&f, t, err))
        return false;
    for (int i = 0; i < N_FACTS; i++)
        find_fact(&f, (enum fact)i);
    for (int32_t i = 0; i < t->n_rules; i++) {
        if (!f.of[FACT_ENDS][i])
            return fail_rule(t, i, "can never end", err);
        if (f.of[FACT_MOVES][i])
            continue;
        int32_t on_circle = i; /* i only leads to the circle, perhaps */
        for (int32_t n = 0; n < t->n_rules; n++)
            on_circle = stuck_rule(&f, t->rules[on_circle].body);
        return fail_rule(t, on_circle, "begins with itself (left recursion): write it with a "
                         "repetition, or with itself at the end", err);
    }
    return true;
}

/* ---- steps ----------------------------------------------------------------------------------- */

struct compiler {
    const struct grammar_tree *t;
    struct grammar *g;
    int64_t n_visits; /* bounds the work where a part makes no steps */
    struct error *err;
};

/* The number of a new step, -1 on failure. */
static int32_t add_step(struct compiler *c, struct step s)
{
    struct grammar *g = c->g;
    if (g->n_steps == GRAMMAR_STEPS) {
        fail(c->err, ERR_USAGE, "the grammar is too large: more than %d steps", GRAMMAR_STEPS);
        return -1;
    }
    if (g->n_steps == g->capacity) {
        int32_t wanted = max_of(256, 2 * g->capacity);
        struct step *steps = mem_resize(g->steps, (size_t)wanted, sizeof *steps, "grammar", c->err);
        if (!steps)
            return -1;
        g->steps = steps;
        g->capacity = wanted;
    }
    g->steps[g->n_steps] = s;
    return g->n_steps++;
}

static int32_t add_byte(struct compiler *c, unsigned char low, unsigned char high, int32_t next)
{
    return add_step(c, (struct step){ STEP_BYTE, low, high, next, 0 });
}

static int32_t either(struct compiler *c, int32_t a, int32_t b)
{
    return a < 0 || b < 0 ? -1 : add_step(c, (struct step){ STEP_EITHER, 0, 0, a, b });
}

/* Characters low..high, whose UTF-8 has the same length and, but for the last `free` bytes, which
 * run from 80 to BF, differs in at most one byte: a chain of byte ranges. */
static int32_t add_chain(struct compiler *c, uint32_t low, uint32_t high, int32_t next)
{
    char a[4], b[4];
    size_t n = utf8_encode(low, a);
    utf8_encode(high, b);
    for (size_t i = n; next >= 0 && i-- > 0;)
        next = add_byte(c, (unsigned char)a[i], (unsigned char)b[i], next);
    return next;
}

/* Any range of characters: cut where the length of UTF-8 changes, then where a continuation byte
 * would not run through all of its values. *first collects the alternatives. */
static bool add_range(struct compiler *c, uint32_t low, uint32_t high, int32_t next, int32_t *first)
{
    static const uint32_t last_of_length[] = { 0x7F, 0x7FF, 0xFFFF, 0x10FFFF };
    while (low <= high) {
        uint32_t end = high;
        for (size_t i = ARRAY_LEN(last_of_length); i-- > 0;)
            if (low <= last_of_length[i] && end > last_of_length[i])
                end = last_of_length[i];
        for (uint32_t bits = 18; low > 0x7F && bits >= 6; bits -= 6) {
            uint32_t rest = (1u << bits) - 1; /* what the last bits/6 bytes hold */
            if ((low & ~rest) == (end & ~rest))
                continue; /* the bytes in front agree */
            if (low & rest)
                end = low | rest;
            else if ((end & rest) != rest)
                end = (end & ~rest) - 1;
        }
        int32_t chain = add_chain(c, low, end, next);
        *first = *first == 0 ? chain : either(c, *first, chain);
        if (*first < 0)
            return false;
        low = end + 1;
    }
    return true;
}

static int32_t compile(struct compiler *c, const struct part *p, int32_t next);

static int32_t compile_repeat(struct compiler *c, const struct part *p, int32_t next)
{
    int32_t at = next;
    if (p->max < 0) {
        int32_t loop = add_step(c, (struct step){ STEP_EITHER, 0, 0, next, next });
        int32_t body = loop < 0 ? -1 : compile(c, p->first, loop);
        if (body < 0)
            return -1;
        c->g->steps[loop].next = body;
        at = loop;
    }
    for (int i = p->min; at >= 0 && i < p->max; i++)
        at = either(c, compile(c, p->first, at), next);
    for (int i = 0; at >= 0 && i < p->min; i++)
        at = compile(c, p->first, at);
    return at;
}

static int32_t compile_sequence(struct compiler *c, const struct part *p, int32_t next)
{
    int n = 0;
    for (const struct part *i = p->first; i; i = i->next)
        n++;
    const struct part **parts = mem_alloc((size_t)n, sizeof *parts, "grammar", c->err);
    if (!parts)
        return -1;
    n = 0;
    for (const struct part *i = p->first; i; i = i->next)
        parts[n++] = i;
    while (next >= 0 && n-- > 0)
        next = compile(c, parts[n], next);
    mem_free(parts);
    return next;
}

/* The first step of `p` with `next` behind it; -1 on failure. */
static int32_t compile(struct compiler *c, const struct part *p, int32_t next)
{
    int32_t first = 0; /* no alternative yet: step 0 begins nothing */
    if (++c->n_visits > 4 * (int64_t)GRAMMAR_STEPS) {
        fail(c->err, ERR_USAGE, "the grammar is too large: its repetitions multiply");
        return -1;
    }
    switch (p->kind) {
    case PART_BYTES:
        for (size_t i = p->bytes.len; next >= 0 && i-- > 0;)
            next = add_byte(c, (unsigned char)p->bytes.data[i], (unsigned char)p->bytes.data[i],
                            next);
        return next;
    case PART_CLASS:
        for (int i = 0; i < p->n_ranges; i++)
            if (!add_range(c, p->ranges[i].low, p->ranges[i].high, next, &first))
                return -1;
        return first;
    case PART_RULE:
        return add_step(c, (struct step){ STEP_CALL, 0, 0, next, p->rule });
    case PART_REPEAT:
        return compile_repeat(c, p, next);
    case PART_SEQUENCE:
        return compile_sequence(c, p, next);
    case PART_CHOICE:
        first = compile(c, p->first, next);
        for (const struct part *i = p->first->next; first >= 0 && i; i = i->next)
            first = either(c, first, compile(c, i, next));
        return first;
    }
    return -1;
}

static bool compile_all(struct compiler *c)
{
    const struct grammar_tree *t = c->t;
    struct grammar *g = c->g;
    g->n_rules = t->n_rules;
    g->entries = mem_alloc((size_t)t->n_rules, sizeof *g->entries, "grammar", c->err);
    if (!g->entries || add_step(c, (struct step){ .kind = STEP_RETURN }) < 0)
        return false;
    for (int32_t i = 0; i < t->n_rules; i++)
        if ((g->entries[i] = compile(c, t->rules[i].body, 0)) < 0)
            return false;
    for (int32_t i = 0; i < g->n_steps; i++) /* calls lead to steps from now on, not to rules */
        if (g->steps[i].kind == STEP_CALL)
            g->steps[i].other = g->entries[g->steps[i].other];
    return true;
}

bool grammar_parse(struct grammar **out, struct str text, struct error *err)
{
    struct grammar_tree t = { 0 };
    struct grammar *g = mem_alloc(1, sizeof *g, "grammar", err);
    struct compiler c = { .t = &t, .g = g, .err = err };
    *out = NULL;
    bool ok = g && grammar_read(&t, text, err) && check_rules(&t, &g->root, err) && compile_all(&c);
    grammar_tree_release(&t);
    if (ok)
        *out = g;
    else
        grammar_close(g);
    return ok;
}

void grammar_close(struct grammar *g)
{
    if (!g)
        return;
    mem_free(g->steps);
    mem_free(g->entries);
    mem_free(g);
}
