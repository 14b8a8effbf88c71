"""Running a compiled module: from any thread, in a process without torch, on any array; and what is refused."""

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

import intvit
from intvit.compilation import write_module
from intvit.cores import cores
from intvit.errors import IntvitError
from intvit.runtime import CompiledModel

pytest.importorskip("tvm")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("module") / "tiny.so"
    intvit.compile(tiny.integer_model()).save(path)
    return path


@pytest.fixture(scope="module")
def module(path: Path) -> CompiledModel:
    loaded = intvit.load(path)
    assert isinstance(loaded, CompiledModel)
    return loaded


def expected(pixels: np.ndarray) -> np.ndarray:
    return tiny.integer_model()(pixels, raw=True)


def test_any_thread_at_any_time(module: CompiledModel) -> None:
    """Eight threads, each with its own images and batch sizes, all at once and again and again."""
    images = [tiny.pixels(1 + i % 3, seed=i) for i in range(8)]
    wanted = [expected(pixels) for pixels in images]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(20):
            if not np.array_equal(module(images[i], raw=True), wanted[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("blocked", [True, False])
def test_neither_torch_nor_the_compiler_is_imported(path: Path, tmp_path: Path, blocked: bool) -> None:
    """The file is copied and run in another process; with `blocked`, importing torch fails there."""
    copy = tmp_path / "elsewhere.so"
    copy.write_bytes(path.read_bytes())
    np.save(tmp_path / "x.npy", tiny.pixels(3))
    block = "sys.modules['torch'] = None\n" if blocked else ""
    code = (
        f"import sys\n{block}import numpy as np, intvit\n"
        "y = intvit.load(sys.argv[1])(np.load(sys.argv[2]), raw=True)\n"
        "assert 'tvm' not in sys.modules and sys.modules.get('torch') is None\n"
        "np.save(sys.argv[3], y)\n"
    )
    files = [str(copy), str(tmp_path / "x.npy"), str(tmp_path / "y.npy")]
    done = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), expected(tiny.pixels(3)))


def test_a_forked_process_runs_too(path: Path) -> None:
    """TVM's threads are not in a child process: it must not wait for them."""
    code = (
        "import os, signal, sys, numpy as np, intvit\n"
        "model = intvit.load(sys.argv[1])\n"
        "x = np.zeros((2, 32, 32, 3), np.uint8)\n"
        "y = model(x, raw=True)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    signal.alarm(60)\n"
        "    os._exit(0 if np.array_equal(model(x, raw=True), y) else 1)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("folder", ["with space", "with,comma", "with 'quotes\""])
def test_any_folder_will_do(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir()
    write_module(tiny.integer_model(), tmp_path / folder / "m.so")
    np.testing.assert_array_equal(
        intvit.load(tmp_path / folder / "m.so")(tiny.pixels(1), raw=True), expected(tiny.pixels(1))
    )


@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_threads_changes_nothing(path: Path, threads: int) -> None:
    if threads > len(cores()):
        pytest.skip("this process has one core")
    loaded = intvit.load(path, threads=threads)
    np.testing.assert_array_equal(loaded(tiny.pixels(5), raw=True), expected(tiny.pixels(5)))


@pytest.mark.parametrize("threads", [0, 10**6])
def test_threads_that_are_not_there(path: Path, threads: int) -> None:
    with pytest.raises(IntvitError, match="threads must be 1 to"):
        intvit.load(path, threads=threads)


def test_floats_tensors_and_odd_memory(module: CompiledModel) -> None:
    """Normalized floats, torch tensors, and pixels that are read-only, strided or not aligned."""
    pixels = tiny.pixels(4)
    floats = tiny.GRID.normalized(pixels)
    backwards = np.ascontiguousarray(pixels[::-1])[::-1]
    memory = np.empty(pixels.nbytes + 1, np.uint8)
    shifted = memory[1:].reshape(pixels.shape)
    shifted[...] = pixels
    frozen = pixels.copy()
    frozen.flags.writeable = False
    for images in (floats, torch.from_numpy(floats), torch.from_numpy(pixels), backwards, shifted, frozen):
        np.testing.assert_array_equal(module(images, raw=True), expected(pixels))


def test_floats_are_the_integers_times_the_scale(module: CompiledModel) -> None:
    values, integers = module(tiny.pixels(2)), module(tiny.pixels(2), raw=True)
    assert values.dtype == np.float32 and integers.dtype == np.int32
    np.testing.assert_array_equal(values, (integers * module.metadata.output_scales[0]).astype(np.float32))


WRONG = {
    "one image": (tiny.pixels(1)[0], r"uint8 images must be \[batch, 32, 32, 3\]"),
    "size": (np.zeros((1, 16, 32, 3), np.uint8), r"not \[1, 16, 32, 3\]"),
    "layout": (np.zeros((1, 32, 32, 3), np.float32), r"float32 images must be \[batch, 3, 32, 32\]"),
    "dtype": (np.zeros((1, 3, 32, 32), np.float64), "not float64: cast them first"),
    "nan": (np.full((1, 3, 32, 32), np.nan, np.float32), "NaN or inf"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_images(module: CompiledModel, case: str) -> None:
    images, message = WRONG[case]
    with pytest.raises(IntvitError, match=message):
        module(images)


def test_an_empty_batch(module: CompiledModel) -> None:
    """The reference refuses it with the same words."""
    nothing = tiny.pixels(0)
    reference = tiny.integer_model()
    calls: list[Callable[..., object]] = [module, module.integers, module.profile, reference, reference.integers]
    for call in calls:
        with pytest.raises(IntvitError, match=r"^the batch is empty: give at least one image$"):
            call(nothing)


@pytest.mark.parametrize("content", [b"", b"not a library", b"\x7fELF" + bytes(100)])
def test_foreign_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.so").write_bytes(content)
    with pytest.raises(IntvitError, match=r"m\.so: damaged or not a compiled model"):
        intvit.load(tmp_path / "m.so")
    with pytest.raises(IntvitError, match=r"none\.so: no such file"):
        intvit.load(tmp_path / "none.so")


def test_a_file_that_was_replaced_is_read_anew(path: Path, tmp_path: Path) -> None:
    """While the module that it held before goes on."""
    target = tmp_path / "m.so"
    target.write_bytes(path.read_bytes())
    before = intvit.load(target)
    other = tiny.integer_model("paper")
    intvit.compile(other).save(target)
    pixels = tiny.pixels(2)
    np.testing.assert_array_equal(intvit.load(target)(pixels, raw=True), other(pixels, raw=True))
    np.testing.assert_array_equal(before(pixels, raw=True), expected(pixels))
