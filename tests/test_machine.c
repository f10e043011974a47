/* The machine's profile: measured figures hang together, survive the file, and are asked for once. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cpu/features.h"
#include "cpu/probe.h"
#include "src/base/mem.h"
#include "src/base/pages.h"
#include "src/base/util.h"
#include "src/cli/rates.h"
#include "src/engine/card.h"
#include "src/engine/machine.h"
#include "src/model/forecast.h"
#include "tests/check.h"

static char folder[] = "/tmp/tandem-machine-XXXXXX";

static const char *path_of(const char *name)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void put(const char *name, const char *text)
{
    FILE *f = fopen(path_of(name), "w");
    if (f) {
        fputs(text, f);
        fclose(f);
    }
}

/* ---- the probe ---- */

static void check_rig(void)
{
    struct error err = { 0 };
    struct probe *p = NULL;
    struct probe_options o = { .n_threads = 2, .isa = cpu_isa(), .worker_bytes = 1 };
    struct probe_order order = { 100000, 3 };
    struct probe_rate rate;
    const char *reader = NULL;

    check_case("the probe reads, multiplies and counts");
    if (!CHECK_MSG(probe_open(&p, &o, &err), "%s", err.text))
        return;
    CHECK_INT(probe_threads(p), 2);
    CHECK_INT(probe_region_bytes(p), (size_t)2 * 32 << 20);
    double huge = probe_huge_share(p);
    CHECK_MSG(isnan(huge) || (huge >= 0 && huge <= 1), "%g of the region in huge pages", huge);
    CHECK(probe_read(p, 1, 0.01, &reader) > 0 && reader);
    CHECK(probe_read(p, 99, 0.01, NULL) > 0); /* no more than there are */
    CHECK(probe_stream(p, order, 0.01) > 0);
    CHECK(probe_int8(p, cpu_isa(), 0.01) > 0);
    CHECK(probe_int8(p, ISA_REF, 0.01) > 0);

    check_case("kernel rates count rows and tokens");
    for (int type = 0; type < N_TENSOR_TYPES; type++) {
        bool known = type != TYPE_Q8_1 && type != TYPE_Q8_K && type != TYPE_F64;
        bool measured = probe_kernel(p, cpu_isa(), (enum tensor_type)type, 1, order, 0, &rate);
        CHECK_MSG(!measured || (known && rate.gb_s > 0), "type %d", type);
    }
    CHECK(probe_kernel(p, cpu_isa(), TYPE_Q4_K, 8, order, 0, &rate));
    double per_byte = 2.0 * 8 * 256 / 144; /* operations per byte of Q4_K */
    CHECK_MSG(fabs(rate.gops / rate.gb_s - per_byte) < 1e-9 * per_byte, "%g operations per byte",
              rate.gops / rate.gb_s);
    CHECK(!probe_kernel(p, cpu_isa(), TYPE_I32, 1, order, 0, &rate));
    probe_close(p);
    probe_close(NULL);

    check_case("a cancelled probe ends");
    atomic_int cancel = 1;
    o.cancel = &cancel;
    CHECK(!probe_open(&p, &o, &err));
    CHECK_INT(err.code, ERR_INTERRUPTED);
    error_clear(&err);

    check_case("a probe without memory says so");
    o.cancel = NULL;
    for (uint64_t n = 0; n < 4; n++) {
        mem_fail_after(n);
        CHECK(!probe_open(&p, &o, &err) && err.code == ERR_FIT);
        mem_fail_never();
        error_clear(&err);
    }
}

static void check_pages(void)
{
    struct pages p;
    check_case("pages of a range");
    put("smaps", "1000-3000 rw-p 00000000 00:00 0\nRss: 8 kB\nAnonHugePages: 0 kB\n"
                 "400000-c00000 rw-p 00000000 00:00 0 [heap]\nRss: 6144 kB\nAnonHugePages: 4096 kB\n"
                 "VmFlags: rd wr\n");
    CHECK(pages_read(path_of("smaps"), 0x500000, 0x1000, &p));
    CHECK_INT(p.resident_bytes, 6144 * 1024);
    CHECK_INT(p.huge_bytes, 4096 * 1024);
    CHECK(pages_read(path_of("smaps"), 0x2000, 0x400000, &p));
    CHECK_INT(p.resident_bytes, 6152 * 1024);
    CHECK(!pages_read(path_of("smaps"), 0xc00000, 0x1000, &p));
    CHECK(!pages_read(path_of("none"), 0, 1, &p));
    char here[4096];
    memset(here, 1, sizeof here);
    CHECK(pages_of(here, sizeof here, &p) && p.resident_bytes >= sizeof here);
}

/* ---- the profile ---- */

static void on_progress(void *ctx, double done)
{
    double *last = ctx;
    CHECK(done >= *last && done <= 1);
    *last = done;
}

static void check_quick(struct machine *m)
{
    struct error err = { 0 };
    double done = 0;
    struct machine_options o = { .detail = MACHINE_QUICK, .n_threads = 2, .progress = on_progress,
                                 .progress_ctx = &done };
    check_case("a quick probe");
    CHECK_MSG(machine_probe(m, &o, &err), "%s", err.text);
    CHECK_INT(m->n_threads, 2);
    CHECK_STR(m->isa, cpu_isa_name(cpu_isa()));
    CHECK(m->dram_gb_s > 0 && m->stream_gb_s > 0 && m->int8_gops > 0 && done > 0);
    CHECK_INT(m->n_points, 1);
    CHECK_INT(m->best_threads, 2);
    CHECK_INT(m->enough_threads, 2);
    CHECK(m->dot_gb_s[TYPE_Q4_K] > 0 && m->dot_gb_s[TYPE_BF16] > 0 && m->dot_gb_s[TYPE_I8] == 0);
    CHECK(m->tile_gops[TYPE_Q4_K] > 0);
    for (int i = 0; i < N_TENSOR_TYPES; i++) /* tiles of all but the slowest kernels, and of two */
        if (i != TYPE_Q4_K && i != TYPE_Q8_0)
            CHECK_MSG((m->tile_gops[i] > 0) == (m->dot_gb_s[i] >= 2.0), "type %d: %g, %g GB/s", i,
                      m->tile_gops[i], m->dot_gb_s[i]);
    CHECK(m->vram_gb_s == 0);
}

static void put_link(const char *speed, const char *width)
{
    mkdir(path_of("sys"), 0700);
    mkdir(path_of("sys/bus"), 0700);
    mkdir(path_of("sys/bus/pci"), 0700);
    mkdir(path_of("sys/bus/pci/devices"), 0700);
    mkdir(path_of("sys/bus/pci/devices/0000:65:00.0"), 0700);
    put("sys/bus/pci/devices/0000:65:00.0/max_link_speed", speed);
    put("sys/bus/pci/devices/0000:65:00.0/max_link_width", width);
}

static void check_link(void)
{
    static const struct {
        const char *speed, *width, *wanted;
    } rows[] = {
        { "16.0 GT/s PCIe\n", "16\n", "PCIe 4.0 x16" }, { "2.5 GT/s\n", "1\n", "PCIe 1.0 x1" },
        { "32.0 GT/s PCIe\n", "8\n", "PCIe 5.0 x8" },   { "Unknown\n", "16\n", "" },
        { "8.0 GT/s PCIe\n", "255\n", "" },             { "8.0 GT/s PCIe\n", "0\n", "" },
    };
    struct gpu_info info = { .pci = "0000:65:00.0" };
    char text[24] = "x";
    check_case("the link to a card");
    card_link(&info, folder, text, sizeof text);
    CHECK_STR(text, "");
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        put_link(rows[i].speed, rows[i].width);
        card_link(&info, folder, text, sizeof text);
        CHECK_STR(text, rows[i].wanted);
    }
    unlink(path_of("sys/bus/pci/devices/0000:65:00.0/max_link_speed"));
    unlink(path_of("sys/bus/pci/devices/0000:65:00.0/max_link_width"));
    rmdir(path_of("sys/bus/pci/devices/0000:65:00.0"));
    rmdir(path_of("sys/bus/pci/devices"));
    rmdir(path_of("sys/bus/pci"));
    rmdir(path_of("sys/bus"));
    rmdir(path_of("sys"));
}

static void check_file(const struct machine *m)
{
    struct error err = { 0 };
    struct machine back;
    check_case("a profile survives its file");
    CHECK_MSG(machine_save(m, path_of("machine"), &err), "%s", err.text);
    CHECK_MSG(machine_load(&back, path_of("machine"), &err), "%s", err.text);
    CHECK_STR(back.cpu, m->cpu);
    CHECK_STR(back.isa, m->isa);
    CHECK_STR(back.reader, m->reader);
    CHECK_INT(back.n_threads, m->n_threads);
    CHECK_INT(back.n_points, m->n_points);
    CHECK_INT(back.curve[0].threads, m->curve[0].threads);
    CHECK(fabs(back.dram_gb_s - m->dram_gb_s) <= 1e-5 * m->dram_gb_s);
    for (int i = 0; i < N_TENSOR_TYPES; i++)
        CHECK(fabs(back.dot_gb_s[i] - m->dot_gb_s[i]) <= 1e-5 * m->dot_gb_s[i]);
    CHECK(fabs(back.tile_gops[TYPE_Q4_K] - m->tile_gops[TYPE_Q4_K]) <= 1e-5 * m->tile_gops[TYPE_Q4_K]);

    check_case("damaged profiles are refused, strange names are not");
    static const char *const bad[] = {
        "", "x\n", "tandem-machine = 1\n", "threads = 2\ntandem-machine = 2\n",
        "tandem-machine = 2\nthreads = many\n", "tandem-machine = 2\ndram_gb_s = -1\n",
        "tandem-machine = 2\ndram_gb_s = nan\n", "tandem-machine = 2\nno figure\n",
        "tandem-machine = 2\ncurve.2 = x\n",
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        put("bad", bad[i]);
        CHECK_MSG(!machine_load(&back, path_of("bad"), &err) && err.code == ERR_FILE, "text %zu", i);
        CHECK(back.dram_gb_s == 0);
        error_clear(&err);
    }
    put("new", "tandem-machine = 2\ncolour = blue\nmoons.io = 1\ndot_gb_s.Q9 = 3\ndram_gb_s = 7.5\n");
    CHECK(machine_load(&back, path_of("new"), &err) && back.dram_gb_s == 7.5);
    CHECK(!machine_load(&back, path_of("none"), &err));
    error_clear(&err);
    CHECK(!machine_save(m, path_of("none/machine"), &err) && err.code == ERR_RUN);
}

static void check_get(const struct machine *measured)
{
    struct error err = { 0 };
    struct machine m = *measured;
    check_case("a profile is taken where it fits, else measured and kept");
    m.dram_gb_s = 12345;
    machine_save(&m, path_of("kept"), &err);
    CHECK(machine_get(&m, path_of("kept"), 2, 0, NULL, &err) && m.dram_gb_s == 12345);
    CHECK(machine_get(&m, path_of("kept"), 1, 0, NULL, &err) && m.dram_gb_s != 12345);
    CHECK_INT(m.n_threads, 1);
    CHECK(machine_load(&m, path_of("kept"), &err) && m.n_threads == 1);
    atomic_int cancel = 1;
    CHECK(!machine_get(&m, NULL, 2, 0, &cancel, &err) && err.code == ERR_INTERRUPTED);
}

/* A profile that was taken while others used the machine. */
static void check_doubt(const struct machine *measured)
{
    struct error err = { 0 };
    struct machine m = *measured, kept;
    check_case("a doubted profile is probed once more, the better of each rate is kept");
    m.dram_gb_s = 1e-3;
    m.dot_gb_s[TYPE_Q4_K] = 12345;
    m.dot_gb_s[TYPE_Q8_0] = 1e-3;
    m.busy_w = 77;
    machine_save(&m, path_of("kept"), &err);
    CHECK(machine_doubt(path_of("kept")));
    CHECK(!machine_doubt(path_of("kept"))); /* no news */
    CHECK(machine_get(&m, path_of("kept"), 2, 0, NULL, &err));
    CHECK_MSG(m.dram_gb_s > 1e-3 && m.dot_gb_s[TYPE_Q8_0] > 1e-3, "%g, %g GB/s", m.dram_gb_s,
              m.dot_gb_s[TYPE_Q8_0]);
    CHECK(m.dot_gb_s[TYPE_Q4_K] == 12345 && m.busy_w == 77);
    CHECK_INT(m.sittings, 2);
    CHECK(machine_load(&kept, path_of("kept"), &err) && kept.dram_gb_s > 1e-3 && !kept.doubted);
    CHECK_INT(kept.sittings, 2);

    check_case("after some sittings the figures are taken as they are");
    m.sittings = MACHINE_SITTINGS;
    m.dram_gb_s = 1e-3;
    machine_save(&m, path_of("kept"), &err);
    CHECK(!machine_doubt(path_of("kept")));
    m.doubted = 1;
    machine_save(&m, path_of("kept"), &err);
    CHECK(machine_get(&m, path_of("kept"), 2, 0, NULL, &err) && m.dram_gb_s == 1e-3);
    CHECK(!machine_doubt(path_of("none")));
}

/* What decoding says about the rates. */
static void check_judgement(void)
{
    struct error err = { 0 };
    struct model m = { 0 };
    struct placement p = { 0 };
    struct placement_wishes w = placement_wishes_default();
    struct rates r = { .n_cores = 2, .ram_bytes = (uint64_t)8 << 30, .dram_gb_s = 20 };
    check_case("rates are too low for what was decoded");
    if (!model_open(&m, "models/demo.gguf", NUMERICS_OFFICIAL, &err)) {
        check_skip("%s", err.text);
        return;
    }
    for (int i = 0; i < N_TENSOR_TYPES; i++)
        r.dot_gb_s[i] = 15;
    CHECK_MSG(placement_make(&p, &m, &r, &w, &err) && p.fits, "%s", err.text);
    struct forecast f;
    forecast_make(&f, &m, &p, &r, 100, 1);
    double most = f.decode_tok_s.high;
    CHECK(!rates_too_low(&r, &m, &p, 0, 1.05 * most, 100));
    CHECK(rates_too_low(&r, &m, &p, 0, 1.2 * most, 100));
    CHECK(!rates_too_low(&r, &m, &p, (double)m.bytes_per_token, 1.2 * most, 100)); /* the cache did it */
    r.dram_gb_s = 0;
    CHECK(!rates_too_low(&r, &m, &p, 0, 1.2 * most, 100)); /* nothing was measured */
    placement_free(&p);
    model_close(&m);
}

int main(void)
{
    struct machine m;
    if (!mkdtemp(folder))
        return 2;
    check_rig();
    check_pages();
    check_link();
    check_quick(&m);
    check_file(&m);
    check_get(&m);
    check_doubt(&m);
    check_judgement();
    static const char *const names[] = { "smaps", "machine", "bad", "new", "kept" };
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        unlink(path_of(names[i]));
    rmdir(folder);
    return check_finish();
}
