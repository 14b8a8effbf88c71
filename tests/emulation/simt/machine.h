// The parts of the emulated multiprocessor that the scheduler and the instructions share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace simt {

constexpr int WARP = 32;
constexpr uint32_t WINDOW = 1 << 20;         // where shared memory begins in its 32-bit window: 0 is never valid
constexpr uint32_t SHARED_BORDER = 1 << 18;  // around it there is no other memory: addresses may be made, not used

// What all lanes of a warp must do together. `barrier` also waits for the other warps of the block.
enum class Op : uint8_t { leave, barrier, sync_warp, shuffle, load_matrix, multiply };

const char *name(Op op);

// What a lane asks for: lanes of a warp agree if `op`, `detail` (its variant) and `line` (where it stands) do.
struct Request {
    Op op;
    uint32_t detail;
    int line;
    uint32_t in[10];
    uint32_t *out[4];
};

struct Copy {  // a cp.async on its way
    uint8_t *to;
    const uint8_t *from;
    uint32_t bytes, read;  // what lies behind `read` bytes becomes zero
    uint64_t group;
    int line;
};

struct Lane {
    void *stack_pointer;
    int thread;
    Request request;
    std::vector<Copy> copies;  // those before `landed` are done
    size_t landed;
    uint64_t groups;  // committed so far
};

struct Warp {
    Lane *lanes;
    int count;           // of lanes: 32 but for the last warp of a block
    int first, step;     // the order in which its lanes run to the next rendezvous
    int position, lane;  // how many of them arrived; which runs
    bool waiting, left;  // at a barrier; all lanes have left the kernel

    uint32_t mask() const { return count == WARP ? 0xffffffffu : (1u << count) - 1; }
};

struct Machine {
    uint8_t *shared;        // of the block that runs
    uint32_t shared_bytes;  // static and dynamic
    Lane *lane;             // which runs
    uint64_t random;
};
extern Machine machine;

uint64_t draw();  // xorshift64*: the order of whatever the ISA leaves open

// The lane arrives; returns when all lanes of its warp have, and the work is done for all of them.
void rendezvous(Op op, uint32_t detail, const uint32_t *in, int ins, uint32_t *const *out, int outs);

// The launch ends here; the message names the kernel, the block, the thread and the line.
[[noreturn]] void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

uint8_t *shared_at(uint32_t address, uint32_t bytes, uint32_t alignment, const char *instruction);

// Does what the lanes of a warp have asked for (instructions.cpp).
void execute(Warp &warp);

}  // namespace simt
