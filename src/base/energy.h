/* Energy that the processors and their memory take, from the counters of the running average power
 * limit (RAPL) as Linux shows them below /sys/class/powercap:
 *
 *     intel-rapl:0/           package-0          intel-rapl:0:1/   dram
 *         name, energy_uj (counts up), max_energy_range_uj (then begins again at 0)
 *
 * Counters cover the whole machine, other programs included. Reading them mostly needs rights that
 * an ordinary user lacks, and virtual machines have none.
 *
 * A graphics card counts its own (with its memory): NVML, opened when it is asked for. */
#ifndef TANDEM_BASE_ENERGY_H
#define TANDEM_BASE_ENERGY_H

#include <stdbool.h>
#include <stdint.h>

#define ENERGY_MAX_ZONES 32

/* A meter; zeroed measures nothing. */
struct energy {
    struct energy_zone {
        char path[256]; /* of energy_uj */
        uint64_t last_uj, range_uj;
    } zones[ENERGY_MAX_ZONES];
    int n_zones;
    struct energy_gpu { /* library NULL: none */
        void *library, *card;
        int (*total)(void *card, unsigned long long *mj);
        int (*utilization)(void *card, unsigned percent[2]); /* of its kernels, of its memory */
        int (*shut_down)(void);
        uint64_t last_mj;
    } gpu;
    double joules;        /* since energy_open */
    char reason[128];     /* why nothing of the CPU is measured; empty when something is */
    char gpu_reason[128]; /* the same of the GPU, after energy_add_gpu */
};

/* root is put in front of /sys, for tests; else "". False, with the reason, when no counter of a
 * package or of memory can be read. */
bool energy_open(struct energy *e, const char *root);

/* Count the card at this PCI address ("0000:65:00.0") as well. library NULL: the driver's NVML. False,
 * with the reason: there is none, or this card does not count. */
bool energy_add_gpu(struct energy *e, const char *library, const char *pci);

/* Is anything counted? */
bool energy_readable(const struct energy *e);

/* Share of the last moments (up to a second) in which the card computed; NAN: not known. */
double energy_gpu_busy(const struct energy *e);

/* Accepts a zeroed meter; needed after energy_add_gpu. */
void energy_close(struct energy *e);

/* Joules since energy_open. To be called more often than the counters begin again: every few
 * minutes. */
double energy_read(struct energy *e);

#endif
