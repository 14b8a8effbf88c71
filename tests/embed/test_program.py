"""A C program gives the integers of the reference: linked or loaded, on every processor, by README's commands."""

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import coarse
import logarithmic
import numpy as np
import pytest
import tiny
from PIL import Image

from intvit.integer_model import IntegerModel
from intvit.linking import SOURCES
from intvit.preprocess import Preprocessing
from intvit.verify.no_float_code import prove_no_float_instructions

Machines = Callable[[str], Any]
TARGETS = ["auto", "aarch64", "aarch64-dotprod", "riscv64"]
KINDS = [".so", ".o"]
STATIC = ("-static", "-DINTVIT_STATIC")
README = Path(__file__).resolve().parents[2] / "README.md"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", TARGETS)
def test_every_output_is_that_of_the_reference(target: str, kind: str, machine: Machines) -> None:
    model = tiny.integer_model()
    for batch in (1, 3):
        pixels = tiny.pixels(batch, seed=batch)
        status, printed, written = machine(target).outputs(model, pixels, kind)
        assert status == 0, printed
        expected = model(pixels, raw=True)
        np.testing.assert_array_equal(np.fromfile(written, np.int32).reshape(expected.shape), expected)
        assert [int(top) for top in re.findall(r"class (\d+)", printed)] == expected.argmax(1).tolist()
        assert f" ms for {batch} images" in printed


@pytest.mark.parametrize("target", TARGETS)
def test_logarithmic_weights_are_those_of_the_reference(target: str, machine: Machines) -> None:
    model, pixels = logarithmic.integer_model("tiny"), tiny.pixels(2, seed=5)
    status, printed, written = machine(target).outputs(model, pixels, ".o")
    assert status == 0, printed
    expected = model(pixels, raw=True)
    np.testing.assert_array_equal(np.fromfile(written, np.int32).reshape(expected.shape), expected)


@pytest.mark.parametrize("target", TARGETS)
def test_tensors_on_levels_are_those_of_the_reference(target: str, machine: Machines) -> None:
    model, pixels = coarse.integer_model(), tiny.pixels(2, seed=6)
    status, printed, written = machine(target).outputs(model, pixels, ".o")
    assert status == 0, printed
    expected = model(pixels, raw=True)
    np.testing.assert_array_equal(np.fromfile(written, np.int32).reshape(expected.shape), expected)


@pytest.mark.parametrize("target", TARGETS)
def test_weights_of_four_bits_are_those_of_the_reference(target: str, machine: Machines) -> None:
    model, pixels = tiny.with_small_weights(tiny.integer_model()), tiny.pixels(2, seed=4)
    status, printed, written = machine(target).outputs(model, pixels, ".o")
    assert status == 0, printed
    expected = model(pixels, raw=True)
    np.testing.assert_array_equal(np.fromfile(written, np.int32).reshape(expected.shape), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("target", "cpu"), [("aarch64-dotprod", "cortex-a53"), ("x86-64-v3", "core2duo")])
def test_a_processor_without_the_instructions_is_told(target: str, cpu: str, kind: str, machine: Machines) -> None:
    status, printed, written = machine(target).outputs(tiny.integer_model(), tiny.pixels(1), kind, cpu)
    assert (status, printed) == (2, f"this CPU cannot run the model, which is for: {target}\n")
    assert not written.exists()


def test_wrong_images_are_told(machine: Machines) -> None:
    for pixels in (tiny.pixels(1)[:, :-1], tiny.pixels(0)):
        status, printed, written = machine("auto").outputs(tiny.integer_model(), pixels, ".o")
        assert status == 2 and printed.endswith("images.raw: does not hold whole images\n")
        assert not written.exists()


@pytest.mark.parametrize(
    ("images", "outputs", "reason"),
    [
        ("none.raw", "y.raw", "none.raw: No such file or directory"),
        ("many.raw", "y.raw", "not enough memory: give fewer images at once"),
        ("images.raw", "none/y.raw", "none/y.raw: No such file or directory"),
        ("images.raw", "/dev/full", "/dev/full: cannot be written to its end"),
    ],
)
def test_what_cannot_be_done_is_told(images: str, outputs: str, reason: str, machine: Machines, tmp_path: Path) -> None:
    """In one line; `many.raw` is a hole of 3 GB, and the program may have one."""
    pixels = tiny.pixels(1)
    pixels.tofile(tmp_path / "images.raw")
    (tmp_path / "many.raw").touch()
    os.truncate(tmp_path / "many.raw", pixels.nbytes * 10**6)
    program = refusing(machine)
    command = ["sh", "-c", 'ulimit -v 1000000; exec "$@"', "sh", str(program), images, outputs]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, env={"LC_ALL": "C"})
    assert (done.returncode, done.stderr) == (2, f"{reason}\n")


def test_images_that_end_early_are_told(machine: Machines, tmp_path: Path) -> None:
    """As a file that becomes shorter while it is read."""
    (tmp_path / "fread.c").write_text(
        "#include <stdio.h>\n"
        "size_t fread(void *to, size_t size, size_t count, FILE *file) {\n"
        "    return (void)to, (void)size, (void)file, count - 1;\n"
        "}\n"
    )
    tiny.pixels(1).tofile(tmp_path / "images.raw")
    program = refusing(machine, "-U_FORTIFY_SOURCE", "-Dfread=ends_early", tmp_path / "fread.c")
    status, printed = machine("auto").run(program, tmp_path / "images.raw", tmp_path / "y.raw")
    assert (status, printed) == (2, f"{tmp_path}/images.raw: cannot be read to its end\n")
    assert not (tmp_path / "y.raw").exists()


def refusing(machine: Machines, *parts: str | Path) -> Path:
    """`example.c` with a model in it."""
    model = machine("auto").module(tiny.integer_model(), ".o")
    program: Path = machine("auto").program(f"refusing{len(parts)}", *STATIC, *parts, SOURCES / "example.c", model)
    return program


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", TARGETS)
def test_there_is_no_float_in_it(target: str, kind: str, machine: Machines) -> None:
    assert prove_no_float_instructions(machine(target).module(tiny.integer_model(), kind)) > 1000


def test_an_object_shows_only_its_interface(machine: Machines) -> None:
    if shutil.which("nm") is None:
        pytest.skip("nm is not installed (binutils)")
    path = machine("auto").module(tiny.integer_model(), ".o")
    symbols = subprocess.run(["nm", "-g", path], capture_output=True, text=True, check=True, timeout=60).stdout
    functions = ["image_bytes", "metadata", "output_bytes", "ready", "run", "target", "workspace_bytes"]
    assert re.findall(r" [^U] (\w+)$", symbols, re.MULTILINE) == [f"intvit_{name}" for name in functions]
    backend = ["AllocWorkspace", "FreeWorkspace", "ParallelLaunch"]
    calls = {f"TVMBackend{name}" for name in backend}
    assert set(re.findall(r" U (TVM\w+)$", symbols, re.MULTILINE)) <= calls, "runtime.c has no others"


def test_the_commands_of_readme(machine: Machines, tmp_path: Path) -> None:
    machine("aarch64").compiler()
    for name in ("cc", "qemu-aarch64"):
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not installed")
    found = re.search(r"<!-- embed commands -->\n```sh\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, arguments in (("python", ""), ("intvit", "-m intvit ")):
        (tools / name).write_text(f'#!/bin/sh\nexec {sys.executable} {arguments}"$@"\n')
        (tools / name).chmod(0o755)
    pixels = tiny.pixels(1)
    model = with_preprocessing(tiny.integer_model())
    model.save(tmp_path / "deit.intvit")
    Image.fromarray(pixels[0]).save(tmp_path / "cat.jpg", "PNG")  # no lossy compression, whatever its name
    script = f'export PATH={tools}:"$PATH"\n{found[1]}'
    done = subprocess.run(["sh", "-euc", script], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("logits.raw", "logits-aarch64.raw"):
        np.testing.assert_array_equal(np.fromfile(tmp_path / name, np.int32), model(pixels, raw=True)[0])


def with_preprocessing(model: IntegerModel) -> IntegerModel:
    """A model that reads images of its own size as they are."""
    as_it_is = Preprocessing(size=(32, 32), crop="none", mean=(0.5,) * 3, std=(0.25,) * 3)
    return IntegerModel(model.graph, dataclasses.replace(model.metadata, preprocessing=as_it_is))
