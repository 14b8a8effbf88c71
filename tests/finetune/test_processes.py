"""Several processes give what one gives."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed

from intvit.errors import IntvitError
from intvit.finetune.processes import Processes, processes

SCRIPT = Path(__file__).with_name("together.py")
GLOO = distributed.is_available() and distributed.is_gloo_available()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What `together.py` wrote: alone, and the two of torchrun."""
    if not GLOO:
        pytest.skip("this torch has no torch.distributed with gloo")
    folder = tmp_path_factory.mktemp("together")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", SCRIPT, folder]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    spec = importlib.util.spec_from_file_location("together", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(folder)
    return {path.stem: torch.load(path) for path in folder.iterdir()}


def test_both_processes_have_the_same_bits(runs: dict[str, dict[str, Any]]) -> None:
    assert sorted(runs) == ["1-0", "2-0", "2-1"]
    first, second = runs["2-0"], runs["2-1"]
    assert first["digest"] == second["digest"]
    assert first["loss"] == second["loss"]
    for kind in ("gradients", "constants"):
        assert all(torch.equal(value, second[kind][name]) for name, value in first[kind].items())


def test_the_sum_of_their_gradients_is_that_of_one_process(runs: dict[str, dict[str, Any]]) -> None:
    alone, together = runs["1-0"], runs["2-0"]
    assert together["loss"] == pytest.approx(alone["loss"], rel=1e-6)
    for name, gradient in alone["gradients"].items():
        tolerance = 1e-5 * float(gradient.abs().max()) + 1e-8
        torch.testing.assert_close(together["gradients"][name], gradient, rtol=1e-4, atol=tolerance)


def test_training_together_is_training_alone(runs: dict[str, dict[str, Any]]) -> None:
    """Where a gradient is noise Adam's step is as large as anywhere: all but a few constants are compared."""
    alone, together = runs["1-0"]["constants"], runs["2-0"]["constants"]
    moved = torch.cat([(together[name] - value).abs().flatten() for name, value in alone.items()])
    assert float(moved.max()) <= 2 * 3 * 1e-4 + 1e-6
    assert float((moved < 1e-5).float().mean()) > 0.97


def test_a_share_is_nothing_where_there_are_more_processes_than_images() -> None:
    shares = [Processes(rank, 4).share(torch.arange(10, 13)) for rank in range(4)]
    assert shares == [[10], [11], [12], []]


def test_one_process_tells_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with processes() as alone:
        assert alone == Processes(0, 1)
        alone.require_same("anything")
        assert alone.total(0.25) == 0.25


def test_a_group_that_there_is_is_used_and_left_alone() -> None:
    if not GLOO:
        pytest.skip("this torch has no torch.distributed with gloo")
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        with processes() as found:
            assert (found.rank, found.size) == (0, 1)
            assert found.group is not None
        assert distributed.is_initialized()
    finally:
        distributed.destroy_process_group()


def test_environment_variables_that_lead_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    if not GLOO:
        pytest.skip("this torch has no torch.distributed with gloo")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(IntvitError, match="start them by torchrun"), processes():
        pass
    assert not distributed.is_initialized()
