"""A pack: it runs where there is nothing but Python and numpy, and it holds what that takes."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
from emulation.simt import emulated
from emulation.simt.driver import environment, fake_driver
from PIL import Image

import intvit
from intvit.cuda import compilation
from intvit.cuda.tables import Binary
from intvit.errors import IntvitError
from intvit.packing import CPU_RUNTIME, CUDA_HEADER, MODEL, PACKAGE, RUNTIME, pack

pytest.importorskip("tvm")
LOADED = """
import sys
import intvit
from pathlib import Path
try:
    intvit.load({path!r})
except intvit.IntvitError as error:
    print(error, file=sys.stderr)
folder = Path(intvit.__file__).parent
files = [Path(m.__file__) for name, m in sys.modules.items() if name.partition(".")[0] == "intvit"]
print(*sorted(str(file.relative_to(folder)) for file in files))
"""


@pytest.fixture(scope="module")
def cpu_module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("module") / "tiny.so"
    intvit.compile(tiny.integer_model()).save(path)
    return path


def for_gpus(path: Path, image: Callable[[str], bytes]) -> Path:
    """A module for GPUs, with what `image` makes of its CUDA C in the place of machine code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compilation, "compiled", lambda source, *_: [Binary("sm_90", 90, False, image(source))])
        compilation.write_cuda_module(tiny.integer_model(), path, "cuda:sm_90")
    return path


@pytest.fixture(scope="module")
def cuda_module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return for_gpus(tmp_path_factory.mktemp("cuda") / "tiny.so", lambda source: b"no machine code")


@pytest.fixture(scope="module")
def numpy_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH with numpy and no other package."""
    folder = tmp_path_factory.mktemp("site")
    for found in Path(np.__file__).parents[1].glob("numpy*"):
        (folder / found.name).symlink_to(found)
    return folder


@pytest.fixture
def moved(cpu_module: Path, tmp_path: Path) -> Path:
    """The pack of a module for CPUs, elsewhere than it was written."""
    pack(cpu_module, tmp_path / "written")
    return (tmp_path / "written").rename(tmp_path / "another name")


def run(folder: Path, site: Path | None, *arguments: object, **variables: str) -> "subprocess.CompletedProcess[str]":
    """`run.py` of a pack, by a Python that sees the packages of `site` alone."""
    clean = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    clean |= {} if site is None else {"PYTHONPATH": str(site)}
    command = [sys.executable, "-S", str(folder / "run.py"), *map(str, arguments)]
    return subprocess.run(command, env={**clean, **variables}, capture_output=True, text=True, timeout=120, cwd="/")


@pytest.mark.parametrize("floats", [False, True])
def test_it_runs_with_python_and_numpy_alone(moved: Path, numpy_alone: Path, tmp_path: Path, floats: bool) -> None:
    """No torch, no TVM, no intvit and no Pillow is importable there."""
    images = tiny.pixels(11)
    np.save(tmp_path / "x.npy", tiny.GRID.normalized(images) if floats else images)
    done = run(moved, numpy_alone, tmp_path / "x.npy", "--out", tmp_path / "y.npy")
    assert done.returncode == 0, done.stderr
    logits = tiny.integer_model()(images)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), logits)
    printed = done.stdout.splitlines()
    assert len(printed) == 11 * 6 and printed[0] == f"{tmp_path / 'x.npy'}[0]"
    shares = np.exp(logits[0]) / np.exp(logits[0]).sum()
    likeliest = np.argsort(-logits[0])[:5]
    assert [line.split() for line in printed[1:6]] == [[f"{shares[i]:.1%}", str(i)] for i in likeliest]


def test_what_it_says_when_it_cannot_run(moved: Path, numpy_alone: Path, tmp_path: Path) -> None:
    """One line and exit code 2: no numpy, no Pillow, no image, an array of another shape."""
    Image.new("RGB", (40, 40)).save(tmp_path / "cat.png")
    np.save(tmp_path / "odd.npy", np.zeros((1, 8, 8, 3), np.uint8))
    np.save(tmp_path / "none of them.npy", np.zeros((0, 32, 32, 3), np.uint8))
    (tmp_path / "nothing.npy").touch()
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    for site, name, words in (
        (None, "cat.png", ["No module named 'numpy'", f"Python {here}", "here is Python"]),
        (numpy_alone, "cat.png", ["stores no preprocessing", "give arrays (.npy)"]),
        (numpy_alone, "none.npy", ["none.npy", "No such file"]),
        (numpy_alone, "odd.npy", ["uint8 images must be [batch, 32, 32, 3]"]),
        (numpy_alone, "none of them.npy", ["none of them.npy: holds no images"]),
        (numpy_alone, "nothing.npy", ["No data left in file"]),
    ):
        done = run(moved, site, tmp_path / name)
        assert done.returncode == 2 and done.stderr.startswith("error: "), done
        assert len(done.stderr.splitlines()) == 1 and all(word in done.stderr for word in words), done.stderr


@pytest.mark.parametrize(
    ("out", "reason"), [("y.txt", "y.txt: the name must end in .npy"), ("no/y.npy", "no does not exist")]
)
def test_where_outputs_go_is_looked_at_first(moved: Path, tmp_path: Path, out: str, reason: str) -> None:
    """Without numpy, so that nothing can be loaded yet."""
    done = run(moved, None, tmp_path / "x.npy", "--out", tmp_path / out)
    assert done.returncode == 2 and done.stderr.startswith("error: --out ") and done.stderr.endswith(f"{reason}\n")
    assert not (tmp_path / out).exists()


def test_pillow_is_for_image_files_alone(numpy_alone: Path, moved: Path) -> None:
    code = "from intvit.preprocess import Preprocessing\nPreprocessing((8, 8)).load('cat.png')"
    paths = {"PYTHONPATH": f"{numpy_alone}:{moved}"}
    done = subprocess.run([sys.executable, "-S", "-c", code], env=paths, capture_output=True, text=True, cwd="/")
    assert "IntvitError: image files need Pillow: pip install pillow" in done.stderr


def imported(path: Path) -> set[str]:
    """The files of this package that loading `path` imports, in a process that can import neither torch nor TVM."""
    refused = "import sys\nsys.modules['torch'] = None\nsys.modules['safetensors'] = None\n"
    code = refused + LOADED.format(path=str(path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_list_of_files_is_what_running_imports(cpu_module: Path, cuda_module: Path) -> None:
    """No file is missing, none is there in vain: with `Preprocessing`, which metadata holds, and a GPU's tensors."""
    assert imported(cpu_module) | imported(cuda_module) == {*RUNTIME, *CPU_RUNTIME}
    assert imported(cuda_module) == set(RUNTIME)


def test_a_pack_for_gpus_holds_no_tvm(cuda_module: Path, tmp_path: Path) -> None:
    packed = pack(cuda_module, tmp_path / "p")
    files = {file.relative_to(tmp_path / "p").as_posix() for file in (tmp_path / "p").rglob("*") if file.is_file()}
    assert files == {MODEL, CUDA_HEADER, "run.py", "README.md", "pack.json", *(f"intvit/{name}" for name in RUNTIME)}
    assert (tmp_path / "p" / CUDA_HEADER).read_bytes() == (PACKAGE / "embed" / CUDA_HEADER).read_bytes()
    assert (tmp_path / "p" / MODEL).read_bytes() == cuda_module.read_bytes()
    facts = json.loads((tmp_path / "p" / "pack.json").read_text())
    assert (facts["name"], facts["target"], facts["digest"]) == ("tiny", "cuda:sm_90", tiny.integer_model().digest)
    assert packed.needs == facts["needs"] and packed.needs.startswith("an NVIDIA GPU with its driver, Python 3.10")
    assert packed.files == len(files)
    assert packed.bytes == sum((tmp_path / "p" / name).stat().st_size for name in files)
    readme = (tmp_path / "p" / "README.md").read_text()
    assert len(readme.splitlines()) == 3 and "cuda:sm_90" in readme and CUDA_HEADER in readme


def test_a_pack_for_gpus_runs_on_the_emulated_one(numpy_alone: Path, tmp_path: Path) -> None:
    """With the driver's stand-in, Python and numpy alone."""
    pack(for_gpus(tmp_path / "tiny.so", lambda source: emulated(source, arch=90)), tmp_path / "p")
    folder = fake_driver(tmp_path).parent
    np.save(tmp_path / "x.npy", tiny.pixels(2))
    variables = {name: value for name, value in environment(folder, arch=90).items() if name.startswith(("SIMT", "LD"))}
    done = run(tmp_path / "p", numpy_alone, tmp_path / "x.npy", "--out", tmp_path / "y.npy", **variables)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), tiny.integer_model()(tiny.pixels(2)))


def test_a_machine_without_a_driver(cuda_module: Path, numpy_alone: Path, tmp_path: Path) -> None:
    pack(cuda_module, tmp_path / "p")
    np.save(tmp_path / "x.npy", tiny.pixels(1))
    done = run(tmp_path / "p", numpy_alone, tmp_path / "x.npy")
    assert done.returncode == 2 and done.stderr.startswith("error: "), done
    assert "driver" in done.stderr or "GPU" in done.stderr


def test_whole_or_not_at_all(cpu_module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copytree", full)
    with pytest.raises(OSError, match="No space left"):
        pack(cpu_module, tmp_path / "p")
    assert not list(tmp_path.iterdir())


def test_an_empty_folder_will_do(cpu_module: Path, tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "p")
    pack(cpu_module, tmp_path / "link")
    assert (tmp_path / "p" / MODEL).is_file() and (tmp_path / "link").is_symlink()
    with pytest.raises(IntvitError, match="p: the folder holds files; give a new or an empty one"):
        pack(cpu_module, tmp_path / "p")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "p"]


def test_damaged_modules(cpu_module: Path, tmp_path: Path) -> None:
    content = bytearray(cpu_module.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "m.so").write_bytes(content)
    with pytest.raises(IntvitError, match=r"m\.so: damaged"):
        pack(tmp_path / "m.so", tmp_path / "p")
    with pytest.raises(IntvitError, match=r"none\.so: no such file"):
        pack(tmp_path / "none.so", tmp_path / "p")
    assert not (tmp_path / "p").exists()
