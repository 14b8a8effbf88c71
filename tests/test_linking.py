"""The C compiler that links a module: which it is, what it is told, and what is said where it cannot do its part."""

import os
import re
import shlex
import shutil
from pathlib import Path

import pytest

pytest.importorskip("tvm")
from intvit.errors import IntvitError
from intvit.linking import Compiler, link, require_compiler
from intvit.targets import TARGETS
from intvit.verify.machine import elf

HERE = TARGETS["generic"].triple
MODEL = """
#define INTVIT_VARIANTS(V) V(generic, "generic")
#define INTVIT_OUTPUT_PARAMETERS void *output_0
#define INTVIT_OUTPUT_NAMES output_0
#define INTVIT_OUTPUT_ELEMENTS outputs[0]
#define INTVIT_IMAGE_BYTES 3
#define INTVIT_OUTPUT_BYTES 4
#define INTVIT_WORKSPACE INT64_C(64)
#define INTVIT_HEADER 64
#define INTVIT_STEPS 1
#define INTVIT_OUTPUTS 1
"""


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """A folder with all of a module but its kernels."""
    folder = tmp_path / "parts"
    folder.mkdir()
    for name, text in (("model.h", MODEL), ("constants.bin", "weights"), ("metadata.json", "{}")):
        (folder / name).write_text(text)
    return folder


@pytest.fixture(autouse=True)
def no_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def gcc() -> str:
    found = shutil.which("gcc")
    if found is None:
        pytest.skip("gcc is not installed")
    return found


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_a_source_in_c_is_for_cc(monkeypatch: pytest.MonkeyPatch, gcc: str) -> None:
    monkeypatch.setenv("CC", "gcc")
    monkeypatch.setenv("CXX", "g++")
    assert require_compiler(HERE) == Compiler(HERE, (gcc,))


@pytest.mark.parametrize("named", [None, "", " "])
def test_without_cc_it_is_a_usual_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, named: str | None) -> None:
    if named is not None:
        monkeypatch.setenv("CC", named)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(IntvitError, match="no C compiler found, which links the module: install gcc or clang"):
        require_compiler(HERE)
    for name in ("cc", "clang", "gcc"):
        found = script(tmp_path / name, "exit")
        assert require_compiler(HERE).command == (str(found),)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("no-such-compiler -m64", "the C compiler 'no-such-compiler' of CC cannot be run: set CC to the path of gcc"),
        ("gcc '-m64", "of CC cannot be read (No closing quotation): set CC as in a shell"),
    ],
)
def test_a_compiler_that_is_not_there(monkeypatch: pytest.MonkeyPatch, named: str, message: str) -> None:
    monkeypatch.setenv("CC", named)
    with pytest.raises(IntvitError, match=re.escape(message)):
        require_compiler(HERE)


@pytest.mark.parametrize("wrapper", ["with space/wrapper", "./wrapper"])
def test_a_compiler_of_several_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, parts: Path, gcc: str, wrapper: str
) -> None:
    """Such as `ccache gcc -DNDEBUG`; a relative path is one of the folder where the user is."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "with space").mkdir()
    script(tmp_path / wrapper, f'echo "$@" >> {shlex.quote(str(tmp_path))}/calls\nexec "$@"')
    monkeypatch.setenv("CC", f"{shlex.quote(wrapper)} gcc -DNDEBUG")
    link(require_compiler(HERE), [], parts, tmp_path / "m.o")
    assert elf.read(tmp_path / "m.o").code
    assert all(line.startswith("gcc -DNDEBUG ") for line in (tmp_path / "calls").read_text().splitlines())


def test_an_object_needs_binutils(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, parts: Path, gcc: str) -> None:
    """gcc says `objcopy`, without a folder, where it finds none."""
    answer = f'case "$*" in *print-prog-name*) echo no-such-objcopy;; *) exec {gcc} "$@";; esac'
    monkeypatch.setenv("CC", str(script(tmp_path / "cc", answer)))
    with pytest.raises(IntvitError, match=f"^no objcopy for {HERE} found, which finishes a .o: install binutils"):
        link(require_compiler(HERE), [], parts, tmp_path / "m.o")


def test_a_high_default_of_the_compiler_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, parts: Path, gcc: str
) -> None:
    """`module.c` runs before the instructions are known to be there."""
    if os.uname().machine != "x86_64":
        pytest.skip("levels of x86-64")
    codes = []
    for named in ("gcc", "gcc -march=x86-64-v3"):
        monkeypatch.setenv("CC", named)
        link(require_compiler(HERE), [], parts, tmp_path / "m.o")
        codes.append(elf.read(tmp_path / "m.o").code)
    assert codes[0] == codes[1]


@pytest.mark.parametrize("target", ["aarch64", "riscv64"])
def test_other_machines_keep_their_default(tmp_path: Path, parts: Path, target: str) -> None:
    triple = TARGETS[target].triple
    if shutil.which(f"{triple}-gcc") is None:
        pytest.skip(f"no C compiler for {target}")
    compiler = require_compiler(triple)
    assert compiler.baseline == ()
    link(compiler, [], parts, tmp_path / "m.o")
    assert elf.PROCESSORS[elf.read(tmp_path / "m.o").machine] == triple.partition("-")[0]
