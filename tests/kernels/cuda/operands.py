"""Operands of CUDA kernels as `intvit.cuda.legalize` lays them out, and what the dialect makes of an epilogue."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from intvit.dialect.gelu import gelu
from intvit.dialect.requantize import add, requantize
from intvit.kernels.cuda.fragments import padded
from intvit.kernels.epilogue import Add, Bias, Epilogue, Requantize, Stage
from intvit.kernels.gelu import Gelu

ROW, COLUMN = 16, 128
"""What rows of values and operands per column are padded to."""
JUNK = 99
EXTREMES = ("lowest", "highest", "outlier", "zero rows")


def int8(random: np.random.Generator, shape: tuple[int, ...], kind: str = "random") -> np.ndarray:
    x = random.integers(-128, 128, shape).astype(np.int8)
    if kind in ("lowest", "highest"):
        x[:] = -128 if kind == "lowest" else 127
    elif kind == "outlier":
        x[:], x[..., 0] = 0, -128
    elif kind == "zero rows":
        x[::2] = 0
    return x


def tensor(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(x))


def one(value: int) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.int32)


def rows(x: np.ndarray, width: int | None = None) -> np.ndarray:
    """`[..., n]` as rows of `width` elements (by default whole chunks), with junk behind those that count."""
    found = np.full((int(np.prod(x.shape[:-1])), padded(x.shape[-1], ROW) if width is None else width), JUNK, x.dtype)
    found[:, : x.shape[-1]] = x.reshape(-1, x.shape[-1])
    return found


def columns(x: np.ndarray, dtype: str) -> np.ndarray:
    """A value for each column, zeros up to whole tiles."""
    found = np.zeros(padded(len(x), COLUMN), dtype)
    found[: len(x)] = x
    return found


@dataclass(frozen=True)
class Case:
    """An epilogue, its operands in order, and what the dialect makes of `[rows, n]`."""

    epilogue: Epilogue
    operands: list[np.ndarray]
    reference: Callable[[torch.Tensor], torch.Tensor]


def _vectors(random: np.random.Generator, n: int, limit: int, most: int = 14) -> tuple[np.ndarray, np.ndarray]:
    """Shifts and multipliers per column."""
    pre, mul = random.integers(0, most + 1, n), random.integers(-limit, limit + 1, n)
    pre[0], mul[0] = 0, -limit
    return pre.astype(np.int32), mul.astype(np.int32)


def requantized(random: np.random.Generator, rows: int, n: int, dtype: str, shift: int, zero_point: int) -> Case:
    """Per column."""
    pre, mul = _vectors(random, n, 32767)
    low, high = (-128, 127) if dtype == "int8" else (-32768, 32767)
    return Case(
        Epilogue((Requantize(shift, low, high, zero_point=zero_point),), dtype),
        [columns(pre, "int8"), columns(mul, "int16")],
        lambda x: requantize(x, tensor(mul), tensor(pre), shift, zero_point, dtype),
    )


def requantized_alike(random: np.random.Generator, rows: int, n: int) -> Case:
    """The same dyadic number for all columns, int16."""
    stage = Requantize(14, -32768, 32767, pre=6, mul=-29000, zero_point=7)
    return Case(Epilogue((stage,), "int16"), [], lambda x: requantize(x, one(-29000), one(6), 14, 7, "int16"))


def activated(random: np.random.Generator, rows: int, n: int, shared: bool = False) -> Case:
    """Requantized to 16 bits, then GELU; with `shared` its multiplier and zero point are operands per column."""
    pre, mul = _vectors(random, n, 32767, 4)
    pre2, mul2 = _vectors(random, n, 32767, 8)
    stages: tuple[Stage, Stage] = (Requantize(15, -32768, 32767), Gelu(11, 12, zero_point=-100))
    operands = [columns(pre, "int8"), columns(mul, "int16"), columns(pre2, "int8"), columns(mul2, "int16")]
    if shared:
        mul2 = np.full(n, 21001, np.int32)
        pre2 = np.full(n, 2, np.int32)
        stages = (stages[0], Gelu(11, 12, zero_point=-100, pre=2, mul=21001).shared)
        operands = [*operands[:2], columns(mul2, "int16"), columns(np.full(n, -100), "int16")]

    def reference(x: torch.Tensor) -> torch.Tensor:
        middle = requantize(x, tensor(mul), tensor(pre), 15, 0, "int16")
        return gelu(middle, 11, tensor(mul2), tensor(pre2), 12, -100)

    return Case(Epilogue(stages, "int8"), operands, reference)


def added(
    random: np.random.Generator, rows_: int, n: int, tokens: int = 0, dtype: str = "int16", width: int | None = None
) -> Case:
    """Into the residual stream: an arm with a value for each row, or one for each of `tokens` tokens."""
    pre, mul = _vectors(random, n, 1 << 14)
    arm_pre, arm_mul = _vectors(random, n, 1 << 14)
    most = {"int8": 1 << 7, "int16": 1 << 15, "int32": 1 << 29}[dtype]
    arm = random.integers(-most, most, (tokens or rows_, n)).astype(dtype)
    arm[0] = -most
    each = arm[np.arange(rows_) % tokens] if tokens else arm
    dyadic = [columns(pre, "int8"), columns(mul, "int16"), columns(arm_pre, "int8"), columns(arm_mul, "int16")]
    return Case(
        Epilogue((Add(13, arm_dtype=dtype, tokens=tokens),), "int16"),
        [*dyadic, rows(arm, width)],
        lambda x: add(x, tensor(mul), tensor(pre), tensor(each)[None], tensor(arm_mul), tensor(arm_pre), 13),
    )


def biased(random: np.random.Generator, case: Case, n: int, most: int = 1 << 20) -> Case:
    """A bias before it."""
    bias = random.integers(-most, most, n).astype(np.int32)
    return Case(
        Epilogue((Bias(), *case.epilogue.stages), case.epilogue.dtype),
        [columns(bias, "int32"), *case.operands],
        lambda x: case.reference((x + tensor(bias)).to(torch.int32)),
    )


def sums(random: np.random.Generator, rows: int, n: int) -> Case:
    """Nothing: sums as they are."""
    return Case(Epilogue((), "int32"), [], lambda x: x)
