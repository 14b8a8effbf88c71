"""An image: the machine code of a model's kernels for one architecture, their PTX, and what each kernel needs."""

import re
from dataclasses import dataclass

from intvit.errors import IntvitError

ENTRY = re.compile(r"^\s*(?:\.\w+\s+)*\.entry\s+([\w$]+)", re.MULTILINE)
"""A kernel in PTX."""
COMPILED = re.compile(r"Compiling entry function '([\w$]+)' for '\w+'")
STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")
SHARED = re.compile(r"\b(\d+) bytes smem")


@dataclass(frozen=True)
class Resources:
    """What one kernel needs: registers of a thread, and bytes.

    `stack` is a thread's local memory, which holds spilled registers and arrays that registers cannot hold; `spills`
    are the bytes that a thread stores to and loads from it for want of registers. `shared` is static shared memory.
    """

    registers: int
    stack: int
    spills: int
    shared: int


@dataclass(frozen=True)
class Image:
    """Machine code (`cubin`, ELF) and PTX for one architecture; kernels by name; the compiler's name and release."""

    architecture: str
    cubin: bytes
    ptx: str
    kernels: dict[str, Resources]
    compiler: str


def make_image(architecture: str, cubin: bytes, ptx: str, log: str, compiler: str) -> Image:
    """An image with the resources that `ptxas -v` printed; raises `IntvitError` where it left a kernel out."""
    kernels = resources_in(log)
    missing = [name for name in ENTRY.findall(ptx) if name not in kernels]
    if missing:
        raise IntvitError(f"{compiler} did not say which resources {missing[0]} needs: use another release")
    return Image(architecture, cubin, ptx, kernels, compiler)


def resources_in(log: str) -> dict[str, Resources]:
    """The resources of each kernel in what `ptxas -v` printed; those of functions that a kernel calls are added up."""
    _, *parts = COMPILED.split(log)
    return {name: _resources(text) for name, text in zip(parts[::2], parts[1::2], strict=True)}


def _resources(text: str) -> Resources:
    frames = [tuple(map(int, frame)) for frame in STACK.findall(text)]
    registers, shared = USED.search(text), SHARED.search(text)
    return Resources(
        registers=int(registers[1]) if registers else 0,
        stack=sum(stack for stack, _, _ in frames),
        spills=sum(stores + loads for _, stores, loads in frames),
        shared=int(shared[1]) if shared else 0,
    )


def first_error(text: str) -> str:
    """The first line of a compiler's output that tells: the first with an error, or the first."""
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    return next(
        (line for line in lines if "error" in line.lower() or "fatal" in line), (lines or ["no reason given"])[0]
    )
