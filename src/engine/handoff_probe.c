#include "src/engine/handoff_probe.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "src/base/util.h"
#include "src/engine/handoff.h"

#define LAYERS 32
#define RUNS 3 /* the best counts, the first one warms up */
#define PICKS 8
#define LIMIT_S 2    /* for what takes microseconds where it works */
#define PATIENCE_S 5 /* longer than that: who fails first then is not the card */

/* An emulated card takes longer for a layer than the hand-off does. */
#define EMULATED_LAYERS 4
#define EMULATED_WIDTH 64

struct probe {
    const struct gpu_launchers *gpu;
    struct gpu_stream *s;
    struct handoff *handoff;
    struct rows row;      /* device memory: what travels */
    int32_t *ids;         /* device memory [PICKS], and their weights behind */
    struct rows in, out;  /* pinned */
    int32_t *host_ids;    /* pinned */
    struct gpu_step *step, *host_step; /* device memory, pinned */
    struct gpu_flags *flags;
    int n_layers;
    uint32_t epoch;
};

/* What the CPU does for a layer. */
static void answer(void *ctx, int job)
{
    struct probe *p = ctx;
    p->out.data[0] = p->in.data[0] + (float)job;
}

/* ---- one step, in each form ---- */

static size_t row_bytes(const struct probe *p)
{
    return (size_t)p->row.width * sizeof(float);
}

static void copy_out(struct probe *p)
{
    p->gpu->read(p->s, p->host_ids, p->ids, 2 * PICKS * sizeof *p->ids);
    p->gpu->read(p->s, p->in.data, p->row.data, row_bytes(p));
}

static void copy_in(struct probe *p)
{
    p->gpu->write(p->s, p->row.data, p->out.data, row_bytes(p));
    p->gpu->add(p->s, p->row, p->row, p->row, 1);
}

static void queue_stops(struct probe *p)
{
    for (int i = 0; i < p->n_layers; i++) {
        copy_out(p);
        p->gpu->mark(p->s);
        if (p->gpu->wait(p->s, NULL))
            answer(p, i);
        copy_in(p);
    }
}

static void queue_calls(struct probe *p)
{
    for (int i = 0; i < p->n_layers; i++) {
        copy_out(p);
        handoff_queue_start(p->handoff, p->gpu, p->s);
        handoff_queue_wait(p->handoff, p->gpu, p->s);
        copy_in(p);
    }
}

static void queue_flags(struct probe *p)
{
    struct gpu_parcel parcel = { {
        { (uint32_t *)p->host_ids, (const uint32_t *)p->ids, 2 * PICKS },
        { (uint32_t *)(void *)p->in.data, (const uint32_t *)(const void *)p->row.data, p->row.width },
        { NULL, NULL, 0 },
    } };
    for (int i = 0; i < p->n_layers; i++) {
        p->gpu->publish(p->s, &parcel, p->flags, p->step, i);
        p->gpu->collect(p->s, p->row, p->out, p->flags, p->step, i, LIMIT_S, 1);
        p->gpu->add(p->s, p->row, p->row, p->row, 1);
    }
}

/* ---- runs ---- */

typedef void queue_step(struct probe *p);

/* Seconds of one step: from its queueing to the end of the last layer; NAN when it failed. */
static double run(struct probe *p, queue_step *queue, struct gpu_record *record, bool by_flags)
{
    double start = now_s();
    p->host_step->epoch = ++p->epoch;
    p->gpu->write(p->s, p->step, p->host_step, sizeof *p->step);
    bool by_thread = queue != queue_stops;
    bool ok = !by_thread || handoff_begin(p->handoff, answer, p);
    if (record) {
        handoff_expect(p->handoff, p->n_layers, by_flags ? p->flags : NULL, p->epoch);
        p->gpu->replay(p->s, record);
    } else {
        queue(p);
    }
    ok = (!by_thread || handoff_finish(p->handoff, p->gpu, p->s, NULL)) && ok;
    return p->gpu->finish(p->s, NULL) && ok ? now_s() - start : NAN;
}

/* Microseconds per layer; 0: it does not work. */
static double measure(struct probe *p, queue_step *queue, bool recorded, bool by_flags, int n_runs)
{
    struct gpu_record *record = NULL;
    double best = INFINITY;
    if (recorded) {
        p->gpu->record(p->s);
        queue(p);
        if (!(record = p->gpu->recorded(p->s, NULL)))
            return 0;
    }
    for (int i = 0; i < n_runs; i++) {
        double seconds = run(p, queue, record, by_flags);
        best = isnan(seconds) || isnan(best) ? NAN : min_of(best, seconds);
    }
    p->gpu->forget(p->s, record);
    return isnan(best) ? 0 : 1e6 * best / p->n_layers;
}

/* ---- open and close ---- */

static bool open_buffers(struct probe *p, int64_t width, struct error *err)
{
    size_t bytes = (size_t)width * sizeof(float);
    p->row = p->in = p->out = (struct rows){ NULL, width, width };
    p->row.data = p->gpu->alloc(p->s, bytes, "probe of the hand-off", err);
    p->ids = p->gpu->alloc(p->s, 2 * PICKS * sizeof *p->ids, "probe of the hand-off", err);
    p->step = p->gpu->alloc(p->s, sizeof *p->step, "probe of the hand-off", err);
    p->in.data = p->gpu->host_alloc(p->s, bytes, "probe of the hand-off", err);
    p->out.data = p->gpu->host_alloc(p->s, bytes, "probe of the hand-off", err);
    p->host_ids = p->gpu->host_alloc(p->s, 2 * PICKS * sizeof *p->ids, "probe of the hand-off", err);
    p->host_step = p->gpu->host_alloc(p->s, sizeof *p->host_step, "probe of the hand-off", err);
    p->flags = p->gpu->host_alloc(p->s, sizeof *p->flags, "probe of the hand-off", err);
    if (!p->row.data || !p->ids || !p->step || !p->in.data || !p->out.data || !p->host_ids ||
        !p->host_step || !p->flags)
        return false;
    p->gpu->fill(p->s, p->row.data, 0, bytes);
    p->gpu->fill(p->s, p->ids, 0, 2 * PICKS * sizeof *p->ids);
    return p->gpu->finish(p->s, err);
}

static void close_buffers(struct probe *p)
{
    p->gpu->release(p->s, p->row.data);
    p->gpu->release(p->s, p->ids);
    p->gpu->release(p->s, p->step);
    p->gpu->host_release(p->s, p->in.data);
    p->gpu->host_release(p->s, p->out.data);
    p->gpu->host_release(p->s, p->host_ids);
    p->gpu->host_release(p->s, p->host_step);
    p->gpu->host_release(p->s, p->flags);
}

/* Kernels have run once before they are recorded, as gpu_record wants it. */
static bool warm_up(struct probe *p)
{
    int n_layers = p->n_layers;
    p->n_layers = 1;
    bool ok = !isnan(run(p, queue_stops, NULL, false)) && !isnan(run(p, queue_calls, NULL, false));
    p->host_step->epoch = ++p->epoch;
    p->gpu->write(p->s, p->step, p->host_step, sizeof *p->step);
    handoff_begin(p->handoff, answer, p);
    handoff_expect(p->handoff, 1, p->flags, p->epoch);
    queue_flags(p);
    ok = handoff_finish(p->handoff, p->gpu, p->s, NULL) && ok;
    p->n_layers = n_layers;
    return p->gpu->finish(p->s, NULL) && ok;
}

bool handoff_probe(struct handoff_rates *r, const struct gpu_library *library, int index,
                   int64_t width, struct error *err)
{
    struct gpu_info card;
    struct gpu_limits limits = { .patience_s = PATIENCE_S };
    struct probe p = { .gpu = &library->launch, .n_layers = LAYERS };
    int n_runs = RUNS;
    *r = (struct handoff_rates){ 0 };
    if (!library->info(index, &card, err) || !library->stream_open(&p.s, index, &limits, err))
        return false;
    if (card.emulated) {
        p.n_layers = EMULATED_LAYERS;
        width = min_of(width, EMULATED_WIDTH);
        n_runs = 1;
    }
    bool ok = handoff_open(&p.handoff, LIMIT_S, err) && open_buffers(&p, width, err);
    if (ok) {
        warm_up(&p); /* what does not work fails again */
        r->stop_us = measure(&p, queue_stops, false, false, n_runs);
        r->callback_us = measure(&p, queue_calls, false, false, n_runs);
        r->recorded_us = measure(&p, queue_calls, true, false, n_runs);
        if (!card.limits_kernels) /* a poll may last as long as the CPU's part of a layer */
            r->flags_us = measure(&p, queue_flags, true, true, n_runs);
        ok = p.gpu->finish(p.s, err) && (handoff_us(r, handoff_best(r)) > 0 ||
             fail(err, ERR_DEVICE, "GPU %d: no way of handing work to the CPU works", index));
    }
    handoff_close(p.handoff);
    close_buffers(&p);
    library->stream_close(p.s);
    return ok;
}

/* ---- what was measured ---- */

static double lower(double a, double b)
{
    return a > 0 && (b <= 0 || a < b) ? a : b;
}

double handoff_us(const struct handoff_rates *r, enum handoff_way way)
{
    return way == HANDOFF_FLAGS      ? r->flags_us
           : way == HANDOFF_CALLBACK ? lower(r->recorded_us, r->callback_us)
           : way == HANDOFF_STOP     ? r->stop_us
                                     : handoff_us(r, handoff_best(r));
}

enum handoff_way handoff_best(const struct handoff_rates *r)
{
    enum handoff_way best = HANDOFF_STOP;
    for (int way = HANDOFF_CALLBACK; way <= HANDOFF_FLAGS; way++) {
        double us = handoff_us(r, (enum handoff_way)way), old = handoff_us(r, best);
        if (us > 0 && (old <= 0 || us < old))
            best = (enum handoff_way)way;
    }
    return best;
}

static void put(char *text, size_t size, const char *name, double us)
{
    size_t n = strlen(text);
    if (us > 0)
        snprintf(text + n, size - n, "%s %.0f µs", name, us);
    else
        snprintf(text + n, size - n, "%s does not work", name);
}

void handoff_text(enum handoff_way way, const struct handoff_rates *r, char *text, size_t size)
{
    snprintf(text, size, "by %s", way == HANDOFF_FLAGS      ? "flags"
                                  : way == HANDOFF_CALLBACK ? "callbacks"
                                                            : "stopping");
    if (!(handoff_us(r, HANDOFF_AUTO) > 0))
        return;
    put(text, size, " (per layer: flags", r->flags_us);
    put(text, size, ", callbacks", r->recorded_us);
    put(text, size, ", queued one by one", r->callback_us);
    put(text, size, ", stopping", r->stop_us);
    snprintf(text + strlen(text), size - strlen(text), ")");
}
