/* Events and graphs of the emulated runtime: a capture collects what its streams would do; a
 * launch of the graph does it as one piece. */
#include "tests/cuda_host_state.h"

using namespace cuda_host;

/* ---- events ---- */

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned)
{
    *e = NULL;
    if (status() != cudaSuccess)
        return status();
    *e = new cuda_host_event();
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t e)
{
    delete e;
    return status();
}

cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s)
{
    e->capture = s->capture;
    if (s->capture)
        return status();
    std::unique_lock<std::mutex> hold(e->lock);
    uint64_t n = ++e->n_recorded;
    hold.unlock();
    s->push({ [=] { /* also when the device has failed: somebody may wait */
        std::lock_guard<std::mutex> done(e->lock);
        e->n_done = n;
        e->ms = now_ms();
        e->changed.notify_all();
    } });
    return status();
}

cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned)
{
    if (e->capture) { /* joins the graph, whose operations run in the order they were recorded */
        if (!s->capture) {
            s->capture = e->capture;
            e->capture->members.push_back(s);
        }
        return status();
    }
    std::unique_lock<std::mutex> hold(e->lock);
    uint64_t n = e->n_recorded;
    hold.unlock();
    s->push({ [=] {
        std::unique_lock<std::mutex> wait(e->lock);
        e->changed.wait(wait, [=] { return e->n_done >= n; });
    } });
    return status();
}

cudaError_t cudaEventSynchronize(cudaEvent_t e)
{
    std::unique_lock<std::mutex> hold(e->lock);
    if (e->capture)
        return spoil(e->capture);
    uint64_t n = e->n_recorded;
    while (!hangs && e->n_done < n)
        e->changed.wait_for(hold, std::chrono::milliseconds(10));
    return waits_in_vain() ? failed(cudaErrorLaunchTimeout) : status();
}

cudaError_t cudaEventQuery(cudaEvent_t e)
{
    std::lock_guard<std::mutex> hold(e->lock);
    if (e->capture || capturing)
        return spoil(e->capture ? e->capture : capturing);
    if (status() != cudaSuccess)
        return status();
    return e->n_done == e->n_recorded ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to)
{
    *ms = (float)(to->ms - from->ms);
    return status();
}

/* ---- graphs ---- */

cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode)
{
    if (s->capture)
        return failed(cudaErrorStreamCaptureInvalidated);
    capturing = s->capture = new cuda_host_graph();
    s->capture->members.push_back(s);
    return status();
}

cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *graph)
{
    *graph = s->capture;
    if (!s->capture)
        return failed(cudaErrorStreamCaptureInvalidated);
    for (cudaStream_t member : (*graph)->members)
        member->capture = NULL;
    capturing = NULL;
    if ((*graph)->spoilt || refuse_capture) {
        delete *graph;
        *graph = NULL;
        return failed(cudaErrorStreamCaptureInvalidated);
    }
    return status();
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long)
{
    *exec = NULL;
    if (status() != cudaSuccess)
        return status();
    *exec = new cuda_host_graph();
    (*exec)->operations = graph->operations;
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t s)
{
    auto operations = exec->operations;
    replays++;
    return push(s, [operations] {
        for (auto &o : *operations) {
            n_calls += o.calls_host;
            o.run();
            n_calls -= o.calls_host;
        }
    });
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    delete graph;
    return status();
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    delete exec;
    return status();
}
