"""The test that two models give the same integers: a compiled module and the reference that it was compiled from.

On images that are random, extreme (black, white, one outlier, a checkerboard) and real, at batch sizes 1 and 3. A batch
mixes different images, so that a kernel that takes another image's rows is found.
"""

from itertools import chain

import numpy as np
from numpy.typing import NDArray

from intvit.errors import VerifyError
from intvit.model import Array, Model

Pixels = NDArray[np.uint8]
BATCHES = (1, 3)
RANDOM = 6


def prove_bit_exact(module: Model, reference: Model, images: Pixels | None = None) -> int:
    """All outputs of `module` equal those of `reference`, type and value; `images` are uint8 `[n, H, W, C]`.

    Returns how many integers were compared. Raises `VerifyError` with the first image, output, position and values that
    differ, or where the models differ in their inputs or outputs. Their digests are for the caller to compare.
    """
    _check_boundaries(module, reference)
    named = synthetic(reference.metadata.input_grid.shape)
    if images is not None:
        named |= {f"given image {i}": image for i, image in enumerate(images)}
    names, pixels = list(named), np.stack(list(named.values()))
    expected = _outputs(reference, pixels, max(BATCHES))
    for batch in BATCHES:
        _compare(_outputs(module, pixels, batch), expected, names, batch)
    return len(BATCHES) * sum(output.size for output in expected)


def synthetic(shape: tuple[int, int, int]) -> dict[str, Pixels]:
    """Random and extreme images `[H, W, C]` by name; `shape` is `[C, H, W]`."""
    channels, height, width = shape
    random = np.random.default_rng(0)
    noise = {f"random image {i}": random.integers(0, 256, (height, width, channels), np.uint8) for i in range(RANDOM)}
    black = np.zeros((height, width, channels), np.uint8)
    outlier = black.copy()
    outlier[height // 2, width // 3] = 255
    squares = (np.indices((height, width)).sum(0) % 2 * 255).astype(np.uint8)
    checkerboard = np.repeat(squares[..., None], channels, axis=2)
    extremes = {"black": black, "white": ~black, "one bright pixel": outlier, "one dark pixel": ~outlier}
    return noise | extremes | {"checkerboard": checkerboard, "opposite checkerboard": ~checkerboard}


def _check_boundaries(module: Model, reference: Model) -> None:
    ours, theirs = module.metadata, reference.metadata
    if ours.input_grid.shape != theirs.input_grid.shape:
        raise VerifyError(f"they take different images: {ours.input_grid.shape} and {theirs.input_grid.shape}")
    if ours.output_shapes != theirs.output_shapes:
        raise VerifyError(f"they give different outputs: {list(ours.output_shapes)} and {list(theirs.output_shapes)}")


def _outputs(model: Model, pixels: Pixels, batch: int) -> list[Array]:
    """Every output for all images, in batches; the last batch is filled up from the first images."""
    filled = np.concatenate([pixels, pixels[: -len(pixels) % batch]])
    parts = [model.integers(np.ascontiguousarray(filled[i : i + batch])) for i in range(0, len(filled), batch)]
    return [np.concatenate(output)[: len(pixels)] for output in zip(*parts, strict=True)]


def _compare(found: list[Array], expected: list[Array], names: list[str], batch: int) -> None:
    for index, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        if ours.dtype != theirs.dtype:
            raise VerifyError(f"output {index} is {ours.dtype}, not {theirs.dtype}")
    unequal = [_bits(ours) != _bits(theirs) for ours, theirs in zip(found, expected, strict=True)]
    if not any(each.any() for each in unequal):
        return
    places = chain.from_iterable(
        ((int(image), index, position) for image, *position in np.argwhere(each)[:1])
        for index, each in enumerate(unequal)
    )
    image, index, position = min(places)
    values = (output[index][(image, *position)].item() for output in (found, expected))
    at = ", ".join(map(str, position))
    kind = "floats" if expected[index].dtype.kind == "f" else "integers"
    raise VerifyError(
        f"{sum(int(each.sum()) for each in unequal)} of {sum(output.size for output in expected)} {kind} differ at "
        f"batch {batch}, the first in "
        f"{names[image]}, output {index}, [{at}]: {next(values)}, not {next(values)}"
    )


def _bits(array: Array) -> Array:
    """The patterns of bits as integers, so that floats are compared as strictly."""
    return array.view(f"i{array.itemsize}")
