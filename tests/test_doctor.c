/* tandem doctor on planted machines: a finding appears where its cause is and leaves with it. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/cli/doctor.h"
#include "tests/check.h"

static char root[] = "/tmp/tandem-doctor-XXXXXX";
static struct doctor found;

/* Write root + path with its folders. */
static void plant_bytes(const char *path, const void *bytes, size_t size)
{
    char full[512];
    snprintf(full, sizeof full, "%s%s", root, path);
    for (char *at = full + strlen(root) + 1; (at = strchr(at, '/')); at++) {
        *at = 0;
        mkdir(full, 0755);
        *at = '/';
    }
    FILE *f = fopen(full, "w");
    CHECK_MSG(f && fwrite(bytes, 1, size, f) == size, "cannot write %s", full);
    if (f)
        fclose(f);
}

static void plant(const char *path, const char *text)
{
    plant_bytes(path, text, strlen(text));
}

static void pull_out(const char *path)
{
    char full[512];
    snprintf(full, sizeof full, "%s%s", root, path);
    CHECK_MSG(remove(full) == 0, "cannot remove %s", full);
}

static struct cpus cpus;
static struct doctor_case here;

static void look(void)
{
    unsigned char allowed[CPUS_MAX] = { 1, 1, 1, 1 };
    cpus_read(&cpus, root, allowed);
    here.root = root;
    here.cpus = &cpus;
    memset(&found, 0xff, sizeof found);
    doctor_look(&found, &here);
}

static const struct finding *finding(const char *topic)
{
    static const struct finding none = { .topic = "", .why = "" };
    for (int i = 0; i < found.n; i++)
        if (strcmp(found.findings[i].topic, topic) == 0)
            return &found.findings[i];
    return &none;
}

/* Look, then compare state and text of a finding; poor ones say what to do, good ones nothing. */
static void expect(const char *topic, enum finding_state state, const char *text)
{
    look();
    const struct finding *f = finding(topic);
    CHECK_STR(f->topic, topic);
    CHECK_MSG(f->state == state, "%s: state %d, wanted %d: %s", topic, f->state, state, f->found);
    CHECK_MSG(strstr(f->found, text) != NULL, "%s: found \"%s\", wanted \"%s\"", topic, f->found,
              text);
    CHECK_MSG(*f->why, "%s has no reason", topic);
    CHECK(state != FINDING_POOR || *f->mend);
    CHECK(state != FINDING_GOOD || (!*f->mend && !*f->gain));
}

static void expect_gain(const char *topic, const char *text)
{
    const struct finding *f = finding(topic);
    CHECK_MSG(*text ? strstr(f->gain, text) != NULL : !*f->gain, "%s: gain \"%s\", wanted \"%s\"",
              topic, f->gain, text);
}

static void expect_absent(const char *topic)
{
    look();
    CHECK_MSG(!*finding(topic)->topic, "%s is there", topic);
}

static void test_bare(void)
{
    check_case("an empty root: nothing is poor, nothing fails");
    look();
    for (int i = 0; i < found.n; i++)
        CHECK_MSG(found.findings[i].state != FINDING_POOR, "%s", found.findings[i].topic);
    expect("memory channels", FINDING_UNKNOWN, "");
    expect("memory reading", FINDING_UNKNOWN, "not measured");
    expect("CPU governor", FINDING_UNKNOWN, "");
    expect("card", FINDING_GOOD, "none");
    expect_absent("swap");
    expect_absent("model's disk");
}

#define MODULE "/sys/firmware/dmi/entries/17-0/raw"
#define MC "/sys/devices/system/edac/mc/"
static void test_memory(void)
{
    check_case("memory channels");
    plant(MC "mc0/max_location", "channel 1 slot 1 \n");
    plant(MC "mc1/max_location", "channel 1 slot 1 \n");
    plant(MC "mc0/dimm0/dimm_location", "channel 0 slot 0 \n");
    plant(MC "mc0/dimm0/dimm_mem_type", "Registered-DDR5\n");
    plant(MC "mc0/dimm1/dimm_location", "channel 0 slot 1 \n");
    plant(MC "mc0/dimm2/dimm_location", "channel 1 slot 0 \n");
    plant(MC "mc1/rank0/dimm_location", "csrow 0 channel 0 \n");
    expect("memory channels", FINDING_POOR, "3 of 4 hold memory, Registered-DDR5");
    expect_gain("memory channels", "up to 33 %");
    plant(MC "mc1/rank1/dimm_location", "csrow 0 channel 1 \n");
    expect("memory channels", FINDING_GOOD, "4 of 4");

    check_case("memory speed");
    unsigned char record[0x22] = { 17, sizeof record, [0x0d] = 0x40, [0x15] = 0x80, [0x16] = 0x16,
                                   [0x20] = 0xc0, [0x21] = 0x12 };
    expect_absent("memory speed");
    plant_bytes(MODULE, record, sizeof record);
    expect("memory speed", FINDING_POOR, "4800 MT/s, made for 5760");
    expect_gain("memory speed", "up to 20 %");
    memcpy(record + 0x20, record + 0x15, 2);
    plant_bytes(MODULE, record, sizeof record);
    expect("memory speed", FINDING_GOOD, "5760 MT/s");
    record[0x0d] = 0;
    plant_bytes(MODULE, record, sizeof record);
    expect_absent("memory speed"); /* an empty slot */

    check_case("measured rate");
    struct machine m = { .dram_gb_s = 61.3, .best_threads = 4, .enough_threads = 3,
                         .huge_share = 1 };
    here.machine = &m;
    expect("memory reading", FINDING_GOOD, "61.3 GB/s measured with 4 threads");
    expect("processor limit", FINDING_GOOD, "reading memory takes 3");
    here.machine = NULL;

    check_case("huge pages");
    const char *thp = "/sys/kernel/mm/transparent_hugepage/enabled";
    plant(thp, "always madvise [never]\n");
    expect("huge pages", FINDING_POOR, "off");
    expect_gain("huge pages", "");
    plant(thp, "always [madvise] never\n");
    expect("huge pages", FINDING_GOOD, "when asked");
    m.huge_share = 0.03;
    here.machine = &m;
    expect("huge pages", FINDING_POOR, "given for 3 %");
    m.huge_share = NAN;
    expect("huge pages", FINDING_GOOD, "when asked");
    here.machine = NULL;

    check_case("memory nodes");
    plant("/sys/devices/system/node/node0/meminfo", "Node 0 MemTotal:       1000000 kB\n");
    plant("/sys/devices/system/node/node0/cpulist", "0-1\n");
    plant("/proc/sys/kernel/numa_balancing", "1\n");
    expect("memory nodes", FINDING_GOOD, "1, with");
    expect_absent("page migration");
    plant("/sys/devices/system/node/node1/meminfo", "Node 1 MemTotal:        500000 kB\n");
    plant("/sys/devices/system/node/node1/cpulist", "\n");
    expect("memory nodes", FINDING_GOOD, "1, with");
    plant("/sys/devices/system/node/node1/cpulist", "2-3\n");
    expect("memory nodes", FINDING_POOR, "2, ");
    expect("page migration", FINDING_POOR, "on");
    plant("/sys/devices/system/node/node1/meminfo", "Node 1 MemTotal:        990000 kB\n");
    plant("/proc/sys/kernel/numa_balancing", "0\n");
    expect("memory nodes", FINDING_GOOD, "2, ");
    expect("page migration", FINDING_GOOD, "off");
}

static void meminfo(long swap, long unused)
{
    char text[256];
    snprintf(text, sizeof text, "MemTotal: 64000000 kB\nMemAvailable: 60000000 kB\n"
             "SwapTotal: %ld kB\nSwapFree: %ld kB\n", swap, unused);
    plant("/proc/meminfo", text);
}

static void test_limits(void)
{
    check_case("swap and locked memory");
    plant("/proc/self/limits", "Limit  Soft Limit  Hard Limit  Units\n"
                               "Max locked memory         8388608    8388608    bytes\n");
    meminfo(0, 0);
    expect("swap", FINDING_GOOD, "none");
    expect_absent("locked memory");
    meminfo(8000000, 8000000);
    expect("swap", FINDING_GOOD, "in use");
    expect("locked memory", FINDING_POOR, "8.0 MiB");
    meminfo(8000000, 4000000);
    expect("swap", FINDING_POOR, "3.8 GiB in use");
    plant("/proc/self/limits", "Max locked memory         unlimited  unlimited  bytes\n");
    expect("locked memory", FINDING_GOOD, "no limit");

    check_case("control groups");
    expect("memory limit", FINDING_GOOD, "none");
    expect("processor limit", FINDING_GOOD, "4 cores");
    plant("/proc/self/cgroup", "0::/box\n");
    plant("/sys/fs/cgroup/box/memory.max", "8589934592\n");
    plant("/sys/fs/cgroup/box/memory.current", "0\n");
    plant("/sys/fs/cgroup/box/cpu.max", "200000 100000\n");
    expect("memory limit", FINDING_POOR, "leaves 8.0 GiB of 57.2 GiB");
    expect_gain("memory limit", "49.2 GiB");
    expect("processor limit", FINDING_POOR, "2 of 4 cores");
    expect_gain("processor limit", "2.0 times");
    plant("/sys/fs/cgroup/box/memory.max", "max\n");
    plant("/sys/fs/cgroup/box/cpu.max", "max 100000\n");
    expect("memory limit", FINDING_GOOD, "none");
    expect("processor limit", FINDING_GOOD, "4 cores");
}

#define FREQ(n) "/sys/devices/system/cpu/cpu" #n "/cpufreq/"
static void test_processors(void)
{
    check_case("governor");
    plant(FREQ(0) "scaling_governor", "performance\n");
    plant(FREQ(1) "scaling_governor", "schedutil\n");
    expect("CPU governor", FINDING_POOR, "schedutil on 1 of 2 processors");
    expect_gain("CPU governor", "");
    plant(FREQ(1) "scaling_driver", "intel_pstate\n");
    plant(FREQ(1) "scaling_governor", "powersave\n");
    plant(FREQ(1) "energy_performance_preference", "balance_performance\n");
    expect("CPU governor", FINDING_GOOD, "performance");
    plant(FREQ(1) "energy_performance_preference", "balance_power\n");
    expect("CPU governor", FINDING_POOR, "balance_power on 1 of 2");
    plant(FREQ(1) "scaling_governor", "performance\n");
    expect("CPU governor", FINDING_GOOD, "performance");

    check_case("SMT is told, and is no fault");
    plant("/sys/devices/system/cpu/smt/active", "1\n");
    expect("SMT", FINDING_GOOD, "on; one worker per core");
    plant("/sys/devices/system/cpu/smt/active", "0\n");
    expect("SMT", FINDING_GOOD, "off");
}

#define CARD "/sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0/"
static void test_card(void)
{
    char link_path[256];
    check_case("driver and library");
    plant(CARD "vendor", "0x10de\n");
    plant(CARD "class", "0x030000\n");
    plant("/sys/bus/pci/devices/none", "");
    snprintf(link_path, sizeof link_path, "%s/sys/bus/pci/devices/0000:01:00.0", root);
    CHECK(symlink("../../../devices/pci0000:00/0000:00:01.0/0000:01:00.0", link_path) == 0);
    expect("card", FINDING_POOR, "0000:01:00.0 has no driver");
    expect_absent("card's link");
    plant("/proc/driver/nvidia/version", "NVRM version: 580\n");
    here.no_card = "no GPU code installed";
    expect("card", FINDING_POOR, "not used: no GPU code installed");
    CHECK(strstr(finding("card")->mend, "make CUDA=1") != NULL);
    here.card_code = true;
    expect("card", FINDING_POOR, "not used");
    CHECK(strstr(finding("card")->mend, "nvidia-smi") != NULL);
    struct gpu_info card = { .name = "RTX", .pci = "0000:01:00.0", .total_bytes = 24ull << 30,
                             .free_bytes = 18ull << 30 };
    here.card = &card;
    expect("card", FINDING_POOR, "RTX, 6.0 GiB of its memory in use");
    card.free_bytes = 23ull << 30;
    expect("card", FINDING_GOOD, "1.0 GiB");

    check_case("link");
    plant(CARD "current_link_width", "8\n");
    plant(CARD "max_link_width", "16\n");
    plant(CARD "current_link_speed", "2.5 GT/s PCIe\n"); /* at rest: not held against it */
    plant(CARD "max_link_speed", "16.0 GT/s PCIe\n");
    expect("card's link", FINDING_POOR, "8 of 16 lanes");
    expect_gain("card's link", "2.0 times");
    plant(CARD "current_link_width", "16\n");
    expect("card's link", FINDING_GOOD, "16 of 16 lanes");
    plant(CARD "../max_link_speed", "8.0 GT/s PCIe\n");
    expect("card's link", FINDING_POOR, "8.0 GT/s of the slot, 16.0 of the card");
    plant(CARD "../max_link_speed", "32.0 GT/s PCIe\n");
    expect("card's link", FINDING_GOOD, "16 of 16 lanes");

    check_case("another maker's card is none of ours");
    here.card = NULL;
    pull_out("/proc/driver/nvidia/version");
    plant(CARD "vendor", "0x1002\n");
    expect("card", FINDING_GOOD, "none");
    expect_absent("card's link");
}

static void test_disk(void)
{
    check_case("the model's disk, a partition of it too");
    here.model = "v3.gguf";
    here.disk_major = 8;
    here.disk_minor = 1;
    expect("model's disk", FINDING_UNKNOWN, "unknown");
    here.disk_gb_s = 0.15;
    plant("/sys/dev/block/8:1/x", "");
    plant("/sys/dev/block/queue/rotational", "1\n");
    expect("model's disk", FINDING_POOR, "spins, 0.15 GB/s with one reader");
    here.disk_gb_s = 2;
    expect("model's disk", FINDING_GOOD, "claims to spin, 2.00 GB/s");
    here.disk_gb_s = 0;
    expect("model's disk", FINDING_UNKNOWN, "claims to spin");
    here.disk_gb_s = 0.15;
    plant("/sys/dev/block/8:1/queue/rotational", "0\n");
    expect("model's disk", FINDING_GOOD, "does not spin");
}

int main(void)
{
    if (!mkdtemp(root)) {
        perror(root);
        return 1;
    }
    test_bare();
    test_memory();
    test_limits();
    test_processors();
    test_card();
    test_disk();
    char command[64];
    snprintf(command, sizeof command, "rm -rf %s", root);
    CHECK(system(command) == 0);
    return check_finish();
}
