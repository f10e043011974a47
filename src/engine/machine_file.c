/* The machine's profile as text:
 *
 *     tandem-machine = 2
 *     cpu = Intel(R) Xeon(R) Processor
 *     threads = 2
 *     dram_gb_s = 33.6
 *     curve.2 = 33.6          by threads
 *     dot_gb_s.Q4_K = 21.9    by type
 *     gemm_gops.64 = 410      by tokens                                                            */
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "src/base/util.h"
#include "src/engine/machine.h"
#include "src/format/quant.h"

#define VERSION 2 /* since kernels are timed on woven rows */
#define PATH_SIZE 4096

/* Single figures: doubles, counts and texts of struct machine. */
static const struct field {
    const char *name;
    enum { REAL, COUNT, TEXT } kind;
    size_t offset, size;
} fields[] = {
#define AT(m) offsetof(struct machine, m)
#define TEXT_OF(name, m) { name, TEXT, AT(m), sizeof((struct machine *)0)->m }
    TEXT_OF("cpu", cpu),
    TEXT_OF("isa", isa),
    { "threads", COUNT, AT(n_threads), 0 },
    { "nodes", COUNT, AT(n_nodes), 0 },
    { "detail", COUNT, AT(detail), 0 },
    { "sittings", COUNT, AT(sittings), 0 },
    { "doubted", COUNT, AT(doubted), 0 },
    { "dram_gb_s", REAL, AT(dram_gb_s), 0 },
    { "best_threads", COUNT, AT(best_threads), 0 },
    { "enough_threads", COUNT, AT(enough_threads), 0 },
    TEXT_OF("reader", reader),
    { "stream_gb_s", REAL, AT(stream_gb_s), 0 },
    { "stream_large_gb_s", REAL, AT(stream_large_gb_s), 0 },
    { "region_gb", REAL, AT(region_gb), 0 },
    { "l3_gb", REAL, AT(l3_gb), 0 },
    { "huge_share", REAL, AT(huge_share), 0 },
    { "int8_gops", REAL, AT(int8_gops), 0 },
    { "idle_w", REAL, AT(idle_w), 0 },
    { "busy_w", REAL, AT(busy_w), 0 },
    { "busy_gpu_w", REAL, AT(busy_gpu_w), 0 },
    TEXT_OF("gpu", gpu),
    { "vram_gb_s", REAL, AT(vram_gb_s), 0 },
    { "h2d_gb_s", REAL, AT(h2d_gb_s), 0 },
    { "d2h_gb_s", REAL, AT(d2h_gb_s), 0 },
    { "gpu_tops", REAL, AT(gpu_tops), 0 },
    { "hand_off_us", REAL, AT(hand_off_us), 0 },
};

/* ---- writing ---- */

static void write_field(FILE *f, const struct machine *m, const struct field *field)
{
    const char *at = (const char *)m + field->offset;
    if (field->kind == TEXT)
        fprintf(f, "%s = %s\n", field->name, at);
    else if (field->kind == COUNT)
        fprintf(f, "%s = %d\n", field->name, *(const int *)(const void *)at);
    else if (isfinite(*(const double *)(const void *)at))
        fprintf(f, "%s = %.6g\n", field->name, *(const double *)(const void *)at);
}

static void write_all(FILE *f, const struct machine *m)
{
    fprintf(f, "tandem-machine = %d\n", VERSION);
    for (size_t i = 0; i < ARRAY_LEN(fields); i++)
        write_field(f, m, &fields[i]);
    for (int i = 0; i < m->n_points; i++)
        fprintf(f, "curve.%d = %.6g\n", m->curve[i].threads, m->curve[i].gb_s);
    for (int i = 0; i < N_TENSOR_TYPES; i++) {
        const char *name = quant_traits((uint32_t)i)->name;
        if (m->dot_gb_s[i] > 0)
            fprintf(f, "dot_gb_s.%s = %.6g\n", name, m->dot_gb_s[i]);
        if (m->tile_gops[i] > 0)
            fprintf(f, "tile_gops.%s = %.6g\n", name, m->tile_gops[i]);
    }
    for (int i = 0; i < MACHINE_TOKENS; i++)
        if (m->gemm_gops[i] > 0)
            fprintf(f, "gemm_gops.%d = %.6g\n", 1 << i, m->gemm_gops[i]);
}

bool machine_save(const struct machine *m, const char *path, struct error *err)
{
    char other[PATH_SIZE];
    int n = snprintf(other, sizeof other, "%s.%ld", path, (long)getpid());
    if (n < 0 || (size_t)n >= sizeof other)
        return fail(err, ERR_RUN, "the path of the machine's profile is too long");
    FILE *f = fopen(other, "we");
    if (!f)
        return fail(err, ERR_RUN, "%s: %s", other, strerror(errno));
    write_all(f, m);
    bool ok = !ferror(f);
    ok = fclose(f) == 0 && ok && rename(other, path) == 0;
    if (!ok) {
        int cause = errno;
        unlink(other);
        return fail(err, ERR_RUN, "%s: %s", path, strerror(cause));
    }
    return true;
}

/* ---- reading ---- */

/* A rate: finite, not negative. */
static bool read_real(const char *text, double *value)
{
    char *end;
    double x = strtod(text, &end);
    if (end == text || *end || !(x >= 0) || x > 1e12)
        return false;
    *value = x;
    return true;
}

static bool read_count(const char *text, int *value)
{
    char *end;
    errno = 0;
    long x = strtol(text, &end, 10);
    if (end == text || *end || errno || x < 0 || x > 1000000)
        return false;
    *value = (int)x;
    return true;
}

static bool read_field(struct machine *m, const struct field *field, const char *value)
{
    char *at = (char *)m + field->offset;
    if (field->kind == TEXT) {
        snprintf(at, field->size, "%s", value);
        return true;
    }
    return field->kind == COUNT ? read_count(value, (int *)(void *)at)
                                : read_real(value, (double *)(void *)at);
}

/* "list.key" with its value; true for lists and keys that this version does not know. */
static bool read_entry(struct machine *m, const char *list, const char *key, const char *value)
{
    int number, type = quant_type_by_name(key);
    double rate;
    if (!read_real(value, &rate))
        return false;
    if (strcmp(list, "dot_gb_s") == 0 && type >= 0)
        m->dot_gb_s[type] = rate;
    if (strcmp(list, "tile_gops") == 0 && type >= 0)
        m->tile_gops[type] = rate;
    if (!read_count(key, &number))
        return true;
    for (int i = 0; i < MACHINE_TOKENS; i++)
        if (strcmp(list, "gemm_gops") == 0 && number == 1 << i)
            m->gemm_gops[i] = rate;
    if (strcmp(list, "curve") == 0 && m->n_points < MACHINE_MAX_POINTS)
        m->curve[m->n_points++] = (struct machine_point){ number, rate };
    return true;
}

static bool read_line(struct machine *m, char *name, const char *value)
{
    for (size_t i = 0; i < ARRAY_LEN(fields); i++)
        if (strcmp(fields[i].name, name) == 0)
            return read_field(m, &fields[i], value);
    char *dot = strchr(name, '.');
    if (!dot)
        return true;
    *dot = 0;
    return read_entry(m, name, dot + 1, value);
}

bool machine_load(struct machine *m, const char *path, struct error *err)
{
    char line[256];
    int number = 0, version = 0;
    memset(m, 0, sizeof *m);
    FILE *f = fopen(path, "re");
    if (!f)
        return fail(err, ERR_FILE, "%s: %s", path, strerror(errno));
    bool ok = true;
    while (ok && fgets(line, sizeof line, f)) {
        char *equals = strstr(line, " = ");
        line[strcspn(line, "\n")] = 0;
        number++;
        ok = equals != NULL;
        if (!ok)
            break;
        *equals = 0;
        if (number == 1)
            ok = strcmp(line, "tandem-machine") == 0 && read_count(equals + 3, &version) &&
                 version == VERSION;
        else
            ok = read_line(m, line, equals + 3);
    }
    fclose(f);
    if (ok && version == VERSION)
        return true;
    memset(m, 0, sizeof *m);
    return fail(err, ERR_FILE, "%s: line %d is no figure of a machine's profile", path, number);
}
