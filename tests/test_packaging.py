"""What is installed: `intvit.kernels` and `intvit.passes` come along, nothing else does, and importing stays light."""

import importlib.util
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("intvit", "kernels", "passes", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in", "CONTRIBUTING.md")
SHIPPED = {
    "intvit/kernels/product.py",
    "intvit/passes/pipeline.py",
    "intvit/dialect/linear.py",
    "intvit/demo/digits.safetensors",
    "intvit/demo/calibration.npz",
    "intvit/demo/held_out.npz",
    "intvit/embed/example.c",
    "intvit/embed/intvit.h",
    "intvit/embed/module.c",
    "intvit/embed/runtime.c",
    "intvit/py.typed",
    "intvit/report/assets/chart.js",
    "intvit/report/assets/page.html",
    "intvit/report/assets/style.css",
    "intvit/web/demo.js",
    "intvit/web/icon.svg",
    "intvit/web/index.html",
    "intvit/web/style.css",
    "intvit/web/result.css",
}


def python(code: str, folder: Path) -> str:
    """What `code` prints in an interpreter of its own, started in `folder`."""
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a build reads, with its links."""
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("setuptools is not installed")
    folder = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder)
    return folder


def built(sources: Path, kind: str) -> Path:
    """The file that the build backend makes: `wheel`, `sdist` or `editable`."""
    code = f"from setuptools import build_meta; print(build_meta.build_{kind}('out'))"
    return sources / "out" / python(code, sources).splitlines()[-1]


@pytest.fixture(scope="module")
def wheel(sources: Path) -> set[str]:
    """The files of a wheel."""
    with zipfile.ZipFile(built(sources, "wheel")) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def test_a_wheel_holds_every_module_under_the_name_intvit(wheel: set[str]) -> None:
    assert wheel >= SHIPPED
    assert {name.partition("/")[0] for name in wheel} == {"intvit"}
    for folder, name in (("kernels", "intvit/kernels"), ("passes", "intvit/passes"), ("intvit", "intvit")):
        here = {f"{name}/{path.relative_to(ROOT / folder).as_posix()}" for path in (ROOT / folder).rglob("*.py")}
        assert here <= wheel


def test_an_sdist_holds_them_as_files(sources: Path) -> None:
    with tarfile.open(built(sources, "sdist")) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
        links = [member.name for member in archive.getmembers() if member.issym()]
    assert names >= SHIPPED | {"LICENSE", "README.md", "pyproject.toml"}
    assert not links


def test_an_editable_install_adds_one_name(sources: Path) -> None:
    with zipfile.ZipFile(built(sources, "editable")) as archive:
        finders = [name for name in archive.namelist() if name.endswith("_finder.py")]
        assert len(finders) == 1
        mapping = next(line for line in archive.read(finders[0]).decode().splitlines() if line.startswith("MAPPING"))
    assert mapping.partition(" = ")[2] == f"{{'intvit': {str(sources / 'intvit')!r}}}"


HEAVY = "{'torch', 'tvm', 'safetensors', 'timm', 'transformers', 'onnx', 'onnxruntime'}"


@pytest.mark.parametrize("statement", ["import intvit", "from intvit import load, Preprocessing", "import intvit.cli"])
def test_importing_is_light(statement: str, tmp_path: Path) -> None:
    assert python(f"import sys\n{statement}\nprint(sorted({HEAVY} & set(sys.modules)))", tmp_path) == "[]"


def test_the_runtime_needs_neither_torch_nor_the_compiler(tmp_path: Path) -> None:
    code = "import sys\nsys.modules['torch'] = sys.modules['tvm'] = None\nimport intvit.runtime\nprint('imported')"
    assert python(code, tmp_path) == "imported"


def test_the_bare_names_are_not_ours() -> None:
    caught = "try:\n    import passes\nexcept ImportError as error:\n    print(error)"
    assert "import intvit.passes" in python(caught, ROOT)
    assert python("import kernels; print([n for n in vars(kernels) if not n.startswith('__')])", ROOT) == "[]"


def test_a_module_is_imported_once_under_one_name(tmp_path: Path) -> None:
    code = "import sys\nfrom intvit.kernels import isa\nimport intvit.passes.pipeline\n"
    code += "print([m for m in sys.modules if m.partition('.')[0] in ('kernels', 'passes')], isa.__name__)"
    assert python(code, tmp_path) == "[] intvit.kernels.isa"
