"""`bench/gpu.py` and what belongs to it, without a GPU: turns, statistics, checks, packs, tables and pictures."""

import importlib.util
import inspect
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from intvit.cuda.runtime import CudaModel

FOLDER = Path(__file__).resolve().parents[2] / "bench"


def cpu_timer(call: Callable[[], object], count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count


def run(name: str, *arguments: object, **variables: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(FOLDER / name), *map(str, arguments)]
    environment = {**os.environ, **variables}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


def test_turns_alternate_and_last_as_long_as_they_should(script: Any) -> None:
    """Each round has one number of each; a short call is repeated, and one is never counted."""
    gpu, order = script("gpu"), []

    def timer(call: Callable[[], object], count: int) -> float:
        order.append((call(), count))
        return {"intvit": 0.001, "f16-graph": 0.5}[order[-1][0]]

    calls = {name: (lambda name=name: name) for name in ("intvit", "f16-graph")}
    times = gpu.take_turns(calls, timer, gpu.Turns(rounds=4, seconds=0.02))
    assert times == {"intvit": [0.001] * 4, "f16-graph": [0.5] * 4}
    assert order[:4] == [("intvit", 3)] * 2 + [("f16-graph", 3)] * 2
    assert order[4:] == [("intvit", 20), ("f16-graph", 1)] * 4
    assert len(gpu.take_turns(calls, timer, gpu.Turns(rounds=9, limit=0.0))["intvit"]) == 3


def test_float32_is_float32_where_it_says_so(script: Any) -> None:
    """TF32 is on in the calls of its peers and in no others'."""
    gpu, seen = script("gpu"), {}

    def timer(call: Callable[[], object], count: int) -> float:
        matmul, convolution = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        seen.setdefault(call(), set()).add((matmul, convolution))
        return 0.01

    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    gpu.take_turns({name: (lambda name=name: name) for name in gpu.PEERS}, timer, gpu.Turns(rounds=3))
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
    assert seen == {name: {(name.startswith("tf32"),) * 2} for name in gpu.PEERS}


def test_statistics(script: Any) -> None:
    gpu = script("gpu")
    ours, f16 = [0.001, 0.002, 0.003], [0.004, 0.004, 0.009]
    rows = gpu.rows_of({"intvit": ours, "f16-graph": f16, "bf16-eager": [0.005] * 3, "f32-eager": [0.001] * 3}, batch=8)
    assert rows[0] == {
        **{"name": "intvit", "median": 2.0, "p10": pytest.approx(1.2), "p90": pytest.approx(2.8), "rounds": 3},
        **{"images_per_second": 4000.0, "ratio": None},
    }
    assert rows[1]["ratio"]["value"] == 2.0
    low, high = np.percentile([4.0, 2.0, 3.0], [10, 90])
    assert (rows[1]["ratio"]["low"], rows[1]["ratio"]["high"]) == (pytest.approx(low), pytest.approx(high))
    assert gpu.best_half(rows) == "f16-graph" and gpu.best_half(rows[:1]) is None
    line = gpu.summary_line({"model": "m", "batch": 8, "rows": rows, "best_half": "f16-graph"})
    assert line == "m batch 8: 2.000 ms, f16-graph 2.00 times, f32-eager 0.50 times"


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("timm:deit_tiny_patch16_224", "deit_tiny_patch16_224"),
        ("timm:deit_small_patch16_224", "deit_small_patch16_224"),
        ("timm:deit_base_patch16_224", "deit_base_patch16_224"),
        ("timm:vit_large_patch16_224", "vit_large_patch16_224"),
    ],
)
def test_the_peer_has_the_models_sizes(script: Any, name: str, theirs: str) -> None:
    """As many parameters of each shape as timm's."""
    timm = pytest.importorskip("timm")
    gpu = script("gpu")
    with torch.device("meta"):
        ours, other = gpu.ViT(*gpu.sizes_of(name)), timm.create_model(theirs)
    assert sorted(tuple(p.shape) for p in ours.parameters()) == sorted(tuple(p.shape) for p in other.parameters())


def test_the_peer_computes_what_timm_does(script: Any) -> None:
    timm = pytest.importorskip("timm")
    gpu = script("gpu")
    other = timm.create_model("deit_tiny_patch16_224").eval()
    ours = gpu.ViT(*gpu.SIZES["tiny"]).eval()
    parts = {"cls_token": "token", "pos_embed": "position", "patch_embed.proj": "patch", "attn.": "", "mlp.": ""}
    state = {}
    for name, value in other.state_dict().items():
        for theirs, mine in parts.items():
            name = name.replace(theirs, mine)
        state[name] = value
    ours.load_state_dict(state)
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(images), other(images), rtol=1e-4, atol=1e-4)


def test_a_model_that_torch_has_no_peer_for(script: Any) -> None:
    with pytest.raises(LookupError, match="no torch model of the sizes of timm:swin_tiny_patch4_window7_224"):
        script("gpu").sizes_of("timm:swin_tiny_patch4_window7_224")


def test_logits_are_compared_with_the_references(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file goes through `write_check` and `checked`: equal at any batch, and one wrong bit counts."""
    gpu, packs = script("gpu"), script("gpu_packs")
    monkeypatch.setattr(gpu, "DEVICE", "cpu")
    model, pixels = tiny.integer_model(), tiny.pixels(11)
    packs.write_check(model, pixels, tmp_path / "right.npz")

    def reference(images: torch.Tensor, raw: bool) -> torch.Tensor:
        assert raw and images.dtype == torch.uint8
        return torch.from_numpy(model(images.numpy(), raw=True))

    def wrong(images: torch.Tensor, raw: bool) -> torch.Tensor:
        logits = reference(images, raw)
        logits[-1, -1] ^= 1
        return logits

    def found(call: Any, digest: str = model.digest) -> list[tuple[int, int, int]]:
        class Fake:
            __call__ = staticmethod(call)

        fake = Fake()
        fake.digest = digest  # type: ignore[attr-defined]
        checks = gpu.checked(fake, [tmp_path / "right.npz"], [1, 8])
        return [(check["batch"], check["images"], check["different"]) for check in checks]

    assert found(reference) == [(1, 11, 0), (8, 11, 0)]
    assert found(wrong) == [(1, 11, 11), (8, 11, 2)]
    assert found(reference, "of another model") == []
    assert "right.npz, batch 8: 2 of 110 logits differ" in capsys.readouterr().out


def test_repeated_blocks_are_different_bytes_of_the_same_rows(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a block adds is faint, and all else of the first block is as it was."""
    packs, model = script("gpu_packs"), tiny.vit()
    monkeypatch.setattr(packs, "BRANCHES", ("proj", "fc2"))
    packs.repeat(model)
    first, second = (dict(block.named_parameters()) for block in model.blocks)
    for name, before in tiny.vit().blocks[0].named_parameters():
        assert torch.equal(first[name], before * (packs.FAINT if name.startswith(("proj", "fc2")) else 1)), name
        assert torch.equal(first[name], second[name].roll(-packs.ROWS, 0)), name
    assert not torch.equal(first["fc1.weight"], second["fc1.weight"])


def test_what_gpu_refuses(tmp_path: Path) -> None:
    """Not a pack, a pack for CPUs, a wrong peer; and a machine without a GPU, whatever this one is."""
    for target, folder in (("x86-64-v3", "cpu"), ("cuda:sm_90", "gpu")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "pack.json").write_text(json.dumps({"target": target}))
    for arguments, reason in (
        ([tmp_path], "not a folder that `intvit pack` wrote"),
        ([tmp_path / "cpu"], "a pack for CPUs; compile with --target cuda:sm_90"),
        ([tmp_path / "gpu", "--batches", "0"], "batches must be at least 1"),
        ([tmp_path / "gpu", "--peers", "f8"], "invalid choice: 'f8'"),
        ([tmp_path / "gpu"], "torch finds no NVIDIA GPU on this machine"),
    ):
        done = run("gpu.py", *arguments, "--out", tmp_path / "x.json", CUDA_VISIBLE_DEVICES="")
        assert done.returncode == 2 and reason in done.stderr, done.stderr
    assert not (tmp_path / "x.json").exists()


def test_a_model_is_closed_whatever_happens(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, closed = script("gpu"), []
    model = SimpleNamespace(close=lambda: closed.append(True))
    monkeypatch.setattr(gpu, "machine", lambda: {})
    monkeypatch.setattr(gpu, "import_module", lambda name: SimpleNamespace(load=lambda path: model))
    options = SimpleNamespace(packs=[Path("p")], batches=[], check=[], check_batches=[1], deadline=0.0)
    options.out = tmp_path / "no folder" / "r.json"
    with pytest.raises(FileNotFoundError), torch.random.fork_rng():
        gpu.measure(options)
    torch.set_grad_enabled(True)
    assert closed == [True]


def test_packs_are_made_in_new_folders_alone(tmp_path: Path) -> None:
    """Told before anything is quantized, whichever of the models it is."""
    (tmp_path / "deit_small").mkdir()
    (tmp_path / "deit_small" / "x").touch()
    done = run("gpu_packs.py", tmp_path, "--models", "deit_tiny", "deit_small")
    assert done.returncode == 2 and "deit_small: the folder holds files; give a new or an empty one" in done.stderr
    assert "quantizing" not in done.stderr and [path.name for path in tmp_path.iterdir()] == ["deit_small"]


def test_commands_are_those_of_the_readme(script: Any) -> None:
    readme = (FOLDER / "README.md").read_text()
    commands = [line for line in script("gpu_packs").__doc__.splitlines() if line.startswith("    ")]
    assert len(commands) == 3 and "\n".join(commands) in readme


TOOL = """#!{python}
import subprocess, sys
tool, command = sys.argv[2], sys.argv[5:]
print("========= COMPUTE-SANITIZER")
code = subprocess.run(command).returncode
if tool == "racecheck":
    print("========= Error: a race")
    print("=========     at product")
    code = 99
print("========= ERROR SUMMARY: " + ("0 errors" if code == 0 else "1 error"))
sys.exit(code)
"""
RUN = """
import sys
import numpy as np
images = np.load(sys.argv[1])
assert images.shape == (9, 224, 224, 3) and sys.argv[2:4] == ["--batch", "8"]
np.save(sys.argv[sys.argv.index("--out") + 1], images.sum((1, 2, 3)))
"""


def test_verdicts_of_the_sanitizer(tmp_path: Path) -> None:
    """With a stand-in for NVIDIA's tool, which finds a race."""
    (tmp_path / "bin").mkdir()
    tool = tmp_path / "bin" / "compute-sanitizer"
    tool.write_text(TOOL.format(python=sys.executable))
    tool.chmod(0o755)
    (tmp_path / "run.py").write_text(RUN)
    out = tmp_path / "s.json"
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    done = run("gpu_sanitize.py", tmp_path, "--tools", "memcheck", "racecheck", "--out", out, PATH=path)
    assert done.returncode == 1, done.stderr
    found = json.loads(out.read_text())["verdicts"]
    assert found["memcheck"] == {"clean": True, "exit_code": 0, "said": "ERROR SUMMARY: 0 errors"}
    assert found["racecheck"]["exit_code"] == 99 and not found["racecheck"]["clean"]
    assert "a race" in found["racecheck"]["said"] and "at product" in found["racecheck"]["said"]
    (tmp_path / "run.py").write_text("raise SystemExit('no GPU')")
    done = run("gpu_sanitize.py", tmp_path, PATH=path)
    assert done.returncode == 1 and "does not run without a tool: no GPU" in done.stderr


def size(model: str, batch: int, ours: float) -> dict[str, Any]:
    def row(name: str, median: float) -> dict[str, Any]:
        ratio = {"value": median / ours, "low": median / ours - 0.1, "high": median / ours + 0.1}
        times = {"median": median, "p10": median - 0.01, "p90": median + 0.01, "rounds": 15}
        return {"name": name, **times, "images_per_second": 1.0, "ratio": None if name == "intvit" else ratio}

    steps = [["product", f"blocks.{i}.mlp.fc1", 10**9 * batch, 1e-5] for i in range(2)]
    steps += [["product", "head", 10**7 * batch, 1e-5], ["layernorm", "norm", 0, 1e-6]]
    energy = {"intvit": {"joules_per_image": 0.002, "watts": 400.0, "images": 9}, "f16-graph": {"reason": "no counter"}}
    rows = [row("intvit", ours), row("f16-graph", 2 * ours), row("f32-eager", 5 * ours)]
    named = {"model": model, "target": "cuda:sm_90", "digest": "d", "batch": batch, "best_half": "f16-graph"}
    return {**named, "rows": rows, "skipped": {"f16-compile": "no time"}, "energy": energy, "steps": steps}


def results(*sizes: dict[str, Any], gpu: str = "NVIDIA H200") -> dict[str, Any]:
    machine = {"gpu": gpu, "capability": "9.0", "processors": 132, "torch": "2.11", "cuda": "13.0", "python": "3.12"}
    machine |= {"system": "Linux", "date": "2026-01-02", "nvidia_smi": {"driver_version": "580"}}
    roofs = {
        "int8": {"per_second": 1e15, "of": "8192"},
        "f16": {"per_second": 6e14, "of": "8192"},
        "bytes": {"per_second": 4.3e12, "of": "copy"},
    }
    check = {"file": "c.npz", "batch": 8, "images": 9, "logits": 9000, "different": 0}
    return {"machine": machine, "roofs": roofs, "checks": [check], "sizes": list(sizes), "failed": ["x: failed"]}


def test_report(script: Any) -> None:
    """Two files of a run, of which the second measured one size again, and the sanitizer's."""
    report = script("gpu_report")
    first = results(size("timm:deit_small_patch16_224", 8, 0.9), size("timm:deit_base_patch16_224", 8, 2.0))
    second = results(size("timm:deit_small_patch16_224", 8, 0.5))
    clean = {"pack": "deit_tiny", "verdicts": {"memcheck": {"clean": True, "exit_code": 0, "said": "0 | errors"}}}
    found = report.merged([first, second, clean])
    assert [(entry["model"][5:13], entry["rows"][0]["median"]) for entry in found["sizes"]] == [
        ("deit_bas", 2.0),
        ("deit_sma", 0.5),
    ]
    text = report.markdown(found)
    assert text == report.markdown(report.merged([json.loads(json.dumps(found))])), "its own output can be read again"
    for line in (
        "NVIDIA H200, compute capability 9.0, 132 multiprocessors; driver_version 580; torch 2.11, CUDA 13.0",
        "| int8 products | 1000.00 TOPS | 8192 |",
        "| model | batch | intvit | f32-eager | f16-graph |",
        "| deit_small_patch16_224 | 8 | 0.500 (0.490 to 0.510) | 2.500 (2.490 to 2.510) | 1.000 (0.990 to 1.010) |",
        "| deit_small_patch16_224 | 8 | 1 | 5.00 (4.90 to 5.10) | 2.00 (1.90 to 2.10) |",
        "| deit_small_patch16_224 | 8 | intvit | 2.00 | 400 |",
        "| product | blocks.*.mlp.fc1 | 2 | 20.0 | 64.5% | 1600.0 | 160% |",
        "| layernorm | norm | 1 | 1.0 | 3.2% |  |  |",
        "Large products: 160% of the int8 peak.",
        "| c.npz | 8 | 9 | 9000 | 0 |",
        "| deit_tiny | memcheck | clean | 0 / errors |",
        "- deit_small_patch16_224, batch 8, f16-compile: no time",
        "- deit_small_patch16_224, batch 8, energy of f16-graph: no counter",
        "- x: failed",
    ):
        assert line in text, line
    with pytest.raises(SystemExit, match="several kinds of GPU"):
        report.merged([first, results(gpu="NVIDIA A100")])
    assert report.markdown(report.merged([])) == ""


def test_a_size_without_roofs_or_products(script: Any) -> None:
    report = script("gpu_report")
    entry = {**size("timm:m", 1, 1.0), "steps": [["layernorm", "norm", 0, 1e-6]]}
    text = report.markdown(report.merged([{**results(entry), "roofs": {}}]))
    assert "| layernorm | norm | 1 | 1.0 | 100.0% |  |  |" in text and "Large products" not in text


def test_pictures(script: Any, tmp_path: Path) -> None:
    if importlib.util.find_spec("matplotlib") is None:
        pytest.skip("matplotlib not installed: pip install 'intvit[bench]'")
    (tmp_path / "a.json").write_text(json.dumps(results(size("timm:deit_s", 1, 0.4), size("timm:deit_s", 8, 0.5))))
    done = run("gpu_report.py", tmp_path / "a.json", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    names = ["gpu.json", "gpu.md", "gpu-deit_s.png", "gpu-deit_s.svg"]
    assert done.stdout.split() == [str(tmp_path / "out" / name) for name in names]
    assert (tmp_path / "out" / "gpu-deit_s.png").read_bytes().startswith(b"\x89PNG")


def test_everything_together_on_a_cpu(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`measure`, with this machine's torch and clock in the GPU's place, and a peer that fails."""
    gpu = script("gpu")
    monkeypatch.setattr(gpu, "DEVICE", "cpu")
    monkeypatch.setattr(gpu, "gpu_timer", cpu_timer)
    monkeypatch.setattr(gpu, "SIZES", {"tiny": (16, 1, 2)})
    monkeypatch.setattr(gpu, "machine", lambda: results()["machine"])
    monkeypatch.setattr(gpu, "roofs", lambda timer: results()["roofs"])
    step = SimpleNamespace(name="product", path="head", multiply_adds=10, seconds=1e-6)

    class Ours:
        metadata = SimpleNamespace(name="timm:deit_tiny_patch16_224")
        target, digest = "cuda:sm_90", "d"

        def __call__(self, images: torch.Tensor, raw: bool) -> torch.Tensor:
            return images.sum((1, 2, 3))

        def profile(self, pixels: "np.ndarray[Any, Any]") -> list[Any]:
            assert list(inspect.signature(CudaModel.profile).parameters)[:2] == ["self", "pixels"]
            assert pixels.dtype == np.uint8 and pixels.shape[1:] == (224, 224, 3)
            return [step]

        def close(self) -> None:
            pass

    monkeypatch.setattr(gpu, "import_module", lambda name: SimpleNamespace(load=lambda path: Ours()))
    options = SimpleNamespace(packs=[Path("p")], batches=[1, 2], check=[], check_batches=[1], quick=False)
    options = SimpleNamespace(**vars(options), peers=["f32-eager", "bf16-eager", "f16-graph", "bf16-compile"])
    options = SimpleNamespace(**vars(options), seconds=0.1, deadline=-1.0, out=tmp_path / "r.json")
    with torch.random.fork_rng():
        gpu.measure(options)
    torch.set_grad_enabled(True)
    found = json.loads(options.out.read_text())
    assert found["failed"] == [] and [entry["batch"] for entry in found["sizes"]] == [1, 2]
    for entry in found["sizes"]:
        assert [row["name"] for row in entry["rows"]] == ["intvit", "f32-eager", "bf16-eager"]
        assert entry["best_half"] == "bf16-eager" and entry["steps"] == [["product", "head", 10, 1e-6]]
        assert "TimeoutError: no time for torch.compile in this run" in entry["skipped"]["bf16-compile"]
        assert entry["skipped"]["f16-graph"] and set(entry["energy"]) == {"intvit", "bf16-eager"}
    assert capsys.readouterr().out.startswith("timm:deit_tiny_patch16_224 batch 1: ")
    assert "Kernels of deit_tiny_patch16_224, batch 2" in script("gpu_report").markdown(
        script("gpu_report").merged([found])
    )
