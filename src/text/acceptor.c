/* Following a grammar byte by byte.
 *
 * A place in a text is a step that reads a byte together with the calls to return to, and a state
 * is the set of all places that the text so far allows. Stacks of calls are linked lists that share
 * their lower ends and are stored once each, so a place is two numbers. States are stored once
 * each, too, with a row of known successors: what happened before is a look-up. Rows have a column
 * for each class of bytes that no step of the grammar tells apart. */
#include <stdlib.h>

#include "src/base/mem.h"
#include "src/text/grammar_steps.h"

#define PLACES_MAX 32768 /* in one state, including the steps between; beyond: too ambiguous */
#define SEEN_SLOTS (2 * PLACES_MAX)
#define UNKNOWN (-1)

struct place {
    int32_t step;  /* STEP_BYTE; STEP_RETURN: the text may end here */
    int32_t stack; /* 0: empty */
};

struct frame {
    int32_t step, below; /* where to go on, and the stack under it */
};

struct state {
    uint32_t first, n; /* in places[] */
    bool may_end;
};

/* Numbers that are found by their content: open addressing over a table of numbers, 0 is free. */
struct index {
    int32_t *slots;
    size_t mask, n;
};

struct acceptor {
    const struct grammar *g;
    uint8_t class_of[256];
    int n_classes;

    struct place *places;
    size_t n_places, room_places;
    struct frame *frames; /* frame 0 is the empty stack */
    size_t n_frames, room_frames;
    struct state *states; /* state 0 is dead */
    int32_t *rows;        /* [n_states][n_classes] */
    size_t n_states, room_states;
    struct index frame_index, state_index;
    int32_t start;

    struct place *work; /* [PLACES_MAX] of the state being made */
    size_t n_work;
    struct place *kept; /* [PLACES_MAX] those of them that stay */
    int32_t *seen;      /* [SEEN_SLOTS] 1 + place in work, by its hash */
};

static uint64_t mix(uint64_t h, uint64_t value)
{
    h = (h ^ value) * 0x9e3779b97f4a7c15u;
    return h ^ h >> 29;
}

static uint64_t hash_place(struct place p)
{
    return mix(mix(1, (uint32_t)p.step), (uint32_t)p.stack);
}

/* Room for one more element. */
static bool grow(void *list, size_t n, size_t *room, size_t size, struct error *err)
{
    void **block = list;
    if (n < *room)
        return true;
    if (n >= INT32_MAX / 2)
        return fail(err, ERR_FIT, "out of memory: positions in the grammar");
    size_t wanted = max_of((size_t)64, 2 * n);
    void *more = mem_resize(*block, wanted, size, "positions in the grammar", err);
    if (!more)
        return false;
    *block = more;
    *room = wanted;
    return true;
}

/* Make the table twice as large when it is half full; `hash` tells where a number belongs. */
static bool index_grow(struct acceptor *a, struct index *x,
                       uint64_t (*hash)(const struct acceptor *, int32_t), struct error *err)
{
    if (x->slots && 2 * x->n <= x->mask)
        return true;
    size_t size = x->slots ? 2 * (x->mask + 1) : 256;
    int32_t *slots = mem_alloc(size, sizeof *slots, "positions in the grammar", err);
    if (!slots)
        return false;
    for (size_t i = 0; x->slots && i <= x->mask; i++) {
        if (!x->slots[i])
            continue;
        size_t at = hash(a, x->slots[i]) & (size - 1);
        while (slots[at])
            at = (at + 1) & (size - 1);
        slots[at] = x->slots[i];
    }
    mem_free(x->slots);
    x->slots = slots;
    x->mask = size - 1;
    return true;
}

static uint64_t hash_frame(const struct acceptor *a, int32_t i)
{
    return mix(mix(2, (uint32_t)a->frames[i].step), (uint32_t)a->frames[i].below);
}

static uint64_t hash_state(const struct acceptor *a, int32_t i)
{
    uint64_t h = 3;
    for (uint32_t k = 0; k < a->states[i].n; k++)
        h = mix(h, hash_place(a->places[a->states[i].first + k]));
    return h;
}

/* The stack `below` with one more call on it. */
static bool push_frame(struct acceptor *a, int32_t step, int32_t below, int32_t *stack,
                       struct error *err)
{
    if (a->g->steps[step].kind == STEP_RETURN) { /* nothing to come back for */
        *stack = below;
        return true;
    }
    if (!grow(&a->frames, a->n_frames, &a->room_frames, sizeof *a->frames, err) ||
        !index_grow(a, &a->frame_index, hash_frame, err))
        return false;
    struct index *x = &a->frame_index;
    int32_t fresh = (int32_t)a->n_frames;
    a->frames[fresh] = (struct frame){ step, below };
    size_t at = hash_frame(a, fresh) & x->mask;
    for (; x->slots[at]; at = (at + 1) & x->mask) {
        const struct frame *f = &a->frames[x->slots[at]];
        if (f->step == step && f->below == below) {
            *stack = x->slots[at];
            return true;
        }
    }
    x->slots[at] = *stack = fresh;
    x->n++;
    a->n_frames++;
    return true;
}

/* One more place for the state being made, unless it is there. */
static bool add_place(struct acceptor *a, int32_t step, int32_t stack, struct error *err)
{
    struct place p = { step, stack };
    size_t at = hash_place(p) & (SEEN_SLOTS - 1);
    for (; a->seen[at]; at = (at + 1) & (SEEN_SLOTS - 1)) {
        const struct place *q = &a->work[a->seen[at] - 1];
        if (q->step == step && q->stack == stack)
            return true;
    }
    if (a->n_work == PLACES_MAX)
        return fail(err, ERR_RUN, "the grammar is too ambiguous: more than %d ways to read the "
                    "same text", PLACES_MAX);
    a->work[a->n_work++] = p;
    a->seen[at] = (int32_t)a->n_work;
    return true;
}

/* Follow alternatives, calls and returns until only places that read a byte are left. Work grows
 * while we walk it. */
static bool expand(struct acceptor *a, struct error *err)
{
    for (size_t i = 0; i < a->n_work; i++) {
        struct place p = a->work[i];
        const struct step *s = &a->g->steps[p.step];
        bool ok = true;
        int32_t stack;
        if (s->kind == STEP_EITHER)
            ok = add_place(a, s->next, p.stack, err) && add_place(a, s->other, p.stack, err);
        else if (s->kind == STEP_CALL)
            ok = push_frame(a, s->next, p.stack, &stack, err) &&
                 add_place(a, s->other, stack, err);
        else if (s->kind == STEP_RETURN && p.stack)
            ok = add_place(a, a->frames[p.stack].step, a->frames[p.stack].below, err);
        if (!ok)
            return false;
    }
    return true;
}

static int by_place(const void *a, const void *b)
{
    const struct place *x = a, *y = b;
    return x->step != y->step ? (x->step > y->step) - (x->step < y->step)
                              : (x->stack > y->stack) - (x->stack < y->stack);
}

static void forget_seen(struct acceptor *a)
{
    for (size_t i = 0; i < a->n_work; i++) {
        size_t at = hash_place(a->work[i]) & (SEEN_SLOTS - 1);
        /* The run of slots from here on belongs to places that are forgotten as well. */
        for (; a->seen[at]; at = (at + 1) & (SEEN_SLOTS - 1))
            a->seen[at] = 0;
    }
    a->n_work = 0;
}

/* The number of the state with these places, sorted. */
static bool find_state(struct acceptor *a, const struct place *p, size_t n, int32_t *state,
                       struct error *err)
{
    size_t room = a->room_states;
    if (!index_grow(a, &a->state_index, hash_state, err) ||
        !grow(&a->states, a->n_states, &room, sizeof *a->states, err))
        return false;
    if (room != a->room_states) {
        size_t columns = (size_t)a->n_classes;
        int32_t *rows = mem_resize(a->rows, room * columns, sizeof *rows,
                                   "positions in the grammar", err);
        if (!rows)
            return false;
        a->rows = rows;
        a->room_states = room;
    }
    bool may_end = false;
    uint32_t first = (uint32_t)a->n_places;
    for (size_t i = 0; i < n; i++) {
        if (!grow(&a->places, a->n_places + i, &a->room_places, sizeof *p, err))
            return false;
        a->places[first + i] = p[i];
        may_end = may_end || a->g->steps[p[i].step].kind == STEP_RETURN;
    }
    struct index *x = &a->state_index;
    int32_t fresh = (int32_t)a->n_states;
    a->states[fresh] = (struct state){ first, (uint32_t)n, may_end };
    size_t at = hash_state(a, fresh) & x->mask;
    for (; x->slots[at]; at = (at + 1) & x->mask) {
        const struct state *s = &a->states[x->slots[at]];
        if (s->n == n && memcmp(&a->places[s->first], &a->places[first], n * sizeof *p) == 0) {
            *state = x->slots[at];
            return true;
        }
    }
    x->slots[at] = *state = fresh;
    x->n++;
    a->n_states++;
    a->n_places += n;
    for (int i = 0; i < a->n_classes; i++)
        a->rows[(size_t)fresh * (size_t)a->n_classes + (size_t)i] = UNKNOWN;
    return true;
}

/* The state of what add_place has collected. */
static bool finish_state(struct acceptor *a, int32_t *state, struct error *err)
{
    size_t n = 0;
    bool ok = expand(a, err);
    for (size_t i = 0; ok && i < a->n_work; i++) {
        enum step_kind kind = (enum step_kind)a->g->steps[a->work[i].step].kind;
        if (kind == STEP_BYTE || (kind == STEP_RETURN && !a->work[i].stack))
            a->kept[n++] = a->work[i];
    }
    forget_seen(a);
    *state = ACCEPTOR_DEAD;
    if (!ok || n == 0)
        return ok;
    qsort(a->kept, n, sizeof *a->kept, by_place);
    return find_state(a, a->kept, n, state, err);
}

/* Two bytes are of one class when every step takes both or none. */
static void classify(struct acceptor *a)
{
    bool cut[257] = { false };
    int n = 0;
    for (int32_t i = 0; i < a->g->n_steps; i++) {
        const struct step *s = &a->g->steps[i];
        if (s->kind == STEP_BYTE)
            cut[s->low] = cut[s->high + 1] = true;
    }
    for (int b = 0; b < 256; b++) {
        n += b > 0 && cut[b];
        a->class_of[b] = (uint8_t)n;
    }
    a->n_classes = n + 1;
}

/* The dead state, the empty stack, the start. */
static bool begin(struct acceptor *a, struct error *err)
{
    size_t room = 0;
    if (!grow(&a->frames, 0, &a->room_frames, sizeof *a->frames, err) ||
        !grow(&a->states, 0, &room, sizeof *a->states, err))
        return false;
    a->rows = mem_alloc(room * (size_t)a->n_classes, sizeof *a->rows, "positions in the grammar",
                        err);
    if (!a->rows)
        return false;
    a->room_states = room;
    a->states[0] = (struct state){ 0 };
    a->n_states = a->n_frames = 1;
    return add_place(a, a->g->entries[a->g->root], 0, err) && finish_state(a, &a->start, err);
}

bool acceptor_open(struct acceptor **out, const struct grammar *g, struct error *err)
{
    *out = NULL;
    struct acceptor *a = mem_alloc(1, sizeof *a, "grammar", err);
    if (!a)
        return false;
    a->g = g;
    classify(a);
    if (!(a->work = mem_alloc(PLACES_MAX, sizeof *a->work, "grammar", err)) ||
        !(a->kept = mem_alloc(PLACES_MAX, sizeof *a->kept, "grammar", err)) ||
        !(a->seen = mem_alloc(SEEN_SLOTS, sizeof *a->seen, "grammar", err)) || !begin(a, err)) {
        acceptor_close(a);
        return false;
    }
    *out = a;
    return true;
}

static void release_states(struct acceptor *a)
{
    mem_free(a->places);
    mem_free(a->frames);
    mem_free(a->states);
    mem_free(a->rows);
    mem_free(a->frame_index.slots);
    mem_free(a->state_index.slots);
}

void acceptor_close(struct acceptor *a)
{
    if (!a)
        return;
    release_states(a);
    mem_free(a->work);
    mem_free(a->kept);
    mem_free(a->seen);
    mem_free(a);
}

int32_t acceptor_start(const struct acceptor *a)
{
    return a->start;
}

bool acceptor_may_end(const struct acceptor *a, int32_t state)
{
    return a->states[state].may_end;
}

bool acceptor_step(struct acceptor *a, int32_t state, unsigned char byte, int32_t *next,
                   struct error *err)
{
    size_t cell = (size_t)state * (size_t)a->n_classes + a->class_of[byte];
    *next = state == ACCEPTOR_DEAD ? ACCEPTOR_DEAD : a->rows[cell];
    if (*next != UNKNOWN)
        return true;
    struct state s = a->states[state];
    bool ok = true;
    for (uint32_t i = 0; ok && i < s.n; i++) {
        struct place p = a->places[s.first + i];
        const struct step *step = &a->g->steps[p.step];
        if (step->kind == STEP_BYTE && byte >= step->low && byte <= step->high)
            ok = add_place(a, step->next, p.stack, err);
    }
    if (!ok) {
        forget_seen(a);
        return false;
    }
    if (!finish_state(a, next, err))
        return false;
    a->rows[cell] = *next;
    return true;
}

size_t acceptor_bytes(const struct acceptor *a)
{
    return a->n_places * sizeof *a->places + a->n_frames * sizeof *a->frames +
           a->n_states * (sizeof *a->states + (size_t)a->n_classes * sizeof *a->rows);
}

/* Push the same stack in another acceptor; its depth is bounded by memory only, so without calls. */
static bool copy_stack(struct acceptor *to, const struct acceptor *from, int32_t stack,
                       int32_t *copied, struct error *err)
{
    size_t depth = 0;
    for (int32_t i = stack; i; i = from->frames[i].below)
        depth++;
    int32_t *steps = mem_alloc(depth, sizeof *steps, "grammar", err);
    if (!steps)
        return false;
    size_t n = depth;
    for (int32_t i = stack; i; i = from->frames[i].below)
        steps[--n] = from->frames[i].step;
    bool ok = true;
    *copied = 0;
    for (; ok && n < depth; n++)
        ok = push_frame(to, steps[n], *copied, copied, err);
    mem_free(steps);
    return ok;
}

bool acceptor_shrink(struct acceptor *a, int32_t *state, struct error *err)
{
    struct acceptor *fresh;
    if (!acceptor_open(&fresh, a->g, err))
        return false;
    bool ok = true;
    struct state s = a->states[*state];
    for (uint32_t i = 0; ok && i < s.n; i++) {
        int32_t stack;
        struct place p = a->places[s.first + i];
        ok = copy_stack(fresh, a, p.stack, &stack, err) && add_place(fresh, p.step, stack, err);
    }
    ok = ok && finish_state(fresh, state, err);
    struct acceptor old = *a;
    if (ok) {
        *a = *fresh;
        *fresh = old;
    }
    acceptor_close(fresh);
    return ok;
}
