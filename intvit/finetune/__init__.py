"""Fine-tuning: the integer graph runs forward, and the float graph's gradients go back, straight through the rounding.

| file           | what                                                        |
|----------------|-------------------------------------------------------------|
| `straight.py`  | integer values with float gradients, operation by operation |
| `student.py`   | the weights in training, lowered again for every step       |
| `train.py`     | the recipe: loss, AdamW, cosine                             |
| `examples.py`  | images by number, with their classes                        |
| `processes.py` | several processes, as `torchrun` starts them                |

The reference of the integers runs on CPUs, and so does training. Grids of activations stay as calibrated.

    model = finetune("timm:deit_tiny_patch16_224", "images/", labels, weights="deit.safetensors", recipe=Recipe(30))
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn
from torch.export import ExportedProgram

from intvit.data import Source
from intvit.finetune.examples import Augment, Examples, Labels, flip
from intvit.finetune.processes import processes
from intvit.finetune.train import Epoch, Recipe, Training
from intvit.integer_model import IntegerModel
from intvit.quantization import quantize
from intvit.stages import CalibratedGraph, FloatGraph

__all__ = ["Epoch", "Recipe", "finetune", "flip"]


def finetune(
    model: nn.Module | ExportedProgram | str,
    data: Any,
    labels: Labels | None = None,
    *,
    weights: str | Path | None = None,
    recipe: Recipe | None = None,
    augment: Augment | None = None,
    progress: Callable[[str, int], None] = lambda stage, done: None,
    epoch_done: Callable[[Epoch], None] = lambda epoch: None,
    **options: Any,
) -> IntegerModel:
    """The integer-only form of a Vision Transformer, its weights trained on all of `data` to be rounded.

    `model`, `data`, `weights` and `options` are those of `quantize`; its `labels`, the names of the classes, are
    `class_names` here. `labels`: the class of each image, by name or in order; by default what comes with the data, and
    without any the float model's own answers are learnt. `augment` changes uint8 pixels `[H, W, C]`, given a random
    generator. `progress` is told the stage and the number of images done, `epoch_done` the loss of each epoch.

    Under `torchrun` the processes share every batch; all of them return the same model, so save it where `RANK` is 0.

    Raises `IntvitError` for bad input, and whatever `quantize` does.
    """
    recipe = recipe or Recipe()
    if "class_names" in options:
        options["labels"] = options.pop("class_names")
    with processes() as together:

        def trained(calibrated: CalibratedGraph, teacher: FloatGraph, images: Source) -> CalibratedGraph:
            examples = Examples(images, calibrated.input_grid, labels, augment, recipe.seed)
            training = Training(calibrated, teacher, examples, recipe, together)
            return training.run(lambda done: progress("finetune", done), epoch_done)

        return quantize(model, data, weights=weights, refine=trained, progress=progress, **options)
