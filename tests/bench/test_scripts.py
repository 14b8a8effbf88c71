"""The scripts of `bench/`: tables and pictures of known measurements, and loops that the processor really runs."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from intvit.bench.machine import describe
from intvit.bench.names import PEERS


def row(name: str, median: float, ratio: float | None) -> dict[str, Any]:
    spread = None if ratio is None else {"value": ratio, "low": ratio - 0.1, "high": ratio + 0.1}
    times = {"median": median, "p10": median - 1, "p90": median + 1, "calls": 150}
    return {"name": name, **times, "images_per_second": 1000 / median, "ratio": spread}


def measurement(model: str = "timm:deit_tiny", isa: str = "native") -> dict[str, Any]:
    def part(batch: int, threads: int, ours: float) -> dict[str, Any]:
        rows = [row("intvit", ours, None), row("openvino-int8", 3 * ours, 3.0), row("torch-f32", 200, 200 / ours)]
        return {"batch": batch, "threads": threads, "rows": rows, "skipped": {"onnx-f32": "not installed"}}

    memory = {"threads": 1, "batch": 1, "before": 50_000_000, "loaded": 55_000_000, "peak": 60_000_000}
    ours = {"target": "x86-64-v3", "compile_seconds": 9.0, "artifact_bytes": 5_500_000, "memory": [memory]}
    return {
        "model": model,
        "isa": isa,
        "machine": describe(),
        "weight_bytes": 5_000_000,
        "quantize": {"seconds": 4.0, "images": 16},
        "modules": {"intvit": ours},
        "latency": [part(1, 1, 10), part(1, 2, 6), part(8, 2, 36)],
    }


def test_tables(script: Any) -> None:
    text = script("table").markdown([measurement(), measurement("timm:deit_small")])
    assert "## native (ours: x86-64-v3), 1 thread\n" in text
    assert "| model | batch | intvit | torch-f32 | openvino-int8 |" in text
    assert "| deit_tiny | 1 | 10.00 (9.00 to 11.00) | 200 (199 to 201) | 30.00 (29.00 to 31.00) |" in text
    assert "| deit_small | 8 | 1 | 5.56 (5.46 to 5.66) | 3.00 (2.90 to 3.10) |" in text
    assert "| deit_tiny | native | 2 | 8 | 4.50 | 0.75 |  |" in text
    assert "| deit_tiny | native | 2 | 1 | 6.00 |  | 1.67 |" in text
    assert "| 5.5 MB (1.10) | 1 | 1 | 60.0 MB | 50.0 MB | 10.0 MB (2.00) |" in text
    assert text.count("- onnx-f32 (native): not installed") == 1
    for line in text.splitlines():
        assert not line.startswith("|") or line.endswith("|")


def test_a_table_of_nothing(script: Any) -> None:
    assert script("table").markdown([]) == "Nothing was measured.\n"


def test_pictures(script: Any, tmp_path: Path) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        pytest.skip("matplotlib not installed: pip install 'intvit[bench]'")
    written = script("plots").draw([measurement(), measurement(isa="avx2")], tmp_path)
    names = [
        f"latency-{isa}-batch{batch}.{kind}"
        for isa in ("native", "avx2")
        for batch in (1, 8)
        for kind in ("png", "svg")
    ]
    assert [path.name for path in written] == names
    assert all(path.stat().st_size > 1000 for path in written)
    assert (tmp_path / "latency-native-batch1.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "latency-native-batch1.svg").read_text()


def test_every_limit_has_a_target(script: Any) -> None:
    from intvit.targets import TARGETS

    limits = script("isa").LIMITS
    assert limits["native"].target == "auto" and limits["native"].environment == {}
    for name, limit in limits.items():
        assert limit.target in {"auto", *TARGETS}
        assert name == "native" or limit.environment["ONEDNN_MAX_CPU_ISA"] == name.upper()


def test_what_a_limit_leaves_out(script: Any) -> None:
    left_out = script("isa").left_out
    assert [name for name in PEERS if left_out("native", name)] == []
    limited = ["torch-f32", "torch-compile-f32", "openvino-f32", "openvino-int8"]
    assert [name for name in PEERS if not left_out("avx2", name)] == limited


def test_loops_hold_their_instruction(script: Any) -> None:
    from tvm.target import codegen

    if not codegen.llvm_get_system_triple().startswith("x86_64"):
        pytest.skip("the loops are x86-64's")
    peak = script("peak")
    for instruction in peak.INSTRUCTIONS:
        name, _, register = instruction.name.partition(" ")
        lines = peak.build(instruction).mod.inspect_source("asm").splitlines()
        uses = [line for line in lines if line.split()[:1] == [name] and register in line]
        assert len(uses) >= instruction.chains, instruction


def test_the_peak_of_an_instruction(script: Any) -> None:
    peak = script("peak")
    found = peak.peaks(1)
    if not found:
        pytest.skip("no instruction that is known here")
    assert min(found.values()) > 1e9  # one multiply-add per nanosecond is slower than any of them
    with pytest.raises(ValueError, match="threads on"):
        peak.peak(peak.INSTRUCTIONS[-1], 1000)


def test_roofline_tables(script: Any) -> None:
    from intvit.bench.kernels import Kernel

    roofline = script("roofline")
    kernels = [
        Kernel("product", "blocks.*.mlp.fc1", 12, 3_000_000, 0.006, 0.6),
        Kernel("attention", "blocks.*.attn", 12, 500_000, 0.003, 0.3),
        Kernel("layernorm", "blocks.*.norm1", 12, 0, 0.001, 0.1),
    ]
    found = roofline.shares(kernels)
    assert found == {"seconds": pytest.approx(0.01), "product_rate": 5e8, "outside_products": pytest.approx(0.4)}
    rows = [{**vars(kernel), "rate": kernel.rate} for kernel in kernels]
    report = {"model": "timm:deit", "target": "x86-64-v3", "batch": 1, "threads": 2, "peaks": {"vpmaddwd ymm": 1e9}}
    text = roofline.markdown([{**report, "kernels": json.loads(json.dumps(rows)), **found}])
    assert "| vpmaddwd ymm | 1 |" in text
    assert "10.00 ms in kernels, 40% of it outside products" in text
    assert "50% of the peak of vpmaddwd ymm" in text
    assert "| product | blocks.*.mlp.fc1 | 12 | 6.000 | 60.0% | 3.0 | 0 | 50% |" in text
    assert "| layernorm | blocks.*.norm1 | 12 | 1.000 | 10.0% |  |  |  |" in text
