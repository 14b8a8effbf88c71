// What was asked of the device and has not been done: it is done when the host waits for it and not before, in an order
// that the seed says wherever streams, events and graphs leave it open.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <vector>

namespace simt {

struct Operation;
using Work = std::shared_ptr<Operation>;

struct Operation {
    std::function<void()> run;
    std::vector<Work> after;
    bool done = false;
};

struct Stream {
    bool blocking;  // orders itself with the legacy default stream
    Work last;
};

class Queue {
    Stream legacy{true, nullptr};
    std::set<Stream *> streams;

    static void add(std::vector<Work> &after, const Work &work) {
        if (work && !work->done) after.push_back(work);
    }

   public:
    std::mt19937_64 random;

    // `run(i)` for each i below `count`, each after those of `after(i)`, otherwise in any order.
    void in_any_order(size_t count, const std::function<std::vector<size_t>(size_t)> &after,
                      const std::function<void(size_t)> &run) {
        std::vector<std::vector<size_t>> next(count);
        std::vector<size_t> missing(count), ready;
        for (size_t i = 0; i < count; i++) {
            auto first = after(i);
            missing[i] = first.size();
            for (size_t j : first) next[j].push_back(i);
            if (first.empty()) ready.push_back(i);
        }
        while (!ready.empty()) {
            std::swap(ready[random() % ready.size()], ready.back());
            size_t i = ready.back();
            ready.pop_back();
            run(i);
            for (size_t j : next[i])
                if (!--missing[j]) ready.push_back(j);
        }
    }

    Stream *create(bool blocking) { return *streams.insert(new Stream{blocking, nullptr}).first; }

    // Null where there is no such stream; `handle` null is the legacy default stream.
    Stream *find(Stream *handle) { return !handle ? &legacy : streams.count(handle) ? handle : nullptr; }

    void destroy(Stream *stream) {
        wait(stream->last);
        streams.erase(stream);
        delete stream;
    }

    // CUDA driver API, "Stream synchronization behavior": behind what the stream holds, and `also`.
    Work submit(Stream *stream, std::function<void()> run, const Work &also = nullptr) {
        auto work = std::make_shared<Operation>();
        work->run = std::move(run);
        add(work->after, stream->last);
        add(work->after, also);
        if (stream == &legacy) {
            for (Stream *s : streams)
                if (s->blocking) add(work->after, s->last);
        } else if (stream->blocking) {
            add(work->after, legacy.last);
        }
        return stream->last = work;
    }

    // Do `work` and what comes before it, nothing else.
    void wait(const Work &work) {
        if (!work || work->done) return;
        std::vector<Work> all{work};
        std::map<Operation *, size_t> places{{work.get(), 0}};
        for (size_t i = 0; i < all.size(); i++)
            for (size_t j = 0; j < all[i]->after.size(); j++) {
                Work before = all[i]->after[j];
                if (!before->done && places.emplace(before.get(), all.size()).second) all.push_back(before);
            }
        auto after = [&](size_t i) {
            std::vector<size_t> first;
            for (const Work &w : all[i]->after)
                if (!w->done) first.push_back(places.at(w.get()));
            return first;
        };
        in_any_order(all.size(), after, [&](size_t i) {
            all[i]->run();
            all[i]->done = true;
            all[i]->after.clear();
            all[i]->run = nullptr;
        });
    }

    void wait_for_all() {
        wait(legacy.last);
        for (Stream *s : std::set<Stream *>(streams)) wait(s->last);
    }
};

}  // namespace simt
