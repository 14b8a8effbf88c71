"""Autotuning: the cuts of products and attention that are fastest on this machine, measured while it compiles.

Each kernel is measured alone, on its own constants and random activations at batch 1, with TVM's threads on all cores.
A cut counts only if it beats the rule's clearly, and does so again when both are built anew: where code and operands
happen to lie is worth up to 4 % of the time (fc1 of DeiT-T, Zen 4), and the best of ten is always lucky in that.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from intvit.building import build_kernel
from intvit.errors import IntvitError
from intvit.ffi import tvm_ffi
from intvit.integer_model import IntegerModel
from intvit.kernels.cut import Cut
from intvit.legalize import Tunable
from intvit.model import Array
from intvit.program import Argument, Program, Step, Value, program_of
from intvit.runtime import aligned_empty, use_threads
from intvit.targets import Cpu, runs_here
from intvit.tuning_cache import Found, TuningCache

GAIN = 1.03
"""How many times as fast as the rule a cut must be."""
WORTH = 0.01
"""Part of a model's multiply-adds below which a kernel is left alone: its time is that of waking threads."""
ROUNDS, MEASURED = 5, 0.25
"""Least calls of each cut, and seconds of all calls in one comparison."""
Call = Callable[[], object]


@dataclass(frozen=True)
class Tuned:
    """What tuning did: kernels with a choice, how many the file knew, were measured, and are better than by rule."""

    kernels: int = 0
    known: int = 0
    measured: int = 0
    improved: int = 0

    def __add__(self, other: "Tuned") -> "Tuned":
        return Tuned(
            self.kernels + other.kernels,
            self.known + other.known,
            self.measured + other.measured,
            self.improved + other.improved,
        )


class Tuning:
    """The search for one module: `seconds` of it, shared by the variants that run here, and the file of results."""

    def __init__(self, target: str, variants: Sequence[Cpu], seconds: float, path: Path | None) -> None:
        """Raises `IntvitError` where there would be nothing to search and nothing known, or the file is not one."""
        if not 0 <= seconds < float("inf"):
            raise IntvitError(f"--tune takes a number of seconds from 0 on, not {seconds}")
        if path is not None and not seconds and not path.is_file():
            raise IntvitError(f"{path}: no such file; check the path, or make it with --tune SECONDS")
        self._cache = TuningCache.open(path)
        self._here = {cpu.name for cpu in variants if runs_here(cpu.name)} if seconds else set[str]()
        if seconds and not self._here and not any(self._cache.of(cpu.name) for cpu in variants):
            raise IntvitError(
                f"--tune measures, and this machine does not run {target}: tune on one that does, with --tune-cache "
                "FILE, and give that file here"
            )
        self._seconds = seconds / max(1, len(self._here))
        self.result = Tuned()

    def program(self, model: IntegerModel, cpu: Cpu) -> Program:
        """The kernels of a variant, cut as is known or found to be best."""
        program = program_of(model, cpu.isa)
        choices = tunables(program)
        known = {n: f for n, f in self._cache.of(cpu.name).items() if n in choices and f.cut in choices[n][1].cuts}
        found = search(choices, cpu, known, self._seconds) if cpu.name in self._here else {}
        self._cache.add(cpu.name, found)
        cuts = {name: result.cut for name, result in {**known, **found}.items()}
        improved = sum(cut != choices[name][1].cuts[0] for name, cut in cuts.items())
        self.result += Tuned(len(choices), len(known), len(found), improved)
        return program_of(model, cpu.isa, cuts) if improved else program


def tunables(program: Program) -> dict[str, tuple[Step, Tunable]]:
    """The kernels whose choice is worth measuring, by name, each with the first step that it is; most work first."""
    steps: dict[str, tuple[Step, Tunable]] = {}
    work: dict[str, int] = {}
    for step in program.steps:
        tunable = step.kernel.tunable
        if tunable is not None and len(tunable.cuts) > 1:
            steps.setdefault(tunable.name, (step, tunable))
            work[tunable.name] = work.get(tunable.name, 0) + step.kernel.multiply_adds
    least = WORTH * sum(step.kernel.multiply_adds for step in program.steps)
    return {name: steps[name] for name in sorted(work, key=lambda name: -work[name]) if work[name] >= least}


def search(
    choices: Mapping[str, tuple[Step, Tunable]], cpu: Cpu, known: Mapping[str, Found], seconds: float
) -> dict[str, Found]:
    """Measures the kernels that are not known, in order, until the time is used up; one that is not done is left."""
    use_threads()
    end = time.monotonic() + seconds
    found: dict[str, Found] = {}
    for name, (step, tunable) in choices.items():
        if name in known:
            continue
        build = partial(_call, step, tunable, cpu)
        calls: list[Call] = []
        for cut in tunable.cuts:
            if time.monotonic() > end:
                return found
            calls.append(build(cut))
        found[name] = best(tunable.cuts, calls, build)
    return found


def best(cuts: Sequence[Cut], calls: Sequence[Call], build: Callable[[Cut], Call]) -> Found:
    """The fastest cut, if it is so again when it and the rule, which is the first, are built anew."""
    seconds = least_seconds(calls)
    chosen = int(np.argmin(seconds))
    if seconds[0] > GAIN * seconds[chosen]:
        rule, again = least_seconds([build(cuts[0]), build(cuts[chosen])])
        if rule > GAIN * again:
            return Found(cuts[chosen], again, rule)
    return Found(cuts[0], seconds[0], seconds[0])


def _call(step: Step, tunable: Tunable, cpu: Cpu, cut: Cut) -> Call:
    """A call of a kernel with operands of its own."""
    operands = [_operand(a) for a in (*step.arguments, step.result)]
    return partial(build_kernel(tunable.build(cut), cpu.target), *operands)


def least_seconds(calls: Sequence[Call]) -> list[float]:
    """The least time of each call, after a first; they take turns, so that other load meets all of them."""
    least = [float("inf")] * len(calls)
    end = time.monotonic() + MEASURED
    turn = 0
    while turn <= ROUNDS or time.monotonic() < end:
        for place in range(len(calls)):
            i = (turn + place) % len(calls)  # nobody is always the first
            start = time.perf_counter()
            calls[i]()
            if turn:
                least[i] = min(least[i], time.perf_counter() - start)
        turn += 1
    return least


def _operand(argument: Argument) -> Any:
    """A constant, or any integers for an activation, as TVM takes it."""
    if isinstance(argument, np.ndarray):
        values: Array = argument
    else:
        assert isinstance(argument, Value), "no kernel with a choice reads the image"
        limits = np.iinfo(argument.dtype)
        shape = argument.tokens, argument.columns
        values = np.random.default_rng(0).integers(limits.min, limits.max, shape, argument.dtype, endpoint=True)
    aligned = aligned_empty(values.shape, str(values.dtype))
    aligned[...] = values
    return tvm_ffi.from_dlpack(aligned)
