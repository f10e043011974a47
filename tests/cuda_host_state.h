/* The state of the emulated card, for the runtime (cuda_host_api.cc) and for tests, which set what
 * shall fail (cuda_host_hooks.cc); its streams, events and graphs (cuda_host_graphs.cc). One card,
 * one state. */
#ifndef TANDEM_TESTS_CUDA_HOST_STATE_H
#define TANDEM_TESTS_CUDA_HOST_STATE_H

#include <stdlib.h>
#include <string.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "tests/cuda_host_block.h"

namespace cuda_host {

typedef std::function<void()> work;
struct operation {
    work run;
    bool calls_host = false;
};

typedef std::vector<operation> work_list;

const int64_t NEVER = INT64_MIN;

inline std::mutex lock; /* protects everything below that is not atomic */
inline std::map<std::string, uint64_t> launches;
struct memory {
    size_t bytes;
    bool on_device; /* else pinned */
};
inline std::map<void *, memory> blocks;
inline std::map<const void *, size_t> shared_asked; /* of kernels that may have more than is usual */
inline std::set<const void *> loaded;               /* kernels */
inline std::string message;
inline uint64_t bytes_in_use;
inline bool quiet;
inline std::atomic<uint64_t> total_memory{ 0 };
inline std::atomic<uint64_t> thread_order{ 0 };
inline std::atomic<int64_t> allocs_left{ -1 }, launches_left{ -1 }, until_hang{ NEVER };
inline std::atomic<int> n_busy{ 0 }; /* streams at work */
inline std::atomic<int> n_calls{ 0 }; /* calls of the host that run */
inline std::atomic<bool> hangs{ false }, refuse_capture{ false };
inline std::atomic<uint64_t> in_vain{ 0 }, replays{ 0 };
inline std::atomic<int> device_error{ cudaSuccess }; /* sticky */
inline thread_local cudaError_t last_error = cudaSuccess;

inline cudaError_t failed(cudaError_t e)
{
    last_error = e;
    return e;
}

inline cudaError_t status()
{
    cudaError_t e = (cudaError_t)device_error.load();
    return e == cudaSuccess ? cudaSuccess : failed(e);
}

/* Counts down to a failure that was asked for. */
inline bool is_due(std::atomic<int64_t> &left)
{
    int64_t n = left.load();
    while (n >= 0 && !left.compare_exchange_weak(n, n - 1)) {}
    return n == 0;
}

/* What a call that would wait for the card says while a kernel hangs. */
inline bool waits_in_vain()
{
    if (hangs)
        in_vain++;
    return hangs;
}

inline double now_ms()
{
    using namespace std::chrono;
    return duration<double, std::milli>(steady_clock::now().time_since_epoch()).count();
}

} // namespace cuda_host

struct cuda_host_graph {
    std::shared_ptr<cuda_host::work_list> operations{ new cuda_host::work_list };
    std::vector<cudaStream_t> members; /* streams that are being captured into it */
    bool spoilt = false;               /* by a call that is forbidden meanwhile */
};

struct cuda_host_event {
    std::mutex lock;
    std::condition_variable changed;
    uint64_t n_recorded = 0, n_done = 0;
    double ms = 0;
    struct cuda_host_graph *capture = NULL; /* recorded while captured: orders nothing but the graph */
};

struct cuda_host_stream {
    std::mutex lock;
    std::condition_variable changed;
    std::deque<cuda_host::operation> queue;
    bool busy = false, closing = false;
    struct cuda_host_graph *capture = NULL;
    std::thread thread;

    void run()
    {
        std::unique_lock<std::mutex> hold(lock);
        for (;;) {
            changed.wait(hold, [this] { return closing || !queue.empty(); });
            if (queue.empty())
                return;
            cuda_host::operation next = std::move(queue.front());
            queue.pop_front();
            busy = true;
            cuda_host::n_busy++;
            hold.unlock();
            while (cuda_host::n_calls > 0 && !next.calls_host && !cuda_host_device_failed() &&
                   !cuda_host::hangs)
                std::this_thread::sleep_for(std::chrono::microseconds(50));
            cuda_host::n_calls += next.calls_host;
            next.run();
            cuda_host::n_calls -= next.calls_host;
            next.run = nullptr;
            cuda_host::n_busy--;
            hold.lock();
            busy = false;
            changed.notify_all();
        }
    }
    void push(cuda_host::operation o)
    {
        if (capture) {
            capture->operations->push_back(std::move(o));
            return;
        }
        std::lock_guard<std::mutex> hold(lock);
        queue.push_back(std::move(o));
        changed.notify_all();
    }
};

namespace cuda_host {

/* The capture that this thread has begun: some calls are forbidden to it until it ends. */
inline thread_local struct cuda_host_graph *capturing;

inline cudaError_t spoil(struct cuda_host_graph *capture)
{
    capture->spoilt = true;
    return failed(cudaErrorStreamCaptureUnsupported);
}

/* Work is skipped once the device has failed. */
inline cudaError_t push(cudaStream_t s, work o, bool calls_host = false)
{
    if (status() != cudaSuccess)
        return status();
    s->push({ [o] {
        if (!cuda_host_device_failed())
            o();
    }, calls_host });
    return cudaSuccess;
}

/* Machines that one would rather not meet: TANDEM_GPU_EMULATE=
 *     none, old    without a card, with an old driver
 *     busy, full   a card that belongs to another program, or has no room to start
 *     small        a card with 16 MiB
 *     mute         a card that does not count its energy
 *     fail=N       allocation N from the start fails */
inline bool wished(const char *word)
{
    const char *wish = getenv("TANDEM_GPU_EMULATE");
    return wish && strcmp(wish, word) == 0;
}

} // namespace cuda_host

#endif
