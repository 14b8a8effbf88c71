"""Packs for `gpu.py`, and images with the reference's logits to check them by. Needs no GPU, but a CUDA compiler.

    python bench/gpu_packs.py packs --weights deit_tiny.safetensors --data images/ --skip 100
    tar -C packs -cf - deit_tiny deit_small deit_base deit_{tiny,small,base}-random.npz | xz -9 -T2 > packs.tar.xz
    tar -C packs -cf - vit_large vit_large-random.npz | xz -9 -T2 > large.tar.xz   # 50 MB

DIR/deit_tiny and so on are packs, DIR/deit_tiny-random.npz holds nine random images of each, and with `--data`
DIR/deit_tiny-images-0.npz ... hold the images of a folder, in pieces that a limited transfer takes. Weights are random
but for those of DeiT-Tiny, and in DeiT-B and ViT-L each block's are the first block's with rotated rows: as many
different bytes, of which an archive keeps little more than one block. Time depends on none of it.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import intvit
from intvit.cuda.compilation import write_cuda_module
from intvit.images import image_files
from intvit.integer_model import IntegerModel
from intvit.models import ResolvedModel, resolve
from intvit.packing import check_new_folder, pack

MODELS = {
    "deit_tiny": "deit_tiny_patch16_224",
    "deit_small": "deit_small_patch16_224",
    "deit_base": "deit_base_patch16_224",
    "vit_large": "vit_large_patch16_224",
}
REPEATED = ("deit_base", "vit_large")
ROWS = 8
"""By how many rows each block's weights are rotated against those of the one before."""
RANDOM = 9
PIECE = 400
BRANCHES = ("attn.proj", "mlp.fc2")
FAINT = 1e-5
"""What is added to a block's input is scaled by this, so that all blocks see, and are quantized by, the same values."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--target", default="cuda:sm_90")
    parser.add_argument("--weights", default="random", help="of DeiT-Tiny: a file; random by default")
    parser.add_argument("--data", type=Path, help="a folder of images that calibrate and check DeiT-Tiny")
    parser.add_argument("--skip", type=int, default=100, help="the first images: they calibrate")
    parser.add_argument("--calib", type=int, default=16, help="random images that calibrate the others")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    try:
        for name in options.models:
            check_new_folder(options.folder / name)
    except intvit.IntvitError as error:
        parser.error(str(error))
    for name in options.models:
        make(name, options)


def make(name: str, options: argparse.Namespace) -> None:
    """The pack of one model, and its images."""
    weights = options.weights if name == "deit_tiny" else "random"
    resolved = resolve(f"timm:{MODELS[name]}", weights)
    if name in REPEATED:
        repeat(resolved.module)
    data = options.data if name == "deit_tiny" else None
    say(f"{name}: quantizing")
    model = quantized(resolved, data, options)
    say(f"{name}: compiling for {options.target}")
    module = options.folder / f"{name}.so"
    write_cuda_module(model, module, options.target)
    written = pack(module, options.folder / name)
    module.unlink()
    say(f"{name}: {written.bytes / 1e6:.1f} MB; logits of the reference")
    write_check(model, random_pixels(resolved, RANDOM, seed=1), options.folder / f"{name}-random.npz")
    if data is not None and resolved.preprocessing is not None:
        files = image_files(data)[options.skip :]
        for piece, start in enumerate(range(0, len(files), PIECE)):
            pixels = np.stack([resolved.preprocessing.load(file) for file in files[start : start + PIECE]])
            write_check(model, pixels, options.folder / f"{name}-images-{piece}.npz")
            say(f"{name}: {start + len(pixels)} of {len(files)} images")


def repeat(module: nn.Module) -> None:
    """Gives every block the first block's weights, rotated by other numbers of rows, with faint branches."""
    first, *others = (dict(block.named_parameters()) for block in module.get_submodule("blocks").children())
    with torch.no_grad():
        for name, parameter in first.items():
            if name.startswith(BRANCHES):
                parameter.mul_(FAINT)
        for index, block in enumerate(others, 1):
            for name, parameter in block.items():
                parameter.copy_(first[name].roll(index * ROWS, 0))


def quantized(resolved: ResolvedModel, data: Path | None, options: argparse.Namespace) -> IntegerModel:
    """The integer model, calibrated with the first images of a folder, or with random ones."""
    images: Any = random_pixels(resolved, options.calib) if data is None else data
    count = options.calib if data is None else options.skip
    return intvit.quantize(
        resolved.module, images, calib=count, preprocessing=resolved.preprocessing, name=resolved.name
    )


def random_pixels(resolved: ResolvedModel, count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Images `[count, H, W, C]` of a model's size."""
    assert resolved.preprocessing is not None
    shape = (count, *resolved.preprocessing.size, resolved.preprocessing.channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write_check(model: IntegerModel, pixels: NDArray[np.uint8], path: Path) -> None:
    """Images with the reference's integers; pixels as differences to their left neighbour, which pack better."""
    logits = np.concatenate([model(pixels[i : i + 8], raw=True) for i in range(0, len(pixels), 8)])
    differences = np.diff(pixels, axis=2, prepend=np.zeros_like(pixels[:, :, :1]))
    np.savez_compressed(path, digest=np.array(model.digest), differences=differences, logits=logits)


def say(line: str) -> None:
    """Progress."""
    print(f"[{time.strftime('%H:%M:%S')}] {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
