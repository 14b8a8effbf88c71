"""The description of a machine, from what Linux says of it."""

import json
from pathlib import Path

import pytest

from intvit._version import __version__
from intvit.bench.machine import cores, describe

CPUINFO = """processor\t: 0
model name\t: A Processor
cpu family\t: 6
model\t\t: 143
stepping\t: 8
flags\t\t: fpu sse4_1 avx2 avx512_vnni amx_int8 hypervisor

processor\t: 1
model name\t: Another
flags\t\t: fpu
"""


def test_what_linux_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text(CPUINFO)
    (tmp_path / "meminfo").write_text("MemTotal:       16777216 kB\nMemFree: 1 kB\n")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    found = describe(tmp_path / "cpuinfo", tmp_path / "meminfo")
    assert found["cpu"] == "A Processor"
    assert found["family"] == "6/143/8"
    assert found["flags"] == ["sse4_1", "avx2", "avx512_vnni", "amx_int8"]
    assert found["virtual"] is True
    assert found["memory_gib"] == 16.0
    assert found["cores"] == cores() >= 1
    assert found["versions"]["intvit"] == __version__
    assert found["versions"].keys() >= {"torch", "apache-tvm"}
    assert found["environment"]["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    assert json.loads(json.dumps(found)) == found


def test_a_system_that_says_nothing(tmp_path: Path) -> None:
    found = describe(tmp_path / "cpuinfo", tmp_path / "meminfo")
    assert found["memory_gib"] is None
    assert found["flags"] == []
    assert found["cpu"]
