"""CUDA C as TVM writes it, as C++ for the emulator: lines keep their numbers, which messages give."""

from __future__ import annotations

import re

from emulation.simt.ptx import rewrite_assembly

_KERNEL = re.compile(
    r'extern "C" __global__ void (?:__launch_bounds__\((?P<threads>\d+)[^)]*\) )?'
    r"(?P<name>\w+)\((?P<parameters>[^)]*)\)\s*\{"
)
_FIRST = re.compile(r'^(?:__forceinline__ __device__|__device__|extern "C" __global__)', re.MULTILINE)
_FUNCTION = re.compile(r"^(?:__forceinline__ )?__device__ [\w *]+?\b(\w+)\(", re.MULTILINE)
_ALIGNMENT = r"(?:(?:__align__|alignas)\((?P<alignment>\d+)\)\s*)?"
_SHARED = re.compile(
    rf"(?P<dynamic>extern\s+)?__shared__\s+{_ALIGNMENT}(?P<type>[\w ]+?)\s+(?P<name>\w+)\s*\[(?P<count>\d*)\]\s*;"
)
_BYTES = {
    **dict.fromkeys(("char", "signed char", "unsigned char", "uchar", "int8_t", "uint8_t", "bool"), 1),
    **dict.fromkeys(("short", "unsigned short", "ushort", "int16_t", "uint16_t", "char2", "uchar2"), 2),
    **dict.fromkeys(("int", "unsigned int", "uint", "int32_t", "uint32_t", "char4", "uchar4", "short2", "ushort2"), 4),
    **dict.fromkeys(("long long", "int64_t", "uint64_t", "int2", "uint2", "short4", "ushort4"), 8),
    **dict.fromkeys(("int4", "uint4"), 16),
}
_COLLECTIVES = ("__syncthreads", "__syncwarp", "__shfl_sync", "__shfl_xor_sync", "__shfl_down_sync", "__shfl_up_sync")
_DYNAMIC_ALIGNMENT = 128


def translate(source: str, arch: int = 0, name: str = "kernels.cu") -> str:
    """The C++ of all kernels of `source`, with the table `simt_kernels`; `arch` as `simt.h` says of `simt_arch`.

    Raises:
        ValueError: `source` holds no kernel, or shared memory of an unknown type.
        UnknownInstruction: it holds assembly that is not emulated.
    """
    first = _FIRST.search(source)
    kernels = list(_KERNEL.finditer(source))
    if first is None or not kernels:
        raise ValueError("a text without kernels")
    helpers_end = source.index('extern "C" __global__')
    line = 1 + source.count("\n", 0, helpers_end)
    helpers = source[first.start() : helpers_end]
    pieces = ['#include "simt.h"', f'#line {1 + source.count(chr(10), 0, first.start())} "{name}"']
    pieces += [rewrite_assembly(helpers)]
    marked = dict.fromkeys((*_FUNCTION.findall(helpers), *_COLLECTIVES))
    pieces += [f"#define {f}(...) (simt_line = __LINE__, {f}(__VA_ARGS__))" for f in marked]
    pieces += [f'#line {line} "{name}"']

    bodies, table, at = [], [], helpers_end
    for kernel, following in zip(kernels, [*kernels[1:], None], strict=True):
        end = len(source) if following is None else following.start()
        body, static = _place_shared(source[kernel.end() : end])
        bodies += [source[at : kernel.end()], body]
        table.append(_row(kernel, static))
        at = end
    pieces += [rewrite_assembly("".join(bodies))]
    rows = "\n".join(text for _, text in table)
    entries = "\n".join(text for text, _ in table)
    end_row = "{nullptr, nullptr, 0, 0, nullptr, 0},"
    pieces += [entries, f"const simt::Kernel simt_kernels[] = {{\n{rows}\n{end_row}\n}};"]
    return "\n".join([*pieces, f"const int simt_arch = {arch};", ""])


def _place_shared(body: str) -> tuple[str, int]:
    """A kernel's body with its `__shared__` arrays at their places in the block's memory, and the bytes of these."""
    offset = 0
    found = list(_SHARED.finditer(body))
    texts = []
    for array in sorted(found, key=lambda a: a["dynamic"] is not None):
        kind = array["type"].strip()
        if kind not in _BYTES:
            raise ValueError(f"shared memory of type {kind}")
        alignment = max(int(array["alignment"] or 1), _BYTES[kind])
        if array["dynamic"]:
            start = -(-offset // _DYNAMIC_ALIGNMENT) * _DYNAMIC_ALIGNMENT
            text = f"{kind} *const {array['name']} = reinterpret_cast<{kind} *>(simt::shared_memory({start}));"
        else:
            start = -(-offset // alignment) * alignment
            offset = start + _BYTES[kind] * int(array["count"])
            array_type = f"{kind} (&{array['name']})[{array['count']}]"
            pointer = f"reinterpret_cast<{kind} (*)[{array['count']}]>(simt::shared_memory({start}))"
            text = f"{array_type} = *{pointer};"
        texts.append((array.span(), text))
    for (begin, end), text in sorted(texts, reverse=True):
        body = body[:begin] + text + body[end:]
    return body, offset


def _row(kernel: re.Match[str], static: int) -> tuple[str, str]:
    """A kernel's entry, a function of the addresses of its parameters, and its row in the table."""
    name = kernel["name"]
    types = [re.sub(r"\b(?:__restrict__|const)\b|\w+\s*$", "", p).strip() for p in kernel["parameters"].split(",")]
    types = [t for t in types if t]
    arguments = ", ".join(f"*static_cast<{t} *>(p[{i}])" for i, t in enumerate(types))
    sizes = ", ".join(f"sizeof({t})" for t in types) or "0"
    entry = f"static void simt_entry_{name}(void **p) {{ {name}({arguments}); }}\n"
    entry += f"static const size_t simt_sizes_{name}[] = {{{sizes}}};"
    threads = kernel["threads"] or 1024
    return entry, f'{{"{name}", simt_entry_{name}, {threads}, {static}, simt_sizes_{name}, {len(types)}}},'
