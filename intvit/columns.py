"""Scales of channels in front of weights with fewer bits than they: between their own and one for all.

The scale c_k of channel k multiplies column k of the weights, and the largest of a row fixes the row's step. Own scales
leave activations the least error, and rows of weights the most, whose largest is then far above the others:

    activations   Σ_k min((g c_k)² / 12, Var[x_k]) Σ_n W_nk²            g integers from one level to the next
    weights       Σ_n (max_k |W_nk| c_k / L)² / 12 Σ_k Var[x_k] / c_k²   L the largest integer of a weight of layer n

    c_k = s (s_k / s)^a        s_k the channel's own scale, s the largest; a between 0 and 1, that of the least sum

SmoothQuant (arXiv:2211.10438, equation 4) moves the difficulty between the two by such an exponent, AWQ
(arXiv:2306.00978, section 3.2) searches one for the weights. DeiT-T, W4A8, 1200 images, cosine of the logits before
training: 0.901 at a = 1, 0.923 at 1/2, 0.929 at that of each tensor, which is 0 to 3/8; after it 0.938 and 0.951.
Weights of 4 bits rounded by GPTQ leave 22.9 dB of a layer's output at a = 0, 20.8 at 1. Where weights have as many bits
as activations the search changes nothing (0.9978 and 0.9978 of W8A8; of W6A6, before training, 0.9672 and 0.9670), so
that there the scales stay as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from intvit import floatops
from intvit.grid import Role
from intvit.roles import roles_read

EXPONENTS = tuple(i / 8 for i in range(9))


@dataclass(frozen=True)
class Columns:
    """Of weights that channels are multiplied by: the largest `[N, C]` of each row and channel, float64; their bits.

    `windows`: the places in which a convolution reads a channel, of any other layer 1.
    """

    largest: Tensor
    windows: int
    bits: int

    @classmethod
    def of(cls, weight: Tensor, channels: int, bits: int) -> "Columns":
        """`weight`: of a linear layer `[N, windows * channels]`."""
        places = weight.double().reshape(len(weight), -1, channels)
        return cls(places.abs().amax(1), places.shape[1], bits)

    def error(self, scale: Tensor, variance: Tensor) -> float:
        """What rounding leaves of the outputs' squares, for channels of this scale and variance `[C]`."""
        steps = (self.largest * scale).amax(1) / ((1 << (self.bits - 1)) - 1)
        return float(steps.square().sum() / 12 * self.windows * (variance / scale.square()).sum())


def balanced(own: Tensor, energy: Tensor, readers: Sequence[Columns], variance: Tensor, bits: int = 8) -> Tensor:
    """Scales `[C]`, none below `own` `[C]`; `bits` of the activations.

    `energy` (`intvit.importance`) and `variance`: of the channels `[C]`; all float64.
    """
    top, gap = own.max(), 1 << (8 - bits)

    def error(scale: Tensor) -> float:
        activations = torch.minimum((gap * scale).square() / 12, variance) @ energy
        return float(activations) + sum(reader.error(scale, variance) for reader in readers)

    return min((torch.maximum(own, top * (own / top) ** exponent) for exponent in EXPONENTS), key=error)


def layers_reading(node: fx.Node) -> list[fx.Node]:
    """The linear layers whose columns have the scales of `node`; none where anything else has them too."""
    found = _readers(node)
    return found if all(reader.target is floatops.linear for reader in found) else []


def _readers(node: fx.Node) -> list[fx.Node]:
    found = roles_read(node).get(Role.PRODUCT, [])
    return [layer for n in found for layer in (_readers(n) if n.target is floatops.unfold else [n])]
