"""`intvit demo`: a small float Vision Transformer of ours, integer-only, compiled for this CPU, and compared.

| file                 | what                                                             |
|----------------------|------------------------------------------------------------------|
| `model.py`           | the float model, a plain `nn.Module`, and its preprocessing       |
| `images.py`          | its calibration images and its held-out images                    |
| `train.py`           | makes the weights and both files of images (needs scikit-learn)   |
| `digits.safetensors`, `calibration.npz`, `held_out.npz` | what `train.py` made          |

Needs no network, and nothing that the package itself does not need.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray

from intvit.compilation import compile_model
from intvit.demo.images import calibration, held_out
from intvit.demo.model import PREPROCESSING, digits
from intvit.quantization import quantize
from intvit.runtime import CompiledModel
from intvit.verify.bit_exact import prove_bit_exact
from intvit.verify.no_float import prove_no_float
from intvit.verify.no_float_code import prove_no_float_instructions
from intvit.verify.overflow import prove_no_overflow

ROUNDS, CALLS = 5, 50


@dataclass(frozen=True)
class DemoResult:
    """Accuracies and agreement are shares of the held-out `images`; latencies are of one image, medians."""

    images: int
    float_accuracy: float
    integer_accuracy: float
    agreement: float
    float_ms: float
    integer_ms: float
    integer_only: bool
    overflow_free: bool
    bit_exact: bool
    target: str
    threads: int
    quantize_seconds: float
    compile_seconds: float


def run(say: Callable[[str], None]) -> DemoResult:
    """Quantizes, compiles, proves and measures; `say` is told each line of what a person reads.

    Raises `VerifyError` where a proof fails and `IntvitError` where there is no C compiler.
    """
    module = digits()
    pixels, labels = held_out()
    parameters = sum(parameter.numel() for parameter in module.parameters())
    say(f"A Vision Transformer for handwritten digits: {parameters:,} parameters, float32.")
    start = time.perf_counter()
    model = quantize(module, list(calibration()), preprocessing=PREPROCESSING)
    quantized = time.perf_counter()
    say(f"Quantized with {len(calibration())} images in {quantized - start:.1f} s, without training.")
    compiled = compile_model(model)
    assert isinstance(compiled, CompiledModel)
    built = time.perf_counter()
    say(f"Compiled for {compiled.target}, {compiled.threads} threads, in {built - quantized:.1f} s.")

    operations, proved = prove_no_float(model.graph), len(prove_no_overflow(model.graph))
    instructions = prove_no_float_instructions(compiled.path)
    compared = prove_bit_exact(compiled, model, pixels)
    integers = compiled(pixels, raw=True)
    expected, answers = _float_answers(module, pixels), integers.argmax(1)
    float_ms, integer_ms = _latencies(module, compiled, pixels[:1])
    result = DemoResult(
        images=len(pixels),
        float_accuracy=float((expected == labels).mean()),
        integer_accuracy=float((answers == labels).mean()),
        agreement=float((answers == expected).mean()),
        float_ms=float_ms,
        integer_ms=integer_ms,
        integer_only=True,
        overflow_free=True,
        bit_exact=True,
        target=compiled.target,
        threads=compiled.threads,
        quantize_seconds=quantized - start,
        compile_seconds=built - quantized,
    )
    for line in _table(result):
        say(line)
    say(f"integer only   proved   {operations} operations, {instructions:,} instructions, none of them float")
    say(f"no overflow    proved   {proved} operations, each within 32 bits for every possible image")
    say(f"bit-exact      tested   all {compared:,} logits equal those of the reference")
    return result


def _float_answers(module: torch.nn.Module, pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
    with torch.inference_mode():
        answers: NDArray[np.int64] = module(torch.from_numpy(PREPROCESSING.normalize(pixels))).argmax(1).numpy()
    return answers


def _latencies(module: torch.nn.Module, compiled: CompiledModel, image: NDArray[np.uint8]) -> tuple[float, float]:
    """Median milliseconds of the float and of the compiled model, each with the input it takes, in alternate rounds.

    Not in alternate calls: the threads of both wait for more work by spinning, and would be in each other's way.
    """
    normalized = torch.from_numpy(PREPROCESSING.normalize(image))
    float_ms: list[float] = []
    integer_ms: list[float] = []
    with torch.inference_mode():
        for _ in range(ROUNDS):
            float_ms += [_milliseconds(lambda: module(normalized)) for _ in range(CALLS)]
            integer_ms += [_milliseconds(lambda: compiled(image)) for _ in range(CALLS)]
    return median(float_ms), median(integer_ms)


def _milliseconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - start)


def _table(result: DemoResult) -> list[str]:
    """Float beside integer."""
    rows = [
        ("", "float32, torch", "integer-only, TVM"),
        (f"correct of {result.images} new images", f"{result.float_accuracy:.1%}", f"{result.integer_accuracy:.1%}"),
        ("same answer as float32", "", f"{result.agreement:.1%}"),
        ("time for one image", f"{result.float_ms:.2f} ms", f"{result.integer_ms:.2f} ms"),
    ]
    note = "(A model this small spends most of either time on calls, not on arithmetic.)"
    return ["", *(f"{name:26}{left:>16}{right:>20}" for name, left, right in rows), note, ""]
