"""The file of an integer model: the same bits back, or a refusal, whatever byte was changed."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tiny import integer_model, pixels, with_small_weights

from intvit import artifact
from intvit.dialect import OPERATIONS
from intvit.errors import IntvitError
from intvit.integer_model import IntegerModel


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("artifact") / "tiny.intvit"
    integer_model().save(path)
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with weights of 4 bits."""
    path = tmp_path_factory.mktemp("artifact") / "small.intvit"
    with_small_weights(integer_model()).save(path)
    return path


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_loads_bit_for_bit(preset: str, tmp_path: Path) -> None:
    model, path = integer_model(preset), tmp_path / "m.intvit"
    model.save(path)
    loaded = IntegerModel.load(path)
    assert loaded.metadata == model.metadata and loaded.digest == model.digest
    assert np.array_equal(loaded(pixels(3), raw=True), model(pixels(3), raw=True))
    assert [n.name for n in loaded.graph.module.graph.find_nodes(op="placeholder")] == ["image"]
    paths = [
        [n.meta.get("path") for n in m.graph.module.graph.nodes if n.op == "call_function"] for m in (loaded, model)
    ]
    assert paths[0] == paths[1]
    loaded.save(path)
    assert artifact._read(path)[0]["digest"] == model.digest


def weights(model: IntegerModel) -> dict[str, torch.Tensor]:
    nodes = model.graph.module.graph.find_nodes(op="call_function", target=OPERATIONS["linear"].call)
    return {str(node.args[1].target): model.graph.module.get_buffer(str(node.args[1].target)) for node in nodes}


@pytest.mark.parametrize("keep", [0, 2])
def test_weights_of_four_bits_take_half(keep: int, tmp_path: Path) -> None:
    model, path = with_small_weights(integer_model(), keep), tmp_path / "m.intvit"
    model.save(path)
    header, stored = artifact._read(path)
    small = dict(list(weights(model).items())[keep:])
    assert header["format"] == "2" and set(json.loads(header["nibbles"])) == set(small)
    assert all(2 * stored[name].nbytes == weight.nbytes for name, weight in small.items())
    loaded = IntegerModel.load(path)
    assert loaded.digest == model.digest == header["digest"]
    for name, weight in weights(model).items():
        assert torch.equal(weights(loaded)[name], weight) and weights(loaded)[name].dtype == torch.int8
    assert np.array_equal(loaded(pixels(2), raw=True), model(pixels(2), raw=True))


def test_other_weights_are_stored_as_they_were(file: Path) -> None:
    header, stored = artifact._read(file)
    assert header["format"] == "1" and "nibbles" not in header
    assert all(torch.equal(stored[name], weight) for name, weight in weights(integer_model()).items())


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**31))
def test_any_matrix_of_four_bits(rows: int, columns: int, seed: int) -> None:
    matrix = torch.from_numpy(np.random.default_rng(seed).integers(-8, 8, (rows, columns), np.int8))
    packed = artifact._together(matrix)
    assert packed.dtype == torch.int8 and packed.shape == (-(-matrix.numel() // 2),)
    assert torch.equal(artifact._apart(packed, [rows, columns]), matrix)


def test_metadata_with_everything_in_it(tmp_path: Path) -> None:
    from intvit.metadata import Layer
    from intvit.preprocess import Preprocessing

    model = integer_model()
    layer = Layer("blocks.0", "linear", "linear", "int32", (0.5, 1.0), 3, 31.4)
    full = replace(
        model.metadata, labels=("Bär", 'a"b', ""), layers=(layer,), preprocessing=Preprocessing(size=(32, 32))
    )
    IntegerModel(model.graph, full).save(tmp_path / "m.intvit")
    assert IntegerModel.load(tmp_path / "m.intvit").metadata == full


def changed(content: bytes, at: int, value: int) -> bytes:
    return content[:at] + bytes([value]) + content[at + 1 :]


def changes(content: bytes) -> Iterator[tuple[int, int]]:
    """Random bits anywhere, every byte of the length, and every white space in place of the header's padding."""
    random = np.random.default_rng(0)
    header = 8 + int.from_bytes(content[:8], "little")
    end = len(content[:header].rstrip(b" "))
    for at in (*range(8), *random.integers(8, header, 200), *random.integers(header, len(content), 200)):
        yield int(at), int(content[at] ^ (1 << random.integers(8)))
    for at in (*range(end - 2, header), header, len(content) - 1):
        for value in (*b"\t\n\r ", 0, 0x7D):
            yield at, value


@pytest.mark.parametrize("kind", ["file", "small"])
def test_every_changed_byte_is_detected(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    content = request.getfixturevalue(kind).read_bytes()
    bad = tmp_path / "bad.intvit"
    missed = []
    for at, value in changes(content):
        if content[at] != value:
            bad.write_bytes(changed(content, at, value))
            try:
                artifact.load(bad)
            except IntvitError as error:
                assert str(bad) in str(error) and "\n" not in str(error)
            else:
                missed.append((at, value))
    assert not missed


def padded(content: bytes, spaces: int) -> bytes:
    size = int.from_bytes(content[:8], "little")
    return (size + spaces).to_bytes(8, "little") + content[8 : 8 + size] + b" " * spaces + content[8 + size :]


def test_white_space_in_the_padding_is_detected(file: Path, tmp_path: Path) -> None:
    content = padded(file.read_bytes(), 8)
    (tmp_path / "m.intvit").write_bytes(content)
    artifact.load(tmp_path / "m.intvit")
    at = 8 + int.from_bytes(content[:8], "little") - 3
    for space in b"\t\n\r":
        (tmp_path / "m.intvit").write_bytes(changed(content, at, space))
        with pytest.raises(IntvitError, match="damaged"):
            artifact.load(tmp_path / "m.intvit")


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 500, -1])
def test_cut_files_are_refused(length: int, file: Path, tmp_path: Path) -> None:
    (tmp_path / "m.intvit").write_bytes(file.read_bytes()[:length])
    with pytest.raises(IntvitError, match="damaged"):
        artifact.load(tmp_path / "m.intvit")


@pytest.mark.parametrize("more", [b"\0", b"more"])
def test_longer_files_are_refused(more: bytes, file: Path, tmp_path: Path) -> None:
    (tmp_path / "m.intvit").write_bytes(file.read_bytes() + more)
    with pytest.raises(IntvitError, match="damaged"):
        artifact.load(tmp_path / "m.intvit")


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.intvit"
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(IntvitError, match="not an intvit model"):
        artifact.load(path)
    path.write_bytes(b"\x80\x04\x95 a pickle, or any other file")
    with pytest.raises(IntvitError, match="damaged or not an intvit model"):
        artifact.load(path)
    with pytest.raises(IntvitError, match="no such file"):
        artifact.load(tmp_path / "missing.intvit")
    with pytest.raises(IntvitError, match="no such file"):
        artifact.load(tmp_path)


def rewritten(file: Path, path: Path, **header: str) -> None:
    old, tensors = artifact._read(file)
    new = {**old, **header}
    save_file(tensors, path, metadata={**new, "digest": artifact.digest(new, tensors)})


def test_other_versions_are_refused(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.intvit"
    rewritten(file, path, format="999")
    with pytest.raises(IntvitError, match="another version"):
        artifact.load(path)
    graph = json.loads(artifact._read(file)[0]["graph"])
    graph[0]["op"] = "intvit::later"
    rewritten(file, path, graph=json.dumps(graph))
    with pytest.raises(IntvitError, match=r"intvit::later.*upgrade"):
        artifact.load(path)
    rewritten(file, path, metadata="{}")
    with pytest.raises(IntvitError, match="metadata"):
        artifact.load(path)


def test_the_digest_is_the_model() -> None:
    model = integer_model()
    other = replace(model.metadata, name="other")
    assert IntegerModel(model.graph, other).digest != model.digest
    assert len(model.digest) == 64
