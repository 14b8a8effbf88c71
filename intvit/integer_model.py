"""The integer model: an `IntGraph` with its metadata, run by the reference, saved to one file."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from intvit import artifact
from intvit.metadata import Metadata
from intvit.model import Array, Model
from intvit.stages import IntGraph


@dataclass(frozen=True)
class IntegerModel(Model):
    """What `intvit.quantize` returns and `intvit.compile` takes; calling it runs the torch integer reference."""

    graph: IntGraph
    metadata: Metadata

    def _integers(self, pixels: NDArray[np.uint8]) -> tuple[Array, ...]:
        return tuple(output.numpy() for output in self.graph(torch.tensor(pixels)))

    def save(self, path: str | Path) -> None:
        """Writes `*.intvit`, whole or not at all."""
        artifact.save(self.graph, self.metadata, Path(path))

    @classmethod
    def load(cls, path: str | Path) -> "IntegerModel":
        """Reads `*.intvit`; raises `IntvitError` for a damaged or foreign file."""
        return cls(*artifact.load(Path(path)))

    @property
    def digest(self) -> str:
        """SHA-256 of the model, as in its file and in every module that is compiled from it."""
        return artifact.stored_digest(self.graph, self.metadata)
