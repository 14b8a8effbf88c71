// Memory whose end is the end of a page: a read or write behind it faults. What lies around it is watched.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>

namespace simt {

class Guarded {
    static constexpr size_t PAGE = 4096, ALIGNMENT = 16;
    static constexpr uint8_t ZONE = 0xC5;
    uint8_t *map = nullptr, *begin = nullptr;
    size_t mapped = 0, bytes = 0, border;

   public:
    uint8_t *data = nullptr;

    // `size` bytes of `poison`, aligned to `alignment`, then less than `alignment` up to the `border`, of whole pages.
    Guarded(size_t size, uint8_t poison, size_t alignment = ALIGNMENT, size_t border = PAGE)
        : bytes(size), border(border) {
        size_t rounded = (size + alignment - 1) / alignment * alignment;
        size_t pages = (rounded + PAGE - 1) / PAGE * PAGE;
        mapped = pages + 2 * border;
        void *got = mmap(nullptr, mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (got == MAP_FAILED) throw std::bad_alloc();
        map = static_cast<uint8_t *>(got);
        begin = map + border;
        if (pages) mprotect(begin, pages, PROT_READ | PROT_WRITE);
        data = begin + pages - rounded;
        memset(begin, ZONE, data - begin);
        memset(data, poison, size);
        memset(data + size, ZONE, rounded - size);
    }
    Guarded(const Guarded &) = delete;
    Guarded &operator=(const Guarded &) = delete;
    ~Guarded() { munmap(map, mapped); }

    size_t size() const { return bytes; }

    bool holds(const void *p, size_t size) const {
        auto at = static_cast<const uint8_t *>(p);
        return at >= data && at <= data + bytes && size <= size_t(data + bytes - at);
    }

    // Whether nobody wrote into the bytes between the memory and its pages' borders.
    bool intact() const {
        for (const uint8_t *p = begin; p < data; p++)
            if (*p != ZONE) return false;
        for (const uint8_t *p = data + bytes; p < map + mapped - border; p++)
            if (*p != ZONE) return false;
        return true;
    }
};

}  // namespace simt
