"""A model for GPUs whose kernels are C functions, and a library in the driver's place that runs and watches them."""

import ctypes
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from intvit.cuda.runtime import CudaModel
from intvit.input_grid import InputGrid
from intvit.linking import Compiler, _run, link
from intvit.metadata import Metadata
from intvit.model import Array
from intvit.preprocess import Preprocessing
from intvit.seal import seal

MOST_BATCH = 1000
WORKSPACE = 96
CONSTANTS = (np.arange(48) * 5).astype(np.uint8)
GRID = InputGrid.of_pixels(Preprocessing((4, 4)), (3, 4, 4))
METADATA = Metadata("hand-made", "none", "0", GRID, (0.5, 0.125), ((16, 3), (1,)))
STEPS = [["bias", "a", 48], ["triple", "b", 144], ["sum", "c", 48], ["total", "d", 48]]

KERNELS = """
#include <stdint.h>
#define KERNEL(name, count) int name##_parameters = count; void name(unsigned block, unsigned threads, void **p)
#define POINTER(type, i) (*(type **)p[i])
#define ROWS(i) (*(int32_t *)p[i])
#define EACH(i, last) for (int i = (int)(block * threads); i < (int)((block + 1) * threads) && i < ROWS(last); ++i)

KERNEL(bias, 4) { EACH(i, 3) POINTER(uint8_t, 2)[i] = (uint8_t)(POINTER(uint8_t, 0)[i] + POINTER(uint8_t, 1)[i % 48]); }
KERNEL(triple_wide, 3) { EACH(i, 2) POINTER(uint8_t, 1)[i] = (uint8_t)(3 * POINTER(uint8_t, 0)[i]); }
KERNEL(triple_small, 3) { EACH(i, 2) POINTER(uint8_t, 1)[i] = (uint8_t)(3 * POINTER(uint8_t, 0)[i]); }
KERNEL(sum, 4) { EACH(i, 3) POINTER(int32_t, 2)[i] = POINTER(uint8_t, 0)[i] - POINTER(uint8_t, 1)[i]; }
KERNEL(total, 3) {
    EACH(i, 2) {
        POINTER(int32_t, 1)[i] = 0;
        for (int j = 0; j < 48; ++j) POINTER(int32_t, 1)[i] += POINTER(int32_t, 0)[48 * i + j];
    }
}
"""
"""The last phase reads the first output, so that it is both written and read."""

MODEL = """
#define INTVIT_DRIVER "{driver}"
#define INTVIT_WORKSPACE INT64_C({workspace})
#define INTVIT_MOST_BATCH INT64_C({most_batch})
#define INTVIT_IMAGE_BYTES INT64_C(48)
#define INTVIT_CONSTANT_BYTES INT64_C(48)
#define INTVIT_OUTPUTS 2
{included}
static const int64_t output_bytes[] = {{192, 4}};
static const struct kernel kernels[] = {{
    {{"bias", 16, 0}}, {{"triple_wide", 48, {shared}}}, {{"triple_small", 8, 0}}, {{"sum", 32, 0}}, {{"total", 1, 0}}}};
static const struct argument arguments[] = {{
    {{IMAGE, 0}}, {{CONSTANT, 0}}, {{WORKSPACE, 0}},
    {{IMAGE, 0}}, {{WORKSPACE, 48}},
    {{WORKSPACE, 0}}, {{WORKSPACE, 48}}, {{OUTPUT, 0}},
    {{OUTPUT, 0}}, {{OUTPUT, 1}}}};
static const struct launch launches[] = {{{{0, 16, 1}}, {{1, 48, 1}}, {{2, 8, 1}}, {{3, 32, 1}}, {{4, 1, 1}}}};
static const struct step steps[] = {{
    {{0, 48, 0, 1, 0, 3}}, {{0, 48, 1, 2, 3, 2}}, {{1, 48, 3, 1, 5, 3}}, {{2, 1, 4, 1, 8, 2}}}};
static const struct image images[] = {{{table}}};
"""


def pixels(batch: int, seed: int = 0) -> NDArray[np.uint8]:
    """Images of the model."""
    return np.random.default_rng(seed).integers(0, 256, (batch, 4, 4, 3), np.uint8)


def expected(pixels: NDArray[np.uint8]) -> tuple[Array, Array]:
    """The integers that the model makes of them."""
    flat = pixels.reshape(len(pixels), 48)
    sums = (flat + CONSTANTS).astype(np.int32) - (flat * np.uint8(3)).astype(np.int32)
    return sums.reshape(-1, 16, 3), sums.sum(axis=1, keepdims=True, dtype=np.int32)


class Settings(ctypes.Structure):
    """`struct stub` of `stub_driver.c`."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("version", "devices", "major", "minor", "processors", "shared")),
        *((name, ctypes.c_int32) for name in ("init_result", "load_result", "capturing", "contexts")),
        *((name, ctypes.c_int64) for name in ("memory", "used")),
    )


@dataclass
class Stub:
    """The library in the driver's place, and the model that is built for it."""

    folder: Path
    driver: Path
    library: ctypes.CDLL
    settings: Settings
    compiler: Compiler
    built: int = 0

    def module(self, *images: tuple[str, int, int], shared: int = 0, driver: str = "", code: bytes = b"") -> Path:
        """A new file of the model; `images` are name, architecture and whether PTX; `code` is what all are."""
        images = images or (("sm_90", 90, 0),)
        self.built += 1
        folder = self.folder / f"{self.built}"
        folder.mkdir()
        (folder / "kernels.c").write_text(KERNELS)
        _run(folder, [*self.compiler.command, "-shared", "-fPIC", "-O1", "kernels.c", "-o", "kernels.so"])
        for i, (text, _, _) in enumerate(images):
            shutil.copy(folder / "kernels.so", folder / f"{text}.kernels")
            (folder / f"image_{i}.bin").write_bytes(code or f"{folder}/{text}.kernels\0".encode())
        (folder / "model.h").write_text(
            MODEL.format(
                driver=driver or self.driver,
                workspace=WORKSPACE,
                most_batch=MOST_BATCH,
                shared=shared,
                included="\n".join(map(included, range(len(images)))),
                table=", ".join(
                    f'{{"{text}", {number}, {is_ptx}, image_{i}, image_{i}_end}}'
                    for i, (text, number, is_ptx) in enumerate(images)
                ),
            )
        )
        (folder / "constants.bin").write_bytes(CONSTANTS.tobytes())
        described = {"metadata": METADATA.to_json(), "digest": "d" * 64, "target": "cuda:sm_90"}
        (folder / "metadata.json").write_text(json.dumps({**described, "steps": STEPS, "outputs": ["int32", "int32"]}))
        path = folder / "model.so"
        link(self.compiler, [], folder, path, "cuda.c")
        seal(path)
        return path

    def model(self, device: int = 0) -> CudaModel:
        """A model of its own file, on a device."""
        return CudaModel.load(self.module(), device)

    def log(self) -> list[str]:
        """What was called since the last time."""
        text = ctypes.c_char.in_dll(self.library, "stub_log")
        lines = ctypes.string_at(ctypes.addressof(text)).decode().splitlines()
        ctypes.memset(ctypes.addressof(text), 0, 1 << 20)
        return lines


def included(index: int) -> str:
    name = f"image_{index}"
    return f'INCLUDE("{name}", "{name}.bin");\nextern const uint8_t {name}[] INCLUDED, {name}_end[] INCLUDED;'
