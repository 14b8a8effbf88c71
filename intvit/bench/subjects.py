"""A float model by name with random weights that all take part: what `intvit.bench.matrix` examines.

Names are those of `intvit.models`, and `transformers:CLASS` for a class of transformers at the defaults of its own
configuration. A library leaves much of a new model constant, which hides what it does: biases are zero, a LayerScale of
1e-5 switches its branch off, a batch norm that has seen no image lets activations vanish or grow with depth. So
constants are varied, and batch norms take the statistics of random images, for any model in the same way.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from intvit.errors import IntvitError
from intvit.libraries import import_library
from intvit.models import resolve
from intvit.preprocess import Preprocessing

TRANSFORMERS = "transformers"
SPREAD = 0.1
"""Deviation of what was a constant: of its logarithm, or of itself where it was zero. No factor stays below it."""
STATISTICS_IMAGES = 4
DEFAULT_SIZE = (224, 224)


@dataclass(frozen=True)
class Subject:
    """A float model in eval mode, and how its images are made of pixels."""

    name: str
    module: nn.Module
    preprocessing: Preprocessing

    def pixels(self, count: int, seed: int) -> NDArray[np.uint8]:
        """Random images `[count, H, W, C]`."""
        shape = (count, *self.preprocessing.size, self.preprocessing.channels)
        return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)

    @property
    def library(self) -> str:
        return self.name.partition(":")[0]


def subject(name: str, options: dict[str, Any] | None = None, size: int | None = None) -> Subject:
    """Builds the model `name` with random weights; `options` go to its constructor or its configuration.

    Images are `size` pixels wide and high where the library does not tell. Raises `IntvitError` for an unknown name.
    """
    library, _, rest = name.partition(":")
    if library == TRANSFORMERS:
        module, preprocessing = _of_configuration(name, rest, options or {})
    else:
        resolved = resolve(name, "random" if library in ("timm", "torchvision") else None, **(options or {}))
        module, preprocessing = resolved.module, resolved.preprocessing or Preprocessing(DEFAULT_SIZE)
    found = Subject(name, module, preprocessing if size is None else preprocessing.override(size=(size, size)))
    vary_constants(module)
    images = found.preprocessing.normalize(found.pixels(STATISTICS_IMAGES, seed=0))
    take_statistics(module, torch.from_numpy(images))
    return found


def _of_configuration(name: str, model_class: str, options: dict[str, Any]) -> tuple[nn.Module, Preprocessing]:
    """A class of transformers, and images of the size that its configuration names."""
    found = getattr(import_library("transformers"), model_class, None)
    if found is None or getattr(found, "config_class", None) is None:
        raise IntvitError(f"{name}: transformers has no such model class")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = found(found.config_class(**options)).eval().float().requires_grad_(False)
    size = getattr(module.config, "image_size", None) or DEFAULT_SIZE
    half = (0.5,) * (getattr(module.config, "num_channels", None) or 3)
    sides = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    return module, Preprocessing(sides, mean=half, std=half)


@torch.no_grad()
def vary_constants(module: nn.Module, seed: int = 0) -> None:
    """Gives random values to every parameter whose values are all the same."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        first = parameter.flatten()[:1]
        if not parameter.is_floating_point() or not bool((parameter == first).all()):
            continue
        value = float(first)
        noise = SPREAD * torch.randn(parameter.shape, generator=generator)
        factor = float(np.copysign(max(abs(value), SPREAD), value))
        parameter.copy_(noise if value == 0 else factor * noise.exp())


@torch.no_grad()
def take_statistics(module: nn.Module, images: Tensor) -> None:
    """Batch norms take mean and variance of normalized `images` `[N, C, H, W]`; the rest stays in eval mode.

    One that sees a single value per image and channel, behind a global pool, keeps its own: random images are too much
    alike for a variance over so few values.
    """
    norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    norms = [norm for norm in norms if norm.running_mean is not None]
    if norms:
        with _in_training(norms, len(images)):
            module(images)


@contextmanager
def _in_training(norms: list[nn.modules.batchnorm._BatchNorm], images: int) -> Iterator[None]:
    """Each norm is in training mode while it sees several values per image and channel."""

    def before(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        norm.training = inputs[0].numel() // inputs[0].shape[1] > images

    momenta = [norm.momentum for norm in norms]
    hooks = [norm.register_forward_pre_hook(before) for norm in norms]
    for norm in norms:
        norm.momentum = 1.0  # the last batch alone counts
    try:
        yield
    finally:
        for norm, momentum, hook in zip(norms, momenta, hooks, strict=True):
            norm.momentum, norm.training = momentum, False
            hook.remove()
