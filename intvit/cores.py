"""The cores that this process may run on."""

import os

from intvit.errors import IntvitError


def cores() -> list[int]:
    """Their numbers, in order."""
    affinity = getattr(os, "sched_getaffinity", None)
    return sorted(affinity(0)) if affinity is not None else list(range(os.cpu_count() or 1))


def threads_of(wanted: int | None) -> int:
    """`wanted` threads, by default one for each core. Raises `IntvitError` for none, or more than there are cores."""
    most = len(cores())
    if wanted is not None and not 1 <= wanted <= most:
        raise IntvitError(f"threads must be 1 to {most} (the cores of this process), not {wanted}")
    return most if wanted is None else wanted
