#include "src/base/cpus.h"

#include <ctype.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/pool.h"
#include "src/base/util.h"

/* First line of the file root + path without its newline; false when there is none. */
static bool read_line(const char *root, const char *path, char *line, size_t size)
{
    char full[1024];
    if (snprintf(full, sizeof full, "%s%s", root, path) >= (int)sizeof full)
        return false;
    FILE *f = fopen(full, "r");
    bool ok = f && fgets(line, (int)size, f);
    if (f)
        fclose(f);
    if (ok)
        line[strcspn(line, "\n")] = 0;
    return ok;
}

/* Mark the processors of a list such as "0-3,8,10-11". */
static void parse_list(const char *text, unsigned char in[CPUS_MAX])
{
    memset(in, 0, CPUS_MAX);
    while (isdigit((unsigned char)*text)) {
        char *end;
        long first = strtol(text, &end, 10), last = first;
        if (*end == '-')
            last = strtol(end + 1, &end, 10);
        for (long i = first; i <= last && i < CPUS_MAX; i++)
            in[i] = 1;
        text = *end == ',' ? end + 1 : end;
    }
}

/* Performance cores: on hybrid x86 the kernel lists them; elsewhere cpu_capacity ranks processors,
 * and those of at least half the best count. Without either file all are equal. */
static void find_fast(const char *root, const unsigned char allowed[CPUS_MAX],
                      unsigned char fast[CPUS_MAX])
{
    char line[4096], path[128];
    memcpy(fast, allowed, CPUS_MAX);
    if (read_line(root, "/sys/devices/cpu_atom/cpus", line, sizeof line) &&
        read_line(root, "/sys/devices/cpu_core/cpus", line, sizeof line)) {
        parse_list(line, fast);
        return;
    }
    long capacity[CPUS_MAX] = { 0 }, best = 0;
    for (int i = 0; i < CPUS_MAX; i++) {
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/cpu_capacity", i);
        if (!allowed[i] || !read_line(root, path, line, sizeof line))
            continue;
        capacity[i] = strtol(line, NULL, 10);
        best = max_of(best, capacity[i]);
    }
    for (int i = 0; best > 0 && i < CPUS_MAX; i++)
        fast[i] = 2 * capacity[i] >= best;
}

/* Is an allowed processor with a lower number on the same core? */
static bool has_lower_sibling(const char *root, int cpu, const unsigned char allowed[CPUS_MAX])
{
    char line[4096], path[128];
    unsigned char siblings[CPUS_MAX];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
    if (!read_line(root, path, line, sizeof line))
        return false;
    parse_list(line, siblings);
    for (int i = 0; i < cpu; i++) {
        if (siblings[i] && allowed[i])
            return true;
    }
    return false;
}

/* Whole CPUs of "quota period" in microseconds; 0: no limit. A share below one CPU counts as 1. */
static long whole_cpus(long quota, long period)
{
    return quota > 0 && period > 0 ? max_of(quota / period, 1) : 0;
}

static long quota_v2(const char *root, const char *folder)
{
    char path[768], line[128];
    snprintf(path, sizeof path, "/sys/fs/cgroup%s/cpu.max", folder);
    if (!read_line(root, path, line, sizeof line) || strncmp(line, "max", 3) == 0)
        return 0;
    char *end;
    long quota = strtol(line, &end, 10);
    return whole_cpus(quota, strtol(end, NULL, 10));
}

static long quota_v1(const char *root, const char *folder)
{
    static const char *const mounts[] = { "cpu", "cpu,cpuacct", "cpuacct,cpu" };
    char path[768], quota[64], period[64];
    for (size_t i = 0; i < ARRAY_LEN(mounts); i++) {
        snprintf(path, sizeof path, "/sys/fs/cgroup/%s%s/cpu.cfs_quota_us", mounts[i], folder);
        if (!read_line(root, path, quota, sizeof quota))
            continue;
        snprintf(path, sizeof path, "/sys/fs/cgroup/%s%s/cpu.cfs_period_us", mounts[i], folder);
        if (read_line(root, path, period, sizeof period))
            return whole_cpus(strtol(quota, NULL, 10), strtol(period, NULL, 10));
    }
    return 0;
}

/* The tightest limit of a folder and all above it. Inside a container the folder's name may be one
 * of the host and only the topmost exists. */
static long tightest(const char *root, char *folder, long (*quota)(const char *, const char *))
{
    long limit = 0;
    for (;;) {
        long here = quota(root, folder);
        if (here && (!limit || here < limit))
            limit = here;
        char *slash = strrchr(folder, '/');
        if (!slash)
            return limit;
        *slash = 0;
    }
}

/* Is `name` among the words of a comma-separated list? */
static bool has_word(const char *list, const char *name)
{
    size_t len = strlen(name);
    for (const char *word = list; word; word = strchr(word, ',')) {
        word += *word == ',';
        if (strncmp(word, name, len) == 0 && (word[len] == 0 || word[len] == ','))
            return true;
    }
    return false;
}

/* The limit that one line of /proc/self/cgroup leads to: "number:controllers:/folder", where
 * version 2 has number 0 and no controllers. */
static long line_limit(const char *root, char *line)
{
    char *controllers = strchr(line, ':');
    char *folder = controllers ? strchr(controllers + 1, ':') : NULL;
    if (!folder || strlen(folder) > 512)
        return 0;
    *controllers++ = 0;
    *folder++ = 0;
    if (strcmp(folder, "/") == 0)
        *folder = 0;
    if (strcmp(line, "0") == 0 && *controllers == 0)
        return tightest(root, folder, quota_v2);
    return has_word(controllers, "cpu") ? tightest(root, folder, quota_v1) : 0;
}

/* CPUs that the cgroups of this process grant; 0: no limit. */
static long cgroup_limit(const char *root)
{
    char path[1024], line[1024];
    long limit = 0;
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = 0;
        long here = line_limit(root, line);
        if (here && (!limit || here < limit))
            limit = here;
    }
    if (f)
        fclose(f);
    return limit;
}

/* The nodes of the processors in the list, numbered from 0 without gaps. */
static void find_nodes(struct cpus *c, const char *root)
{
    char line[4096], path[128];
    unsigned char online[CPUS_MAX] = { 0 }, here[CPUS_MAX];
    if (read_line(root, "/sys/devices/system/node/online", line, sizeof line))
        parse_list(line, online);
    for (int id = 0; id < CPUS_MAX && c->n_nodes < NODES_MAX; id++) {
        snprintf(path, sizeof path, "/sys/devices/system/node/node%d/cpulist", id);
        if (!online[id] || !read_line(root, path, line, sizeof line))
            continue;
        parse_list(line, here);
        bool used = false;
        for (int i = 0; i < c->n_list; i++) {
            if (!here[c->list[i]])
                continue;
            c->node_of[c->list[i]] = (unsigned char)c->n_nodes;
            used = true;
        }
        c->node_id[c->n_nodes] = (short)id;
        c->n_nodes += used;
    }
    c->n_nodes = max_of(c->n_nodes, 1);
}

void cpus_choose(const struct cpus *c, int n, short *out)
{
    unsigned char taken[CPUS_MAX] = { 0 };
    const int border[] = { 0, c->n_fast, c->n_list };
    for (int part = 0, left = n; part < 2; part++) {
        int next[NODES_MAX];
        for (int node = 0; node < c->n_nodes; node++)
            next[node] = border[part];
        for (int node = 0, empty = 0; left > 0 && empty < c->n_nodes; node = (node + 1) % c->n_nodes) {
            int *i = &next[node];
            while (*i < border[part + 1] && c->node_of[c->list[*i]] != node)
                ++*i;
            bool found = *i < border[part + 1];
            empty = found ? 0 : empty + 1;
            if (found) {
                taken[(*i)++] = 1;
                left--;
            }
        }
    }
    for (int node = 0, w = 0; node < c->n_nodes; node++)
        for (int i = 0; i < c->n_list; i++)
            if (taken[i] && c->node_of[c->list[i]] == node)
                out[w++] = c->list[i];
}

void cpus_read(struct cpus *c, const char *root, const unsigned char allowed[CPUS_MAX])
{
    unsigned char fast[CPUS_MAX], first[CPUS_MAX] = { 0 };
    memset(c, 0, sizeof *c);
    find_fast(root, allowed, fast);
    for (int i = 0; i < CPUS_MAX; i++) {
        if (allowed[i] && fast[i] && !has_lower_sibling(root, i, allowed)) {
            first[i] = 1;
            c->list[c->n_list++] = (short)i;
        }
    }
    c->n_cores = c->n_fast = c->n_list;
    for (int i = 0; i < CPUS_MAX; i++) {
        if (allowed[i] && !first[i])
            c->list[c->n_list++] = (short)i;
    }
    find_nodes(c, root);
    long limit = cgroup_limit(root);
    c->n_cores = max_of(c->n_cores ? c->n_cores : c->n_list, 1);
    c->n_pinnable = max_of(c->n_list, 1);
    if (limit) {
        c->n_cores = min_of(c->n_cores, (int)min_of(limit, CPUS_MAX));
        c->n_pinnable = min_of(c->n_pinnable, (int)min_of(limit, CPUS_MAX));
    }
}

static struct cpus usable;

static void read_usable(void)
{
    unsigned char allowed[CPUS_MAX] = { 0 };
    cpu_set_t mask;
    CPU_ZERO(&mask);
    if (sched_getaffinity(0, sizeof mask, &mask) == 0) {
        for (int i = 0; i < min_of(CPUS_MAX, CPU_SETSIZE); i++)
            allowed[i] = CPU_ISSET(i, &mask) != 0;
    }
    cpus_read(&usable, "", allowed);
}

const struct cpus *cpus_usable(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, read_usable);
    return &usable;
}

int cpu_usable_cores(void)
{
    return cpus_usable()->n_cores;
}
