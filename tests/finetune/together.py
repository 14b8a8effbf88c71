"""Gradients and training of a small model for digits by as many processes as torchrun starts; each writes what it has.

torchrun --standalone --nproc-per-node 2 together.py FOLDER
"""

import sys
from pathlib import Path

import torch

from intvit.calibrate import calibrate
from intvit.data import Source
from intvit.demo.images import held_out
from intvit.demo.model import PREPROCESSING, DigitsViT
from intvit.finetune.examples import Examples
from intvit.finetune.processes import processes
from intvit.finetune.student import digest
from intvit.finetune.train import Recipe, Training
from intvit.frontend import capture
from intvit.input_grid import InputGrid
from intvit.passes.hoist_selection import hoist_selection
from intvit.passes.pipeline import lower

SHAPE = (1, 16, 16)


def main(folder: Path) -> None:
    """Writes `SIZE-RANK.pt`: the gradients of a step of 33 images, and the digest after three steps of 33, 33, 1."""
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = DigitsViT(dim=32, depth=1, heads=2).eval()
    pixels, labels = held_out()
    grid = InputGrid.of_pixels(PREPROCESSING, SHAPE)
    with processes() as together:
        source = hoist_selection(capture(model, SHAPE))
        examples = Examples(Source(list(pixels[:67]), PREPROCESSING), grid, labels[:67])
        recipe = Recipe(epochs=1, batch=33, learning_rate=1e-4)
        training = Training(calibrate(source, [pixels[:32]], grid), source, examples, recipe, together)
        loss = training.backward(torch.arange(33), 1)
        gradients = {name: parameter.grad for name, parameter in training.student.parameters.items()}
        trained = training.run()
        constants = dict(trained.source.module.named_buffers())
        found = {"loss": loss, "gradients": gradients, "constants": constants, "digest": digest(lower(trained))}
        torch.save(found, folder / f"{together.size}-{together.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
