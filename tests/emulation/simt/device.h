// The device of the emulated driver: what it is, its memory, modules and the launch of their kernels.
#pragma once

#include <dlfcn.h>
#include <elf.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>

#include "memory.h"
#include "work.h"

enum CUresult : int {
    CUDA_SUCCESS = 0,
    CUDA_ERROR_INVALID_VALUE = 1,
    CUDA_ERROR_OUT_OF_MEMORY = 2,
    CUDA_ERROR_NOT_INITIALIZED = 3,
    CUDA_ERROR_NO_DEVICE = 100,
    CUDA_ERROR_INVALID_DEVICE = 101,
    CUDA_ERROR_INVALID_IMAGE = 200,
    CUDA_ERROR_INVALID_CONTEXT = 201,
    CUDA_ERROR_NO_BINARY_FOR_GPU = 209,
    CUDA_ERROR_INVALID_PTX = 218,
    CUDA_ERROR_INVALID_HANDLE = 400,
    CUDA_ERROR_NOT_FOUND = 500,
    CUDA_ERROR_NOT_READY = 600,
    CUDA_ERROR_LAUNCH_FAILED = 719,
};

namespace simt {

struct Description {  // simt_description of runtime.cpp
    int arch, most_threads, parameter_count;
    uint32_t static_shared;
    const size_t *parameters;
};

struct Module {
    void *library;
    int (*describe)(const char *, Description *);
    int (*launch)(const char *, uint32_t, uint32_t, uint32_t, void **, uint64_t);
    const char *(*message)();
};

struct Function {
    Module *module;
    std::string name;
    Description about;
    int most_dynamic;  // bytes of dynamic shared memory
};

struct Launch {
    Function *function;
    uint32_t grid, block, shared;
    std::vector<std::vector<uint8_t>> parameters;
};

struct Device {
    int arch = 90, processors = 132, count = 1;
    size_t memory = size_t(16) << 30, used = 0, launches = 0;
    bool initialized = false;
    pid_t process = 0;
    CUresult lost = CUDA_SUCCESS;  // once a kernel fails, so does all that follows
    std::map<uintptr_t, std::unique_ptr<Guarded>> allocations;
    std::set<Module *> modules;
    std::map<Function *, std::unique_ptr<Function>> functions;
    Queue queue;

    int most_shared() const {
        // CUDA C++ Programming Guide, technical specifications per compute capability; 1 KiB is reserved
        int kib = arch == 75 ? 64 : arch == 80 || arch == 87 ? 163 : arch < 90 || arch >= 120 ? 99 : 227;
        return kib << 10;
    }

    // The memory that holds all of it, or null.
    Guarded *holds(uintptr_t address, size_t bytes) const {
        auto next = allocations.upper_bound(address);
        if (next == allocations.begin()) return nullptr;
        Guarded *memory = std::prev(next)->second.get();
        return memory->holds(reinterpret_cast<void *>(address), bytes) ? memory : nullptr;
    }

    CUresult allocate(uintptr_t *address, size_t bytes) {
        if (!bytes) return CUDA_ERROR_INVALID_VALUE;
        if (bytes > memory - used) return CUDA_ERROR_OUT_OF_MEMORY;
        auto got = std::make_unique<Guarded>(bytes, uint8_t(queue.random() | 1));
        *address = reinterpret_cast<uintptr_t>(got->data);
        allocations[*address] = std::move(got);
        used += bytes;
        return CUDA_SUCCESS;
    }

    CUresult release(uintptr_t address) {
        auto found = allocations.find(address);
        if (found == allocations.end()) return CUDA_ERROR_INVALID_VALUE;
        queue.wait_for_all();
        used -= found->second->size();
        allocations.erase(found);
        return CUDA_SUCCESS;
    }

    CUresult load(Module **module, const void *image) {
        auto header = static_cast<const Elf64_Ehdr *>(image);
        if (memcmp(header->e_ident, ELFMAG, SELFMAG) || header->e_type != ET_DYN) return CUDA_ERROR_INVALID_IMAGE;
        size_t bytes = header->e_shoff + size_t(header->e_shentsize) * header->e_shnum;  // the headers come last
        char path[] = "/tmp/simt-image-XXXXXX";  // a name that no library had: dlopen would give that one again
        int file = mkstemp(path);
        if (file < 0) return CUDA_ERROR_OUT_OF_MEMORY;
        bool written = write(file, image, bytes) == ssize_t(bytes);
        close(file);
        void *library = written ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : nullptr;
        ::unlink(path);
        if (!library) return fprintf(stderr, "simt: %s\n", dlerror()), CUDA_ERROR_INVALID_IMAGE;
        auto architecture = reinterpret_cast<int (*)()>(dlsym(library, "simt_architecture"));
        if (!architecture) return dlclose(library), CUDA_ERROR_INVALID_IMAGE;
        int made_for = architecture();
        if (made_for < 0 && -made_for > arch) return dlclose(library), CUDA_ERROR_INVALID_PTX;
        if (made_for > 0 && (made_for / 10 != arch / 10 || made_for > arch))
            return dlclose(library), CUDA_ERROR_NO_BINARY_FOR_GPU;
        *module = new Module{library, nullptr, nullptr, nullptr};
        (*module)->describe = reinterpret_cast<decltype(Module::describe)>(dlsym(library, "simt_describe"));
        (*module)->launch = reinterpret_cast<decltype(Module::launch)>(dlsym(library, "simt_launch"));
        (*module)->message = reinterpret_cast<decltype(Module::message)>(dlsym(library, "simt_message"));
        modules.insert(*module);
        return CUDA_SUCCESS;
    }

    CUresult unload(Module *module) {
        if (!modules.erase(module)) return CUDA_ERROR_INVALID_HANDLE;
        queue.wait_for_all();
        for (auto f = functions.begin(); f != functions.end();)
            f = f->first->module == module ? functions.erase(f) : std::next(f);
        dlclose(module->library);
        delete module;
        return CUDA_SUCCESS;
    }

    CUresult find(Function **function, Module *module, const char *name) {
        constexpr int PLAIN_SHARED = 48 << 10;
        if (!modules.count(module)) return CUDA_ERROR_INVALID_HANDLE;
        auto got = std::make_unique<Function>(Function{module, name, {}, PLAIN_SHARED});
        if (module->describe(name, &got->about)) return CUDA_ERROR_NOT_FOUND;
        got->most_dynamic -= int(got->about.static_shared);
        *function = got.get();
        functions[*function] = std::move(got);
        return CUDA_SUCCESS;
    }

    // A launch as cuLaunchKernel checks it, with a copy of its parameters.
    CUresult prepare(Launch *launch, Function *f, const unsigned (&size)[6], unsigned shared, void **parameters) const {
        if (!functions.count(f)) return CUDA_ERROR_INVALID_HANDLE;
        bool flat = size[1] == 1 && size[2] == 1 && size[4] == 1 && size[5] == 1;
        if (!flat || !size[0] || size[0] > 0x7fffffffu || !size[3] || size[3] > unsigned(f->about.most_threads))
            return CUDA_ERROR_INVALID_VALUE;
        if (int64_t(shared) > f->most_dynamic || (!parameters && f->about.parameter_count))
            return CUDA_ERROR_INVALID_VALUE;
        *launch = {f, size[0], size[3], shared, {}};
        for (int i = 0; i < f->about.parameter_count; i++) {
            auto from = static_cast<const uint8_t *>(parameters[i]);
            launch->parameters.emplace_back(from, from + f->about.parameters[i]);
        }
        return CUDA_SUCCESS;
    }

    void run(const Launch &launch) {
        if (lost) return;
        std::vector<void *> parameters;
        for (auto &p : launch.parameters) parameters.push_back(const_cast<uint8_t *>(p.data()));
        const Function &f = *launch.function;
        launches++;
        int failed = f.module->launch(f.name.c_str(), launch.grid, launch.block, launch.shared, parameters.data(),
                                      queue.random());
        if (failed) return fail(f.module->message());
        for (auto &a : allocations)
            if (!a.second->intact()) return fail(("kernel " + f.name + ": writes next to an allocation").c_str());
    }

    void fail(const char *message) {
        fprintf(stderr, "simt: %s\n", message);
        lost = CUDA_ERROR_LAUNCH_FAILED;
    }
};

}  // namespace simt
