"""What the kernels need to know of a GPU: its compute capability."""

from __future__ import annotations

from dataclasses import dataclass

_SHARED = {75: 64, 80: 163, 86: 99, 89: 99, 90: 227}
"""KiB of shared memory that a block may have (CUDA C++ Programming Guide, table of technical specifications)."""


@dataclass(frozen=True)
class Arch:
    """A compute capability, as 75 for 7.5."""

    number: int

    @property
    def name(self) -> str:
        """As compilers call it, `sm_75`."""
        return f"sm_{self.number}"

    @property
    def asynchronous(self) -> bool:
        """Whether copies to shared memory go on while threads compute (`cp.async`)."""
        return self.number >= 80

    @property
    def tall(self) -> bool:
        """Whether a product of fragments is one `m16n8k32`; before it was four of `m8n8k16`."""
        return self.number >= 80

    @property
    def shared(self) -> int:
        """Bytes of shared memory that a block may have."""
        return _SHARED[self.number] << 10


ARCHS = {arch.name: arch for arch in map(Arch, _SHARED)}
