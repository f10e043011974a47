#include "src/cli/record.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "cpu/features.h"
#include "src/cli/term.h"
#include "src/cli/version.h"

static struct {
    int fd; /* 0: closed, as no file of ours has that number (term_claim_descriptors) */
    const char *path, *command;
} record;

/* "2026-03-01T09:14:02.117Z 4711 run: " */
static size_t heading(char *line, size_t size)
{
    struct timespec now;
    struct tm utc;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    size_t n = strftime(line, size, "%Y-%m-%dT%H:%M:%S", &utc);
    return n + (size_t)snprintf(line + n, size - n, ".%03dZ %ld %s: ", (int)(now.tv_nsec / 1000000),
                                (long)getpid(), record.command);
}

static bool write_line(const char *format, va_list args)
{
    char line[1400], clean[4 * sizeof line + 1];
    size_t n = heading(line, sizeof line);
    vsnprintf(line + n, sizeof line - n, format, args);
    n = term_escape(clean, line, strcspn(line, "\n"));
    clean[n++] = '\n';
    ssize_t written;
    while ((written = write(record.fd, clean, n)) < 0 && errno == EINTR)
        ;
    if (written >= 0 && (size_t)written < n) /* a full disk took a part */
        errno = ENOSPC;
    return written == (ssize_t)n;
}

void record_line(const char *format, ...)
{
    if (!record.fd)
        return;
    va_list args;
    va_start(args, format);
    bool ok = write_line(format, args);
    va_end(args);
    if (ok)
        return;
    note_error("tandem: warning: --log ends here: %s: cannot write: %s", record.path, strerror(errno));
    close(record.fd);
    record.fd = 0;
}

static bool first_line(const char *format, ...) __attribute__((format(printf, 1, 2)));
static bool first_line(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    bool ok = write_line(format, args);
    va_end(args);
    return ok;
}

/* A pipe that nobody reads is a mistake, nothing to wait for. */
bool record_open(const char *path, const char *command, struct error *err)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0600);
    if (fd < 0)
        return fail(err, ERR_RUN, "option --log: %s: cannot write: %s", path, strerror(errno));
    fcntl(fd, F_SETFL, O_APPEND);
    record.fd = fd;
    record.path = path;
    record.command = command;
    if (first_line("tandem %s (%s)", version_number(), version_commit()))
        return true;
    int cause = errno;
    close(fd);
    record.fd = 0;
    return fail(err, ERR_RUN, "option --log: %s: cannot write: %s", path, strerror(cause));
}

static const char *weights_home(const struct placement *p)
{
    uint64_t block = p->bytes[PART_DRAFT][HOME_MAPPED]; /* never copied */
    return p->ram_mapped > block ? "used in the file" : p->copied ? "copied" : "on the GPU";
}

static void record_placement(const struct loaded *m)
{
    const struct placement *p = engine_placement(m->engine);
    char ram[32], file[32], vram[32], cache[32];
    uint64_t cache_bytes = 0;
    for (int home = 0; home < N_HOMES; home++)
        cache_bytes += p->bytes[PART_CACHE][home];
    record_line("placed: context %lld, batch %d, threads %d, cpu-isa %s, nodes %d, "
                "numerics %s, weights %s, cache %s; %s of RAM, %s of the file, %s of VRAM",
                (long long)(m->session ? session_n_ctx(m->session) : p->n_ctx),
                engine_batch(m->engine), engine_threads(m->engine),
                cpu_isa_name(engine_isa(m->engine)), engine_nodes(m->engine),
                numerics_name(m->model->params.numerics), weights_home(p),
                human_bytes((double)cache_bytes, cache, sizeof cache),
                human_bytes((double)p->ram_used, ram, sizeof ram),
                human_bytes((double)p->ram_mapped, file, sizeof file),
                human_bytes((double)p->vram_used, vram, sizeof vram));
    if (engine_gpu(m->engine))
        record_line("on the GPU: the trunk of %d layers, routed experts from layer %d on, copies of %d "
                    "experts per layer", p->gpu_layers, p->cpu_moe, p->expert_slots);
}

void record_loaded(const struct loaded *m, const struct options *o, const char *path)
{
    char think[48] = "";
    if (!record.fd)
        return;
    record_line("model: %s: %s, loaded in %.3f s", path, m->description, m->load_s);
    record_placement(m);
    if (!m->sampler)
        return;
    const struct sampler_options *s = &m->sampling;
    if (o->think_budget != UNSET)
        snprintf(think, sizeof think, ", thinking at most %lld tokens", (long long)o->think_budget);
    record_line("sampling: temp %g, top-k %d, top-p %g, min-p %g, repeat-penalty %g, "
                "presence-penalty %g, frequency-penalty %g, biases %d, seed %llu; chat format %s%s",
                s->temperature, s->top_k, s->top_p, s->min_p, s->repeat_penalty,
                s->presence_penalty, s->frequency_penalty, s->n_bias,
                (unsigned long long)s->seed, chat_format_name(m->format), think);
}

void record_answer(const struct loaded *m, const struct generation *g)
{
    record_line("answer: %lld tokens of prompt, %lld of them kept before, read in %.3f s; %lld tokens "
                "written, %lld of them thinking, in %.3f s; end: %s; seed %llu; context %lld of %lld",
                (long long)g->n_prompt, (long long)g->n_reused, g->prefill_s,
                (long long)g->n_generated, (long long)g->n_thinking, g->decode_s,
                finish_name(g->finish), (unsigned long long)m->sampling.seed,
                (long long)session_n_past(m->session), (long long)session_n_ctx(m->session));
    struct draft_report d;
    session_draft_report(m->session, &d);
    if (d.n_guesses > 0)
        record_line("drafting: %lld of %lld guesses accepted since the beginning",
                    (long long)d.n_accepted, (long long)d.n_guesses);
}

void record_close(const struct error *err, int code)
{
    if (!record.fd)
        return;
    if (err && err->code == ERR_USAGE)
        record_line("error: wrong usage");
    else if (err && err->code)
        record_line("error: %s", err->text);
    record_line("ended with code %d", code);
    if (record.fd)
        close(record.fd);
    record.fd = 0;
}
