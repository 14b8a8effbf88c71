"""What can be shown of one float model: captured, integer-only, free of overflow, bit-exact in every form, how near.

| step       | what                                                                            |
|------------|---------------------------------------------------------------------------------|
| `quantize` | captured and calibrated on random images, the graph proved as `intvit verify` does |
| `compile`  | for this machine, the machine code proved, its integers equal to the reference's   |
| `export`   | the profile `integer`, proved, its integers equal in ONNX Runtime                  |
| `accuracy` | signal to noise against float on other random images; agreement of the top class   |
| `latency`  | in turns with torch float32; peak memory                                           |

A step that fails leaves its reason, and the steps that do not need it are still made.
"""

import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from intvit.bench.memory import peak_memory
from intvit.bench.subjects import Subject
from intvit.bench.timing import Turns, ratio, summary, take_turns
from intvit.bench.torch_peers import TorchPeers
from intvit.compilation import compile_model
from intvit.cores import cores
from intvit.errors import IntvitError
from intvit.evaluation import Tally
from intvit.integer_model import IntegerModel
from intvit.loading import load
from intvit.model import Array, Model
from intvit.quantization import quantize
from intvit.to_onnx.file import export_onnx
from intvit.to_onnx.seal import check_unchanged
from intvit.verify.bit_exact import prove_bit_exact
from intvit.verify.no_float import prove_no_float
from intvit.verify.no_float_code import prove_no_float_instructions
from intvit.verify.no_float_onnx import prove_no_float_onnx, read_model
from intvit.verify.overflow import prove_no_overflow

CALIBRATED = 8
OTHERS = 8
SEEDS = {"calibration": 1, "others": 2}
LEAST_SQNR = 20.0
"""Decibels that every output has to reach."""
MODULE = "model.so"
PROOFS = ("integer_only", "overflow_free", "tvm_exact", "onnx_exact")


@dataclass
class Finding:
    """All that was found of one model; None is what was not reached. Times in seconds, memory in bytes."""

    model: str
    captured: bool | None = None
    integer_only: bool | None = None
    """Of the graph and of all that was made of it: TVM's functions, machine code, ONNX."""
    overflow_free: bool | None = None
    tvm_exact: bool | None = None
    onnx_exact: bool | None = None
    sqnr: list[float] = field(default_factory=list)
    """Decibels of each output."""
    agreement: float | None = None
    """Percent of the images with the same top class; None for what gives no classes."""
    cosine: float | None = None
    parameters: int = 0
    input_shape: tuple[int, ...] = ()
    output_shapes: tuple[tuple[int, ...], ...] = ()
    target: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    """By step."""
    latency: dict[str, Any] | None = None
    memory: dict[str, int] | None = None
    """Resident bytes: of the process that did all this, and what the module adds to one that only runs it."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Why a step failed."""

    @property
    def passed(self) -> bool:
        """Every proof was made and holds, the outputs are near enough, and no step failed."""
        proved = all(getattr(self, name) for name in PROOFS)
        return proved and not self.reasons and min(self.sqnr, default=0) >= LEAST_SQNR

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.passed}

    @classmethod
    def of_json(cls, known: dict[str, Any]) -> "Finding":
        """Of what `to_json` gave, whatever was added to it since, or was not yet in it."""
        return cls(**{each.name: known[each.name] for each in fields(cls) if each.name in known})


class Remembered(Model):
    """A model that computes each image once: the reference takes long, and is compared with several forms."""

    def __init__(self, model: Model) -> None:
        self._model, self.metadata = model, model.metadata
        self._known: dict[bytes, tuple[Array, ...]] = {}

    def _integers(self, pixels: NDArray[np.uint8]) -> tuple[Array, ...]:
        keys = [image.tobytes() for image in pixels]
        new = {key: i for i, key in enumerate(keys) if key not in self._known}
        if new:
            outputs = self._model.integers(pixels[list(new.values())])
            self._known |= {key: tuple(output[i] for output in outputs) for i, key in enumerate(new)}
        return tuple(np.stack(parts) for parts in zip(*(self._known[key] for key in keys), strict=True))


def examine(
    subject: Subject, folder: Path, turns: Turns | None = None, told: Callable[[Finding], None] = lambda finding: None
) -> Finding:
    """Everything about a model; its artifacts are left in `folder`. Latency is measured where `turns` are given.

    `told` is given what was found so far before each step, with the step's name as a reason: that of a crash.
    """
    finding = Finding(subject.name, parameters=sum(p.numel() for p in subject.module.parameters()))
    steps = _Steps(subject, folder, finding, told)
    steps.make("quantize", steps.quantize)
    if steps.model is not None:
        steps.make("compile", steps.compile)
        steps.make("export", steps.export)
        steps.make("accuracy", steps.accuracy)
        if turns is not None and steps.module is not None:
            steps.make("latency", lambda: measure(subject, folder, finding, turns))
    return finding


def measure(subject: Subject, folder: Path, finding: Finding, turns: Turns) -> None:
    """Batch 1 on two threads, or as many as there are, in turns with torch; memory in a process of its own.

    `folder` holds the module that `examine` left there; the finding is changed.
    """
    finding.reasons.pop("latency", None)
    threads = min(2, len(cores()))
    pixels = subject.pixels(1, SEEDS["others"])
    ours = load(folder / MODULE, threads)
    theirs = TorchPeers(subject.module).make("f32", subject.preprocessing.normalize(pixels), threads)
    times = take_turns({"intvit": lambda: ours(pixels), "torch-f32": theirs}, turns)
    finding.latency = {
        "threads": threads,
        **{name: asdict(summary(taken)) for name, taken in times.items()},
        "ratio": asdict(ratio(times["torch-f32"], times["intvit"])),
    }
    finding.memory = {**(finding.memory or {}), "module": peak_memory(folder / MODULE, 1, threads).own}


class _Steps:
    """The steps, and what they hand to each other."""

    def __init__(self, subject: Subject, folder: Path, finding: Finding, told: Callable[[Finding], None]) -> None:
        self.subject, self.folder, self.finding, self._told = subject, folder, finding, told
        self.model: IntegerModel | None = None
        self.module: Model | None = None
        self.reference: Remembered | None = None

    def make(self, name: str, step: Callable[[], None]) -> None:
        """One step, its time, and its reason where it fails; whatever fails, the other steps go on."""
        self.finding.reasons[name] = "the process ended"
        self._told(self.finding)
        del self.finding.reasons[name]
        start = time.perf_counter()
        try:
            step()
        except Exception as error:  # an error of any kind is a result of this matrix
            plain = str(error) if isinstance(error, IntvitError) else f"{type(error).__name__}: {error}"
            self.finding.reasons[name] = plain
        self.finding.seconds[name] = time.perf_counter() - start
        self.finding.memory = {**(self.finding.memory or {}), "process": _peak()}

    def quantize(self) -> None:
        """To a proved integer graph."""
        self.finding.captured = False

        def progress(stage: str, done: int) -> None:
            self.finding.captured = self.finding.captured or stage == "calibrate"

        model = quantize(
            self.subject.module,
            self.subject.pixels(CALIBRATED, SEEDS["calibration"]),
            calib=CALIBRATED,
            batch=2,
            preprocessing=self.subject.preprocessing,
            name=self.subject.name,
            progress=progress,
        )
        self.finding.captured = True
        self.finding.input_shape = model.metadata.input_grid.shape
        self.finding.output_shapes = model.metadata.output_shapes
        self.model, self.reference = model, Remembered(model)
        self._prove("integer_only", prove_no_float, model.graph)
        self._prove("overflow_free", prove_no_overflow, model.graph)

    def compile(self) -> None:
        """To a module of this machine; its functions are proved where it is written, its code here."""
        assert self.model is not None and self.reference is not None
        path = self.folder / MODULE
        start = time.perf_counter()
        compiled = compile_model(self.model)
        self.finding.seconds["build"] = time.perf_counter() - start
        self.finding.target = compiled.target
        compiled.save(path)
        self._prove("integer_only", prove_no_float_instructions, path)
        self._prove("tvm_exact", prove_bit_exact, compiled, self.reference)
        self.module = compiled

    def export(self) -> None:
        """To an ONNX model, which is as it was written."""
        assert self.model is not None and self.reference is not None
        path = self.folder / "model.onnx"
        export_onnx(self.model).save(path)
        proto = read_model(path)
        check_unchanged(proto, path)
        self._prove("integer_only", prove_no_float_onnx, proto)
        self._prove("onnx_exact", prove_bit_exact, load(path), self.reference)

    def accuracy(self) -> None:
        """Against float, on other images than those of calibration; of the module, which equals the reference."""
        model = self.module or self.reference
        assert model is not None
        tally = Tally()
        signal = noise = np.zeros(len(model.metadata.output_shapes))
        for pixels in np.split(self.subject.pixels(OTHERS, SEEDS["others"]), OTHERS // 2):
            exact = self._float(pixels)
            found = model(pixels)
            outputs = found if isinstance(found, tuple) else (found,)
            signal = signal + np.array([np.square(y, dtype=np.float64).sum() for y in exact])
            differences = [np.subtract(a, b, dtype=np.float64) for a, b in zip(outputs, exact, strict=True)]
            noise = noise + np.array([np.square(d).sum() for d in differences])
            tally.add(outputs[0], None, exact[0])
        self.finding.sqnr = [float(db) for db in 10 * np.log10(signal / np.maximum(noise, 1e-30))]
        self.finding.agreement, self.finding.cosine = tally.result().agreement, tally.result().cosine

    def _float(self, pixels: NDArray[np.uint8]) -> list[Array]:
        """The float model's outputs, in the order of the integer model's."""
        images = torch.from_numpy(self.subject.preprocessing.normalize(pixels))
        with torch.inference_mode():
            leaves = torch.utils._pytree.tree_leaves(self.subject.module(images))
        return [leaf.numpy() for leaf in leaves if isinstance(leaf, Tensor)]

    def _prove(self, name: str, proof: Callable[..., object], *arguments: Any) -> None:
        """What failed once stays failed; raises what the proof raises."""
        held = getattr(self.finding, name) is not False
        setattr(self.finding, name, False)
        proof(*arguments)
        setattr(self.finding, name, held)


def _peak() -> int:
    """Most bytes that this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
