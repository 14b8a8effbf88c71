"""The demo: its figures, its proofs, and that its files are what its training script makes."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from intvit.demo import DemoResult, run
from intvit.demo.images import CALIBRATION, HELD_OUT, calibration, held_out
from intvit.demo.model import PREPROCESSING, WEIGHTS, digits


@pytest.fixture(scope="module")
def demo() -> tuple[DemoResult, list[str]]:
    lines: list[str] = []
    return run(lines.append), lines


def test_the_integer_model_is_as_good(demo: tuple[DemoResult, list[str]]) -> None:
    result, _ = demo
    assert result.images == 360
    assert result.float_accuracy >= 0.975
    assert result.integer_accuracy >= result.float_accuracy - 0.01
    assert result.agreement >= 0.985


def test_it_is_proved(demo: tuple[DemoResult, list[str]]) -> None:
    result, _ = demo
    assert result.integer_only
    assert result.overflow_free
    assert result.bit_exact


def test_what_a_person_reads(demo: tuple[DemoResult, list[str]]) -> None:
    result, lines = demo
    text = "\n".join(lines)
    assert "FAILED" not in text
    assert max(map(len, lines)) <= 100
    assert f"{result.float_accuracy:.1%}" in text
    assert f"{result.integer_ms:.2f} ms" in text


def test_the_result_is_plain_json(demo: tuple[DemoResult, list[str]]) -> None:
    fields = dataclasses.asdict(demo[0])
    assert json.loads(json.dumps(fields)) == fields


def test_the_shipped_files_are_small() -> None:
    assert sum(path.stat().st_size for path in (WEIGHTS, CALIBRATION, HELD_OUT)) < 1_000_000


def test_the_shipped_images_are_what_the_script_makes() -> None:
    pytest.importorskip("sklearn")
    from intvit.demo import train

    pixels, labels = train.images()
    seen, unseen = train.split(labels)
    assert not set(seen) & set(unseen)
    np.testing.assert_array_equal(calibration(), pixels[seen[: train.CALIBRATION_IMAGES]])
    np.testing.assert_array_equal(held_out()[0], pixels[unseen])
    np.testing.assert_array_equal(held_out()[1], labels[unseen])


def test_training_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    from intvit.demo import train

    monkeypatch.setattr(train, "EPOCHS", 2)
    with torch.random.fork_rng():
        train.main(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {WEIGHTS.name, CALIBRATION.name, HELD_OUT.name}


def test_shifting_moves_and_keeps_the_shape() -> None:
    from intvit.demo.train import shifted

    images = torch.from_numpy(PREPROCESSING.normalize(calibration()[:8]))
    moved = shifted(images, torch.Generator().manual_seed(1))
    assert moved.shape == images.shape
    assert not torch.equal(moved, images)


def test_the_model_can_be_named() -> None:
    from intvit.models import resolve

    resolved = resolve("intvit.demo.model:digits")
    assert resolved.preprocessing == PREPROCESSING
    assert resolved.labels == list("0123456789")
    for name, value in digits().state_dict().items():
        assert torch.equal(resolved.module.state_dict()[name], value)
