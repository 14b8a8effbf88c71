"""Which function the knots of an `activation` are those of: runtimes have fast operators for the usual ones.

The integer graph knows no function but its knots. They are `a g(k u) + c`, rounded, at the integers `u`, of a function
`g` that has a name, with some k, a and c; k is searched for, a and c are least squares. A function is recognized where
it is within a unit of every knot, so a result differs by no more than a rounded knot does.

    LeakyRelu   of any slope, ReLU with it             HardSwish   x clip(x / 6 + 1/2, 0, 1)
    Clip        ReLU6, hard tanh, hard sigmoid         SiLU        x sigmoid(x), the quick GELU with it
                                                       Sigmoid     tanh with it: 2 sigmoid(2x) - 1

151,000 elements on one thread of a Zen 4, ONNX Runtime 1.31 and OpenVINO (less what a call costs): SiLU 60 and 120 us,
a table 250 and 2000 us.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from intvit.dialect.activation import FIRST, KNOTS, STEP_BITS
from intvit.to_onnx.scope import Scope

Array = NDArray[np.float64]
END = 1 << 15
MOST = END - 1
"""A knot as large as that is saturated: it is not what the function was."""
UNIT = 8.0 / END
"""The step of operands of functions that are the same at any scale."""
ARGUMENTS = np.geomspace(0.05, 2000, 120)
"""What the largest operand may be, in the function's own unit."""
ROUNDS = 6
"""Of the search, each ten times finer."""
LEAST = 5
"""Knots that a function is recognized by."""


def hard_swish(z: Array) -> Array:
    """As ONNX has it."""
    return np.asarray(z * np.clip(z / 6 + 0.5, 0, 1))


def sigmoid(z: Array) -> Array:
    return np.asarray(0.5 * (1 + np.tanh(z / 2)))


def silu(z: Array) -> Array:
    return np.asarray(z * sigmoid(z))


SMOOTH: dict[str, Callable[[Array], Array]] = {"SiLU": silu, "Sigmoid": sigmoid, "HardSwish": hard_swish}


@dataclass(frozen=True)
class Recognized:
    """`scale` times the results are `g(operand · u) + offset`, and within `limits` of 0 if they are saturated.

    `alpha`, or the ends `low` and `high`, belong to g.
    """

    kind: str
    operand: float
    scale: float
    offset: float
    alpha: float = 0.0
    low: float = 0.0
    high: float = 0.0
    limits: float | None = None

    def write(self, scope: Scope, x: str) -> str:
        """The operators, at operands of the scale `operand`."""
        y = self._function(scope, x)
        if self.offset:
            y = scope.op("Add", y, scope.constant(self.offset, "float32", "middle"), label="moved")
        if self.limits is None:
            return y
        ends = (scope.constant(end, "float32") for end in (-self.limits, self.limits))
        return scope.op("Clip", y, *ends, label="saturated")

    def _function(self, scope: Scope, x: str) -> str:
        if self.kind == "SiLU":
            return scope.op("Mul", x, scope.op("Sigmoid", x, label="gate"), label="activated")
        if self.kind == "LeakyRelu" and self.alpha:
            return scope.op("LeakyRelu", x, alpha=self.alpha, label="activated")
        if self.kind == "Clip":
            ends = (scope.constant(end, "float32") for end in (self.low, self.high))
            return scope.op("Clip", x, *ends, label="activated")
        return scope.op("Relu" if self.kind == "LeakyRelu" else self.kind, x, label="activated")


@dataclass(frozen=True)
class Knots:
    """A table's places and its results there, float64 `[257]`; `unit` is a knot's step in steps of the result."""

    places: Array
    results: Array
    unit: float

    @classmethod
    def of(cls, table: NDArray[np.int16], shift: int) -> "Knots":
        unit = 2.0 ** (STEP_BITS - shift)
        places = (np.arange(KNOTS, dtype=np.float64) + FIRST) * (1 << STEP_BITS)
        return cls(places, table.astype(np.float64) * unit, unit)

    @property
    def largest(self) -> float:
        """What a knot is at most: the function may be more."""
        return MOST * self.unit

    @property
    def inside(self) -> NDArray[np.bool_]:
        """Which are not saturated."""
        return np.abs(self.results) < self.largest

    def near(self, found: Array) -> bool:
        """Whether a function is within a unit of every knot."""
        saturated = found.clip(-self.largest - self.unit, self.largest)
        return bool(np.abs(saturated - self.results).max() <= self.unit)

    def offset(self, c: float) -> float:
        """0 where that is what was rounded."""
        return float(c) if abs(c) > self.unit else 0.0


def recognized(table: NDArray[np.int16], shift: int) -> Recognized | None:
    """The function of a table, None where it is not one of these."""
    knots = Knots.of(table, shift)
    if np.ptp(knots.results) < 2 * knots.unit or knots.inside.sum() < LEAST:
        return None
    found = _leaky(knots) or _clipped(knots) or _smooth(knots)
    if found is None or found.kind == "Clip" or knots.inside[:-1].all():  # the last is beyond all operands
        return found
    return replace(found, limits=knots.largest * found.scale)


def _leaky(knots: Knots) -> Recognized | None:
    basis = np.stack([knots.places, np.maximum(knots.places, 0), np.ones(KNOTS)], 1)
    (low, more, c), *_ = np.linalg.lstsq(basis[knots.inside], knots.results[knots.inside], rcond=None)
    slope = float(low + more)
    if slope <= 0 or not knots.near(basis @ (low, more, c)):
        return None
    scale = UNIT / slope
    alpha = float(low) / slope if abs(low) * END > knots.unit else 0.0
    return Recognized("LeakyRelu", UNIT, scale, knots.offset(c) * scale, alpha)


def _clipped(knots: Knots) -> Recognized | None:
    y, low, high = knots.results, float(knots.results.min()), float(knots.results.max())
    between = (y > low + knots.unit) & (y < high - knots.unit)
    if between.sum() < 2:
        return None
    slope, c = (float(number) for number in np.polyfit(knots.places[between], y[between], 1))
    if slope <= 0 or not knots.near((slope * knots.places + c).clip(low, high)):
        return None
    scale, offset = UNIT / slope, knots.offset(c)
    return Recognized("Clip", UNIT, scale, offset * scale, 0.0, (low - offset) * scale, (high - offset) * scale)


def _smooth(knots: Knots) -> Recognized | None:
    for kind, function in SMOOTH.items():
        candidates = ARGUMENTS / END
        for _ in range(ROUNDS):
            errors = [_fitted(function, k, knots)[2] for k in candidates]
            best = int(np.argmin(errors))
            ends = candidates[max(best - 1, 0)], candidates[min(best + 1, len(candidates) - 1)]
            candidates = np.geomspace(*ends, 21)
        k = float(candidates[10])
        a, c, _ = _fitted(function, k, knots)
        if a > 0 and knots.near(a * function(k * knots.places) + c):
            return Recognized(kind, k, 1 / a, knots.offset(c) / a)
    return None


def _fitted(function: Callable[[Array], Array], k: float, knots: Knots) -> tuple[float, float, float]:
    """a, c of `a g(k u) + c`, the nearest to the knots that are not saturated, and the squares of what it is off."""
    g, y = function(k * knots.places[knots.inside]), knots.results[knots.inside]
    about, wanted = g - g.mean(), y - y.mean()
    spread = float(about @ about)
    a = float(about @ wanted) / spread if spread else 0.0
    return a, float(y.mean() - a * g.mean()), float(np.square(a * about - wanted).sum())
