"""Walks the dialect: every operation has a reference, a check, an interval rule, a test; none takes wrong types."""

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_map_only, tree_unflatten

from intvit.dialect import OPERATIONS, Operation, operation_of
from intvit.ranges import Operand, Range, Ranges

TESTS = Path(__file__).parent
CHANNELS = 4


def ints(*shape: int, dtype: torch.dtype = torch.int8, seed: int = 0) -> Tensor:
    low, high = (0, 256) if dtype == torch.uint8 else (-100, 100)
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def i32(value: int, channels: int = CHANNELS) -> Tensor:
    return torch.full((channels,), value, dtype=torch.int32)


M, PRE = 1 << 14, 0
QKV = [ints(2, 5, CHANNELS, seed=s) for s in range(3)]
WIDE = ints(2, 5, CHANNELS, dtype=torch.int16)
SUMS = ints(2, 5, CHANNELS, dtype=torch.int32)
SAMPLES: dict[str, tuple[Any, ...]] = {
    "patchify": (ints(2, 4, 6, 3, dtype=torch.uint8), 2, 3),
    "linear": (ints(2, 5, CHANNELS), ints(6, CHANNELS), i32(7, 6)),
    "requantize": (SUMS, i32(M), i32(PRE), 10, 3, "int8"),
    "add": (WIDE, i32(M), i32(PRE), SUMS, i32(M), i32(PRE, 1), 14),
    "attention": (*QKV, 2, i32(M, 2), i32(PRE, 2), 16, 13, i32(M), i32(PRE, 1), 20, 5, 1, 0),
    "biased_attention": (
        *(*QKV, 2, 1, i32(M, 2), i32(PRE, 2), 16, ints(3, 2, 5, 5, dtype=torch.int16), i32(2, 1), 13),
        *(i32(M), i32(PRE, 1), 20, 93, 64),
    ),
    "product": (ints(2, 6, CHANNELS), ints(2, 4, CHANNELS, seed=1), 2),
    "softmax": (SUMS, i32(M, 1), i32(PRE, 1), 10, 13),
    "gelu": (WIDE, 7, i32(M), i32(6), 15, -100),
    "activation": (WIDE, ints(257, dtype=torch.int16), 8, "int16"),
    "levels": (ints(2, 5, CHANNELS), ints(256)),
    "multiply": (WIDE, ints(2, 1, CHANNELS, dtype=torch.int16, seed=1), i32(M), i32(3, 1), 15, "int8"),
    "layernorm": (WIDE, i32(M), i32(5), 12, 9, 0, "int8"),
    "divide": (WIDE, WIDE[..., :2].contiguous(), i32(M), i32(3), 15, "int8"),
    "rmsnorm": (WIDE, i32(M), 12, 9, 0, 2, "int8"),
    "groupnorm": (WIDE, i32(M), i32(5), 12, 2, 9, 0, "int8"),
    "concat_tokens": (ints(2, CHANNELS, dtype=torch.int16), WIDE),
    "select_tokens": (WIDE, 1, 3),
    "rearrange": ([WIDE, ints(3, CHANNELS, dtype=torch.int16), WIDE], torch.arange(24, 0, -4).int().reshape(3, 2), 2),
    "unfold": (ints(2, 12, CHANNELS), i32(3), [3, 4], [3, 2], [2, 1], [1, 0, 1, 1], [1, 2]),
    "depthwise": (
        ints(2, 12, CHANNELS),
        ints(9, CHANNELS),
        i32(7),
        i32(3),
        [3, 4],
        [3, 3],
        [1, 2],
        [1, 1, 1, 1],
        [1, 1],
    ),
    "pool": (
        ints(2, 12, CHANNELS, dtype=torch.int16),
        [3, 4],
        [2, 2],
        [1, 2],
        [0, 0, 0, 0],
        "mean",
        i32(M, 1),
        i32(2, 1),
        14,
        "int16",
    ),
    "attention_published": (*QKV, 2, i32(M, 2), i32(PRE, 2), 16, -20, i32(M), i32(PRE, 1), 20),
    "gelu_published": (ints(2, 5, CHANNELS), -10, i32(M), i32(PRE, 1), 15),
    "layernorm_published": (WIDE, i32(5)),
}
"""Arguments of each operation: a new operation needs an entry."""

each_operation = pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)


def runtime(value: Any) -> bool:
    """Whether an argument is a tensor computed at run time: those have a batch. A bias of attention is a constant."""
    return isinstance(value, Tensor) and (value.ndim == 3 or value.dtype == torch.uint8)


def of_image(i: int, value: Any) -> Any:
    """What an argument is for image `i` of the batch alone."""
    return value[i : i + 1].contiguous() if runtime(value) else value


def operand(value: Any) -> Any:
    if isinstance(value, list):
        return [operand(each) for each in value]
    return Operand(int(value.min()), int(value.max()), tuple(value.shape)) if runtime(value) else value


@each_operation
def test_has_everything(operation: Operation) -> None:
    assert operation.name in SAMPLES, f"SAMPLES has no arguments for {operation.name}"
    for part in (operation.check, operation.ranges):
        assert callable(part)
    names = [argument.name for argument in operation.call._schema.arguments]
    assert list(inspect.signature(operation.check).parameters) == names
    assert list(inspect.signature(operation.ranges).parameters) == names
    assert operation.qualified == f"intvit::{operation.name}" == operation.call._schema.name
    assert operation_of(operation.call) is operation


@each_operation
def test_has_a_test_file(operation: Operation) -> None:
    importing = [path.name for path in TESTS.glob("test_*.py") if path.name != Path(__file__).name]
    mentioned = [name for name in importing if operation.name in (TESTS / name).read_text()]
    module = operation.call(*SAMPLES[operation.name]) is not None and mentioned
    assert module, f"no file in {TESTS} tests {operation.name}"


@each_operation
def test_passes_the_checks_of_torch(operation: Operation) -> None:
    """Schema (nothing is mutated or aliased) and fake tensors, with a static and a dynamic batch."""
    torch.library.opcheck(operation.call, SAMPLES[operation.name], test_utils=("test_schema", "test_faketensor"))


@each_operation
def test_fake_and_real_agree(operation: Operation) -> None:
    arguments = SAMPLES[operation.name]
    real = operation.call(*arguments)
    with FakeTensorMode() as mode:
        fake = operation.call(*tree_map_only(Tensor, mode.from_tensor, arguments))
    assert (fake.shape, fake.dtype) == (real.shape, real.dtype)
    assert not real.is_floating_point() and real.is_contiguous()


@each_operation
def test_result_lies_in_its_range_and_nothing_overflows(operation: Operation) -> None:
    arguments = SAMPLES[operation.name]
    ranges = operation.ranges(*map(operand, arguments))
    assert isinstance(ranges, Ranges) and isinstance(ranges.result, Range)
    assert not ranges.overflowing()
    result = operation.call(*arguments)
    assert ranges.result.low <= result.min() and result.max() <= ranges.result.high
    limits = torch.iinfo(result.dtype)
    assert limits.min <= ranges.result.low and ranges.result.high <= limits.max


@each_operation
def test_images_of_a_batch_do_not_meet(operation: Operation) -> None:
    arguments = SAMPLES[operation.name]
    whole = operation.call(*arguments)
    for i in range(2):
        alone = operation.call(*tree_map(partial(of_image, i), arguments))
        assert torch.equal(whole[i : i + 1], alone)


@each_operation
@pytest.mark.parametrize("change", [Tensor.float, Tensor.half, Tensor.bool, Tensor.long], ids=lambda c: c.__name__)
def test_refuses_wrong_types(operation: Operation, change: Callable[[Tensor], Tensor]) -> None:
    """Every tensor argument, one at a time; the operation itself refuses when a graph is traced or checked."""
    arguments = SAMPLES[operation.name]
    leaves, structure = tree_flatten(arguments)
    names = [s.name for s, a in zip(operation.call._schema.arguments, arguments, strict=True) for _ in tree_leaves(a)]
    for i, (name, leaf) in enumerate(zip(names, leaves, strict=True)):
        if isinstance(leaf, Tensor):
            wrong = tree_unflatten([*leaves[:i], change(leaf), *leaves[i + 1 :]], structure)
            with pytest.raises(TypeError, match=name):
                operation.check(*wrong)


@each_operation
def test_refuses_parameters_of_another_width(operation: Operation) -> None:
    """A per-channel parameter has one entry per channel or one in all."""
    arguments = SAMPLES[operation.name]
    for i, argument in enumerate(arguments):
        if isinstance(argument, Tensor) and argument.ndim == 1:
            wrong = (*arguments[:i], torch.zeros(17, dtype=torch.int32), *arguments[i + 1 :])
            with pytest.raises(TypeError):
                operation.check(*wrong)


def test_files_of_the_dialect_are_listed() -> None:
    import intvit.dialect

    folder = Path(intvit.dialect.__file__).parent
    for path in folder.glob("*.py"):
        if path.stem not in ("__init__", "operation", "arithmetic"):
            assert f"`{path.name}`" in str(intvit.dialect.__doc__)
