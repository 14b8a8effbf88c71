// The emulated driver's streams, events, launches and graphs: handles are addresses of the structures here.
#include <chrono>

#include "driver.h"

using simt::Launch;

struct CUDA_KERNEL_NODE_PARAMS {
    Function *function;
    unsigned size[6], shared;  // of the grid, of a block; dynamic memory
    void **parameters, **extra;
};

namespace {

struct Event {
    bool timing;
    Work work;
    std::shared_ptr<std::chrono::steady_clock::time_point> time;
};
struct Node {
    Launch launch;
    std::vector<size_t> after;
};
struct Graph {
    std::vector<std::unique_ptr<Node>> nodes;
};
struct Exec {
    std::vector<Node> nodes;
    std::vector<const Node *> origins;
    Work last;
};
std::set<Event *> events;
std::set<Graph *> graphs;
std::set<Exec *> execs;

CUresult node_launch(Launch *launch, const CUDA_KERNEL_NODE_PARAMS *p) {
    if (!p || p->extra) return CUDA_ERROR_INVALID_VALUE;
    return device.prepare(launch, p->function, p->size, p->shared, p->parameters);
}

CUresult instantiate(Exec **exec, Graph *graph) {
    if (!graphs.count(graph)) return CUDA_ERROR_INVALID_HANDLE;
    *exec = new Exec;
    for (auto &node : graph->nodes) {
        (*exec)->nodes.push_back(*node);
        (*exec)->origins.push_back(node.get());
    }
    execs.insert(*exec);
    return CUDA_SUCCESS;
}

}  // namespace

// ---- Streams and events ----

API cuStreamCreate(Stream **stream, unsigned flags) {
    READY;
    *stream = device.queue.create(!(flags & 1));
    return CUDA_SUCCESS;
}

API cuStreamDestroy_v2(Stream *stream) {
    READY;
    if (!stream || !device.queue.find(stream)) return CUDA_ERROR_INVALID_HANDLE;
    device.queue.destroy(stream);
    return CUDA_SUCCESS;
}

API cuStreamSynchronize(Stream *stream) {
    READY;
    return wait(stream);
}

API cuStreamIsCapturing(Stream *stream, int *status) {
    READY;
    *status = 0;
    return device.queue.find(stream) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

API cuStreamWaitEvent(Stream *stream, Event *event, unsigned) {
    READY;
    if (!events.count(event)) return CUDA_ERROR_INVALID_HANDLE;
    return add(stream, [] {}, nullptr, event->work);
}

API cuEventCreate(Event **event, unsigned flags) {
    READY;
    *event = *events.insert(new Event{!(flags & 2), nullptr, nullptr}).first;
    return CUDA_SUCCESS;
}

API cuEventDestroy_v2(Event *event) {
    READY;
    if (!events.erase(event)) return CUDA_ERROR_INVALID_HANDLE;
    delete event;
    return CUDA_SUCCESS;
}

API cuEventRecord(Event *event, Stream *stream) {
    READY;
    if (!events.count(event)) return CUDA_ERROR_INVALID_HANDLE;
    auto time = std::make_shared<std::chrono::steady_clock::time_point>();
    event->time = time;
    return add(stream, [time] { *time = std::chrono::steady_clock::now(); }, &event->work);
}

API cuEventSynchronize(Event *event) {
    READY;
    if (!events.count(event)) return CUDA_ERROR_INVALID_HANDLE;
    device.queue.wait(event->work);
    return device.lost;
}

API cuEventElapsedTime(float *milliseconds, Event *first, Event *last) {
    READY;
    if (!events.count(first) || !events.count(last)) return CUDA_ERROR_INVALID_HANDLE;
    if (!first->timing || !last->timing || !first->work || !last->work) return CUDA_ERROR_INVALID_HANDLE;
    if (!first->work->done || !last->work->done) return CUDA_ERROR_NOT_READY;
    *milliseconds = std::chrono::duration<float, std::milli>(*last->time - *first->time).count();
    return CUDA_SUCCESS;
}

// ---- Launches and graphs ----

API cuLaunchKernel(Function *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, Stream *stream, void **parameters, void **extra) {
    READY;
    Launch launch;
    CUDA_KERNEL_NODE_PARAMS p = {f, {gx, gy, gz, bx, by, bz}, shared, parameters, extra};
    CUresult result = node_launch(&launch, &p);
    return result ? result : add(stream, [launch] { device.run(launch); });
}

API cuGraphCreate(Graph **graph, unsigned) {
    READY;
    *graph = *graphs.insert(new Graph).first;
    return CUDA_SUCCESS;
}

API cuGraphAddKernelNode(Node **node, Graph *graph, Node *const *after, size_t count,
                         const CUDA_KERNEL_NODE_PARAMS *p) {
    READY;
    if (!graphs.count(graph)) return CUDA_ERROR_INVALID_HANDLE;
    auto got = std::make_unique<Node>();
    if (CUresult result = node_launch(&got->launch, p)) return result;
    for (size_t i = 0; i < count; i++) {
        size_t place = 0;
        while (place < graph->nodes.size() && graph->nodes[place].get() != after[i]) place++;
        bool twice = false;
        for (size_t other : got->after) twice |= other == place;
        if (place == graph->nodes.size() || twice) return CUDA_ERROR_INVALID_VALUE;
        got->after.push_back(place);
    }
    *node = got.get();
    graph->nodes.push_back(std::move(got));
    return CUDA_SUCCESS;
}

API cuGraphInstantiateWithFlags(Exec **exec, Graph *graph, unsigned long long) {
    READY;
    return instantiate(exec, graph);
}

API cuGraphInstantiate(Exec **exec, Graph *graph, Node **, char *, size_t) {
    READY;
    return instantiate(exec, graph);
}

API cuGraphInstantiate_v2(Exec **exec, Graph *graph, Node **, char *, size_t) {
    READY;
    return instantiate(exec, graph);
}

API cuGraphExecKernelNodeSetParams(Exec *exec, Node *node, const CUDA_KERNEL_NODE_PARAMS *p) {
    READY;
    if (!execs.count(exec)) return CUDA_ERROR_INVALID_HANDLE;
    for (size_t i = 0; i < exec->nodes.size(); i++)
        if (exec->origins[i] == node) return node_launch(&exec->nodes[i].launch, p);
    return CUDA_ERROR_INVALID_VALUE;
}

API cuGraphLaunch(Exec *exec, Stream *stream) {
    READY;
    if (!execs.count(exec)) return CUDA_ERROR_INVALID_HANDLE;
    auto nodes = exec->nodes;  // as they are now
    auto run = [nodes] {
        device.queue.in_any_order(
            nodes.size(), [&](size_t i) { return nodes[i].after; }, [&](size_t i) { device.run(nodes[i].launch); });
    };
    return add(stream, run, &exec->last, exec->last);  // a graph does not run beside itself
}

API cuGraphExecDestroy(Exec *exec) {
    READY;
    if (!execs.erase(exec)) return CUDA_ERROR_INVALID_HANDLE;
    delete exec;
    return CUDA_SUCCESS;
}

API cuGraphDestroy(Graph *graph) {
    READY;
    if (!graphs.erase(graph)) return CUDA_ERROR_INVALID_HANDLE;
    delete graph;
    return CUDA_SUCCESS;
}
