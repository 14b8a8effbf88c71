"""The processes that train one model together, as `torchrun` starts them: shares of a batch, sums of gradients.

The integer reference runs on CPUs, so what they tell each other goes through gloo.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed

from intvit.errors import IntvitError


@dataclass(frozen=True)
class Processes:
    """`size` processes, of which this is number `rank`; one alone tells nobody anything."""

    rank: int = 0
    size: int = 1
    group: Any = None

    def share(self, indices: Tensor) -> list[int]:
        """This process's part of a batch; perhaps nothing."""
        found: list[int] = indices[self.rank :: self.size].tolist()
        return found

    def add_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Gives every process the sum of all gradients, the same bits everywhere; none counts as 0."""
        if self.size == 1:
            return
        given = list(parameters)
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in given])
        distributed.all_reduce(flat, group=self.group)
        for parameter, part in zip(given, flat.split([p.numel() for p in given]), strict=True):
            parameter.grad = part.reshape(parameter.shape)

    def total(self, value: float) -> float:
        """The sum of a number over the processes."""
        if self.size == 1:
            return value
        summed = torch.tensor([value], dtype=torch.float64)
        distributed.all_reduce(summed, group=self.group)
        return float(summed)

    def require_same(self, digest: str) -> None:
        """Raises `IntvitError` where the processes do not have the same integer graph."""
        if self.size == 1:
            return
        found: list[Any] = [None] * self.size
        distributed.all_gather_object(found, digest, group=self.group)
        if len(set(found)) > 1:
            raise IntvitError(
                "the processes have different integer models: give all the same data, on machines of one kind"
            )


@contextmanager
def processes() -> Iterator[Processes]:
    """Those of `torchrun`, or of a process group that there is; otherwise this one alone."""
    launched = "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1
    if not distributed.is_available():
        if launched:
            raise IntvitError("this torch has no torch.distributed: run one process, without torchrun")
        yield Processes()
        return
    if distributed.is_initialized():
        group = distributed.new_group(backend="gloo")
        try:
            yield Processes(distributed.get_rank(), distributed.get_world_size(), group)
        finally:
            distributed.destroy_process_group(group)
        return
    if not launched:
        yield Processes()
        return
    try:
        distributed.init_process_group("gloo")
    except (ValueError, RuntimeError) as error:
        raise IntvitError(
            f"the processes cannot meet ({str(error).splitlines()[0]}): start them by torchrun"
        ) from error
    try:
        yield Processes(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()
