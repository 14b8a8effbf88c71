"""Whole models in the emulator, kernel after kernel as the tables say: the reference's integers, with every tile."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import tiny
import torch
from emulation.simt import Kernels
from torch import Tensor, nn

import intvit
from intvit.cuda.compilation import device_program, kernels_of
from intvit.cuda.legalize import DeviceCall
from intvit.cuda.source import cuda_source, named
from intvit.errors import UnsupportedOp
from intvit.integer_model import IntegerModel
from intvit.kernels.cuda.arch import ARCHS
from intvit.model import Array
from intvit.program import Image, Program, Value

POISON = 77


class Features(nn.Module):
    """The residual stream between two blocks, a LayerNorm's result and the classes: outputs that are read on."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.vit = tiny.TinyViT(dim, heads=heads)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        vit = self.vit
        x = vit.patch(image).flatten(2).transpose(1, 2)
        x = torch.cat([vit.token.expand(x.shape[0], -1, -1), x], 1) + vit.position
        first, second = vit.blocks
        x = first(x)
        features = vit.norm(x)
        return x, features, vit.head(vit.norm(second(x))[:, 0])


class Patches(nn.Module):
    """No class token: all tokens of one block, with one head."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.patch, self.block, self.head = nn.Conv2d(3, dim, 8, 8), tiny.Block(dim, 1), nn.Linear(dim, 7)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.block(self.patch(image).flatten(2).transpose(1, 2)))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "class token": lambda: tiny.TinyViT(depth=1),
    "padded rows": lambda: tiny.TinyViT(20, depth=1),
    "outputs that are read on": lambda: Features(32, 2),
    "unpadded outputs that are read on": lambda: Features(20, 2),
    "all tokens": lambda: Patches(40),
}


@cache
def integer_model(name: str) -> IntegerModel:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        module = MODELS[name]().eval()
    return intvit.quantize(module, tiny.GRID.normalized(tiny.pixels(32)), calib=32)


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


@pytest.fixture(scope="module", params=[(n, a) for n in MODELS for a in ("sm_75", "sm_90")], ids=lambda p: " ".join(p))
def emulated(request: pytest.FixtureRequest) -> Emulated:
    name, arch = request.param
    return Emulated(integer_model(name), arch)


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
    """Rows inside a program begin at multiples of 16 elements, those of outputs follow one another."""
    program = emulated.program
    shapes = emulated.model.metadata.output_shapes
    for value, shape in zip(program.outputs, shapes, strict=True):
        assert value.tokens * value.columns == int(np.prod(shape))
    assert all(step.result.columns % 16 == 0 for step in program.steps if step.result not in program.outputs)


def program(name: str) -> Program:
    return device_program(integer_model(name), ARCHS["sm_90"])


def test_equal_work_is_one_kernel() -> None:
    """Both blocks have the same kernels."""
    steps = program("outputs that are read on").steps
    attentions = {kernels_of(step.kernel) for step in steps if step.name == "attention"}
    assert len(attentions) < sum(step.name == "attention" for step in steps) or len(attentions) == 2


def test_operations_of_the_paper_preset_have_no_kernel() -> None:
    with pytest.raises(UnsupportedOp, match="has no CUDA kernel: use the default preset, or compile for a CPU"):
        device_program(tiny.integer_model("paper"), ARCHS["sm_90"])
