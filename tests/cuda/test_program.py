"""Whole models in the emulator, kernel after kernel as the tables say: the reference's integers, with every tile."""

import biased
import coarse
import gated
import logarithmic
import mixed
import moved
import normalized
import numpy as np
import pytest
import tiny
import windowed
from emulation.simt import Kernels
from vits import MODELS, integer_model

from intvit.cuda.compilation import device_program, kernels_of
from intvit.cuda.legalize import DeviceCall
from intvit.cuda.source import cuda_source, named
from intvit.integer_model import IntegerModel
from intvit.kernels.cuda.arch import ARCHS
from intvit.model import Array
from intvit.program import Image, Value

POISON = 77


class Emulated:
    """A model's kernels of one architecture."""

    def __init__(self, model: IntegerModel, arch: str) -> None:
        self.model, self.program = model, device_program(model, ARCHS[arch])
        self.names = named([kernel for step in self.program.steps for kernel in kernels_of(step.kernel)])
        self.kernels = Kernels(cuda_source(self.names, ARCHS[arch]))

    def run(self, images: Array, choice: float, seed: int = 0) -> list[Array]:
        """The outputs; of the alternatives of each step the one at `choice`, 0 the first and 1 the last."""
        values: dict[object, Array] = {}
        for step in self.program.steps:
            call = step.kernel
            assert isinstance(call, DeviceCall)
            kernel = call.kernels[round(choice * (len(call.kernels) - 1))]
            operands = [
                images if isinstance(a, Image) else values[a] if isinstance(a, Value) else a for a in step.arguments
            ]
            given = [np.ascontiguousarray(operand).view() for operand in operands]
            for operand in given:
                operand.flags.writeable = False
            result = np.full((len(images) * step.result.tokens, step.result.columns), POISON, step.result.dtype)
            rows = len(images) * call.units
            blocks = -(-rows // kernel.per) * kernel.times
            launch = (self.names[kernel], blocks, kernel.threads, kernel.shared)
            self.kernels.launch(*launch, *given, result, rows, seed=seed)
            values[step.result] = result
        return [values[value] for value in self.program.outputs]


CASES = [
    *((name, arch) for name in (*MODELS, "four bits") for arch in ("sm_75", "sm_90")),
    ("moved", "sm_90"),
    ("gated", "sm_90"),
    ("normalized", "sm_90"),
    ("windowed", "sm_90"),
    ("biased", "sm_90"),
    ("coarse", "sm_90"),
    ("logarithmic", "sm_90"),
    ("mixed", "sm_90"),
]


@pytest.fixture(scope="module", params=CASES, ids=lambda p: " ".join(p))
def emulated(request: pytest.FixtureRequest) -> Emulated:
    name, arch = request.param
    others = {
        "moved": moved.integer_model,
        "gated": gated.integer_model,
        "normalized": normalized.integer_model,
        "windowed": windowed.integer_model,
    }
    others["biased"] = biased.integer_model
    others["four bits"] = lambda: tiny.with_small_weights(tiny.integer_model(), keep=1)
    others["coarse"] = coarse.integer_model
    others["logarithmic"] = logarithmic.integer_model
    others["mixed"] = mixed.integer_model
    return Emulated(others[name]() if name in others else integer_model(name), arch)


@pytest.mark.parametrize("choice", [0, 0.5, 1], ids=["largest tiles", "middle tiles", "smallest tiles"])
def test_the_integers_of_the_reference(emulated: Emulated, choice: float) -> None:
    for batch, seed in ((1, 0), (3, 1)):
        images = tiny.pixels(batch, seed=seed + 7)
        wanted = emulated.model.integers(images)
        found = emulated.run(images, choice, seed)
        assert len(found) == len(wanted)
        for got, want in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(got.reshape(want.shape), want)


def test_a_value_lies_where_its_readers_look(emulated: Emulated) -> None:
    """Rows inside a program begin at multiples of 16 elements, those of outputs follow one another, each on its own."""
    program = emulated.program
    shapes = emulated.model.metadata.output_shapes
    assert len(set(program.outputs)) == len(shapes), "each output is written once, into its own memory"
    for value, shape in zip(program.outputs, shapes, strict=True):
        assert value.tokens * value.columns == int(np.prod(shape))
    assert all(step.result.columns % 16 == 0 for step in program.steps if step.result not in program.outputs)
