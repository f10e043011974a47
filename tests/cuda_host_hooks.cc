/* What tests ask of the emulated card: to fail at a moment, to hang, to tell what it did. And the
 * calls of NVML that the program makes, which take the library for that of the driver. */
#include <stdio.h>
#include <string.h>

#include "tests/cuda_host_state.h"

using namespace cuda_host;

#define EXPORT extern "C" __attribute__((visibility("default")))

void cuda_host_stopped(const char *text)
{
    std::lock_guard<std::mutex> hold(lock);
    message = text;
    if (!quiet)
        fprintf(stderr, "emulated GPU: %s\n", text);
}

bool cuda_host_device_failed()
{
    return device_error.load() != cudaSuccess;
}

/* ---- failures on demand, and what happened ---- */

EXPORT void cuda_host_order(uint64_t order)
{
    thread_order = order;
}

EXPORT void cuda_host_fail_alloc(int64_t n)
{
    allocs_left = n;
}

EXPORT void cuda_host_fail_launch(int64_t n)
{
    launches_left = n;
}

EXPORT void cuda_host_hang(int64_t n)
{
    until_hang = n;
    if (n < 0)
        hangs = false;
}

EXPORT void cuda_host_refuse_capture(bool refuse)
{
    refuse_capture = refuse;
}

EXPORT uint64_t cuda_host_waited_in_vain(void)
{
    return in_vain;
}

EXPORT void cuda_host_lose(bool lost)
{
    device_error = lost ? cudaErrorIllegalAddress : cudaSuccess;
    last_error = cudaSuccess;
}

EXPORT uint64_t cuda_host_bytes(void)
{
    std::lock_guard<std::mutex> hold(lock);
    return bytes_in_use;
}

EXPORT void cuda_host_memory(uint64_t total)
{
    total_memory = total;
}

EXPORT uint64_t cuda_host_launches(const char *kernel)
{
    std::lock_guard<std::mutex> hold(lock);
    uint64_t n = 0;
    for (auto &l : launches)
        n += !kernel || l.first == kernel ? l.second : 0;
    return n;
}

EXPORT uint64_t cuda_host_replays(void)
{
    return replays;
}

EXPORT void cuda_host_quiet(bool on)
{
    std::lock_guard<std::mutex> hold(lock);
    quiet = on;
}

EXPORT const char *cuda_host_message(void)
{
    std::lock_guard<std::mutex> hold(lock);
    return message.c_str();
}

/* ---- NVML, as far as src/base/energy.c asks: the card takes 2.5 J from look to look ---- */

EXPORT int nvmlInit_v2(void)
{
    return 0;
}

EXPORT int nvmlShutdown(void)
{
    return 0;
}

EXPORT int nvmlDeviceGetHandleByPciBusId_v2(const char *pci, void **card)
{
    static int here;
    *card = &here;
    return strcmp(pci, "0000:00:00.0") == 0 ? 0 : 6;
}

EXPORT int nvmlDeviceGetTotalEnergyConsumption(void *, unsigned long long *mj)
{
    static std::atomic<unsigned long long> count{ 1000000 };
    *mj = count += 2500;
    return wished("mute") ? 3 : 0;
}

EXPORT int nvmlDeviceGetUtilizationRates(void *, unsigned *percent)
{
    percent[0] = 40;
    percent[1] = 20;
    return 0;
}
