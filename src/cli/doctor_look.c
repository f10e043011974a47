/* Looking at the machine: each look_ function reads some small files, adds a few findings.
 * A file that is not there is not a fault: containers and virtual machines hide many. */
#include <dirent.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "src/base/util.h"
#include "src/cli/doctor.h"
#include "src/cli/term.h"
#include "src/model/memory.h"

#define FASTEST_SPINNING_GB_S 0.5 /* one disk reaches 0.3 */
#define GIB ((uint64_t)1 << 30)
#define CPU "/sys/devices/system/cpu"

/* First line of the file that root + format spell; false when there is none. */
__attribute__((format(printf, 4, 5)))
static bool read_line(const struct doctor_case *c, char *line, size_t size, const char *format, ...)
{
    char path[1024], tail[512];
    va_list args;
    va_start(args, format);
    vsnprintf(tail, sizeof tail, format, args);
    va_end(args);
    if (snprintf(path, sizeof path, "%s%s", c->root, tail) >= (int)sizeof path)
        return false;
    FILE *f = fopen(path, "re");
    bool ok = f && fgets(line, (int)size, f);
    if (f)
        fclose(f);
    if (ok)
        line[strcspn(line, "\n")] = 0;
    return ok;
}

/* The bytes of a "label 123 kB" line of a file such as /proc/meminfo; false when it has none. */
static bool read_kib(const struct doctor_case *c, const char *file, const char *label,
                     uint64_t *bytes)
{
    char path[1024], line[256];
    bool ok = false;
    snprintf(path, sizeof path, "%s%s", c->root, file);
    FILE *f = fopen(path, "re");
    while (f && !ok && fgets(line, sizeof line, f)) {
        const char *at = strstr(line, label);
        ok = at && sscanf(at + strlen(label), "%" SCNu64, bytes) == 1;
    }
    if (f)
        fclose(f);
    *bytes = ok ? *bytes * 1024 : 0;
    return ok;
}

/* A new finding, good until said otherwise; never NULL. */
__attribute__((format(printf, 4, 5)))
static struct finding *say(struct doctor *d, const char *topic, const char *why,
                           const char *format, ...)
{
    struct finding *f = &d->findings[min_of(d->n, FINDINGS_MAX - 1)];
    d->n = min_of(d->n + 1, FINDINGS_MAX);
    *f = (struct finding){ .topic = topic, .why = why };
    va_list args;
    va_start(args, format);
    vsnprintf(f->found, sizeof f->found, format, args);
    va_end(args);
    return f;
}

static void set_poor(struct finding *f, const char *mend)
{
    f->state = FINDING_POOR;
    snprintf(f->mend, sizeof f->mend, "%s", mend);
}

static void set_unknown(struct finding *f, const char *mend)
{
    f->state = FINDING_UNKNOWN;
    snprintf(f->mend, sizeof f->mend, "%s", mend);
}

/* ---- memory ---- */

/* Channels come from the EDAC driver: mcN is a controller, its max_location ends in the last
 * channel number ("channel 3 slot 1"), and only slots with a module have a folder. */
static bool channel_of(const char *location, int *channel)
{
    const char *at = strstr(location, "channel ");
    return at && sscanf(at, "channel %d", channel) == 1 && *channel >= 0 && *channel < 32;
}

static void count_channels(const struct doctor_case *c, int *n_all, int *n_filled, char type[64])
{
    char line[128];
    int channel;
    for (int mc = 0; mc < 64; mc++) {
        uint32_t filled = 0;
        if (!read_line(c, line, sizeof line, "/sys/devices/system/edac/mc/mc%d/max_location", mc) ||
            !channel_of(line, &channel))
            continue;
        *n_all += channel + 1;
        for (int i = 0; i < 128; i++) {
            const char *kind = i % 2 ? "rank" : "dimm";
            if (!read_line(c, line, sizeof line, "/sys/devices/system/edac/mc/mc%d/%s%d/"
                           "dimm_location", mc, kind, i / 2) || !channel_of(line, &channel))
                continue;
            filled |= (uint32_t)1 << channel;
            read_line(c, type, 64, "/sys/devices/system/edac/mc/mc%d/%s%d/dimm_mem_type", mc, kind,
                      i / 2);
        }
        *n_filled += __builtin_popcount(filled);
    }
}

static void look_channels(struct doctor *d, const struct doctor_case *c)
{
    static const char why[] = "decode reads all active weights once per token, from all channels "
                              "at once: an empty channel is reading speed that is missing";
    int n_all = 0, n_filled = 0;
    char type[64] = "";
    count_channels(c, &n_all, &n_filled, type);
    if (n_filled == 0) {
        set_unknown(say(d, "memory channels", why, "the system does not list its modules"),
                    "sudo dmidecode -t memory   lists slots and modules");
        return;
    }
    struct finding *f = say(d, "memory channels", why, "%d of %d hold memory%s%s", n_filled, n_all,
                            *type ? ", " : "", type);
    if (n_filled == n_all)
        return;
    set_poor(f, "put equal modules into the empty channels (the board's manual tells which slots)");
    snprintf(f->gain, sizeof f->gain, "up to %.0f %% more reading speed, and as much decode from "
             "main memory, if the board has all %d channels", 100.0 * n_all / n_filled - 100,
             n_all);
}

/* A module's type 17 record of the SMBIOS, which root may read: bytes 0x0c size (0: empty slot),
 * 0x15 the speed it is made for, 0x20 the speed it runs at, in MT/s; all of 16 bits. */
static void look_module_speed(struct doctor *d, const struct doctor_case *c)
{
    char path[1024];
    unsigned char r[0x22];
    int slowest = INT32_MAX, made_for = 0;
    for (int i = 0; i < 128; i++) {
        snprintf(path, sizeof path, "%s/sys/firmware/dmi/entries/17-%d/raw", c->root, i);
        FILE *f = fopen(path, "re");
        bool ok = f && fread(r, 1, sizeof r, f) == sizeof r && r[1] >= sizeof r;
        if (f)
            fclose(f);
        int rated = ok ? r[0x15] | r[0x16] << 8 : 0, runs = ok ? r[0x20] | r[0x21] << 8 : 0;
        if (!ok || !(r[0x0c] | r[0x0d]) || rated == 0 || rated == 0xffff || runs == 0)
            continue;
        slowest = min_of(slowest, runs);
        made_for = made_for ? min_of(made_for, rated) : rated;
    }
    if (!made_for)
        return;
    struct finding *f = say(d, "memory speed", "reading speed grows with it",
                             "%d MT/s, made for %d", slowest, made_for);
    if (slowest >= made_for)
        return;
    set_poor(f, "the memory profile in the BIOS (XMP, EXPO); some boards slow down with two "
             "modules per channel");
    snprintf(f->gain, sizeof f->gain, "up to %.0f %% more reading speed, and as much decode from "
             "main memory", 100.0 * made_for / slowest - 100);
}

static void look_read_rate(struct doctor *d, const struct doctor_case *c)
{
    static const char why[] = "what memory delivers bounds decode: bytes per token divided by this";
    const struct machine *m = c->machine;
    if (!m || !(m->dram_gb_s > 0)) {
        set_unknown(say(d, "memory reading", why, "not measured yet"), "tandem bench --probe");
        return;
    }
    say(d, "memory reading", why, "%.1f GB/s measured with %d thread%s, 95 %% of it with %d",
        m->dram_gb_s, m->best_threads, m->best_threads == 1 ? "" : "s", m->enough_threads);
}

static void look_huge_pages(struct doctor *d, const struct doctor_case *c)
{
    static const char why[] = "weights are streamed through; pages of 4 KiB cost one translation "
                              "each, and prefetching stops at their ends";
    char line[128];
    if (!read_line(c, line, sizeof line, "/sys/kernel/mm/transparent_hugepage/enabled"))
        set_unknown(say(d, "huge pages", why, "this kernel does not tell of them"), "");
    else if (strstr(line, "[never]"))
        set_poor(say(d, "huge pages", why, "switched off"),
                 "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled");
    else if (c->machine && c->machine->huge_share < 0.5) /* false when unknown: NAN */
        set_poor(say(d, "huge pages", why, "asked for, and given for %.0f %% of a measurement",
                      100 * c->machine->huge_share),
                 "echo 1 | sudo tee /proc/sys/vm/compact_memory   joins free memory; or reboot");
    else
        say(d, "huge pages", why, "given %s",
            strstr(line, "[always]") ? "always" : "when asked for");
}

static void look_nodes(struct doctor *d, const struct doctor_case *c)
{
    uint64_t least = UINT64_MAX, most = 0, bytes;
    char path[128], label[64], line[64], small[32], large[32];
    int n = 0;
    for (int id = 0; id < NODES_MAX; id++) {
        snprintf(path, sizeof path, "/sys/devices/system/node/node%d/meminfo", id);
        snprintf(label, sizeof label, "Node %d MemTotal:", id);
        /* nodes without processors (memory expanders) hold no experts */
        if (!read_kib(c, path, label, &bytes) ||
            !read_line(c, line, sizeof line, "/sys/devices/system/node/node%d/cpulist", id) ||
            !*line)
            continue;
        n++;
        least = min_of(least, bytes);
        most = max_of(most, bytes);
    }
    if (n == 0)
        return;
    struct finding *f = say(d, "memory nodes",
                             "every expert is split evenly over the nodes, each reads its "
                             "own part: the node with least memory decides what fits, its "
                             "channels how fast",
                             "%d, %s%s%s%s", n, n > 1 ? human_bytes((double)least, small,
                                                                     sizeof small) : "",
                             n > 1 ? " to " : "with ",
                             human_bytes((double)most, large, sizeof large), n > 1 ? " each" : "");
    if (n > 1 && (double)least < 0.75 * (double)most)
        set_poor(f, "spread the modules evenly over the sockets; till then --numa off uses all");
    if (n > 1 && read_line(c, line, sizeof line, "/proc/sys/kernel/numa_balancing")) {
        f = say(d, "page migration", "weights already lie on the node that reads them; the kernel "
                "takes their pages away for a moment to see who uses them", "%s",
                atoi(line) ? "numa_balancing is on" : "off");
        if (atoi(line))
            set_poor(f, "sudo sysctl -w kernel.numa_balancing=0");
    }
}

/* Locking matters only where there is swap to be paged out to. */
static void look_swap(struct doctor *d, const struct doctor_case *c)
{
    uint64_t total, swap, unused, limit = UINT64_MAX;
    char path[1024], line[256], text[32];
    if (!read_kib(c, "/proc/meminfo", "MemTotal:", &total) ||
        !read_kib(c, "/proc/meminfo", "SwapTotal:", &swap) ||
        !read_kib(c, "/proc/meminfo", "SwapFree:", &unused))
        return;
    uint64_t used = swap > unused ? swap - unused : 0;
    struct finding *f = say(d, "swap", "weights that were paged out come back from the disk, a "
                            "hundred times slower than from memory", "%s%s",
                            swap ? human_bytes((double)used, text, sizeof text) : "none",
                            swap ? " in use" : "");
    if (used > total / 64)
        set_poor(f, "sudo swapoff -a && sudo swapon -a   when it fits; then run with --mlock");
    snprintf(path, sizeof path, "%s/proc/self/limits", c->root);
    FILE *file = fopen(path, "re");
    while (file && fgets(line, sizeof line, file))
        if (strncmp(line, "Max locked memory", 17) == 0 &&
            sscanf(line + 17, "%" SCNu64, &limit) != 1)
            limit = UINT64_MAX; /* "unlimited" */
    if (!file || swap == 0) {
        if (file)
            fclose(file);
        return;
    }
    fclose(file);
    f = say(d, "locked memory", "--mlock keeps weights out of the swap as far as this limit allows",
            "%s",
            limit == UINT64_MAX ? "no limit" : human_bytes((double)limit, text, sizeof text));
    if (limit < total / 2)
        set_poor(f, "\"* - memlock unlimited\" in /etc/security/limits.conf, and log in again");
}

static void look_memory_limit(struct doctor *d, const struct doctor_case *c)
{
    static const char why[] = "a model must fit into what this process may take";
    struct memory_left left = memory_left(c->root);
    char own[32], all[32];
    if (left.system == UINT64_MAX)
        return;
    human_bytes((double)left.system, all, sizeof all);
    if (left.group >= left.system) {
        say(d, "memory limit", why, "none below the %s that are available", all);
        return;
    }
    struct finding *f = say(d, "memory limit", why, "the control group leaves %s of %s available",
                            human_bytes((double)left.group, own, sizeof own), all);
    set_poor(f, "raise it: docker run --memory, systemd MemoryMax=, or the batch system's request");
    snprintf(f->gain, sizeof f->gain, "models and contexts larger by up to %s",
             human_bytes((double)(left.system - left.group), own, sizeof own));
}

/* ---- processors ---- */

/* Drivers that choose clocks by themselves call a governor "powersave" that is none; what they
 * strive for is in energy_performance_preference then. */
static bool is_slow(const struct doctor_case *c, int cpu, char governor[64])
{
    char driver[64] = "", wish[64];
    if (!read_line(c, governor, 64, CPU "/cpu%d/cpufreq/scaling_governor", cpu))
        return *governor = 0, false;
    if (strcmp(governor, "performance") == 0)
        return false;
    read_line(c, driver, sizeof driver, CPU "/cpu%d/cpufreq/scaling_driver", cpu);
    bool own = strcmp(driver, "intel_pstate") == 0 || strcmp(driver, "amd-pstate-epp") == 0;
    if (!own || !read_line(c, wish, sizeof wish, CPU "/cpu%d/cpufreq/energy_performance_preference",
                           cpu))
        return true;
    snprintf(governor, 64, "%.60s", wish);
    return strstr(wish, "power") != NULL; /* "balance_power", "power" */
}

static void look_governor(struct doctor *d, const struct doctor_case *c)
{
    static const char why[] = "between two layers workers wait for microseconds; a processor that "
                              "lowers its clock there begins every layer slowly";
    char governor[64], shown[64] = "";
    int n = 0, n_slow = 0;
    for (int i = 0; i < c->cpus->n_list; i++) {
        bool slow = is_slow(c, c->cpus->list[i], governor);
        n += *governor != 0;
        if (slow || (!n_slow && *governor))
            snprintf(shown, sizeof shown, "%s", governor);
        n_slow += slow;
    }
    if (n == 0)
        set_unknown(say(d, "CPU governor", why, "no clock to set, as in virtual machines"), "");
    else if (n_slow)
        set_poor(say(d, "CPU governor", why, "%s on %d of %d processors", shown, n_slow, n),
                 "echo performance | sudo tee " CPU "/cpu*/cpufreq/scaling_governor");
    else
        say(d, "CPU governor", why, "%s", shown);
}

static void look_processors(struct doctor *d, const struct doctor_case *c)
{
    static const char why[] = "reading memory at full speed takes nearly all cores";
    const struct cpus *p = c->cpus;
    int gained = c->machine ? c->machine->enough_threads : 0;
    char line[32];
    if (p->n_cores < p->n_fast) {
        struct finding *f = say(d, "processor limit", why,
                                "the control group grants %d of %d cores", p->n_cores, p->n_fast);
        set_poor(f, "raise it: docker run --cpus, systemd CPUQuota=, the batch system's request");
        snprintf(f->gain, sizeof f->gain, "up to %.1f times the prompt speed",
                 (double)p->n_fast / p->n_cores);
    } else if (gained > 0 && gained < p->n_cores) {
        say(d, "processor limit", why, "none: %d cores; reading memory takes %d", p->n_cores,
             gained);
    } else {
        say(d, "processor limit", why, "none: %d core%s", p->n_cores, p->n_cores == 1 ? "" : "s");
    }
    if (read_line(c, line, sizeof line, CPU "/smt/active"))
        say(d, "SMT", "two workers on one core share its units and wait for each other", "%s",
            atoi(line) ? "on; one worker per core, siblings stay free" : "off");
}

/* ---- card ---- */

static double read_rate(const struct doctor_case *c, const char *device, const char *file)
{
    char line[64];
    return read_line(c, line, sizeof line, "/sys/bus/pci/devices/%s/%s", device, file) ? atof(line)
                                                                                       : 0;
}

/* Lanes do not change while a card rests, its speed does: so width is compared as it is, speed as
 * it could be, with the slot, which is the folder above. */
static void look_link(struct doctor *d, const struct doctor_case *c, const char *device)
{
    int width = (int)read_rate(c, device, "current_link_width");
    int lanes = (int)read_rate(c, device, "max_link_width");
    double speed = read_rate(c, device, "max_link_speed");
    double slot = read_rate(c, device, "../max_link_speed");
    if (width <= 0 || lanes <= 0 || speed <= 0)
        return;
    double share = (double)width / lanes * (slot > 0 && slot < speed ? slot / speed : 1);
    struct finding *f = say(d, "card's link", "experts of long prompts go to the card over this "
                             "link, and both sides hand results over once per layer",
                             "%s: %d of %d lanes; %.1f GT/s of the slot, %.1f of the card", device,
                             width, lanes, slot > 0 ? slot : speed, speed);
    if (!(share < 1))
        return;
    set_poor(f, "a slot with all lanes from the processor, no adapter; in the BIOS no split "
             "(bifurcation) and its full generation");
    snprintf(f->gain, sizeof f->gain, "up to %.1f times faster transfers, for prompts bound by "
             "them; little for decode", 1 / share);
}

/* The first NVIDIA display controller, or that of c->card. */
static bool find_card(const struct doctor_case *c, char device[64])
{
    char path[1024], vendor[32], class[32];
    bool found = false;
    snprintf(path, sizeof path, "%s/sys/bus/pci/devices", c->root);
    DIR *folder = opendir(path);
    for (struct dirent *e; folder && !found && (e = readdir(folder));) {
        found = strlen(e->d_name) < 24 && e->d_name[0] != '.' &&
                (!c->card || strcmp(e->d_name, c->card->pci) == 0) &&
                read_line(c, vendor, sizeof vendor, "/sys/bus/pci/devices/%s/vendor", e->d_name) &&
                read_line(c, class, sizeof class, "/sys/bus/pci/devices/%s/class", e->d_name) &&
                strtol(vendor, NULL, 16) == 0x10de && strtol(class, NULL, 16) >> 16 == 3;
        if (found)
            snprintf(device, 64, "%.60s", e->d_name);
    }
    if (folder)
        closedir(folder);
    return found;
}

static void look_card(struct doctor *d, const struct doctor_case *c)
{
    static const char why[] = "attention, shared experts and the output matrix run many times "
                              "faster on a card";
    char device[64], line[256], text[32];
    bool present = find_card(c, device);
    bool driver = read_line(c, line, sizeof line, "/proc/driver/nvidia/version");
    if (c->card) {
        uint64_t taken = c->card->total_bytes - min_of(c->card->free_bytes, c->card->total_bytes);
        struct finding *f = say(d, "card", why, "%s, %s of its memory in use", c->card->name,
                                human_bytes((double)taken, text, sizeof text));
        if (taken > max_of(c->card->total_bytes / 10, GIB))
            set_poor(f, "nvidia-smi   lists who uses it; a desktop can run on another card");
    } else if (present && !driver) {
        set_poor(say(d, "card", why, "%s has no driver", device),
                 "sudo apt install nvidia-driver   (Ubuntu: sudo ubuntu-drivers install)");
    } else if (present || driver) {
        set_poor(say(d, "card", why, "not used: %s", c->no_card ? c->no_card : "no library"),
                 c->card_code ? "nvidia-smi   tells whether driver and card answer"
                              : "make CUDA=1 && make install   builds the library for it");
    } else {
        say(d, "card", why, "none from NVIDIA: the CPU computes everything");
    }
    if (present)
        look_link(d, c, device);
}

/* ---- disk ---- */

static void look_disk(struct doctor *d, const struct doctor_case *c)
{
    static const char why[] = "it is the time to load, and where a model does not fit, the speed";
    char line[32], rate[64] = "";
    if (!c->model)
        return;
    /* a partition has its queue in the folder above, that of the disk */
    bool known = read_line(c, line, sizeof line, "/sys/dev/block/%u:%u/queue/rotational",
                           c->disk_major, c->disk_minor) ||
                 read_line(c, line, sizeof line, "/sys/dev/block/%u:%u/../queue/rotational",
                           c->disk_major, c->disk_minor);
    if (c->disk_gb_s > 0)
        snprintf(rate, sizeof rate, ", %.2f GB/s with one reader", c->disk_gb_s);
    /* Virtual disks often claim to spin; only how fast they read tells. */
    bool spins = known && atoi(line), measured = c->disk_gb_s > 0;
    bool slow = spins && measured && c->disk_gb_s < FASTEST_SPINNING_GB_S;
    const char *kind = !known ? "of unknown kind" : slow ? "spins"
                       : spins ? "claims to spin" : "does not spin";
    struct finding *f = say(d, "model's disk", why, "%s%s", kind, rate);
    if (slow)
        set_poor(f, "move the model to a solid-state disk, best one on NVMe");
    else if (!measured && (!known || spins))
        set_unknown(f, "");
}

void doctor_look(struct doctor *d, const struct doctor_case *c)
{
    d->n = 0;
    look_channels(d, c);
    look_module_speed(d, c);
    look_read_rate(d, c);
    look_huge_pages(d, c);
    look_nodes(d, c);
    look_memory_limit(d, c);
    look_swap(d, c);
    look_processors(d, c);
    look_governor(d, c);
    look_card(d, c);
    look_disk(d, c);
}
