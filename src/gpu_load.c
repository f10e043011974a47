#include "src/gpu_load.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "src/base/mem.h"

#ifndef TANDEM_PREFIX
#define TANDEM_PREFIX "/usr/local"
#endif

#define FILE_NAME "tandem-gpu.so"

static void fill_tables(struct gpu_tables *t)
{
    memcpy(t->iq2xxs, quant_grid_iq2xxs, sizeof t->iq2xxs);
    memcpy(t->iq2xs, quant_grid_iq2xs, sizeof t->iq2xs);
    memcpy(t->iq2s, quant_grid_iq2s, sizeof t->iq2s);
    memcpy(t->iq1, quant_grid_iq1, sizeof t->iq1);
    memcpy(t->iq3xxs, quant_grid_iq3xxs, sizeof t->iq3xxs);
    memcpy(t->iq3s, quant_grid_iq3s, sizeof t->iq3s);
    memcpy(t->signs, quant_sign_bytes, sizeof t->signs);
}

static const struct gpu_host host = {
    .error_set = error_set,
    .mem_alloc = mem_alloc,
    .mem_free = mem_free,
    .quant_traits = quant_traits,
    .fill_tables = fill_tables,
};

static const struct gpu_library *open_file(const char *path, struct error *err)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        fail(err, ERR_DEVICE, "GPU library: %s", dlerror());
        return NULL;
    }
    __typeof__(tandem_gpu) *entry;
    *(void **)&entry = dlsym(library, GPU_SYMBOL);
    const struct gpu_library *found = entry ? entry(GPU_ABI, &host) : NULL;
    if (!found) {
        dlclose(library);
        fail(err, ERR_DEVICE, "GPU library %s belongs to another version of tandem", path);
    }
    return found;
}

/* Path of FILE_NAME beside the program. */
static bool beside_program(char *path, size_t size)
{
    char program[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    if (n <= 0)
        return false;
    program[n] = 0;
    char *slash = strrchr(program, '/');
    return slash && snprintf(path, size, "%.*s/" FILE_NAME, (int)(slash - program), program) <
                        (int)size;
}

const struct gpu_library *gpu_load(struct error *err)
{
    static const struct gpu_library *library;
    const char *wanted = getenv("TANDEM_GPU");
    char path[PATH_MAX];
    if (library)
        return library;
    if (wanted)
        library = open_file(wanted, err);
    else if (beside_program(path, sizeof path) && access(path, F_OK) == 0)
        library = open_file(path, err);
    else if (access(TANDEM_PREFIX "/lib/tandem/" FILE_NAME, F_OK) == 0)
        library = open_file(TANDEM_PREFIX "/lib/tandem/" FILE_NAME, err);
    else
        fail(err, ERR_DEVICE, "this tandem was built without GPU code (" FILE_NAME " is neither "
             "beside the program nor in " TANDEM_PREFIX "/lib/tandem)");
    return library;
}
