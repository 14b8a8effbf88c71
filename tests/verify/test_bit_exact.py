"""Equal bits: the compiled module and its reference agree; whatever differs is found, and named."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import tiny
from numpy.typing import NDArray

from intvit.errors import VerifyError
from intvit.integer_model import IntegerModel
from intvit.metadata import Metadata
from intvit.model import Array, Model
from intvit.runtime import CompiledModel
from intvit.stages import IntGraph, copy_of
from intvit.verify.bit_exact import prove_bit_exact, synthetic

IMAGES, CLASSES = 12, 10


@dataclass(frozen=True)
class Altered(Model):
    """The reference, with its outputs changed as a function of the images."""

    change: Callable[[NDArray[np.uint8], tuple[Array, ...]], tuple[Array, ...]]
    metadata: Metadata = tiny.integer_model().metadata

    def _integers(self, pixels: NDArray[np.uint8]) -> tuple[Array, ...]:
        return self.change(pixels, tuple(output.copy() for output in tiny.integer_model().integers(pixels)))


def twin(change: Callable[[IntGraph], None]) -> IntegerModel:
    """A copy of the tiny model with a change in its constants."""
    model = tiny.integer_model()
    module = copy_of(model.graph.module)
    for name, buffer in model.graph.module.named_buffers():
        module.register_buffer(name, buffer.clone())
    graph = replace(model.graph, module=module)
    change(graph)
    return IntegerModel(graph, model.metadata)


def test_a_module_equals_its_reference(compiled: CompiledModel) -> None:
    assert prove_bit_exact(compiled, tiny.integer_model()) == 2 * IMAGES * CLASSES
    assert prove_bit_exact(compiled, tiny.integer_model(), tiny.pixels(5, seed=3)) == 2 * (IMAGES + 5) * CLASSES


def test_a_model_equals_itself() -> None:
    assert prove_bit_exact(tiny.integer_model(), tiny.integer_model(), tiny.pixels(1)) == 2 * (IMAGES + 1) * CLASSES


@pytest.mark.parametrize("position", [0, 7])
def test_one_bit_of_a_constant(compiled: CompiledModel, position: int) -> None:
    def flip(graph: IntGraph) -> None:
        nodes = graph.module.graph.nodes
        head = next(n for n in nodes if n.meta.get("path") == "head" and "linear" in str(n.target))
        graph.module.get_buffer(head.args[2].target)[position] ^= 1 << 12

    pattern = rf"12 of 120 .* at batch 1, the first in random image 0, output 0, \[{position}\]: -?\d+, not -?\d+"
    with pytest.raises(VerifyError, match=pattern):
        prove_bit_exact(compiled, twin(flip))


def test_a_difference_in_one_image_is_found() -> None:
    images = synthetic(tiny.SHAPE)
    assert len(images) == IMAGES
    for name, image in images.items():

        def change(pixels: NDArray[np.uint8], outputs: tuple[Array, ...], image: Array = image) -> tuple[Array, ...]:
            outputs[0][(pixels == image).all((1, 2, 3)), 4] += 1
            return outputs

        with pytest.raises(VerifyError, match=rf"1 of 120 .* in {name}, output 0, \[4\]: "):
            prove_bit_exact(Altered(change), tiny.integer_model())


def test_a_difference_in_a_given_image_is_found() -> None:
    given = tiny.pixels(4, seed=9)

    def change(pixels: NDArray[np.uint8], outputs: tuple[Array, ...]) -> tuple[Array, ...]:
        outputs[0][(pixels == given[2]).all((1, 2, 3)), 9] -= 300
        return outputs

    assert prove_bit_exact(Altered(change), tiny.integer_model()) > 0
    with pytest.raises(VerifyError, match=r"in given image 2, output 0, \[9\]: "):
        prove_bit_exact(Altered(change), tiny.integer_model(), given)


def test_a_batch_that_takes_another_images_rows_is_found() -> None:
    def change(pixels: NDArray[np.uint8], outputs: tuple[Array, ...]) -> tuple[Array, ...]:
        return (np.repeat(outputs[0][:1], len(pixels), axis=0),)

    with pytest.raises(VerifyError, match="at batch 3, the first in random image 1, "):
        prove_bit_exact(Altered(change), tiny.integer_model())


def test_types_and_boundaries_are_compared() -> None:
    model = tiny.integer_model()

    def wider(pixels: NDArray[np.uint8], outputs: tuple[Array, ...]) -> tuple[Array, ...]:
        return (outputs[0].astype(np.int64),)

    with pytest.raises(VerifyError, match="output 0 is int64, not int32"):
        prove_bit_exact(Altered(wider), model)
    grid = replace(model.metadata.input_grid, shape=(3, 16, 16))
    with pytest.raises(VerifyError, match="different images"):
        prove_bit_exact(replace(model, metadata=replace(model.metadata, input_grid=grid)), model)
    with pytest.raises(VerifyError, match="different outputs"):
        prove_bit_exact(replace(model, metadata=replace(model.metadata, output_shapes=((11,),))), model)


def test_the_images_are_random_and_extreme() -> None:
    images = synthetic((3, 8, 6))
    assert all(image.shape == (8, 6, 3) and image.dtype == np.uint8 for image in images.values())
    assert {int(images["black"].max()), int(images["white"].min())} == {0, 255}
    assert (images["one bright pixel"] == 255).all(-1).sum() == 1
    assert (images["checkerboard"][::2, ::2] == 0).all() and (images["checkerboard"][1::2, ::2] == 255).all()
    assert len({image.tobytes() for image in images.values()}) == len(images) == IMAGES
