"""Trains the demo's model and writes the files that are shipped beside this one: `python -m intvit.demo.train`.

Needs scikit-learn (`pip install 'intvit[test]'`), whose digits are the data: 1797 images of 8x8 pixels with 17 grey
levels, here enlarged to 16x16. A fifth, balanced over the classes, is held out: training and calibration never see it,
and as the number of epochs is fixed, it chooses nothing. About a minute on two cores.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F

from intvit.demo.images import CALIBRATION, HELD_OUT
from intvit.demo.model import PREPROCESSING, WEIGHTS, DigitsViT

SEED = 0
EPOCHS = 60
BATCH = 64
RATE = 2e-3
MAX_SHIFT = 2
HELD_OUT_IMAGES, CALIBRATION_IMAGES = 360, 100


def images() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """All digits as uint8 `[N, 16, 16, 1]`, with their labels."""
    from sklearn.datasets import load_digits

    small, labels = load_digits(return_X_y=True)
    grey = np.rint(small.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    size = PREPROCESSING.size[::-1]
    large = [np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)) for image in grey]
    return np.stack(large)[..., None], labels.astype(np.int64)


def split(labels: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Indices for training and for testing, the classes in equal shares."""
    from sklearn.model_selection import train_test_split

    indices = np.arange(len(labels))
    seen, unseen = train_test_split(indices, test_size=HELD_OUT_IMAGES, random_state=SEED, stratify=labels)
    return seen, unseen


def shifted(batch: Tensor, generator: torch.Generator) -> Tensor:
    """Every image moved by up to `MAX_SHIFT` pixels each way, background flowing in."""
    padded = F.pad(batch, [MAX_SHIFT] * 4, value=float(batch.min()))
    height, width = batch.shape[-2:]
    rows, columns = torch.randint(0, 2 * MAX_SHIFT + 1, (2, len(batch)), generator=generator).tolist()
    moved = [p[:, r : r + height, c : c + width] for p, r, c in zip(padded, rows, columns, strict=True)]
    return torch.stack(moved)


def train(pixels: NDArray[np.uint8], labels: NDArray[np.int64]) -> DigitsViT:
    """A trained model: AdamW with a one-cycle rate and label smoothing."""
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    model = DigitsViT()
    x, y = torch.from_numpy(PREPROCESSING.normalize(pixels)), torch.from_numpy(labels)
    steps = -(-len(x) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=EPOCHS * steps)
    for epoch in range(1, EPOCHS + 1):
        total = 0.0
        order = torch.randperm(len(x), generator=generator)
        for start in range(0, len(x), BATCH):
            chosen = order[start : start + BATCH]
            loss = F.cross_entropy(model(shifted(x[chosen], generator)), y[chosen], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        if epoch % 10 == 0:
            print(f"epoch {epoch:3d}: loss {total / steps:.4f}", flush=True)
    return model.eval()


def main(folder: Path = WEIGHTS.parent) -> None:
    """Writes the weights, the calibration images and the held-out images to `folder`."""
    pixels, labels = images()
    seen, unseen = split(labels)
    grey = PREPROCESSING.rescale * pixels[seen]
    print(f"mean {grey.mean():.3f}, deviation {grey.std():.3f} of {len(seen)} training images")
    model = train(pixels[seen], labels[seen])
    with torch.inference_mode():
        predicted = model(torch.from_numpy(PREPROCESSING.normalize(pixels[unseen]))).argmax(1).numpy()
    print(f"accuracy on {len(unseen)} held-out images: {(predicted == labels[unseen]).mean():.2%}")
    (folder / WEIGHTS.name).write_bytes(save(model.state_dict()))
    np.savez_compressed(folder / CALIBRATION.name, images=pixels[seen[:CALIBRATION_IMAGES]])
    np.savez_compressed(folder / HELD_OUT.name, images=pixels[unseen], labels=labels[unseen])


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
