#include "src/base/pages.h"

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define KIB 1024

/* A mapping begins with a line "from-to perms ..." in hexadecimal, then come lines "Name: n kB". */
bool pages_read(const char *path, size_t at, size_t bytes, struct pages *p)
{
    static const char *const huge[] = { "AnonHugePages", "ShmemPmdMapped", "FilePmdMapped",
                                        "Shared_Hugetlb", "Private_Hugetlb" };
    char line[512], name[64];
    bool inside = false;
    *p = (struct pages){ 0 };
    FILE *f = fopen(path, "re");
    if (!f)
        return false;
    while (fgets(line, sizeof line, f)) {
        uint64_t from, to, kib;
        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " ", &from, &to) == 2) {
            inside = from < at + bytes && to > at;
            continue;
        }
        if (!inside || sscanf(line, "%63[^:]: %" SCNu64 " kB", name, &kib) != 2)
            continue;
        if (strcmp(name, "Rss") == 0)
            p->resident_bytes += kib * KIB;
        for (size_t i = 0; i < sizeof huge / sizeof huge[0]; i++)
            if (strcmp(name, huge[i]) == 0)
                p->huge_bytes += kib * KIB;
    }
    fclose(f);
    /* Rss leaves out pages of hugetlbfs. */
    if (p->resident_bytes < p->huge_bytes)
        p->resident_bytes = p->huge_bytes;
    return p->resident_bytes > 0;
}

bool pages_of(const void *at, size_t bytes, struct pages *p)
{
    return pages_read("/proc/self/smaps", (size_t)(uintptr_t)at, bytes, p);
}
