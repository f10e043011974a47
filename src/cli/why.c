#include "src/cli/why.h"

#include <stdio.h>

#include "src/base/cpus.h"

#define BOUND_DRAM 0.65 /* of what memory can: more is seldom reached */
#define BOUND_GPU 0.8  /* of the time */
#define LARGE_MODEL (1u << 30) /* bytes; below that copying is not worth advising */

static const char *const names[N_PHASES] = {
    [PHASE_ATTENTION] = "attention", [PHASE_DENSE] = "dense layers",
    [PHASE_SHARED] = "router, shared experts", [PHASE_ROUTED] = "routed experts",
    [PHASE_HEAD] = "output matrix", [PHASE_REST] = "steps, waiting",
};

/* The block that a trunk tensor belongs to, by its name in the file. */
static enum phase phase_of(const struct model_tensor *t)
{
    const char *name = t->spec->name;
    if (t->role == ROLE_ROUTED)
        return PHASE_ROUTED;
    if (t->role == ROLE_HEAD)
        return PHASE_HEAD;
    if (strstr(name, "ffn_gate_inp") || strstr(name, "shexp") || strstr(name, "exp_probs"))
        return PHASE_SHARED;
    return strstr(name, "ffn_") ? PHASE_DENSE : PHASE_ATTENTION;
}

void why_bytes(const struct model *m, double bytes[N_PHASES])
{
    memset(bytes, 0, N_PHASES * sizeof *bytes);
    for (int i = 0; i < m->n_tensors; i++) {
        const struct model_tensor *t = &m->tensors[i];
        if (t->role != ROLE_EMBED && t->role != ROLE_MTP)
            bytes[phase_of(t)] += (double)placement_tensor_reads(m, i);
    }
    if (bytes[PHASE_HEAD] == 0) /* the embedding is the output matrix too */
        bytes[PHASE_HEAD] = (double)m->bytes_per_token - bytes[PHASE_ATTENTION] -
                            bytes[PHASE_DENSE] - bytes[PHASE_SHARED] - bytes[PHASE_ROUTED];
    bytes[PHASE_HEAD] = max_of(bytes[PHASE_HEAD], 0);
}

static double sum_of(const double *x)
{
    double sum = 0;
    for (int i = 0; i < N_PHASES; i++)
        sum += x[i];
    return sum;
}

/* Seconds of decode outside the steps: sampling, text, the terminal. */
static double outside(const struct generation *g)
{
    return max_of(0, g->loop_s - sum_of(g->times.decode.seconds) - g->times.draft_s);
}

static double all_of(const struct generation *g)
{
    return sum_of(g->times.decode.seconds) + g->times.draft_s + outside(g);
}

void why_line(struct buf *out, const struct generation *g)
{
    double all = all_of(g);
    if (g->times.n_steps == 0 || all <= 0)
        return;
    buf_puts(out, "time ");
    for (int i = 0; i < N_PHASES; i++)
        if (g->times.decode.seconds[i] >= 0.005 * all)
            buf_printf(out, " %s %.0f %%,", names[i], 100 * g->times.decode.seconds[i] / all);
    if (g->times.draft_s >= 0.005 * all)
        buf_printf(out, " guessing %.0f %%,", 100 * g->times.draft_s / all);
    buf_printf(out, " sampling, text %.0f %%", 100 * outside(g) / all);
}

struct json *why_json(const struct generation *g)
{
    static const char *const keys[N_PHASES] = {
        [PHASE_ATTENTION] = "attention", [PHASE_DENSE] = "dense", [PHASE_SHARED] = "shared",
        [PHASE_ROUTED] = "routed", [PHASE_HEAD] = "head", [PHASE_REST] = "rest",
    };
    double steps = (double)g->times.n_steps;
    if (g->times.n_steps == 0)
        return NULL;
    struct json *j = js_object();
    for (int i = 0; i < N_PHASES; i++)
        js_set(j, keys[i], js_real(1e3 * g->times.decode.seconds[i] / steps));
    js_set(j, "drafting", js_real(1e3 * g->times.draft_s / steps));
    js_set(j, "sampling", js_real(1e3 * outside(g) / steps));
    return j;
}

#define ROOM_FOR_BYTES 80 /* columns of the window */
#define ROOM_FOR_WORDS 100

void why_bound(struct buf *out, const struct session_times *before,
               const struct session_times *now, double dram_share, double gpu_busy)
{
    double all = 0, most = 0;
    int largest = -1;
    for (int i = 0; i < N_PHASES; i++) {
        double seconds = now->decode.seconds[i] - before->decode.seconds[i];
        all += seconds;
        if (seconds > most) {
            most = seconds;
            largest = i;
        }
    }
    if (largest < 0)
        return;
    if (dram_share >= BOUND_DRAM)
        buf_puts(out, "bound by memory");
    else if (gpu_busy >= BOUND_GPU)
        buf_puts(out, "bound by the GPU");
    else
        buf_printf(out, "%s %s", most > 0.5 * all ? "mostly" : "most of all", names[largest]);
}

/* One row: name, time per step, share, and with bytes the rate where there is room. */
static void add_row(struct buf *out, const char *name, double seconds, double all, double steps,
                    double bytes, double dram_gb_s, int columns)
{
    double gb_s = seconds > 0 ? bytes * steps / seconds / 1e9 : 0;
    buf_printf(out, columns < ROOM_FOR_BYTES ? " %-22s %6.*f ms%4.0f %%" : "  %-22s %8.*f ms %3.0f %%",
               name, 1e3 * seconds / steps < 100 ? 3 : 1, 1e3 * seconds / steps,
               100 * seconds / all);
    if (bytes > 0 && columns >= ROOM_FOR_BYTES) {
        bool large = bytes >= 1e8;
        buf_printf(out, "  reads %5.*f %s %6.1f GB/s", large ? 2 : 1,
                   large ? bytes / 1e9 : bytes / 1e6, large ? "GB" : "MB", gb_s);
        if (dram_gb_s > 0 && gb_s > 1.1 * dram_gb_s)
            buf_puts(out, columns < ROOM_FOR_WORDS ? ", cached" : ", from the processor's cache");
        else if (dram_gb_s > 0)
            buf_printf(out, " = %.0f %%%s", 100 * gb_s / dram_gb_s,
                       columns < ROOM_FOR_WORDS ? "" : " of memory's");
    }
    buf_puts(out, "\n");
}

/* The largest part that the user can change, as a sentence. */
static void add_advice(struct buf *out, const struct loaded *m, const struct generation *g,
                       double gb_s, double dram_gb_s)
{
    const double *s = g->times.decode.seconds;
    double all = all_of(g);
    int threads = engine_threads(m->engine), cores = cpus_usable()->n_cores;
    const struct placement *p = engine_placement(m->engine);
    buf_puts(out, "  ");
    if (g->prefill_s > 2 * g->decode_s && g->prefill_s > 1)
        buf_printf(out, "Most of the wait was reading the prompt: %lld tokens in %.1f s. What a "
                   "conversation has read stays in the cache.\n",
                   (long long)(g->n_prompt - g->n_reused), g->prefill_s);
    else if (threads < cores)
        buf_printf(out, "%d of %d cores work: -t %d uses them all.\n", threads, cores, cores);
    else if (engine_gpu(m->engine))
        buf_puts(out, "The GPU works beside the CPU; tandem plan --explain says what each should "
                      "take.\n");
    else if (!p->copied && m->model->weight_bytes > LARGE_MODEL && s[PHASE_ROUTED] > 0.3 * all)
        buf_puts(out, "The weights are used where the file is mapped: --load copy reads them "
                      "faster, from huge pages.\n");
    else if (dram_gb_s > 0 && gb_s >= BOUND_DRAM * dram_gb_s)
        buf_printf(out, "Memory is the limit (%.0f %% of what it can): fewer bytes per weight are "
                   "faster, such as tandem quantize … q4_k_m.\n", 100 * gb_s / dram_gb_s);
    else if (s[PHASE_ATTENTION] > 0.5 * all && session_n_past(m->session) > 4096)
        buf_puts(out, "Attention over the context is the largest part; it grows with the context: "
                      "/clear or a branch is faster.\n");
    else if (outside(g) > 0.2 * all)
        buf_puts(out, "Choosing tokens and showing them takes much of it: the model is small for "
                      "this machine.\n");
    else
        buf_puts(out, "Nothing stands out: threads meeting after each small operation take what "
                      "memory does not.\n");
}

void why_text(struct buf *out, const struct loaded *m, const struct generation *g,
              double dram_gb_s, int columns)
{
    double bytes[N_PHASES], steps = (double)g->times.n_steps;
    const double *s = g->times.decode.seconds;
    double all = all_of(g), tokens = draft_tokens_per_step(&g->drafted);
    bool counted = !engine_gpu(m->engine) && g->drafted.n_guesses == 0; /* what a step reads */
    if (g->times.n_steps == 0 || all <= 0) {
        buf_puts(out, "nothing was decoded\n");
        return;
    }
    why_bytes(m->model, bytes);
    double total = sum_of(bytes), gb_s = counted ? total * steps / all / 1e9 : 0;
    if (g->drafted.n_guesses > 0)
        buf_printf(out, "%.2f ms a step of %.2f tokens (%.1f tok/s), by block:\n", 1e3 * all / steps,
                   tokens, tokens * steps / all);
    else
        buf_printf(out, "%.2f ms a token (%.1f tok/s), by block:\n", 1e3 * all / steps, steps / all);
    for (int i = 0; i < N_PHASES; i++)
        if (s[i] >= 0.0005 * all)
            add_row(out, names[i], s[i], all, steps, counted ? bytes[i] : 0, dram_gb_s, columns);
    if (g->times.draft_s > 0)
        add_row(out, "guessing", g->times.draft_s, all, steps, 0, 0, columns);
    add_row(out, "sampling, text", outside(g), all, steps, 0, 0, columns);
    if (counted)
        add_row(out, "together", all, all, steps, total, dram_gb_s, columns);
    if (dram_gb_s > 0)
        buf_printf(out, "  memory reads %.1f GB/s here, as measured: 100 %%\n", dram_gb_s);
    else
        buf_puts(out, "  what memory can read here is not known yet: tandem bench --probe measures "
                      "it\n");
    if (g->n_prompt > g->n_reused)
        buf_printf(out, "  before it, %lld token%s read in %.2f s (%.0f tok/s), %lld were in the "
                   "cache\n", (long long)(g->n_prompt - g->n_reused),
                   g->n_prompt - g->n_reused == 1 ? " was" : "s were", g->prefill_s,
                   generation_prefill_rate(g), (long long)g->n_reused);
    struct expert_report r;
    if (engine_expert_report(m->engine, &r) && r.n_picks > 0)
        buf_printf(out, "  expert hits %.0f %% on the GPU since the model was loaded\n",
                   100 * expert_hit_rate(&r));
    add_advice(out, m, g, gb_s, dram_gb_s);
}
