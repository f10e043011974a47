#include "src/cli/load.h"

#include <math.h>
#include <stdio.h>
#include <sys/random.h>
#include <unistd.h>

#include "cpu/features.h"
#include "src/cli/drafting.h"
#include "src/cli/generate.h"
#include "src/cli/grammar_option.h"
#include "src/cli/placing.h"
#include "src/cli/rates.h"
#include "src/cli/record.h"
#include "src/cli/signals.h"
#include "src/cli/term.h"
#include "src/engine/handoff_probe.h"

static bool on_load(void *ctx, uint64_t done_bytes, uint64_t total_bytes)
{
    progress_update(ctx, (double)done_bytes, (double)total_bytes);
    return !signals_cancelled();
}

static bool open_engine(struct loaded *m, const struct options *o, const char *path, int64_t n_ctx,
                        struct error *err)
{
    struct progress progress;
    struct placing placing;
    struct rates rates;
    struct error ignored = { 0 };
    bool ok = placing_open(&placing, o, err);
    struct engine_options *eo = &placing.engine;
    if (rates_here(&rates, o, false, &ignored))
        eo->rates = &rates;
    eo->wishes = &placing.wishes;
    eo->progress = on_load;
    eo->progress_ctx = &progress;
    if (n_ctx != UNSET)
        eo->n_ctx = n_ctx;
    double start = now_s();
    if (o->isa_given && (o->isa & ~cpu_isa()))
        note("this CPU lacks part of --cpu-isa: using %s", cpu_isa_name(eo->isa));
    progress_begin(&progress, "loading", NULL);
    ok = ok && engine_open(&m->engine, path, eo, err);
    progress_end(&progress);
    m->load_s = now_s() - start;
    if (!ok && err->code == ERR_FIT)
        placing_advise(o, &placing, path);
    m->model = ok ? engine_model(m->engine) : NULL;
    if (ok)
        placing_tell_idle(&placing, o, m->model);
    placing_close(&placing);
    if (!ok)
        return false;
    model_describe(m->model, m->description, sizeof m->description);
    return true;
}

static bool open_session(struct loaded *m, const struct options *o, int64_t n_ctx,
                         struct error *err)
{
    if (n_ctx == UNSET)
        n_ctx = o->ctx_size == UNSET ? 0
              : o->ctx_size == 0     ? m->model->params.context_length
                                     : o->ctx_size;
    struct session_options so = {
        .n_ctx = n_ctx, .cancel = signals_cancel_flag(), .draft = draft_wish(o->draft),
        .choose = generate_foresee, .choose_ctx = m,
    };
    return session_open(&m->session, m->engine, &so, err);
}

/* Nothing stops a context from being larger than what the model has learned, but it should be known. */
static void tell_untrained(const struct loaded *m)
{
    int64_t n_ctx = session_n_ctx(m->session), trained = m->model->params.context_length;
    if (n_ctx > trained)
        note("the model was trained for %lld tokens, -c asks for %lld: behind those it may answer badly",
             (long long)trained, (long long)n_ctx);
}

/* The first that is given: flag, file metadata, model card, last resort. */
static double first_of(double flag, const struct gguf *g, const char *key, float card, double last)
{
    double value = NAN;
    if (!isnan(flag))
        return flag;
    if (gguf_get_f64(g, key, &value, NULL) && isfinite(value) && value >= 0)
        return value;
    return card >= 0 ? card : last;
}

static uint64_t random_seed(void)
{
    uint32_t seed = 0;
    if (getrandom(&seed, sizeof seed, GRND_NONBLOCK) != sizeof seed)
        seed = (uint32_t)(now_s() * 1e6);
    return seed;
}

static bool open_sampler(struct loaded *m, const struct options *o, uint64_t seed,
                         struct error *err)
{
    const struct gguf *g = &m->model->gguf;
    struct chat_sampling card = chat_format_sampling(m->format, g);
    struct sampler_options s = sampler_options_default();
    uint64_t top_k = 0;
    double temp = first_of(o->temperature, g, "general.sampling.temp", card.temperature, 0.6);
    double top_p = first_of(o->top_p, g, "general.sampling.top_p", card.top_p, 0.95);
    double min_p = first_of(o->min_p, g, "general.sampling.min_p", -1, 0);
    s.temperature = (float)temp;
    s.top_p = (float)fmin(1, top_p);
    s.min_p = (float)fmin(1, min_p);
    if (o->top_k == UNSET && gguf_get_u64(g, "general.sampling.top_k", &top_k, NULL))
        s.top_k = top_k <= INT32_MAX ? (int)top_k : 0;
    else if (o->top_k != UNSET)
        s.top_k = (int)o->top_k;
    s.repeat_penalty = (float)o->repeat_penalty;
    s.presence_penalty = (float)o->presence_penalty;
    s.frequency_penalty = (float)o->frequency_penalty;
    s.seed = o->seed < 0 ? seed : (uint64_t)o->seed;
    s.bias = o->bias;
    s.n_bias = o->n_bias;
    m->sampling = s;
    return sampler_open(&m->sampler, &s, (int)m->model->params.n_vocab, err);
}

const char *experts_text(const struct loaded *m, char *text, size_t size)
{
    struct expert_report r;
    char moved[32], sent[32];
    int n = 0;
    *text = 0;
    if (!engine_expert_report(m->engine, &r))
        return text;
    if (r.n_picks)
        n = snprintf(text, size, "%.0f %% of %llu picks answered by %lld slots per layer, %llu experts "
                     "copied there (%s)%s", 100 * expert_hit_rate(&r),
                     (unsigned long long)r.n_picks, (long long)r.n_slots,
                     (unsigned long long)r.n_moves,
                     human_bytes((double)r.moved_bytes, moved, sizeof moved),
                     r.n_sent ? "; " : "");
    if (r.n_sent && n >= 0 && (size_t)n < size)
        snprintf(text + n, size - (size_t)n, "%llu sent for prompts (%s)",
                 (unsigned long long)r.n_sent, human_bytes((double)r.sent_bytes, sent, sizeof sent));
    return text;
}

bool handoff_line(const struct engine *e, char *text, size_t size)
{
    struct handoff_rates rates;
    enum handoff_way way = engine_handoff(e, &rates);
    if (way != HANDOFF_AUTO)
        handoff_text(way, &rates, text, size);
    return way != HANDOFF_AUTO;
}

bool loaded_reseed(struct loaded *m, struct error *err)
{
    sampler_close(m->sampler);
    m->sampler = NULL;
    m->sampling.seed++;
    return sampler_open(&m->sampler, &m->sampling, (int)m->model->params.n_vocab, err);
}

bool loaded_resample(struct loaded *m, const struct options *o, struct error *err)
{
    struct sampler *old = m->sampler;
    struct sampler_options before = m->sampling;
    m->sampler = NULL;
    if (open_sampler(m, o, before.seed, err)) {
        sampler_close(old);
        return true;
    }
    m->sampler = old;
    m->sampling = before;
    return false;
}

/* The built-in format that a template file stands for. */
static bool format_of_file(const char *path, const struct gguf *g,
                           const struct chat_format **format, struct error *err)
{
    struct buf text = { 0 };
    struct str name = { "", 0 };
    gguf_get_str(g, "general.name", &name, NULL);
    bool ok = buf_read_file(&text, path, err);
    *format = ok ? chat_format_of_template(buf_str(&text), name) : NULL;
    buf_release(&text);
    return *format || fail(err, ERR_FILE, "%s: not the template of a format known here", path);
}

bool loaded_format(const struct options *o, const struct gguf *g, const struct chat_format **format,
                   const char **why, struct error *err)
{
    if (!o->template_name) {
        *format = chat_format_detect(g, why);
        return true;
    }
    *why = "--template";
    *format = chat_format_find(o->template_name);
    if (*format || access(o->template_name, F_OK) == 0)
        return *format || format_of_file(o->template_name, g, format, err);
    char names[256] = "";
    for (int i = 0; chat_format_at(i); i++)
        snprintf(names + strlen(names), sizeof names - strlen(names), "%s%s", i ? ", " : "",
                 chat_format_name(chat_format_at(i)));
    return fail(err, ERR_USAGE, "option --template: no format \"%s\" (there are %s)",
                o->template_name, names);
}

/* Masks cover what generate() lets the sampler look at. */
static bool open_constraint(struct loaded *m, struct error *err)
{
    struct grammar *g = m->grammar;
    m->grammar = NULL;
    int usable = min_of(tokenizer_n_tokens(m->tokenizer), (int32_t)m->model->params.n_vocab);
    return !g || constraint_open(&m->constraint, g, m->tokenizer, usable, err);
}

bool loaded_constrain(struct loaded *m, struct grammar *g, struct error *err)
{
    m->grammar = g;
    return open_constraint(m, err);
}

void loaded_think(struct loaded *m, enum think_mode asked)
{
    const struct gguf *g = &m->model->gguf;
    m->think = chat_format_think_mode(m->format, g, asked);
    m->thinks = m->think >= THINK_ON ||
                (m->think == THINK_DEFAULT && chat_format_think_default(m->format, g));
}

static bool open_text(struct loaded *m, const struct options *o, const char *path,
                      struct error *err)
{
    const struct gguf *g = &m->model->gguf;
    if (!tokenizer_open(&m->tokenizer, g, err))
        return error_prefix(err, "%s", path);
    if (!m->tokenizer)
        return fail(err, ERR_FILE, "%s: the file has no vocabulary, so it can neither read nor "
                    "write text (tandem eval --ids works)", path);
    if (!loaded_format(o, g, &m->format, &m->format_why, err))
        return false;
    loaded_think(m, (enum think_mode)o->think);
    if ((enum think_mode)o->think != THINK_DEFAULT && !chat_format_thinks(m->format))
        note("--think: the chat format %s has no switch for it", chat_format_name(m->format));
    for (int i = 0; i < o->n_bias; i++)
        if (o->bias[i].id >= m->model->params.n_vocab)
            return fail(err, ERR_USAGE, "option --logit-bias: token %d, the vocabulary has %lld",
                        o->bias[i].id, (long long)m->model->params.n_vocab);
    return open_sampler(m, o, random_seed(), err) && open_constraint(m, err);
}

bool load_goes_on(struct error *err)
{
    return !signals_cancelled() || fail(err, ERR_INTERRUPTED, "loading was interrupted");
}

bool loaded_open(struct loaded *m, const struct options *o, const char *path, enum load_want want,
                 int64_t n_ctx, struct error *err)
{
    memset(m, 0, sizeof *m);
    if (want >= WANT_TEXT && !grammar_wanted(o->grammar, o->json_schema, &m->grammar, err))
        return false; /* before the weights are read */
    bool ok = open_engine(m, o, path, want == WANT_ENGINE ? 0 : n_ctx, err) && load_goes_on(err) &&
              (want < WANT_TEXT || open_text(m, o, path, err)) && load_goes_on(err) &&
              (want < WANT_SESSION || open_session(m, o, n_ctx, err)) && load_goes_on(err);
    if (ok && want >= WANT_TEXT)
        tell_untrained(m);
    if (ok)
        record_loaded(m, o, path);
    return ok;
}

/* What was read from the engine's file goes with it; sampler and settings stay. */
static bool reopen_engine(struct loaded *m, const struct options *o, const char *path,
                          int64_t n_ctx, struct error *err)
{
    constraint_close(m->constraint);
    m->constraint = NULL;
    grammar_close(m->grammar);
    m->grammar = NULL;
    tokenizer_close(m->tokenizer);
    m->tokenizer = NULL;
    engine_close(m->engine);
    m->engine = NULL;
    return grammar_wanted(o->grammar, o->json_schema, &m->grammar, err) &&
           open_engine(m, o, path, n_ctx, err) &&
           tokenizer_open(&m->tokenizer, &m->model->gguf, err) &&
           (m->tokenizer || fail(err, ERR_FILE, "%s: the file has no vocabulary now", path)) &&
           open_constraint(m, err);
}

bool loaded_resize(struct loaded *m, const struct options *o, const char *path, int64_t n_ctx,
                   struct error *err)
{
    session_close(m->session);
    m->session = NULL;
    bool anew = !m->engine || !m->tokenizer || engine_gpu(m->engine);
    if (anew && !reopen_engine(m, o, path, n_ctx, err))
        return false;
    return open_session(m, o, n_ctx, err) && (anew || engine_replan(m->engine, n_ctx, err));
}

bool loaded_open_header(struct loaded *m, const struct options *o, const struct model *model,
                        const char *path, struct error *err)
{
    memset(m, 0, sizeof *m);
    m->model = model;
    model_describe(model, m->description, sizeof m->description);
    return grammar_wanted(o->grammar, o->json_schema, &m->grammar, err) &&
           open_text(m, o, path, err);
}

void loaded_close(struct loaded *m)
{
    constraint_close(m->constraint);
    grammar_close(m->grammar);
    sampler_close(m->sampler);
    session_close(m->session);
    tokenizer_close(m->tokenizer);
    engine_close(m->engine);
    memset(m, 0, sizeof *m);
}

bool load_system(const struct options *o, struct buf *text, struct error *err)
{
    if (o->system && o->system_file)
        return fail(err, ERR_USAGE, "both -sys and -sysf are given");
    if (o->system)
        buf_puts(text, o->system);
    if (!o->system_file)
        return buf_ok(text, err);
    if (!buf_read_file(text, o->system_file, err))
        return false;
    while (text->len && text->data[text->len - 1] == '\n')
        text->data[--text->len] = 0;
    return buf_ok(text, err);
}
