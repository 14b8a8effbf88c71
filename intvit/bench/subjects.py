"""A float model by name with random weights that all take part: what `intvit.bench.matrix` examines.

Names are those of `intvit.models`, and `transformers:CLASS` for a class of transformers at the defaults of its own
configuration. A library leaves much of a new model constant, which hides what it does: biases are zero, a LayerScale of
1e-5 switches its branch off. So constants are varied, for any model in the same way.

The statistics of batch norms stay as the library made them. With those of random images, which are all alike to a deep
network, norms magnify what little tells one image from another and with it all rounding: LeViT-128S has 59 dB without,
4 with them, and attention alone takes 5 dB of it in every block.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from intvit.errors import IntvitError
from intvit.libraries import import_library
from intvit.models import resolve
from intvit.preprocess import Preprocessing

TRANSFORMERS = "transformers"
SPREAD = 0.1
"""Deviation of what was a constant: of its logarithm, or of itself where it was zero. No factor stays below it."""
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


def subject(name: str, options: dict[str, Any] | None = None, size: int | None = None, plain: bool = False) -> Subject:
    """Builds the model `name` with random weights; `options` go to its constructor or its configuration.

    Images are `size` pixels wide and high where the library does not tell. `plain` leaves constants as the library made
    them. Raises `IntvitError` for an unknown name.
    """
    library, _, rest = name.partition(":")
    if library == TRANSFORMERS:
        module, preprocessing = _of_configuration(name, rest, options or {})
    else:
        resolved = resolve(name, "random" if library in ("timm", "torchvision") else None, **(options or {}))
        module, preprocessing = resolved.module, resolved.preprocessing or Preprocessing(DEFAULT_SIZE)
    found = Subject(name, module, preprocessing if size is None else preprocessing.override(size=(size, size)))
    if not plain:
        vary_constants(module)
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
        if not parameter.is_floating_point() or not parameter.numel() or not bool((parameter == first).all()):
            continue
        value = float(first)
        noise = SPREAD * torch.randn(parameter.shape, generator=generator)
        factor = float(np.copysign(max(abs(value), SPREAD), value))
        parameter.copy_(noise if value == 0 else factor * noise.exp())
