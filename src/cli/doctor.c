/* tandem doctor: the findings as text or JSON. */
#include "src/cli/doctor.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "src/base/mem.h"
#include "src/cli/command.h"
#include "src/cli/json.h"
#include "src/cli/paths.h"
#include "src/cli/styled.h"
#include "src/cli/term.h"
#include "src/engine/card.h"

#define BLOCK_BYTES ((size_t)4 << 20)
#define DISK_BLOCKS 64
#define DISK_SECONDS 0.3

/* 1e9 bytes per second that one reader gets from the middle of the file past the page cache; 0 when
 * the file system allows no such reads or the file is too small to tell. */
static double disk_rate(int fd, uint64_t file_bytes)
{
    void *block = mem_map(BLOCK_BYTES, "a block of the file", NULL);
    if (!block)
        return 0;
    off_t at = (off_t)(file_bytes / 2 / BLOCK_BYTES * BLOCK_BYTES);
    double start = now_s(), bytes = 0;
    for (int i = 0; i < DISK_BLOCKS && now_s() - start < DISK_SECONDS; i++) {
        ssize_t n = pread(fd, block, BLOCK_BYTES, at + (off_t)bytes);
        bytes += n > 0 ? (double)n : 0;
        if (n != (ssize_t)BLOCK_BYTES)
            break;
    }
    double seconds = now_s() - start;
    mem_unmap(block, BLOCK_BYTES);
    return bytes >= 2 * (double)BLOCK_BYTES ? 1e-9 * bytes / seconds : 0;
}

static bool find_disk(struct doctor_case *c, const char *path, struct error *err)
{
    struct stat st;
    if (stat(path, &st) != 0 || !S_ISREG(st.st_mode))
        return fail(err, ERR_FILE, "%s: not a file", path);
    c->model = path;
    c->disk_major = major(st.st_dev);
    c->disk_minor = minor(st.st_dev);
    int fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
    if (fd >= 0) {
        c->disk_gb_s = disk_rate(fd, (uint64_t)st.st_size);
        close(fd);
    }
    return true;
}

/* The profile of an earlier probe, when it is of this processor. */
static bool load_profile(struct machine *m)
{
    char path[PATH_SIZE], cpu[sizeof m->cpu];
    machine_cpu_name(cpu, sizeof cpu);
    return path_machine(path, sizeof path) && machine_load(m, path, NULL) &&
           strcmp(m->cpu, cpu) == 0;
}

static const char *state_name(enum finding_state state)
{
    static const char *const names[] = { "good", "poor", "unknown" };
    return names[state];
}

static int count(const struct doctor *d, enum finding_state state)
{
    int n = 0;
    for (int i = 0; i < d->n; i++)
        n += d->findings[i].state == state;
    return n;
}

static bool print_json(const struct doctor *d, struct error *err)
{
    struct json *j = js_object(), *list = js_array();
    for (int i = 0; i < d->n; i++) {
        const struct finding *f = &d->findings[i];
        struct json *one = js_object();
        js_set(one, "topic", js_text(str_of(f->topic)));
        js_set(one, "state", js_text(str_of(state_name(f->state))));
        js_set(one, "found", js_text(str_of(f->found)));
        js_set(one, "why", js_text(str_of(f->why)));
        js_set(one, "mend", *f->mend ? js_text(str_of(f->mend)) : js_null());
        js_set(one, "gain", *f->gain ? js_text(str_of(f->gain)) : js_null());
        js_push(list, one);
    }
    js_set(j, "findings", list);
    js_set(j, "n_poor", js_int(count(d, FINDING_POOR)));
    return js_print(j, 2, err);
}

/* "    why   text", wrapped to a terminal. */
static void add_labelled(struct buf *out, const char *label, const char *text)
{
    struct styled line = { 0 };
    struct margins margins = { 0 };
    char first[32];
    snprintf(first, sizeof first, "    %-4s  ", label);
    margins_push(&margins, first, "          ");
    styled_add(&line, str_of(text), 0);
    styled_wrap(out, &line, &margins, term_stdout() ? term_columns() : 1000, false, PALETTE_PLAIN);
    styled_release(&line);
}

/* One line for what is well; what is not gets its reason, its remedy and what that brings. */
static void add_finding(struct buf *out, const struct finding *f, bool verbose)
{
    static const char marks[] = { ' ', '!', '?' };
    bool bold = f->state == FINDING_POOR && term_colour(STDOUT_FILENO);
    buf_printf(out, "%s%c %-17s ", bold ? "\033[1m" : "", marks[f->state], f->topic);
    term_escape_to(out, f->found, strlen(f->found));
    buf_puts(out, bold ? "\033[0m\n" : "\n");
    if (f->state == FINDING_POOR || verbose)
        add_labelled(out, "why", f->why);
    if (*f->mend)
        buf_printf(out, "    mend  %s\n", f->mend); /* in one piece, to be copied */
    if (f->state == FINDING_POOR)
        add_labelled(out, "gain", *f->gain ? f->gain : "no estimate");
}

static bool print_text(const struct doctor *d, const struct options *o, struct error *err)
{
    struct buf out = { 0 };
    for (int i = 0; i < d->n; i++)
        if (!o->quiet || d->findings[i].state == FINDING_POOR) /* -q: what there is to do */
            add_finding(&out, &d->findings[i], o->verbose > 0);
    int n_poor = count(d, FINDING_POOR), n_unknown = count(d, FINDING_UNKNOWN);
    buf_printf(&out, "\n%d of %d could be better (!)", n_poor, d->n);
    if (n_unknown)
        buf_printf(&out, ", %d this system does not tell (?)", n_unknown);
    buf_puts(&out, "\n");
    bool ok = buf_ok(&out, err) && out_write(out.data, out.len, err);
    buf_release(&out);
    return ok;
}

bool cmd_doctor(struct options *o, struct error *err)
{
    struct doctor d = { 0 };
    struct machine machine;
    struct gpu_info card;
    struct error no_card = { 0 };
    const struct gpu_library *library;
    struct doctor_case c = { .root = "", .cpus = cpus_usable(), .no_card = no_card.text,
                             .card_code = card_code_installed() };
    char path[PATH_SIZE];
    if (o->json && !js_available(err))
        return false;
    if (o->n_positional &&
        !(resolve_model(o, false, path, sizeof path, err) && find_disk(&c, path, err)))
        return false;
    if (load_profile(&machine))
        c.machine = &machine;
    if (card_find(&library, &card, 0, &no_card))
        c.card = &card;
    doctor_look(&d, &c);
    return o->json ? print_json(&d, err) : print_text(&d, o, err);
}
