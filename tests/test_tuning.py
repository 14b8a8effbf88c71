"""Tuning: the same integers whatever is chosen, a choice that is measured once, and a file that is read again."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import nn

import intvit
from intvit.calibrate import calibrate
from intvit.errors import IntvitError
from intvit.frontend import capture
from intvit.grids import PRESETS
from intvit.integer_model import IntegerModel
from intvit.metadata import Metadata
from intvit.passes.hoist_selection import hoist_selection
from intvit.passes.pipeline import lower
from intvit.verify.bit_exact import prove_bit_exact

pytest.importorskip("tvm")
from intvit import targets, tuning
from intvit.kernels.cut import RULE, Cut
from intvit.program import Program, program_of
from intvit.tuning import Tuning
from intvit.tuning_cache import Found, TuningCache

HERE = targets.resolve("auto")
FOREIGN = "aarch64" if HERE.name.startswith("x86") else "x86-64-v3"


def integer_model() -> IntegerModel:
    """Two blocks, the first of 65 tokens: most kernels have several cuts."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vit = tiny.TinyViT(dim=64).eval()
        vit.patch, vit.position = nn.Conv2d(3, 64, 4, 4), nn.Parameter(torch.randn(1, 65, 64) * 0.2)
    images = [tiny.pixels(16), tiny.pixels(16, seed=1)]
    graph = lower(calibrate(hoist_selection(capture(vit, tiny.SHAPE)), images, tiny.GRID, PRESETS["default"]))
    return IntegerModel(graph, Metadata("tiny", "default", "0", tiny.GRID, graph.output_scales, graph.output_shapes))


MODEL = integer_model()


def choices(name: str = HERE.name) -> dict[str, tuple[Cut, ...]]:
    program = program_of(MODEL, targets.TARGETS[name].isa)
    return {kernel: tunable.cuts for kernel, (_, tunable) in tuning.tunables(program).items()}


def cache_of(path: Path, index: int, target: str = HERE.name) -> Path:
    """A file by which every kernel has its cut `index`, or its last."""
    found = {name: Found(cuts[min(index, len(cuts) - 1)], 1e-6, 2e-6) for name, cuts in choices(target).items()}
    TuningCache(path).add(target, found)
    return path


def functions(program: Program) -> list[Any]:
    return [step.kernel.function for step in program.steps]


@pytest.mark.parametrize("index", range(1, max(map(len, choices().values()))))
def test_the_integers_of_the_reference_with_every_cut(tmp_path: Path, index: int) -> None:
    cache = cache_of(tmp_path / "t.json", index)
    cut = Tuning(HERE.name, [HERE], 0, cache).program(MODEL, HERE)
    assert functions(cut) != functions(program_of(MODEL, HERE.isa))
    assert prove_bit_exact(intvit.compile(MODEL, cache=cache), MODEL) > 0


def test_a_tuned_module_and_a_second_one_that_does_not_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "t.json"
    monkeypatch.setattr(tuning, "MEASURED", 0.01)
    assert prove_bit_exact(intvit.compile(MODEL, tune=100, cache=cache), MODEL) > 0
    written = cache.read_bytes()
    assert set(TuningCache.open(cache).of(HERE.name)) == set(choices())
    monkeypatch.setattr(tuning, "build_kernel", lambda *_: pytest.fail("searched again"))
    again = Tuning(HERE.name, [HERE], 100, cache)
    again.program(MODEL, HERE)
    assert (again.result.known, again.result.measured) == (len(choices()), 0)
    assert cache.read_bytes() == written


@pytest.mark.parametrize(
    ("first", "second", "chosen"),
    [
        ([1.0, 0.98, 0.99], None, RULE),
        ([1.0, 0.9, 0.95], [1.0, 0.9], Cut(9)),
        ([1.0, 0.9, 0.95], [1.0, 0.99], RULE),
        ([1.0, 1.2, 0.5], [1.0, 0.5], Cut(7)),
    ],
)
def test_only_a_clear_gain_counts(
    monkeypatch: pytest.MonkeyPatch, first: list[float], second: list[float] | None, chosen: Cut
) -> None:
    answers = iter([first, second])
    monkeypatch.setattr(tuning, "least_seconds", lambda calls: next(answers))
    built: list[Cut] = []

    def build(cut: Cut) -> tuning.Call:
        built.append(cut)
        return lambda: None

    found = tuning.best((RULE, Cut(9), Cut(7)), [lambda: None] * 3, build)
    assert found.cut == chosen
    assert built == ([] if second is None else [RULE, Cut(7) if first[2] < first[1] else Cut(9)])
    assert (found.rule_seconds > 1.03 * found.seconds) == (chosen != RULE)


def test_the_faster_call_is_seen() -> None:
    slow, fast = tuning.least_seconds([lambda: sum(range(20000)), lambda: sum(range(2000))])
    assert slow > 3 * fast > 0


def test_most_work_first() -> None:
    names = list(choices())
    assert names[0].startswith("product 65x64x64 bias+requantize ")  # queries of one block, keys and values of two
    assert any(name.startswith("attention 2x65x65x32x32") for name in names)
    assert not any(name.startswith("product 1x64x10 ") for name in names)


def test_without_time_nothing_is_found(tmp_path: Path) -> None:
    cache = tmp_path / "t.json"
    search = Tuning(HERE.name, [HERE], 1e-9, cache)
    assert functions(search.program(MODEL, HERE)) == functions(program_of(MODEL, HERE.isa))
    assert search.result.measured == 0 < search.result.kernels
    assert not cache.exists()


def test_another_machines_target_takes_what_is_known(tmp_path: Path) -> None:
    cpu = targets.TARGETS[FOREIGN]
    with pytest.raises(IntvitError, match=f"this machine does not run {FOREIGN}: tune on one that does"):
        Tuning(FOREIGN, [cpu], 5, None)
    with pytest.raises(IntvitError, match=f"this machine does not run {FOREIGN}"):
        Tuning(FOREIGN, [cpu], 5, cache_of(tmp_path / "here.json", 1))
    search = Tuning(FOREIGN, [cpu], 5, cache_of(tmp_path / "there.json", 1, FOREIGN))
    assert functions(search.program(MODEL, cpu)) != functions(program_of(MODEL, cpu.isa))
    assert search.result.measured == 0 < search.result.known == search.result.improved


@pytest.mark.skipif(HERE.triple != targets.X86_64, reason="the module for several targets is of x86-64")
def test_every_variant_that_runs_here_is_tuned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "MEASURED", 0.0)
    fat = targets.TARGETS["x86-64"]
    search = Tuning(fat.name, targets.variants_of(fat), 400, tmp_path / "t.json")
    for cpu in targets.variants_of(fat):
        search.program(MODEL, cpu)
    tuned = json.loads((tmp_path / "t.json").read_text())["targets"]
    assert set(tuned) == {name for name in fat.variants if targets.runs_here(name)}


def test_a_cut_that_the_kernel_does_not_have_is_not_taken(tmp_path: Path) -> None:
    name = next(iter(choices()))
    TuningCache(tmp_path / "t.json").add(
        HERE.name, {name: Found(Cut(5000, 3), 1.0, 2.0), "gone": Found(RULE, 1.0, 1.0)}
    )
    search = Tuning(HERE.name, [HERE], 0, tmp_path / "t.json")
    assert functions(search.program(MODEL, HERE)) == functions(program_of(MODEL, HERE.isa))
    assert search.result.known == 0


def test_what_others_wrote_meanwhile_stays(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    first, second = TuningCache.open(path), TuningCache.open(path)
    first.add("x86-64-v3", {"a": Found(Cut(3, None), 1.0, 2.0)})
    second.add("x86-64-v3", {"b": Found(RULE, 1.0, 1.0)})
    second.add("aarch64", {"a": Found(Cut(None, 2), 0.5, 2.5)})
    both = {"a": Found(Cut(3, None), 1.0, 2.0), "b": Found(RULE, 1.0, 1.0)}
    assert TuningCache.open(path).entries == {"x86-64-v3": both, "aarch64": {"a": Found(Cut(None, 2), 0.5, 2.5)}}


ENTRY = {"tile": 3, "splits": None, "seconds": 1.0, "rule_seconds": 2.0}


def entries(**changes: Any) -> dict[str, Any]:
    return {"format": "intvit-tuning", "version": 1, "targets": {"x86-64-v3": {"a": {**ENTRY, **changes}}}}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "no JSON"),
        ("\udcff", "no JSON"),
        ("[" * 100000, "no JSON"),
        ([], "not a file of tuning results"),
        ({"format": "other"}, "not a file of tuning results"),
        ({**entries(), "version": 2}, "another version"),
        ({**entries(), "targets": []}, "damaged"),
        ({**entries(), "targets": {"x86-64-v3": {"a": 1}}}, "damaged"),
        (entries(tile=0), "damaged"),
        (entries(tile=True), "damaged"),
        (entries(splits="2"), "damaged"),
        (entries(seconds=math.nan), "damaged"),
        (entries(more=1), "damaged"),
    ],
)
def test_a_damaged_or_foreign_file_is_refused(tmp_path: Path, content: Any, words: str) -> None:
    path = tmp_path / "t.json"
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_bytes(text.encode(errors="surrogateescape"))
    before = path.read_bytes()
    with pytest.raises(IntvitError, match=words) as refused:
        intvit.compile(MODEL, tune=1, cache=path)
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf])
def test_seconds_that_are_none(seconds: float) -> None:
    with pytest.raises(IntvitError, match="--tune takes a number of seconds"):
        intvit.compile(MODEL, tune=seconds)
