#include "src/model/memory.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "src/base/util.h"

#define PATH_SIZE 4096

/* First number of a small file; false when it cannot be read or says "max". */
static bool read_number(const char *folder, const char *name, uint64_t *value)
{
    char path[PATH_SIZE + 64];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "re");
    bool ok = f && fscanf(f, "%" SCNu64, value) == 1;
    if (f)
        fclose(f);
    return ok;
}

/* The number behind "label" in a file of "label number" lines. */
static bool read_labelled(const char *path, const char *label, uint64_t *value)
{
    char line[256], found[128];
    bool ok = false;
    FILE *f = fopen(path, "re");
    while (f && !ok && fgets(line, sizeof line, f))
        ok = sscanf(line, "%127s %" SCNu64, found, value) == 2 && strcmp(found, label) == 0;
    if (f)
        fclose(f);
    return ok;
}

/* What one group leaves: limit - usage + file pages that can be dropped. */
static uint64_t group_left(const char *folder, const char *limit_name, const char *usage_name)
{
    uint64_t limit, usage, cache = 0;
    char stat[PATH_SIZE + 64];
    if (!read_number(folder, limit_name, &limit) || !read_number(folder, usage_name, &usage))
        return UINT64_MAX;
    snprintf(stat, sizeof stat, "%s/memory.stat", folder);
    if (!read_labelled(stat, "inactive_file", &cache))
        cache = 0;
    usage = usage > cache ? usage - cache : 0;
    return limit > usage ? limit - usage : 0;
}

/* The tightest of a group and all groups above it. */
static uint64_t groups_left(const char *root, const char *group, const char *limit_name,
                            const char *usage_name)
{
    char folder[PATH_SIZE];
    snprintf(folder, sizeof folder, "%s%s", root, group);
    uint64_t least = UINT64_MAX;
    for (;;) {
        uint64_t left = group_left(folder, limit_name, usage_name);
        least = min_of(least, left);
        char *slash = strrchr(folder, '/');
        if (!slash || strlen(folder) <= strlen(root))
            return least;
        *slash = 0;
    }
}

/* Lines of /proc/self/cgroup: "0::/path" for version 2, "N:memory:/path" for version 1. */
static uint64_t cgroup_left(const char *root)
{
    char line[PATH_SIZE], path[PATH_SIZE], v1[PATH_SIZE], v2[PATH_SIZE];
    uint64_t least = UINT64_MAX;
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    snprintf(v1, sizeof v1, "%s/sys/fs/cgroup/memory", root);
    snprintf(v2, sizeof v2, "%s/sys/fs/cgroup", root);
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = 0;
        char *names = strchr(line, ':');
        char *group = names ? strchr(names + 1, ':') : NULL;
        if (!group)
            continue;
        *group++ = 0;
        uint64_t left = UINT64_MAX;
        if (names[1] == 0)
            left = groups_left(v2, group, "memory.max", "memory.current");
        else if (strstr(names + 1, "memory"))
            left = groups_left(v1, group, "memory.limit_in_bytes", "memory.usage_in_bytes");
        least = min_of(least, left);
    }
    if (f)
        fclose(f);
    return least;
}

struct memory_left memory_left(const char *root)
{
    char path[PATH_SIZE];
    uint64_t kib;
    struct memory_left left = { UINT64_MAX, cgroup_left(root) };
    snprintf(path, sizeof path, "%s/proc/meminfo", root);
    if (read_labelled(path, "MemAvailable:", &kib))
        left.system = kib * 1024;
    return left;
}

uint64_t memory_available(void)
{
    struct memory_left left = memory_left("");
    return min_of(left.system, left.group);
}
