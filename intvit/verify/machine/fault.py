"""An instruction that a proof cannot accept."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """Where it is, and what: `readable` tells floating-point arithmetic from bytes that are no known instruction."""

    address: int
    instruction: str
    readable: bool = True
