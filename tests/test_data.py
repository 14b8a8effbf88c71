"""Calibration data from every kind of source, in any batch size, and the ways in which it is refused."""

import logging
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from intvit.data import Source, batches
from intvit.errors import IntvitError
from intvit.images import image_files, labels_for, read_labels
from intvit.preprocess import Preprocessing

SMALL = Preprocessing(size=(8, 8), resize=8)
TENSORS = np.random.default_rng(0).standard_normal((10, 3, 8, 8)).astype(np.float32)
Photograph = Callable[..., Image.Image]


class Dataset:
    """A map-style torch dataset."""

    def __len__(self) -> int:
        return len(TENSORS)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.from_numpy(TENSORS[index]), index


def loader() -> Any:
    return torch.utils.data.DataLoader(Dataset(), batch_size=4)  # type: ignore[arg-type]


def generator() -> Iterator[np.ndarray]:
    yield from TENSORS


SOURCES: dict[str, Callable[[], Any]] = {
    "array": lambda: TENSORS,
    "tensor": lambda: torch.from_numpy(TENSORS).requires_grad_(),
    "list of images": lambda: list(TENSORS),
    "list of batches": lambda: [torch.from_numpy(TENSORS[:7]), TENSORS[7:]],
    "double": lambda: [TENSORS.astype(np.float64)],
    "generator": generator,
    "function": lambda: generator,
    "DataLoader": loader,
    "function of DataLoader": lambda: loader,
    "Dataset": Dataset,
    "mapping": lambda: {"pixel_values": torch.from_numpy(TENSORS)},
    "mappings": lambda: [{"pixel_values": image, "labels": 3} for image in TENSORS],
}


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize(("batch", "count", "skip"), [(1, None, 0), (3, None, 0), (4, 5, 2), (100, 10, 0)])
def test_tensors(kind: str, batch: int, count: int | None, skip: int) -> None:
    parts = list(batches(SOURCES[kind](), SMALL, count=count, batch=batch, skip=skip))
    expected = TENSORS[skip:][:count]
    assert [len(part) for part in parts[:-1]] == [batch] * (len(parts) - 1)
    assert all(part.dtype == np.float32 for part in parts)
    np.testing.assert_array_equal(np.concatenate(parts), expected)


def test_bfloat16_becomes_float32() -> None:
    (part,) = batches([torch.from_numpy(TENSORS).bfloat16()], None, batch=10)
    np.testing.assert_array_equal(part, torch.from_numpy(TENSORS).bfloat16().float().numpy())


@pytest.mark.parametrize("kind", ["npy", "npz", "compressed", "two arrays"])
@pytest.mark.parametrize(("skip", "count"), [(0, None), (3, 4)])
def test_array_files(tmp_path: Path, kind: str, skip: int, count: int | None) -> None:
    path = tmp_path / ("data.npy" if kind == "npy" else "data.npz")
    if kind == "npy":
        np.save(path, TENSORS)
    elif kind == "npz":
        np.savez(path, anything=TENSORS)
    elif kind == "compressed":
        np.savez_compressed(path, TENSORS)
    else:
        np.savez(path, images=TENSORS, labels=np.arange(10))
    parts = list(batches(path, None, batch=4, skip=skip, count=count))
    np.testing.assert_array_equal(np.concatenate(parts), TENSORS[skip:][:count])


def test_raw_images_stay_uint8(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)
    np.save(tmp_path / "pixels.npy", pixels)
    for data in (pixels, list(pixels), torch.from_numpy(pixels), tmp_path / "pixels.npy"):
        (batch,) = Source(data, SMALL).batches(5)
        np.testing.assert_array_equal(batch.values, pixels)
        np.testing.assert_array_equal(batch.normalized(), SMALL.normalize(pixels))


@pytest.fixture
def folder(tmp_path: Path, photograph: Photograph) -> Path:
    for index, name in enumerate(["b/3.png", "a/2.JPEG", "b/1.jpg", "0.webp", ".hidden/x.png", "b/._9.png"]):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        photograph(12, 10, seed=index).save(path)
    (tmp_path / "images" / "notes.txt").write_text("not an image")
    (tmp_path / "images" / "a" / "loop").symlink_to(tmp_path / "images", target_is_directory=True)
    return tmp_path / "images"


def test_folder_is_sorted_by_file_name(folder: Path) -> None:
    source = Source(str(folder), SMALL)
    (batch,) = source.batches(10)
    assert source.count == 4
    assert batch.names == ("0.webp", "b/1.jpg", "a/2.JPEG", "b/3.png")
    expected = np.stack([SMALL.load(folder / name) for name in batch.names])
    np.testing.assert_array_equal(batch.values, expected)
    np.testing.assert_array_equal(batch.normalized(), SMALL.normalize(expected))
    assert [part.names for part in source.batches(2, skip=1)] == [("b/1.jpg", "a/2.JPEG"), ("b/3.png",)]


def test_single_images_paths_and_open_images(folder: Path) -> None:
    expected = SMALL.load(folder / "b/3.png")[None]
    with Image.open(folder / "b/3.png") as opened:
        image = opened.copy()
    for data in (folder / "b/3.png", [folder / "b/3.png"], image, [image], iter([folder / "b/3.png"]), [(image, 7)]):
        (batch,) = Source(data, SMALL).batches()
        np.testing.assert_array_equal(batch.values, expected)
    assert batch.labels == (7,)


def test_labels_of_a_loader() -> None:
    groups = list(Source(loader(), SMALL).batches(3))
    assert [label for group in groups for label in group.labels] == list(range(10))
    assert groups[1].names == ("item 3", "item 4", "item 5")


def test_memory_does_not_grow(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "data.npz", np.zeros((400, 3, 64, 64), np.float32))  # 20 MB
    np.save(tmp_path / "data.npy", np.zeros((400, 3, 64, 64), np.float32))
    for name in ("data.npz", "data.npy"):
        tracemalloc.start()
        assert sum(len(part) for part in batches(tmp_path / name, None, batch=4)) == 400
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2_000_000


def test_fewer_than_asked_is_a_warning_and_none_an_error(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "intvit"):
        assert sum(len(part) for part in batches(TENSORS, SMALL, count=12, skip=1)) == 9
    assert [record.getMessage() for record in caplog.records] == [
        "data (ndarray): 12 images asked for, 9 found; going on with these"
    ]
    with pytest.raises(IntvitError, match="nothing is left after skipping 10; give more images"):
        list(batches(TENSORS, SMALL, skip=10))
    source = Source(generator(), SMALL)
    assert not source.repeatable
    list(source.batches())
    with pytest.raises(IntvitError, match="it gave no images; an iterator gives its items once, pass a function"):
        list(source.batches())
    again = Source(generator, SMALL)
    assert again.repeatable
    assert len(list(again.batches())) == len(list(again.batches())) == 10


BAD = TENSORS.copy()
BAD[7, 0, 0, 0] = np.nan
WRONG: list[tuple[Any, str]] = [
    (BAD, "item 7: holds NaN or infinity"),
    (np.full((1, 3, 8, 8), np.inf), "item 0: holds NaN or infinity"),
    (np.zeros((2, 3, 8, 9), np.float32), r"item 0: float32 of shape \[3, 8, 9\], expected \[3, 8, 8\]"),
    ([TENSORS, TENSORS[:, :, :4]], r"item 10: float32 of shape \[3, 4, 8\], expected \[3, 8, 8\]"),
    (TENSORS.transpose(0, 2, 3, 1), r"item 0: float32 of shape \[8, 8, 3\], expected \[3, 8, 8\]; float tensors are"),
    (np.zeros((1, 3, 8, 8), np.uint8), r"item 0: uint8 of shape \[3, 8, 8\], expected \[8, 8, 3\]"),
    (np.zeros((1, 3, 8, 8), np.int64), "item 0: dtype int64; give normalized float32"),
    (np.zeros((8, 8), np.float32), r"item 0 has shape \[8, 8\]; expected \[C, H, W\] or"),
    ([TENSORS[0], np.zeros((8, 8, 3), np.uint8)], "item 1: uint8 after float32; give one kind of data"),
    ([], r"data \(list\): it gave no images"),
    ([None], "an item is a NoneType; expected a tensor"),
    ([()], "an empty tuple where a tensor"),
    ([{"input_ids": 1}], "a mapping with the keys input_ids; name the tensor 'pixel_values'"),
    (3, "cannot read images from int; give a folder of images"),
    ("no/such/folder", "no/such/folder: no such folder; check the path"),
    ("no/such/file.npy", r"no/such/file\.npy: no such file"),
]


@pytest.mark.parametrize(("data", "message"), WRONG)
def test_wrong_data(data: Any, message: str) -> None:
    with pytest.raises(IntvitError, match=message) as caught:
        list(batches(data, SMALL))
    assert "\n" not in str(caught.value)


def test_wrong_files(tmp_path: Path, folder: Path) -> None:
    def refused(path: Path, message: str, preprocessing: Preprocessing | None = SMALL) -> None:
        with pytest.raises(IntvitError, match=message):
            list(batches(path, preprocessing))

    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "the folder is empty; give one with .bmp, ")
    (tmp_path / "empty" / "a.txt").write_text("x")
    refused(tmp_path / "empty", "the folder holds 1 files but no images")
    refused(tmp_path / "empty" / "a.txt", "not an image, .npy or .npz file by its name")
    refused(folder, "these are images, and the model's preprocessing is not known", None)
    (folder / "b" / "1.jpg").write_bytes(b"corrupt")
    refused(folder, r"b/1\.jpg: cannot read this image")
    (tmp_path / "a.npy").write_bytes(b"corrupt")
    refused(tmp_path / "a.npy", r"a\.npy: not a readable array file")
    (tmp_path / "a.npz").write_bytes(b"corrupt")
    refused(tmp_path / "a.npz", r"a\.npz: not a readable array file")
    np.save(tmp_path / "objects.npy", np.array([None]), allow_pickle=True)
    refused(tmp_path / "objects.npy", "not a readable array file")
    np.save(tmp_path / "flat.npy", np.zeros(3))
    refused(tmp_path / "flat.npy", r"flat\.npy: shape \[3\]; images are")
    np.savez(tmp_path / "many.npz", a=TENSORS, b=TENSORS)
    refused(tmp_path / "many.npz", r"cannot tell which array holds the images \(arrays: a, b\); name it 'images'")
    with pytest.raises(IntvitError, match="batch=0"):
        list(batches(TENSORS, SMALL, batch=0))


def test_labels(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text('\ufefffile , class\n a.png , 3\n\n./b/c.png,0\n"d, e.png", 2 \n', encoding="utf-8")
    labels = read_labels(path)
    assert labels == {"a.png": 3, "b/c.png": 0, "d, e.png": 2}
    path.write_text("a.png,3\nb.png,4\n")
    assert read_labels(path) == {"a.png": 3, "b.png": 4}
    path.write_text("class,width,file\n3,640,a.png\n")
    assert read_labels(path) == {"a.png": 3}
    assert labels_for(["b/c.png", "x/a.png"], labels) == [0, 3]
    with pytest.raises(
        IntvitError, match=r"labels\.csv: no label for 4 of 5 images \(1, 2, 3 \.\.\.\); add their lines"
    ):
        labels_for(["a.png", "1", "2", "3", "4"], labels, path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no labels"),
        ("image,label\na.png,3\n", "labels.csv:1: 'image,label' is not a file name and a class index"),
        ("file,class\n", "holds no labels"),
        ("file,class\na.png,1\nb.png,cat\n", "labels.csv:3: 'b.png,cat' is not a file name and a class index"),
        ("file,class\na.png,-1\n", "labels.csv:2: 'a.png,-1' is not a file name"),
        ("file,class\na.png\n", "labels.csv:2: 'a.png' is not a file name"),
        ("file,class\na.png,1\na.png,2\n", "labels.csv:3: a.png has two classes"),
    ],
)
def test_wrong_labels(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(IntvitError, match=message):
        read_labels(tmp_path / "labels.csv")
    with pytest.raises(IntvitError, match="no such file"):
        read_labels(tmp_path / "gone.csv")


def test_measuring_data(data_folder: Path) -> None:
    files = image_files(data_folder / "imagenet_val1300")
    labels = read_labels(next(data_folder.rglob("labels.csv")))
    assert len(files) == 1300
    assert len(labels_for([file.name for file in files], labels)) == 1300
