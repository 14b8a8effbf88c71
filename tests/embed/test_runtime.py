"""What runs a module: threads within threads, forks, exits, scratch memory without TVM, and the sharing of tasks."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny

CHECKS = Path(__file__).with_name("checks.c")
CASES = re.findall(r'CASE\("([\w-]+)"', CHECKS.read_text())


@pytest.mark.parametrize("target", ["auto", "aarch64", "riscv64"])
@pytest.mark.parametrize("case", CASES)
def test_it_keeps_its_promises(case: str, target: str, machine: Callable[[str], Any]) -> None:
    """With one thread, as many as most machines have, and more."""
    here = machine(target)
    if case.startswith("fork") and here.emulator(""):
        pytest.skip("qemu-user itself ends in an assertion where a program with threads forks and starts more")
    program = here.program("checks", "-static", CHECKS, here.module(tiny.integer_model(), ".o"))
    for threads in (1, 2, 5):
        assert here.run(program, case, threads=threads) == (0, ""), threads


@pytest.mark.parametrize("target", ["auto", "aarch64", "riscv64"])
def test_every_task_is_taken_once(target: str, machine: Callable[[str], Any], tmp_path: Path) -> None:
    here = machine(target)
    for name, text in (("model.h", ""), ("constants.bin", "weights"), ("metadata.json", "{}")):
        (tmp_path / name).write_text(text)
    program = here.program("shares", "-static", "-Wno-pedantic", f"-I{tmp_path}", CHECKS.with_name("shares.c"))
    assert here.run(program) == (0, "")
