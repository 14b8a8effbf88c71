"""What trained roundings are to come near: batches of a block's input and float output, and the weighted error."""

import torch
from torch import Tensor

SEED = 0


class Batches:
    """`(given, wanted)` of images drawn anew at every step, the same at every run."""

    def __init__(self, given: Tensor, wanted: Tensor, images: int) -> None:
        self._given, self._wanted, self._images = given, wanted, images
        self._generator = torch.Generator().manual_seed(SEED)

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        drawn = torch.randperm(len(self._given), generator=self._generator)[: self._images]
        return self._given[drawn], self._wanted[drawn]


class WeightedError:
    """Squared error over the energy of what is wanted `[images, tokens, channels]`, with a weight for each token."""

    def __init__(self, token_weight: Tensor | None, wanted: Tensor) -> None:
        known = token_weight is not None and len(token_weight) == wanted.shape[1]
        self._weight = token_weight[:, None] if token_weight is not None and known else torch.ones(1)
        self._energy = (wanted - wanted.mean((0, 1))).square().mean().clamp(min=1e-20)

    def __call__(self, found: Tensor, wanted: Tensor) -> Tensor:
        return ((found - wanted).square() * self._weight).mean() / self._energy
