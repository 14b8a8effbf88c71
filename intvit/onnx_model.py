"""Runs a model that was exported to ONNX, in ONNX Runtime on the CPU: no torch, no compiler, not the package `onnx`.

A model of the profile `integer` gives the integers of the reference; one of the profile `qdq`, or with float32 outputs,
gives floats only. A model of one batch size runs any other: images are taken that many at a time, the last ones filled
up with black images whose outputs are dropped.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from intvit.cores import threads_of
from intvit.errors import IntvitError
from intvit.metadata import Metadata
from intvit.model import Array, Model, Step, as_array, require_images
from intvit.onnx_runtime import Products, multiplies_computed, open_session, operator_steps, products

INTEGER = "integer"
PROPERTIES = ("profile", "bit_exact", "digest", "metadata")
IMAGES = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}
OUTPUTS = {"tensor(int32)": "int32", "tensor(int16)": "int16", "tensor(int8)": "int8", "tensor(float)": "float32"}


class OnnxModel(Model):
    """An exported model, callable from any thread; `load` reads one from a file.

    `profile` is `integer` or `qdq`; `image` and `output` are the types of the graph's own input and first output;
    `batch` is the only size that it takes, or None; `threads` is the number of cores that one call uses.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        self.threads = threads_of(threads)
        self.path = path
        self._session = open_session(path, self.threads)
        properties = _properties(self._session, path)
        self.profile: str = properties["profile"]
        self.bit_exact = properties["bit_exact"] == "true"
        self.digest: str = properties["digest"]
        self.metadata = _metadata(properties, path)
        self._input: str = self._session.get_inputs()[0].name
        self.image, self.output, self.batch = self._boundary()
        if self.bit_exact and products() is not Products.EXACT:
            self._require_exact()

    @classmethod
    def load(cls, path: str | Path, threads: int | None = None) -> "OnnxModel":
        """Reads a `*.onnx`; raises `IntvitError` for a missing, damaged or foreign file, and without ONNX Runtime."""
        return cls(Path(path), threads)

    def __call__(self, images: Any, *, raw: bool = False) -> Any:
        """As `Model.__call__`; where the model gives floats, these, and an `IntvitError` for its integers."""
        if raw or self.output != "float32":
            return super().__call__(images, raw=raw)
        pixels = self.metadata.input_grid.pixels(as_array(images))
        require_images(pixels)
        outputs = self._run(pixels)
        return outputs[0] if len(outputs) == 1 else outputs

    def _integers(self, pixels: NDArray[np.uint8]) -> tuple[Array, ...]:
        if self.profile != INTEGER:
            raise IntvitError(f"{self.path}: of the profile {self.profile}, which has no integer outputs")
        if self.output == "float32":
            raise IntvitError(
                f"{self.path}: gives floats: export with output='int32' (--output-type int32) for integers"
            )
        return self._run(pixels)

    def _run(self, pixels: NDArray[np.uint8]) -> tuple[Array, ...]:
        """The graph's outputs `[batch, *output_shapes[i]]` for any number of images."""
        first, *more = [self._session.run(None, feeds) for feeds in self._batches(pixels)]
        outputs = [np.concatenate(parts) for parts in zip(first, *more, strict=True)] if more else first
        return tuple(output[: len(pixels)] for output in outputs)

    def _batches(self, pixels: NDArray[np.uint8]) -> Iterator[dict[str, Array]]:
        """What each run is fed: all images, or so many as the graph takes, the last ones filled up with black."""
        batch = self.batch or len(pixels)
        black = np.zeros((-len(pixels) % batch, *pixels.shape[1:]), np.uint8)
        filled = np.concatenate([pixels, black]) if len(black) else pixels
        return (self._feeds(filled[start : start + batch]) for start in range(0, len(filled), batch))

    def _feeds(self, pixels: NDArray[np.uint8]) -> dict[str, Array]:
        grid = self.metadata.input_grid
        return {self._input: pixels if self.image == "uint8" else grid.normalized(pixels)}

    def steps(self, pixels: NDArray[np.uint8], repeats: int = 20) -> list[Step]:
        """The median time of each operator in a run of `pixels`, as ONNX Runtime's profiler measures it.

        Of a model of one batch size, a run is of the first images that fill it, or of these and black ones.
        """
        require_images(pixels)
        return operator_steps(self.path, self.threads, next(self._batches(pixels)), repeats)

    def _boundary(self) -> tuple[str, str, int | None]:
        """Types of image and outputs, and the batch; raises `IntvitError` where they are not what the metadata say."""
        (image, *more), outputs = self._session.get_inputs(), self._session.get_outputs()
        channels, height, width = self.metadata.input_grid.shape
        kind = IMAGES.get(image.type)
        sides = [height, width, channels] if kind == "uint8" else [channels, height, width]
        kinds = [OUTPUTS.get(output.type) for output in outputs]
        shapes = [list(shape) for shape in self.metadata.output_shapes]
        fits = not more and kind is not None and image.shape[1:] == sides
        if (
            not fits
            or None in kinds
            or len({kind == "float32" for kind in kinds}) != 1
            or [output.shape[1:] for output in outputs] != shapes
        ):
            raise IntvitError(f"{self.path}: its inputs or outputs are not those of its metadata: export it again")
        return str(kind), str(kinds[0]), image.shape[0] if isinstance(image.shape[0], int) else None

    def _require_exact(self) -> None:
        channels, height, width = self.metadata.input_grid.shape
        black = next(self._batches(np.zeros((1, height, width, channels), np.uint8)))
        if products() is Products.WRONG or multiplies_computed(self.path, self.threads, black):
            raise IntvitError(
                f"{self.path}: ONNX Runtime's products of uint8 with int8 saturate on this CPU (AVX2 without VNNI), so "
                "its integers would be wrong: export the model with portable=True (--portable)"
            )


def _properties(session: Any, path: Path) -> dict[str, str]:
    properties: dict[str, str] = session.get_modelmeta().custom_metadata_map
    missing = [name for name in PROPERTIES if name not in properties]
    if missing:
        raise IntvitError(
            f"{path}: an ONNX model without the metadata of intvit ({missing[0]}): make one with `intvit export`"
        )
    return properties


def _metadata(properties: dict[str, str], path: Path) -> Metadata:
    """The metadata with the labels, which are stored beside them."""
    try:
        labels = json.loads(properties.get("labels", "null"))
        return replace(Metadata.from_json(properties["metadata"]), labels=None if labels is None else tuple(labels))
    except ValueError as error:
        raise IntvitError(f"{path}: its labels cannot be read ({error}): made by another version of intvit?") from error
    except IntvitError as error:
        raise IntvitError(f"{path}: {error}") from error
