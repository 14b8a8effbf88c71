"""torch as a peer: eager and `torch.compile`, float32 and bfloat16 (weights and images cast, no autocast)."""

import copy
import logging
import warnings
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from intvit.errors import IntvitError

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


class TorchPeers:
    """Calls of one module; a later call to `make` sets the number of threads of all of them, which is torch's own."""

    def __init__(self, module: nn.Module) -> None:
        self._modules = {"f32": module}
        self._compiled_for: tuple[int, int] | None = None

    def make(self, form: str, images: NDArray[np.float32], threads: int) -> Callable[[], object]:
        """`f32`, `bf16`, `compile-f32` or `compile-bf16` on `[batch, C, H, W]`.

        Raises `IntvitError` where it cannot run.
        Compiled modules are made for one batch size and one number of threads; those of another are dropped.
        """
        *compiled, precision = form.split("-")
        torch.set_num_threads(threads)
        module = self._modules.setdefault(precision, copy.deepcopy(self._modules["f32"]).to(DTYPES[precision]))
        values = torch.from_numpy(images).to(DTYPES[precision])
        run = self._compiled(module, (len(images), threads)) if compiled else module

        def call() -> object:
            with torch.inference_mode():
                return run(values)

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                call()
        except Exception as error:  # whatever a compiler backend or a module raises
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise IntvitError(f"torch-{form} cannot run here ({type(error).__name__}: {reason})") from error
        return call

    def _compiled(self, module: nn.Module, made_for: tuple[int, int]) -> Callable[..., object]:
        """`torch.compile` of a module; what was compiled for another batch or number of threads is forgotten."""
        if self._compiled_for not in (None, made_for):
            torch.compiler.reset()
        self._compiled_for = made_for
        logging.getLogger("torch._dynamo").setLevel(logging.ERROR)
        return torch.compile(module, dynamic=False)
