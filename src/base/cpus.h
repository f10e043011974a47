/* Which CPUs this process may use, best first, and which memory is near them.
 *
 * Read once at the first call, before any thread is pinned: the affinity mask of the process at
 * that moment, the topology in /sys, and the CPU quota of its cgroup (version 1 and 2). */
#ifndef TANDEM_BASE_CPUS_H
#define TANDEM_BASE_CPUS_H

#define CPUS_MAX 1024 /* processors beyond the first 1024 are ignored */
#define NODES_MAX 64  /* memory nodes likewise */

struct cpus {
    int n_cores;  /* physical performance cores, capped by the quota; at least 1 */
    int n_fast;     /* one processor of each performance core: the first of the list */
    int n_pinnable; /* workers that can have a processor of their own; at least 1 */
    int n_list;
    /* Processor numbers: one of each performance core, then their SMT siblings and the efficiency
     * cores. */
    short list[CPUS_MAX];
    /* NUMA nodes that have a processor of the list; at least 1, where nothing is known all is one. */
    int n_nodes;
    short node_id[NODES_MAX];        /* the system's number of each */
    unsigned char node_of[CPUS_MAX]; /* [processor number] index in node_id */
};

/* Processors for n <= n_list workers: spread evenly over the nodes, cores before siblings, and in
 * the order of the nodes, so that neighbours in work are neighbours in place. */
void cpus_choose(const struct cpus *c, int n, short *out);

/* The answer for this process; static storage. */
const struct cpus *cpus_usable(void);

/* The same computed from other folders, for tests: `root` is put in front of /sys and /proc,
 * allowed[i] says whether processor i is in the affinity mask. */
void cpus_read(struct cpus *c, const char *root, const unsigned char allowed[CPUS_MAX]);

#endif
