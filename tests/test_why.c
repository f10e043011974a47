/* Where time goes: the clock of a forward pass, the bytes of each block, and what is said of them. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "src/cli/why.h"
#include "tests/check.h"

#define MODEL "models/demo.gguf"
#define N_READ 40
#define N_STEPS 10

static double sum_of(const struct phase_clock *c)
{
    double sum = 0;
    for (int i = 0; i < N_PHASES; i++)
        sum += c->seconds[i];
    return sum;
}

static void test_clock(struct session *s, double *wall)
{
    int32_t tokens[N_READ];
    struct error err = { 0 };
    for (int i = 0; i < N_READ; i++)
        tokens[i] = 100 + i;
    const struct session_times *t = session_times(s);
    check_case("the clock counts every step, most of its time, and no more than there was");
    double start = now_s();
    CHECK_MSG(session_prefill(s, tokens, N_READ, NULL, NULL, &err), "%s", err.text);
    double read_s = now_s() - start;
    double share = 0; /* of the step that others disturbed least */
    for (int i = 0; i < N_STEPS; i++) {
        double before = sum_of(&t->decode);
        start = now_s();
        CHECK_MSG(session_decode(s, 200 + i, &err), "%s", err.text);
        double step_s = now_s() - start;
        share = max_of(share, (sum_of(&t->decode) - before) / step_s);
        *wall += step_s;
    }
    CHECK_MSG(share > 0.5, "%.2f of a step", share);
    CHECK_INT(t->n_steps, N_STEPS);
    CHECK_INT(t->n_read, N_READ);
    CHECK(sum_of(&t->prefill) > 0 && sum_of(&t->prefill) <= read_s);
    CHECK(sum_of(&t->decode) > 0 && sum_of(&t->decode) <= *wall);
    for (int i = 0; i < N_PHASES; i++)
        CHECK_MSG(t->decode.seconds[i] > 0, "block %d takes no time", i);
}

static void test_bytes(const struct model *m)
{
    double bytes[N_PHASES], sum = 0;
    check_case("the blocks together read what a token reads");
    why_bytes(m, bytes);
    for (int i = 0; i < N_PHASES; i++)
        sum += bytes[i];
    double row = (double)m->bytes_per_token - sum; /* one row of the embedding */
    CHECK_MSG(row >= 0 && row < 0.02 * sum, "%.0f of %.0f bytes are in no block", row,
              (double)m->bytes_per_token);
    CHECK(bytes[PHASE_ATTENTION] > 0 && bytes[PHASE_DENSE] > 0 && bytes[PHASE_SHARED] > 0 &&
          bytes[PHASE_ROUTED] > 0 && bytes[PHASE_HEAD] > 0);
    CHECK_INT(bytes[PHASE_REST], 0);
}

static void test_text(const struct loaded *m, double wall)
{
    struct generation g = {
        .n_prompt = N_READ, .n_generated = N_STEPS, .decode_s = wall, .loop_s = 2 * wall,
        .prefill_s = 0.001, .times = *session_times(m->session),
    };
    struct buf out = { 0 };
    check_case("the paragraph names every block, rates where they are known, and one advice");
    why_text(&out, m, &g, 20, 100);
    CHECK(strstr(buf_str(&out).data, "attention") && strstr(out.data, "routed experts") &&
          strstr(out.data, "output matrix") && strstr(out.data, "together"));
    CHECK(strstr(out.data, "memory reads 20.0 GB/s here"));
    CHECK(strstr(out.data, "40 tokens were read"));
    CHECK(out.data[out.len - 1] == '\n' && out.data[out.len - 2] == '.');
    buf_clear(&out);
    why_text(&out, m, &g, 0, 100);
    CHECK(strstr(out.data, "not known yet") && !strstr(out.data, "of memory's"));
    buf_clear(&out);
    why_line(&out, &g);
    const char *at = strstr(out.data, "sampling, text ");
    CHECK_MSG(at && strtol(at + 15, NULL, 10) >= 50, "%s", out.data); /* half of the loop at least */

    if (js_available(NULL)) {
        double routed = 0, sampling = 0;
        check_case("programs get the same numbers");
        struct json *j = why_json(&g);
        CHECK(js_as_real(js_get(j, "routed"), &routed) && js_as_real(js_get(j, "sampling"), &sampling));
        CHECK(fabs(routed * N_STEPS / 1e3 - g.times.decode.seconds[PHASE_ROUTED]) < 1e-9);
        CHECK(sampling * N_STEPS / 1e3 >= wall);
        js_free(j);
    }

    check_case("without a decoded token there is nothing to explain");
    g.times = (struct session_times){ 0 };
    buf_clear(&out);
    why_text(&out, m, &g, 20, 100);
    CHECK_STR(buf_str(&out).data, "nothing was decoded\n");
    buf_clear(&out);
    why_line(&out, &g);
    CHECK_INT(out.len, 0);
    CHECK(!why_json(&g));
    buf_release(&out);
}

int main(void)
{
    struct loaded m = { 0 };
    struct error err = { 0 };
    struct engine_options eo = { .n_threads = 2, .gpu = GPU_NEVER };
    struct session_options so = { .n_ctx = 128 };
    double wall = 0;
    if (access(MODEL, R_OK) != 0) {
        check_case("where time goes");
        check_skip("%s is not there", MODEL);
        return check_finish();
    }
    check_case("the demo model opens");
    if (CHECK_MSG(engine_open(&m.engine, MODEL, &eo, &err) &&
                  session_open(&m.session, m.engine, &so, &err), "%s", err.text)) {
        m.model = engine_model(m.engine);
        test_clock(m.session, &wall);
        test_bytes(m.model);
        test_text(&m, wall);
    }
    session_close(m.session);
    engine_close(m.engine);
    return check_finish();
}
