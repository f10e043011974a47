/* Energy that the processors and their memory take, from the counters of the running average power
 * limit (RAPL) as Linux shows them below /sys/class/powercap:
 *
 *     intel-rapl:0/           package-0          intel-rapl:0:1/   dram
 *         name, energy_uj (counts up), max_energy_range_uj (then begins again at 0)
 *
 * Counters cover the whole machine, other programs included. Reading them mostly needs rights that
 * an ordinary user lacks, and virtual machines have none. */
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
    double joules;     /* since energy_open */
    char reason[128];  /* why nothing is measured; empty when something is */
};

/* root is put in front of /sys, for tests; else "". False, with the reason, when no counter of a
 * package or of memory can be read. */
bool energy_open(struct energy *e, const char *root);

/* Joules since energy_open. To be called more often than the counters begin again: every few
 * minutes. */
double energy_read(struct energy *e);

#endif
