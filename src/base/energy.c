#include "src/base/energy.h"

#include <dlfcn.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define FOLDER "/sys/class/powercap"

static bool read_number(const char *path, uint64_t *value)
{
    FILE *f = fopen(path, "re");
    bool ok = f && fscanf(f, "%" SCNu64, value) == 1;
    int cause = errno;
    if (f)
        fclose(f);
    errno = cause;
    return ok;
}

/* Whole packages, and memory, which is not part of them. Cores and graphics are; "psys" is all of it
 * once more. */
static bool is_wanted(const char *folder)
{
    char path[256], name[32] = "";
    snprintf(path, sizeof path, "%s/name", folder);
    FILE *f = fopen(path, "re");
    bool ok = f && fscanf(f, "%31s", name) == 1;
    if (f)
        fclose(f);
    return ok && (strncmp(name, "package", 7) == 0 || strcmp(name, "dram") == 0);
}

static void add_zone(struct energy *e, const char *folder)
{
    char path[256];
    if (e->n_zones == ENERGY_MAX_ZONES || !is_wanted(folder))
        return;
    struct energy_zone *z = &e->zones[e->n_zones];
    snprintf(z->path, sizeof z->path, "%.240s/energy_uj", folder);
    snprintf(path, sizeof path, "%.230s/max_energy_range_uj", folder);
    if (!read_number(z->path, &z->last_uj))
        snprintf(e->reason, sizeof e->reason, "%.90s: %.30s", z->path, strerror(errno));
    else if (read_number(path, &z->range_uj))
        e->n_zones++;
}

bool energy_open(struct energy *e, const char *root)
{
    char folder[200];
    memset(e, 0, sizeof *e);
    snprintf(e->reason, sizeof e->reason, "no counters in %s", FOLDER);
    for (int package = 0; package < 16; package++) {
        snprintf(folder, sizeof folder, "%.100s" FOLDER "/intel-rapl:%d", root, package);
        add_zone(e, folder);
        for (int part = 0; part < 4; part++) {
            snprintf(folder, sizeof folder, "%.100s" FOLDER "/intel-rapl:%d:%d", root, package, part);
            add_zone(e, folder);
        }
    }
    if (e->n_zones)
        e->reason[0] = 0;
    return e->n_zones > 0;
}

/* ---- the card ---- */

#define NVML "libnvidia-ml.so.1"

static bool refuse(struct energy *e, const char *why, const char *what)
{
    snprintf(e->gpu_reason, sizeof e->gpu_reason, "%.80s%.40s", what, why);
    energy_close(e);
    return false;
}

bool energy_add_gpu(struct energy *e, const char *library, const char *pci)
{
    struct energy_gpu *g = &e->gpu;
    int (*start)(void), (*find)(const char *pci, void **card);
    unsigned long long mj;
    library = library ? library : NVML;
    g->library = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    if (!g->library)
        return refuse(e, " cannot be opened", library);
    *(void **)&start = dlsym(g->library, "nvmlInit_v2");
    *(void **)&find = dlsym(g->library, "nvmlDeviceGetHandleByPciBusId_v2");
    *(void **)&g->total = dlsym(g->library, "nvmlDeviceGetTotalEnergyConsumption");
    *(void **)&g->utilization = dlsym(g->library, "nvmlDeviceGetUtilizationRates");
    if (!start || !find || !g->total || start() != 0)
        return refuse(e, " does not start", library);
    *(void **)&g->shut_down = dlsym(g->library, "nvmlShutdown");
    if (find(pci, &g->card) != 0)
        return refuse(e, " is not known to it", pci);
    if (g->total(g->card, &mj) != 0)
        return refuse(e, " does not count its energy", pci);
    g->last_mj = mj;
    return true;
}

void energy_close(struct energy *e)
{
    if (e->gpu.shut_down)
        e->gpu.shut_down();
    if (e->gpu.library)
        dlclose(e->gpu.library);
    e->gpu = (struct energy_gpu){ 0 };
}

bool energy_readable(const struct energy *e)
{
    return e->n_zones > 0 || e->gpu.card;
}

double energy_gpu_busy(const struct energy *e)
{
    unsigned percent[2];
    const struct energy_gpu *g = &e->gpu;
    bool ok = g->card && g->utilization && g->utilization(g->card, percent) == 0;
    return ok ? percent[0] / 100.0 : NAN;
}

static void read_gpu(struct energy *e)
{
    unsigned long long now;
    struct energy_gpu *g = &e->gpu;
    if (!g->card || g->total(g->card, &now) != 0)
        return;
    e->joules += now > g->last_mj ? (double)(now - g->last_mj) * 1e-3 : 0;
    g->last_mj = now;
}

double energy_read(struct energy *e)
{
    read_gpu(e);
    for (int i = 0; i < e->n_zones; i++) {
        struct energy_zone *z = &e->zones[i];
        uint64_t now;
        if (!read_number(z->path, &now))
            continue;
        uint64_t used = now >= z->last_uj ? now - z->last_uj : now + z->range_uj - z->last_uj;
        e->joules += (double)used * 1e-6;
        z->last_uj = now;
    }
    return e->joules;
}
