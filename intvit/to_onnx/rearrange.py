"""A `rearrange` in nodes that only move, of integers or floats: the cheapest that do what its table says.

    a tensor as it is        nothing
    tokens in a row          Slice
    digits in another order  Reshape, Transpose, Reshape     windows, merged patches, transposes, strides
    whole tokens, channels   Gather of tokens, of channels   shifted windows, shuffled channels
    anything else            Gather of blocks

Where few parts of the result are of one tensor each, they are moved apart and concatenated; otherwise the tensors are
concatenated first. Constants are moved when the model is exported.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from intvit.blocks import Blocks, Index
from intvit.to_onnx.scope import Scope

Array = NDArray[Any]
Step = tuple[Any, ...]
"""A node: its operator and its numbers."""
LONG = 16
"""Channels of a block from which on a Gather costs no more than a Slice and a Transpose."""


@dataclass(frozen=True)
class Part:
    """Some of a result: of the inputs with these numbers, laid end to end as `laid` rows and columns, by steps."""

    inputs: tuple[int, ...]
    laid: tuple[tuple[int, int], ...]
    steps: tuple[Step, ...]


@dataclass
class Plan:
    """Parts that are concatenated along `axis`.

    The inputs of the nodes are the computed tensors, then `constants` `[T, C]`, then `tables` of Gather, in order.
    """

    computed: list[int]
    axis: int = 1
    constants: list[Array] = field(default_factory=list)
    tables: list[Array] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)

    def write(self, scope: Scope, computed: Sequence[str], constants: Sequence[str]) -> str:
        """The nodes, of the names of the computed tensors and of `constants`; the result's name."""
        (first, *others) = self.parts
        if not (others or first.steps or self.constants):
            return computed[first.inputs[0]]
        tables = [scope.constant(table, "int32", "places") for table in self.tables]
        shapes = tuple(constant.shape for constant in self.constants)
        fixed: dict[str, Any] = dict(parts=tuple(self.parts), axis=self.axis, computed=len(computed), constants=shapes)
        return scope.call("Rearrange", rearrange, *computed, *constants, *tables, **fixed)

    @classmethod
    def of(cls, blocks: Blocks, tensors: Sequence[Array | None]) -> "Plan":
        """Of a movement of `tensors`: the values of those that are constants, None for those that are computed."""
        plan = cls([i for i, x in enumerate(tensors) if x is None])
        source = np.searchsorted(blocks.ends, blocks.index, "right")
        tokens, channels = _spans(source[:, 0]), _spans(source[0])
        most = len(tensors) + 1
        if (source == source[0]).all() and len(channels) <= most:
            plan.axis = 2
            for begin, end in channels:
                plan._add(blocks, tensors, int(source[0, begin]), blocks.index[:, begin:end])
        elif (source == source[:, :1]).all() and len(tokens) <= most:
            for begin, end in tokens:
                plan._add(blocks, tensors, int(source[begin, 0]), blocks.index[begin:end])
        else:
            plan._add_joined(blocks, tensors)
        return plan

    def _add(self, blocks: Blocks, tensors: Sequence[Array | None], source: int, index: Index) -> None:
        """A part that is of one tensor."""
        index = index - blocks.starts[source]
        shape, constant = blocks.shapes[source], tensors[source]
        if constant is not None:
            moved = constant.reshape(-1, blocks.chunk)[index].reshape(len(index), -1)
            self.parts.append(Part((self._constant(moved),), (moved.shape,), ()))
            return
        self._append((self.computed.index(source),), (shape,), Blocks.of([shape], index, blocks.chunk))

    def _add_joined(self, blocks: Blocks, tensors: Sequence[Array | None]) -> None:
        """A part that is of all tensors, as rows of one block."""
        numbers = tuple(self.computed.index(i) if x is None else self._constant(x) for i, x in enumerate(tensors))
        laid = tuple((prod(shape) // blocks.chunk, blocks.chunk) for shape in blocks.shapes)
        rows = Blocks(((blocks.ends[-1], blocks.chunk),), blocks.index, blocks.chunk)
        self._append(numbers, laid, rows)

    def _append(self, numbers: tuple[int, ...], laid: tuple[tuple[int, int], ...], blocks: Blocks) -> None:
        steps = list(_steps(blocks, self.tables))
        self.parts.append(Part(numbers, laid, tuple(steps)))

    def _constant(self, values: Array) -> int:
        self.constants.append(values)
        return len(self.computed) + len(self.constants) - 1


def _spans(numbers: Index) -> list[tuple[int, int]]:
    """Where runs of equal numbers begin and end."""
    cuts = [0, *(int(i) + 1 for i in np.flatnonzero(np.diff(numbers))), len(numbers)]
    return list(pairwise(cuts))


def rearrange(
    s: Scope, *inputs: str, parts: tuple[Part, ...], axis: int, computed: int, constants: tuple[tuple[int, ...], ...]
) -> str:
    """Blocks of channels, moved."""
    values, tables = list(inputs), iter(inputs[computed + len(constants) :])
    for number, (tokens, channels) in enumerate(constants, computed):
        values[number] = expanded(s, values[number], inputs[0], tokens, channels)
    found = [_moved(s, part, values, tables) for part in parts]
    return found[0] if len(found) == 1 else s.op("Concat", *found, axis=axis)


def expanded(s: Scope, constant: str, x: str, tokens: int, channels: int) -> str:
    """A constant `[K, C]` for every image of `x`."""
    if s.batch is None:
        shape = s.op("Concat", s.op("Shape", x, start=0, end=1), s.int64(tokens, channels), axis=0)
    else:
        shape = s.int64(s.batch, tokens, channels)
    return s.op("Expand", constant, shape)


def _moved(s: Scope, part: Part, values: Sequence[str], tables: Iterator[str]) -> str:
    x = values[part.inputs[0]]
    if len(part.inputs) > 1:
        laid = zip(part.inputs, part.laid, strict=True)
        x = s.op("Concat", *(s.op("Reshape", values[i], s.int64(-1, *shape)) for i, shape in laid), axis=1)
    for kind, *numbers in part.steps:
        if kind == "Gather":
            x = s.op("Gather", x, next(tables), axis=numbers[0])
        elif kind == "Transpose":
            x = s.op("Transpose", x, perm=[0, *numbers])
        elif kind == "Reshape":
            x = s.op("Reshape", x, s.int64(-1, *numbers))
        else:
            x = s.op("Slice", x, *(s.int64(*row) for row in zip(*numbers, strict=True)))
    return x


def _steps(blocks: Blocks, tables: list[Array]) -> Iterator[Step]:
    """The nodes between one tensor and its part of the result; tables of Gather are appended."""
    ((tokens, channels),) = blocks.shapes
    index, chunk = blocks.index, blocks.chunk
    result, width = (len(index), index.shape[1] * chunk), channels // chunk
    rows, columns = index[:, 0] // width, index[0] % width
    view = _view(index.ravel(), tokens * width)
    if view is not None and (chunk < LONG or not (view.is_sliced and view.is_moved)):
        yield from view.steps((tokens, channels), chunk, result)
    elif (rows[:, None] * width + columns == index).all():
        yield from _gathered(rows, tokens, 1, tables)
        yield from _channels(columns, width, chunk, result, tables)
    else:
        yield ("Reshape", tokens * width, chunk)
        yield from _gathered(index.ravel(), tokens * width, 1, tables)
        yield ("Reshape", *result)


def _gathered(numbers: Index, count: int, axis: int, tables: list[Array]) -> Iterator[Step]:
    """These of `count` along an axis."""
    if len(numbers) == count and (numbers == np.arange(count)).all():
        return
    if (np.diff(numbers) == 1).all():
        yield ("Slice", (int(numbers[0]), int(numbers[-1]) + 1, axis))
        return
    tables.append(numbers.astype(np.int32))
    yield ("Gather", axis)


def _channels(columns: Index, width: int, chunk: int, result: tuple[int, int], tables: list[Array]) -> Iterator[Step]:
    """These blocks of all tokens."""
    steps = list(_gathered(columns, width, 2, tables))
    if steps and chunk > 1:
        yield ("Reshape", result[0], width, chunk)
        yield from steps
        yield ("Reshape", *result)
    else:
        yield from steps


@dataclass(frozen=True)
class View:
    """Blocks as a grid of some axes, of which a part is taken, and in another order.

    `sizes` are the axes of the tensor, `begins` and `counts` what is taken of each, `order` the axes of the result.
    """

    sizes: tuple[int, ...]
    begins: tuple[int, ...]
    counts: tuple[int, ...]
    order: tuple[int, ...]

    @property
    def is_sliced(self) -> bool:
        return self.counts != self.sizes

    @property
    def is_moved(self) -> bool:
        return self.order != tuple(range(len(self.sizes)))

    def steps(self, shape: tuple[int, int], chunk: int, result: tuple[int, int]) -> Iterator[Step]:
        """The nodes that take it of a tensor."""
        inner = (chunk,) if chunk > 1 else ()
        if self.is_sliced or self.is_moved:
            if shape != (*self.sizes, *inner):
                yield ("Reshape", *self.sizes, *inner)
            shape = (*self.counts, *inner)
        if self.is_sliced:
            ends = zip(self.begins, self.counts, self.sizes, strict=True)
            taken = [(b, b + c, axis) for axis, (b, c, size) in enumerate(ends, 1) if c < size]
            yield ("Slice", *taken)
        if self.is_moved:
            yield ("Transpose", *(axis + 1 for axis in self.order), *((len(self.order) + 1,) if inner else ()))
            shape = (*(self.counts[axis] for axis in self.order), *inner)
        if shape != result:
            yield ("Reshape", *result)


def _view(numbers: Index, count: int) -> View | None:
    """Numbers of `count` as a view: None where they are none."""
    digits = _digits(numbers)
    if digits is None:
        return None
    order = sorted(range(len(digits)), key=lambda i: -digits[i][1])
    counts, strides = [digits[i][0] for i in order], [digits[i][1] for i in order]
    outer = [count, *strides]
    if not strides or strides[-1] > 1:  # of what lies between neighbours, one is taken
        counts, strides, order = [*counts, 1], [*strides, 1], [*order, len(order)]
    if any(a % b for a, b in zip(outer, strides, strict=False)):
        return None
    sizes = [a // b for a, b in zip(outer, strides, strict=False)]
    begins = [int(numbers[0]) // stride % size for stride, size in zip(strides, sizes, strict=True)]
    if any(b + c > size for b, c, size in zip(begins, counts, sizes, strict=True)):
        return None
    return View(tuple(sizes), tuple(begins), tuple(counts), tuple(int(axis) for axis in np.argsort(order)))


def _digits(numbers: Index) -> list[tuple[int, int]] | None:
    """Count and stride of each digit, the slowest first, where the numbers are those of a counter from a beginning."""
    found: list[tuple[int, int]] = []
    while len(numbers) > 1:
        steps = np.diff(numbers)
        others = np.flatnonzero(steps != steps[0])
        count = int(others[0]) + 1 if len(others) else len(numbers)
        if len(numbers) % count or steps[0] <= 0:
            return None
        grid = numbers.reshape(-1, count)
        if (grid != grid[:, :1] + np.arange(count) * steps[0]).any():
            return None
        found.insert(0, (count, int(steps[0])))
        numbers = grid[:, 0]
    return found
