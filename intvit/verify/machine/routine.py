"""The code of one function of an NVIDIA GPU, as text."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Routine:
    """A kernel, or a function that kernels call, with its instructions in order."""

    name: str
    is_kernel: bool
    instructions: tuple[str, ...]
