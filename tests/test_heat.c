/* The map of experts: counts are the picks of the router, figures are right, drawings fit the
 * window, files are well-formed. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "src/base/mem.h"
#include "src/cli/heat.h"
#include "src/cli/width.h"
#include "src/engine/observe.h"
#include "tests/check.h"

#define MODEL "models/demo.gguf"
#define N_READ 40
#define N_STEPS 10
#define N_TOKENS (N_READ + N_STEPS)
#define SEEN_LAYERS 64
#define SEEN_EXPERTS 256

/* ---- counts ---- */

/* Picks as the matrices see them: who is multiplied with what. */
struct replay {
    const struct model *model;
    uint32_t n[SEEN_LAYERS][SEEN_EXPERTS]; /* by layer of the model */
};

static void on_inputs(void *ctx, const struct weight *w, const struct weight *also, int64_t matrix,
                      const float *inputs, int64_t stride, int n)
{
    struct replay *r = ctx;
    (void)also, (void)inputs, (void)stride;
    for (int i = 0; r->model && i < r->model->params.n_layers; i++)
        if (w == &r->model->layers[i].experts.down)
            r->n[i][matrix] += (uint32_t)n;
}

static bool compute(struct engine *e, bool at_once, uint64_t *allocated)
{
    int32_t tokens[N_TOKENS];
    struct session_options so = { .n_ctx = 128 };
    struct session *s = NULL;
    struct error err = { 0 };
    int n_read = at_once ? N_READ : 1;
    for (int i = 0; i < N_TOKENS; i++)
        tokens[i] = 100 + 7 * i;
    bool ok = session_open(&s, e, &so, &err) &&
              session_prefill(s, tokens, n_read, NULL, NULL, &err);
    *allocated = mem_allocations();
    for (int i = n_read; ok && i < N_TOKENS; i++)
        ok = session_decode(s, tokens[i], &err);
    *allocated = mem_allocations() - *allocated;
    session_close(s);
    return CHECK_MSG(ok, "%s", err.text);
}

static uint64_t sum_of(const struct pick_counts *c)
{
    uint64_t sum = 0;
    for (int i = 0; i < c->n_layers * c->n_routed; i++)
        sum += c->n[i];
    return sum;
}

static void test_counts(void)
{
    static struct replay seen;
    struct observer observer = { .inputs = on_inputs, .ctx = &seen };
    struct engine_options eo = { .n_threads = 2, .gpu = GPU_NEVER, .act_f32 = true };
    struct engine *e = NULL, *again = NULL;
    struct error err = { 0 };
    uint64_t allocated;
    check_case("the counts are the picks that a replay sees");
    if (access(MODEL, R_OK) != 0) {
        check_skip("%s is not there", MODEL);
        return;
    }
    bool ok = engine_open(&e, MODEL, &eo, &err);
    eo.observer = &observer;
    ok = ok && engine_open(&again, MODEL, &eo, &err);
    if (CHECK_MSG(ok, "%s", err.text)) {
        struct pick_counts c = engine_picks(e), unused = engine_picks(again);
        const struct params *p = &engine_model(e)->params;
        CHECK(c.n_layers > 0 && c.n_routed == p->n_routed && p->n_layers <= SEEN_LAYERS &&
              c.n_routed <= SEEN_EXPERTS);
        CHECK_INT(sum_of(&c) + sum_of(&unused), 0);
        seen.model = engine_model(again);
        compute(e, true, &allocated);
        CHECK_INT(allocated, 0);
        compute(again, false, &allocated);
        CHECK_INT(sum_of(&c), (int64_t)N_TOKENS * p->top_k * c.n_layers);
        for (int row = 0; row < c.n_layers; row++)
            for (int i = 0; i < c.n_routed; i++)
                CHECK_INT(c.n[row * c.n_routed + i], seen.n[c.layers[row]][i]);
    }
    engine_close(e);
    engine_close(again);
}

/* ---- what is made of them ---- */

#define N_LAYERS 7
#define N_ROUTED 250 /* no multiple of any group */

/* Layer 3 + row; row 0 goes to four experts alone, row 1 to all alike, the last was never seen. */
static struct pick_counts some_counts(void)
{
    static uint32_t n[N_LAYERS][N_ROUTED];
    static int layers[N_LAYERS];
    for (int row = 0; row < N_LAYERS; row++) {
        layers[row] = 3 + row;
        for (int i = 0; i < N_ROUTED; i++)
            n[row][i] = row == 0               ? (i % 64 == 0) * 10
                        : row == 1             ? 8
                        : row == N_LAYERS - 1 ? 0
                                               : (uint32_t)(i * row % 97);
    }
    return (struct pick_counts){ N_LAYERS, N_ROUTED, layers, n[0] };
}

static void test_figures(void)
{
    struct pick_counts c = some_counts();
    struct heat_figures f;
    check_case("figures");
    heat_figures(&c, &f);
    CHECK_INT(f.n_seen, N_LAYERS - 1);
    CHECK_INT(f.n_picks, sum_of(&c));
    CHECK_INT(f.least, 0);
    CHECK_INT(f.most, 1);
    CHECK(fabs(heat_evenness(&c, 0) - log(4) / log(N_ROUTED)) < 1e-9);
    CHECK(fabs(heat_evenness(&c, 1) - 1) < 1e-9);
    CHECK(heat_evenness(&c, N_LAYERS - 1) == 0);
    CHECK(f.n_never >= N_ROUTED - 4 && f.evenness > 0 && f.evenness < 1);
    struct pick_counts even = { 1, N_ROUTED, c.layers + 1, c.n + N_ROUTED };
    heat_figures(&even, &f);
    CHECK(fabs(f.hot_share - 0.1) < 1e-9);
    CHECK_INT(f.n_never, 0);
    struct pick_counts lone = { 1, N_ROUTED, c.layers, c.n };
    heat_figures(&lone, &f);
    CHECK(fabs(f.hot_share - 1) < 1e-9);
    CHECK_INT(f.n_never, N_ROUTED - 4);
}

/* Columns of a line without its escape sequences. */
static int columns_of(const char *line, size_t len)
{
    struct buf bare = { 0 };
    for (size_t i = 0; i < len; i++) {
        if (line[i] == '\033')
            while (i < len && line[i] != 'm')
                i++;
        else
            buf_add(&bare, line + i, 1);
    }
    int n = width_of(buf_str(&bare));
    buf_release(&bare);
    return n;
}

static void test_drawing(int columns, enum heat_ink ink)
{
    struct pick_counts c = some_counts();
    struct buf out = { 0 };
    int n_rows = 0, widest = 0, a_line = ink == HEAT_COLOUR ? 2 : 1;
    int room = columns - 4 - (columns >= 60 ? 4 * a_line : 0);
    int group = (N_ROUTED + room - 1) / room, cells = (N_ROUTED + group - 1) / group;
    check_case("%d columns in ink %d", columns, ink);
    heat_text(&out, &c, columns, ink);
    for (char *at = out.data, *end; at && (end = strchr(at, '\n')); at = end + 1) {
        int number, used = 0, wide = columns_of(at, (size_t)(end - at));
        widest = max_of(widest, wide);
        if (*at != ' ' || sscanf(at, "%d%n", &number, &used) != 1 || used != 3)
            continue;
        CHECK_INT(number, 3 + n_rows * a_line);
        bool pair = a_line == 2 && number < 3 + N_LAYERS - 1;
        CHECK_INT(wide, 4 + cells + (columns >= 60 ? 4 * (1 + pair) : 0));
        n_rows++;
    }
    CHECK_INT(n_rows, (N_LAYERS + a_line - 1) / a_line);
    CHECK_MSG(widest <= columns, "%d columns", widest);
    CHECK((strchr(out.data, '\033') != NULL) == (ink == HEAT_COLOUR));
    CHECK((strstr(out.data, "▀") != NULL) == (ink == HEAT_COLOUR));
    CHECK(strstr(out.data, "The hottest tenth") && strstr(out.data, "never"));
    buf_release(&out);
}

static void test_few(void)
{
    static const int layer = 1;
    static const uint32_t n[8] = { 0, 1, 2, 3, 4, 6, 8, 40 }; /* 8 each were even */
    struct pick_counts c = { 1, 8, &layer, n };
    struct buf out = { 0 };
    check_case("few experts have wide cells");
    heat_text(&out, &c, 40, HEAT_ASCII);
    CHECK_MSG(strstr(out.data, "\n  1     ........::::----====++++@@@@\n") != NULL, "%s", out.data);
    buf_release(&out);
}

static void test_nothing(void)
{
    struct pick_counts none = { 0 };
    struct buf out = { 0 };
    check_case("without picks, without experts");
    heat_text(&out, &none, 80, HEAT_ASCII);
    CHECK_STR(out.data, "this model has no routed experts\n");
    buf_clear(&out);
    struct pick_counts c = some_counts();
    struct pick_counts fresh = { 1, N_ROUTED, c.layers, c.n + (N_LAYERS - 1) * N_ROUTED };
    heat_text(&out, &fresh, 80, HEAT_ASCII);
    CHECK_STR(out.data, "no expert was picked yet\n");
    buf_release(&out);
}

/* Does every element that opens close, in order? Text holds no "<". */
static bool well_formed(const char *text)
{
    char open[8][16];
    int depth = 0;
    for (const char *at = strchr(text, '<'); at; at = strchr(at + 1, '<')) {
        const char *end = strchr(at, '>');
        char name[16] = "";
        if (!end || sscanf(at + 1 + (at[1] == '/'), "%15[a-z]", name) != 1)
            return false;
        if (at[1] == '/') {
            if (depth == 0 || strcmp(open[--depth], name) != 0)
                return false;
        } else if (end[-1] != '/') {
            if (depth == 8)
                return false;
            memcpy(open[depth++], name, sizeof name);
        }
    }
    return depth == 0;
}

static void test_files(void)
{
    struct pick_counts c = some_counts();
    struct error err = { 0 };
    char path[64];
    uint64_t sum = 0;
    int n = 0;
    check_case("a table and a picture");
    snprintf(path, sizeof path, "/tmp/tandem-heat-%d.csv", (int)getpid());
    CHECK_MSG(heat_write(&c, path, &err), "%s", err.text);
    char *text = check_read_file(path, NULL);
    unlink(path);
    CHECK(text && strncmp(text, "layer,expert,picks\n", 19) == 0);
    for (char *at = text ? strchr(text, '\n') : NULL; at && at[1]; at = strchr(at + 1, '\n'), n++) {
        int layer, expert;
        unsigned picks;
        if (!CHECK(sscanf(at + 1, "%d,%d,%u\n", &layer, &expert, &picks) == 3))
            break;
        CHECK(layer == 3 + n / N_ROUTED && expert == n % N_ROUTED);
        sum += picks;
    }
    CHECK_INT(n, N_LAYERS * N_ROUTED);
    CHECK_INT(sum, sum_of(&c));
    free(text);

    memcpy(path + strlen(path) - 3, "svg", 3);
    CHECK_MSG(heat_write(&c, path, &err), "%s", err.text);
    text = check_read_file(path, NULL);
    unlink(path);
    CHECK(text && strncmp(text, "<svg ", 5) == 0 && well_formed(text));
    const char *line = text ? strstr(text, "<text ") : NULL, *end = line ? strchr(line, '\n') : NULL;
    CHECK_MSG(end && end - line < 220 && strstr(line, "Evenness"), "the words fit above the map");
    int area = 0, wide; /* of all cells: each is painted once */
    for (const char *at = text; at && (at = strstr(at, "v1h-")); at += 4)
        if (CHECK(sscanf(at, "v1h-%dz", &wide) == 1))
            area += wide;
    CHECK_INT(area, N_LAYERS * N_ROUTED);
    free(text);
    CHECK(!heat_write(&c, "/tmp/tandem-no-such-folder/heat.csv", &err) && err.code == ERR_RUN);
}

int main(void)
{
    static const int columns[] = { 40, 80, 200, 36, 400 };
    width_use_utf8();
    test_counts();
    test_figures();
    for (size_t i = 0; i < ARRAY_LEN(columns); i++)
        for (int ink = HEAT_ASCII; ink <= HEAT_COLOUR; ink++)
            test_drawing(columns[i], (enum heat_ink)ink);
    test_few();
    test_nothing();
    test_files();
    return check_finish();
}
