// What the instructions do, by the text and the tables of NVIDIA's "Parallel Thread Execution ISA" (titles of sections
// are those of version 8.x). The ISA's %laneid is `lane`, its groupID `lane >> 2`, its threadID_in_group `lane % 4`.
#include "simt.h"

namespace simt {
namespace {

// ---- "Matrix Fragments for mma.m8n8k16", "... mma.m16n8k16 with integer type", "... mma.m16n8k32" ----

struct Extent {
    int m, k;
};
constexpr int N = 8;

constexpr Extent extent(Shape shape) {
    return shape == Shape::m8n8k16 ? Extent{8, 16} : shape == Shape::m16n8k16 ? Extent{16, 16} : Extent{16, 32};
}

struct Place {
    int row, column;
};

// Element a_i of a lane, four to a register.
constexpr Place place_a(Shape shape, int lane, int i) {
    int group = lane >> 2, thread = lane % 4;
    switch (shape) {
        case Shape::m8n8k16: return {group, thread * 4 + i};
        case Shape::m16n8k16: return {i < 4 ? group : group + 8, thread * 4 + (i & 3)};
        default:
            return {(0 <= i && i < 4) || (8 <= i && i < 12) ? group : group + 8,
                    i < 8 ? thread * 4 + (i & 3) : thread * 4 + (i & 3) + 16};
    }
}

// Element b_i of a lane, four to a register; `column` is that of the k x 8 matrix B.
constexpr Place place_b(Shape shape, int lane, int i) {
    int group = lane >> 2, thread = lane % 4;
    if (shape == Shape::m16n8k32) return {i < 4 ? thread * 4 + (i & 3) : thread * 4 + (i & 3) + 16, group};
    return {thread * 4 + i, group};
}

// Element c_i or d_i of a lane, one to a register.
constexpr Place place_c(Shape shape, int lane, int i) {
    int group = lane >> 2, thread = lane % 4;
    if (shape == Shape::m8n8k16) return {group, thread * 2 + i};
    return {i < 2 ? group : group + 8, thread * 2 + (i & 1)};
}

int16_t element(uint32_t bits, int i, bool is_signed) {
    auto byte = uint8_t(bits >> (8 * i));
    return is_signed ? int8_t(byte) : byte;
}

// "Multiply-and-Accumulate Instruction: mma": d = a * b + c; without .satfinite sums wrap.
template <Shape shape>
void multiply_warp(Warp &warp, bool signed_a, bool signed_b) {
    constexpr Extent e = extent(shape);
    constexpr int A = e.m * e.k / WARP / 4, B = N * e.k / WARP / 4, C = e.m * N / WARP;
    int16_t a[e.m][e.k], b[N][e.k];  // b by columns
    for (int lane = 0; lane < WARP; lane++) {
        const uint32_t *in = warp.lanes[lane].request.in;
        for (int i = 0; i < A * 4; i++) {
            Place p = place_a(shape, lane, i);
            a[p.row][p.column] = element(in[i / 4], i % 4, signed_a);
        }
        for (int i = 0; i < B * 4; i++) {
            Place p = place_b(shape, lane, i);
            b[p.column][p.row] = element(in[A + i / 4], i % 4, signed_b);
        }
    }
    for (int lane = 0; lane < WARP; lane++) {
        const Request &request = warp.lanes[lane].request;
        for (int i = 0; i < C; i++) {
            Place p = place_c(shape, lane, i);
            int32_t sum = 0;
            for (int k = 0; k < e.k; k++) sum += a[p.row][k] * b[p.column][k];
            *request.out[i] = request.in[A + B + i] + uint32_t(sum);
        }
    }
}

void multiply_any(Warp &warp, uint32_t detail) {
    bool signed_a = detail & 1, signed_b = detail & 2;
    switch (Shape(detail >> 2)) {
        case Shape::m8n8k16: return multiply_warp<Shape::m8n8k16>(warp, signed_a, signed_b);
        case Shape::m16n8k16: return multiply_warp<Shape::m16n8k16>(warp, signed_a, signed_b);
        case Shape::m16n8k32: return multiply_warp<Shape::m16n8k32>(warp, signed_a, signed_b);
    }
}

// "Warp-level matrix load instruction: ldmatrix": lanes 8i to 8i+7 hold the addresses of the rows of matrix i; a row is
// 8 elements of 16 bits. Lane l gets elements 2 * (l % 4) and the next one of row l / 4, with .trans of column l / 4.
void load_warp(Warp &warp, uint32_t detail) {
    bool transposed = detail & 1;
    int count = int(detail >> 1);
    const uint8_t *rows[WARP];
    for (int lane = 0; lane < WARP; lane++) {
        simt_line = warp.lanes[lane].request.line;
        threadIdx.x = warp.lanes[lane].thread;
        // below .x4 the ISA wants valid addresses of all lanes for sm_75 and earlier
        rows[lane] = shared_at(warp.lanes[lane].request.in[0], 16, 16, "ldmatrix");
    }
    threadIdx.x = machine.lane->thread;
    for (int matrix = 0; matrix < count; matrix++)
        for (int lane = 0; lane < WARP; lane++) {
            uint16_t pair[2];
            for (int i = 0; i < 2; i++) {
                int row = lane / 4, column = 2 * (lane % 4) + i;
                const uint8_t *at =
                    transposed ? rows[8 * matrix + column] + 2 * row : rows[8 * matrix + row] + 2 * column;
                memcpy(&pair[i], at, 2);
            }
            *warp.lanes[lane].request.out[matrix] = pair[0] | uint32_t(pair[1]) << 16;
        }
}

// "Data Movement and Conversion Instructions: shfl.sync", its pseudocode. in: a, b, c, membermask; out: d, p.
void shuffle_warp(Warp &warp, uint32_t detail) {
    for (int lane = 0; lane < warp.count; lane++) {
        const Request &request = warp.lanes[lane].request;
        int bval = request.in[1] & 31, cval = request.in[2] & 31, mask = request.in[2] >> 8 & 31;
        int most = (lane & mask) | (cval & ~mask), least = lane & mask, j = 0;
        bool valid = false;
        switch (Shuffle(detail)) {
            case Shuffle::up: j = lane - bval, valid = j >= most; break;
            case Shuffle::down: j = lane + bval, valid = j <= most; break;
            case Shuffle::bfly: j = lane ^ bval, valid = j <= most; break;
            case Shuffle::idx: j = least | (bval & ~mask), valid = j <= most; break;
        }
        if (!valid) j = lane;
        if (j >= warp.count) fail("shfl reads lane %d, which does not exist", j);
        *request.out[0] = warp.lanes[j].request.in[0];
        *request.out[1] = valid;
    }
}

// Partial warps take part in what has a mask; every mask must name the lanes that there are.
void check_mask(const Warp &warp, int operand) {
    for (int lane = 0; lane < warp.count; lane++) {
        uint32_t mask = warp.lanes[lane].request.in[operand];
        if ((mask & warp.mask()) != warp.mask()) fail("mask %#x leaves out lanes that arrive", mask);
        if (mask != warp.mask() && mask != 0xffffffffu) fail("mask %#x names lanes that do not exist", mask);
    }
}

// ---- "Data Movement and Conversion Instructions: cp.async" and what waits for it ----

// A copy lands at the last moment that the ISA allows; its source is read then.
void land(const Copy &copy) {
    int line = simt_line;
    simt_line = copy.line;  // where a fault comes from
    memcpy(copy.to, copy.from, copy.read);
    memset(copy.to + copy.read, 0, copy.bytes - copy.read);
    simt_line = line;
}

void land_before(uint64_t group) {
    Lane &lane = *machine.lane;
    while (lane.landed < lane.copies.size() && lane.copies[lane.landed].group < group) land(lane.copies[lane.landed++]);
    if (lane.landed < lane.copies.size()) return;
    lane.copies.clear();
    lane.landed = 0;
}

}  // namespace

void execute(Warp &warp) {
    const Request &request = warp.lanes[0].request;
    switch (request.op) {
        case Op::multiply:
        case Op::load_matrix:
            if (warp.count != WARP) fail("%s in a warp of %d lanes", name(request.op), warp.count);
            return request.op == Op::multiply ? multiply_any(warp, request.detail) : load_warp(warp, request.detail);
        case Op::shuffle: return check_mask(warp, 3), shuffle_warp(warp, request.detail);
        case Op::sync_warp: return check_mask(warp, 0);
        default: return;
    }
}

void multiply(Shape shape, bool signed_a, bool signed_b, std::initializer_list<uint32_t *> d,
              std::initializer_list<uint32_t> abc) {
    uint32_t detail = uint32_t(shape) << 2 | uint32_t(signed_b) << 1 | uint32_t(signed_a);
    rendezvous(Op::multiply, detail, abc.begin(), int(abc.size()), d.begin(), int(d.size()));
}

void load_matrix(bool transposed, std::initializer_list<uint32_t *> d, uint32_t address) {
    uint32_t detail = uint32_t(d.size()) << 1 | uint32_t(transposed);
    rendezvous(Op::load_matrix, detail, &address, 1, d.begin(), int(d.size()));
}

uint32_t shuffle(Shuffle mode, uint32_t a, uint32_t b, uint32_t c, uint32_t mask, bool *valid) {
    uint32_t in[] = {a, b, c, mask}, d = 0, p = 0, *out[] = {&d, &p};
    rendezvous(Op::shuffle, uint32_t(mode), in, 4, out, 2);
    if (valid) *valid = p;
    return d;
}

void sync_warp(uint32_t mask) { rendezvous(Op::sync_warp, 0, &mask, 1, nullptr, 0); }

void sync_threads() { rendezvous(Op::barrier, 0, nullptr, 0, nullptr, 0); }

uint32_t active_mask() {
    int warp_first = machine.lane->thread / WARP * WARP, left = int(blockDim.x) - warp_first;
    return left >= WARP ? 0xffffffffu : (1u << left) - 1;
}

void copy_async(uint32_t to, const void *from, uint32_t bytes, uint32_t read) {
    if (read > bytes) fail("cp.async: src-size %u is more than cp-size %u", read, bytes);
    if (reinterpret_cast<uintptr_t>(from) % bytes) fail("cp.async: source %p is not aligned to %u bytes", from, bytes);
    auto source = static_cast<const uint8_t *>(from);
    if (source >= machine.shared && source < machine.shared + machine.shared_bytes)
        fail("cp.async: source %p is shared memory", from);
    uint8_t *target = shared_at(to, bytes, bytes, "cp.async");
    Lane &lane = *machine.lane;
    memset(target, int(draw() >> 24 & 255), bytes);  // from here on nobody may read it
    lane.copies.push_back({target, source, bytes, read, lane.groups, simt_line});
}

void commit_group() { machine.lane->groups++; }

void wait_group(uint32_t pending) {
    uint64_t groups = machine.lane->groups;
    if (groups > pending) land_before(groups - pending);
}

// "cp.async.wait_all is equivalent to: cp.async.commit_group; cp.async.wait_group 0;"
void wait_all() {
    commit_group();
    wait_group(0);
}

// ---- "Addresses as Operands": the shared window ----

uint32_t shared_address(const void *p) {
    auto at = static_cast<const uint8_t *>(p);
    if (at < machine.shared - SHARED_BORDER || at >= machine.shared + machine.shared_bytes + SHARED_BORDER)
        fail("%p is not in shared memory", p);
    return uint32_t(at - machine.shared) + WINDOW;
}

uint8_t *shared_at(uint32_t address, uint32_t bytes, uint32_t alignment, const char *instruction) {
    uint32_t offset = address - WINDOW;
    if (address < WINDOW || offset > machine.shared_bytes || machine.shared_bytes - offset < bytes)
        fail("%s: %u bytes at %d of %u bytes of shared memory", instruction, bytes, int(offset), machine.shared_bytes);
    if (offset % alignment) fail("%s: shared offset %u is not aligned to %u bytes", instruction, offset, alignment);
    return machine.shared + offset;
}

}  // namespace simt
