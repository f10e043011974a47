/* A plan for scripts: every number of the text under the same name. */
#include "src/cli/json.h"
#include "src/cli/plan.h"
#include "src/cli/repair.h"
#include "src/engine/card.h"

struct json *plan_range_json(const struct range *r)
{
    struct json *j = js_object();
    js_set(j, "low", js_real(r->low));
    js_set(j, "mid", js_real(r->mid));
    js_set(j, "high", js_real(r->high));
    return j;
}

static struct json *bytes_or_null(uint64_t bytes)
{
    return bytes == UINT64_MAX ? js_null() : js_int((int64_t)bytes);
}

static struct json *real_or_null(double value)
{
    return value > 0 ? js_real(value) : js_null();
}

static struct json *text(const char *s)
{
    return js_text(str_of(s));
}

/* Why no GPU takes part; null where one does. */
static struct json *why_no_gpu(const struct plan *p)
{
    const struct gpu_library *library;
    struct gpu_info card;
    struct error why = { 0 };
    if (*p->rates.no_gpu)
        return text(p->rates.no_gpu);
    if (p->rates.vram_bytes)
        return js_null();
    if (p->o->gpu == GPU_NEVER)
        return text("the CPU alone is asked for (-ngl 0)");
    if (card_find(&library, &card, (int)p->o->gpu_index, &why))
        return text("the other machine has none (--what-if)");
    return text(why.text);
}

static struct json *machine(const struct plan *p)
{
    const struct rates *mc = &p->rates;
    struct json *j = js_object();
    js_set(j, "cpu", text(mc->cpu));
    js_set(j, "cores", js_int(mc->n_cores));
    js_set(j, "ram_bytes", bytes_or_null(mc->ram_bytes));
    js_set(j, "dram_read_gb_s", real_or_null(mc->dram_gb_s));
    js_set(j, "gpu", mc->vram_bytes ? text(mc->gpu) : js_null());
    js_set(j, "no_gpu", why_no_gpu(p));
    js_set(j, "vram_bytes", js_int((int64_t)mc->vram_bytes));
    js_set(j, "vram_gb_s", real_or_null(mc->vram_gb_s));
    js_set(j, "pcie", *mc->link ? text(mc->link) : js_null());
    js_set(j, "pcie_gb_s", real_or_null(mc->pcie_gb_s));
    js_set(j, "handoff_us", real_or_null(mc->handoff_s * 1e6));
    js_set(j, "disk_gb_s", real_or_null(mc->disk_gb_s));
    return j;
}

static struct json *parts(const struct plan *p)
{
    struct plan_part list[MAX_PLAN_PARTS];
    struct json *a = js_array();
    int n = plan_parts(list, p);
    for (int i = 0; i < n; i++) {
        struct json *j = js_object();
        js_set(j, "part", text(list[i].name));
        js_set(j, "place", text(home_name(list[i].home)));
        js_set(j, "bytes", js_real(list[i].bytes));
        js_set(j, "read_bytes_per_token",
               list[i].read_bytes >= 0 ? js_real(list[i].read_bytes) : js_null());
        js_push(a, j);
    }
    return a;
}

static struct json *layers(const struct placement *q)
{
    static const char *const roles[] = { "trunk", "routed", "embedding", "output", "mtp" };
    struct json *a = js_array();
    for (int i = 0; i < q->n_rows; i++) {
        const struct placement_row *r = &q->rows[i];
        struct json *j = js_object();
        js_set(j, "role", text(roles[r->role]));
        js_set(j, "layer", js_int(r->layer));
        js_set(j, "place", text(home_name(r->home)));
        js_set(j, "layout", text(r->layout == LAYOUT_PLAIN ? "plain" : "repacked"));
        js_set(j, "tensors", js_int(r->n_tensors));
        js_set(j, "bytes", js_int((int64_t)r->bytes));
        js_set(j, "read_bytes_per_token", js_int((int64_t)r->bytes_per_token));
        js_push(a, j);
    }
    return a;
}

static struct json *token(const struct token_time *t)
{
    struct json *j = js_object();
    js_set(j, "cpu_weights_ms", js_real(1e3 * t->cpu_weights));
    js_set(j, "gpu_weights_ms", js_real(1e3 * t->gpu_weights));
    js_set(j, "handoff_ms", js_real(1e3 * t->handoff));
    js_set(j, "steps_ms", js_real(1e3 * t->steps));
    js_set(j, "attention_ms", js_real(1e3 * t->attention));
    js_set(j, "disk_ms", js_real(1e3 * t->disk));
    js_set(j, "all_ms", js_real(1e3 * t->all));
    return j;
}

static void add_forecast(struct json *j, const struct plan *p)
{
    const struct forecast *f = &p->forecast;
    js_set(j, "decode_tok_s", plan_range_json(&f->decode_tok_s));
    js_set(j, "decode_tok_s_full_context", plan_range_json(&p->full.decode_tok_s));
    js_set(j, "prefill_tok_s", plan_range_json(&f->prefill_tok_s));
    js_set(j, "serial_bound_tok_s", js_real(f->serial_tok_s));
    struct json *bounds = js_array();
    js_push(bounds, text(f->bound_first));
    if (f->bound_second)
        js_push(bounds, text(f->bound_second));
    js_set(j, "bound_by", bounds);
    js_set(j, "hit_rate", js_real(f->hit_rate));
    js_set(j, "joules_per_token", real_or_null(f->joules));
    js_set(j, "load_s", real_or_null(f->load_s));
    js_set(j, "measured", js_bool(f->measured));
    js_set(j, "token", token(&f->token));
}

bool plan_json(const struct plan *p, struct error *err)
{
    const struct placement *q = &p->placement;
    struct json *j = js_object(), *ways = js_array();
    struct buf flags = { 0 }, name = { 0 };
    char description[160];
    model_describe(&p->model, description, sizeof description);
    buf_add_repaired(&name, str_of(description));
    plan_flags(&flags, p);
    js_set(j, "model", js_text(buf_str(&name)));
    js_set(j, "architecture", text(p->model.arch->name));
    js_set(j, "runs", js_bool(p->model.arch->forward != NULL));
    js_set(j, "parameters", js_int((int64_t)p->model.n_elements));
    js_set(j, "parameters_active", js_int((int64_t)p->model.n_elements_active));
    js_set(j, "numerics", text(numerics_name(p->model.params.numerics)));
    js_set(j, "machine", machine(p));
    js_set(j, "context", js_int(q->n_ctx));
    js_set(j, "batch", js_int(q->n_batch));
    js_set(j, "gpu_layers", js_int(q->gpu_layers));
    js_set(j, "gpu_experts_per_layer", js_int(q->expert_slots));
    js_set(j, "fits", js_bool(q->fits));
    js_set(j, "ram_bytes", js_int((int64_t)q->ram_used));
    js_set(j, "mapped_bytes", js_int((int64_t)q->ram_mapped));
    js_set(j, "vram_bytes", js_int((int64_t)q->vram_used));
    js_set(j, "parts", parts(p));
    add_forecast(j, p);
    js_set(j, "flags", js_text(buf_str(&flags)));
    for (int i = 0; i < p->n_ways; i++) {
        struct json *way = js_object();
        js_set(way, "what", text(p->ways[i].what));
        js_set(way, "command", text(p->ways[i].command));
        js_push(ways, way);
    }
    js_set(j, "ways_out", ways);
    js_set(j, "layers", layers(q));
    buf_release(&flags);
    buf_release(&name);
    if (p->o->compare_types) {
        struct json *rows = js_array();
        bool ok = plan_compare(NULL, rows, p, err);
        js_set(j, "compared", rows);
        if (!ok) {
            js_free(j);
            return false;
        }
    }
    return js_print(j, 1, err);
}
