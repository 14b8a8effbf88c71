"""I-ViT's training (arXiv:2207.01405, section 4): AdamW, a cosine from the learning rate to 0, integers forward.

The loss of a step is the mean over its images, whichever process has them: the number of processes changes nothing but
the order of float sums.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from intvit.errors import IntvitError
from intvit.finetune.examples import Examples
from intvit.finetune.processes import Processes
from intvit.finetune.student import Lowered, Student, digest
from intvit.stages import CalibratedGraph, FloatGraph
from intvit.verify.overflow import prove_no_overflow

AT_ONCE = 16
"""Images that run at a time: their gradients add up, and the memory does not grow with the batch."""


@dataclass(frozen=True)
class Recipe:
    """How to train; the defaults are those of the released code, and the fewest of the 30 to 90 epochs it recommends.

    `batch`: images per step, over all processes. `distill`: the share of the float model's answers in the loss, beside
    the labels; by default 1 without labels and 0.5 with them. `smoothing`: of the labels.
    """

    epochs: int = 30
    batch: int = 128
    learning_rate: float = 1e-6
    weight_decay: float = 1e-4
    distill: float | None = None
    smoothing: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises `IntvitError` for what no training can be done with."""
        if self.epochs < 1 or self.batch < 1:
            raise IntvitError(f"epochs {self.epochs}, batch {self.batch}: both start at 1")
        if not 0 < self.learning_rate < 1 or not 0 <= self.weight_decay < 1:
            given = f"learning rate {self.learning_rate:g}, weight decay {self.weight_decay:g}"
            raise IntvitError(f"{given}: write a rate above 0 and below 1, a decay from 0")
        if not 0 <= (self.distill or 0) <= 1 or not 0 <= self.smoothing < 1:
            given = f"distill {self.distill}, smoothing {self.smoothing:g}"
            raise IntvitError(f"{given}: both are shares, from 0 to 1")
        if not 0 <= self.seed < 2**63:
            raise IntvitError(f"seed {self.seed}: write a whole number from 0")

    def share(self, labelled: bool) -> float:
        """Of the float model's answers; raises `IntvitError` where labels are wanted and missing."""
        share = (0.5 if labelled else 1.0) if self.distill is None else self.distill
        if share < 1 and not labelled:
            raise IntvitError(f"distill {share:g}: the rest of the loss needs labels; give them, or distill 1")
        return share


@dataclass(frozen=True)
class Epoch:
    """What one pass over the images came to: the mean loss, as the integer graph had it in each step."""

    number: int
    loss: float


class Training:
    """A student on its way, on every process the same; `calibrated`, where it starts, stays as it is."""

    def __init__(
        self,
        calibrated: CalibratedGraph,
        teacher: FloatGraph,
        examples: Examples,
        recipe: Recipe,
        processes: Processes | None = None,
    ) -> None:
        """Raises `IntvitError` where the model has no classes or the labels are others, or where processes differ."""
        examples.require_classes(_classes(teacher))
        self.share = recipe.share(examples.labels is not None)
        self.teacher, self.grid = teacher, calibrated.input_grid
        self.examples, self.recipe, self.processes = examples, recipe, processes or Processes()
        self.student = Student(calibrated)
        self.optimizer = _optimizer(self.student, recipe)
        steps = -(-len(examples) // recipe.batch)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, recipe.epochs * steps)
        self.processes.require_same(digest(self.student.lowered().graph))

    def run(
        self,
        progress: Callable[[int], None] = lambda images: None,
        epoch_done: Callable[[Epoch], None] = lambda epoch: None,
    ) -> CalibratedGraph:
        """All epochs; the graph with the trained constants.

        Raises `IntvitError` where the loss or a range is lost, or where the processes differ; `VerifyError` where the
        trained integers could overflow.
        """
        for number in range(1, self.recipe.epochs + 1):
            epoch_done(self.epoch(number, progress))
        return self.student.calibrated()

    def epoch(self, number: int, progress: Callable[[int], None]) -> Epoch:
        """One pass over the images, in an order of its own; `progress` is told those of all epochs so far."""
        count, total = len(self.examples), 0.0
        order = torch.randperm(count, generator=torch.Generator().manual_seed(self.recipe.seed + number))
        for step, chosen in enumerate(order.split(self.recipe.batch)):
            self.optimizer.zero_grad()
            loss = self.backward(chosen, number)
            if not math.isfinite(loss):
                raise IntvitError(f"epoch {number}: the loss is {loss}: lower the learning rate")
            self.optimizer.step()
            self.schedule.step()
            total += loss * len(chosen)
            progress((number - 1) * count + step * self.recipe.batch + len(chosen))
        graph = self._lowered().graph
        prove_no_overflow(graph)
        self.processes.require_same(digest(graph))
        return Epoch(number, total / count)

    def backward(self, chosen: Tensor, epoch: int) -> float:
        """The loss of images `chosen` `[N]` and its gradients, of all processes together."""
        loss, lowered = 0.0, self._lowered()
        mine = self.processes.share(chosen)
        for start in range(0, len(mine), AT_ONCE):
            part = self._loss(lowered, mine[start : start + AT_ONCE], epoch) / len(chosen)
            part.backward()
            loss += float(part.detach())
        self.processes.add_gradients(self.student.parameters.values())
        return self.processes.total(loss)

    def _lowered(self) -> Lowered:
        """Raises `IntvitError` where weights have left the ranges that calibration gave them."""
        try:
            return self.student.lowered()
        except IntvitError as error:
            raise IntvitError(f"{error}; or lower the learning rate") from error

    def _loss(self, lowered: Lowered, indices: list[int], epoch: int) -> Tensor:
        """The sum over images."""
        pixels = self.examples.pixels(indices, epoch)
        images = torch.from_numpy(self.grid.normalized(pixels))
        with torch.no_grad():
            wanted = self.teacher(images)[0]
        labels = None if self.examples.labels is None else torch.from_numpy(self.examples.labels[indices])
        logits = lowered(torch.from_numpy(pixels), images)[0]
        return loss_of(logits, wanted, labels, self.share, self.recipe.smoothing)


def _classes(graph: FloatGraph) -> int:
    shape = graph.output_shapes[0]
    if len(shape) != 1:
        raise IntvitError(f"the model's output is {list(shape)}, not one score per class: nothing to train it with")
    return shape[0]


def _optimizer(student: Student, recipe: Recipe) -> torch.optim.Optimizer:
    """No decay of biases, norms and tables, as timm has it for this recipe."""
    weights, parameters = student.weights(), student.parameters.items()
    decayed, others = ([p for name, p in parameters if (name in weights) is wanted] for wanted in (True, False))
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate)


def loss_of(logits: Tensor, teacher: Tensor, labels: Tensor | None, share: float, smoothing: float) -> Tensor:
    """The sum over images of the soft cross-entropy with the float model's answers and of that with the labels."""
    loss = share * F.cross_entropy(logits, teacher.softmax(-1), reduction="sum")
    if labels is None or share == 1:
        return loss
    return loss + (1 - share) * F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="sum")
