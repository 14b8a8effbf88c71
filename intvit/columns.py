"""Scales of channels in front of products whose weights have fewer bits than they: between their own and one for all.

The scale c_k of channel k multiplies column k of the weights, and the largest of a row fixes the row's step. Own scales
leave activations the least error, and rows of weights the most, whose largest is then far above the others:

    activations   Σ_k c_k² / 12 · Σ_n W_nk²
    weights       Σ_n (max_k |W_nk| c_k / L)² / 12 · Σ_k E[x_k²] / c_k²        L the largest integer of a weight

    c_k = s (s_k / s)^a        s_k the channel's own scale, s the largest; a between 0 and 1, that of the least sum

SmoothQuant (arXiv:2211.10438, equation 4) moves the difficulty between the two by such an exponent, AWQ
(arXiv:2306.00978, section 3.2) searches one for the weights. DeiT-T, W4A8, 1200 images, cosine of the logits: 0.901 at
a = 1, 0.923 at 1/2, 0.929 at that of each tensor, 0 to 3/8; after training 0.938 and 0.951. Weights of 4 bits
rounded by GPTQ leave 22.9 dB of a layer's output at a = 0, 20.8 at 1. Before training, mixed bits have 0.956 with own
scales, 0.963 with those for 6 bits and 0.964 for 4. Of as many bits as activations it is nothing: 0.9978 and 0.9978 of
W8A8, 0.9672 and 0.9670 of W6A6.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn

from intvit import floatops
from intvit.bits import keeps_whole
from intvit.grid import Role
from intvit.nodes import arguments
from intvit.roles import roles_read

EXPONENTS = tuple(i / 8 for i in range(9))


def balanced(own: Tensor, weights: Sequence[Tensor], variance: Tensor, bits: int) -> Tensor:
    """Scales `[C]`, none below `own` `[C]`, in front of weights `[N, columns, C]` of so many bits, all float64.

    `variance`: of the channels `[C]`; `columns`: more than 1 where a window reads a channel in several places.
    """
    top, largest = own.max(), (1 << (bits - 1)) - 1
    energy = torch.stack([weight.square().sum((0, 1)) for weight in weights]).sum(0)
    rows = torch.cat([weight.abs().amax(1) * weight.shape[1] ** 0.5 for weight in weights])

    def error(scale: Tensor) -> float:
        steps = (rows * scale).amax(1) / largest
        return float(scale.square() @ energy + steps.square().sum() * (variance / scale.square()).sum())

    return min((top * (own / top) ** exponent for exponent in EXPONENTS), key=error)


def layers_of_few_bits(node: fx.Node) -> list[fx.Node]:
    """The linear layers whose columns have the scales of `node`; none where anything else has them too."""
    found = _readers(node)
    few = all(reader.target is floatops.linear and not keeps_whole(reader) for reader in found)
    return found if few else []


def _readers(node: fx.Node) -> list[fx.Node]:
    found = roles_read(node).get(Role.PRODUCT, [])
    return [layer for n in found for layer in (_readers(n) if n.target is floatops.unfold else [n])]


def columns_of(module: nn.Module, layer: fx.Node, channels: int) -> Tensor:
    """Its weights, float64 `[N, columns, channels]`."""
    weight = module.get_buffer(str(arguments(layer)[1].target)).double()
    return weight.reshape(len(weight), -1, channels)
