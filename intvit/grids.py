"""The grid of every tensor of an observed float graph, per the policy of a preset.

Which width and granularity a tensor has follows from what reads it (`Role`), never from the model:

| role        | default                                              | paper                    |
|-------------|------------------------------------------------------|--------------------------|
| product     | int8, affine; per channel, behind GELU one scale (*) | int8, one scale          |
| score       | int8, one scale per head                             | int8, one for q, k and v |
| value       | int8, per channel, around its middle (**)            | int8, one for q, k and v |
| matrix      | int8, one scale                                      | int8, one scale          |
| fixed       | int16, power of two                                  | int8, one scale          |
| wide        | int16, one scale                                     | int16, one scale         |

(*) at the least error of the product that reads it (`observers.ProductError`). DeiT-T on 1200 images: agreement with
float 98.42 % with the extremes and 98.75 so, cosine of the logits 0.9965 and 0.9973.

Of fewer than 8 bits, what products, scores, values and matrices read lies on `2^bits` levels of those grids: evenly
spaced, behind an activation function a codebook (`intvit.codebook`). What the first and the last layer read keeps 8.

(**) and the result of the attention around the same, where products lie on either side: the weights of the values add
up to 1. DeiT-T's layers: 0.2 dB more on average, 1.2 in the noisiest; the cosine of its logits stays.

Per-channel scales and offsets in front of a product are free: they fold into its weights and bias, exactly
(RepQ-ViT's reparameterization without its common scale), for weights of as many bits. In front of fewer they lie nearer
to one scale for all (`intvit.columns`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from torch import Tensor, fx

from intvit import floatops
from intvit.bits import Width, answers, reads_image, whole
from intvit.bounds import expected, largest, likely_bounds, middle, widened, widest
from intvit.columns import Columns, balanced, layers_reading
from intvit.dialect.gelu import FRACTION as GELU_FRACTION
from intvit.dialect.published import SOFTMAX_BITS, finest_scale
from intvit.geometry import Geometry
from intvit.grid import Grid, Role
from intvit.grid_forms import activated, affine, around, fixed_point, published_gelu, symmetric
from intvit.importance import importance
from intvit.input_grid import InputGrid
from intvit.movement import Classes
from intvit.nodes import arguments
from intvit.observers import MANY, Observer
from intvit.roles import NORMALIZATIONS, READS, SUMS, heads_reading, roles_read, stored_role
from intvit.softmax_distances import SoftmaxDistances
from intvit.stages import CalibratedGraph, FloatGraph

BYTES = {Role.PRODUCT, Role.SCORE, Role.VALUE, Role.MATRIX}
PROBABILITY_SCALE = 2.0**-15
"""Of the weights of a softmax by itself."""
OUTPUT_HEADROOM = 2.0
"""An output's int32 range over what calibration saw: other images have larger logits."""
OUTPUT_RANGE = 1 << 20
BIAS_RANGE = 1 << 29
NORMALIZED_PRECISION = 2.0**-11
"""Relative error that integer LayerNorm is allowed: its root and reciprocal are floored at 2^-14 each."""


@dataclass(frozen=True)
class Policy:
    """How grids are chosen. `published` selects I-ViT's granularity and its forms of the functions."""

    observer: str = "auto"
    published: bool = False
    activations: int = 8
    """Bits of the operands of products."""
    codebook: str = "kmeans"
    """Of fewer than 8, behind activation functions."""


PRESETS = {"default": Policy(), "accurate": Policy(), "paper": Policy("minmax", published=True)}
"""What `accurate` does beyond `default` is in `intvit.rounding.model`."""


def scores_name(attention: str) -> str:
    return f"{attention}.scores"


def assign_grids(
    graph: FloatGraph,
    observers: Mapping[str, Observer],
    input_grid: InputGrid,
    policy: Policy,
    distances: Mapping[str, SoftmaxDistances] = MappingProxyType({}),
    width: Width = whole,
) -> CalibratedGraph:
    """The grid of every tensor in every role in which it is read or written, and the scale of every weight row.

    `distances`: of the attentions whose weights get as few levels as activations; `width`: of each linear layer.
    """
    result = CalibratedGraph(graph, input_grid, policy.published)
    for node in graph.module.graph.nodes:
        if node.op != "call_function":
            continue
        if node.target is floatops.patchify:
            result = result.with_grid(node, Role.PRODUCT, _pixel_grid(node, input_grid))
            continue
        if node.target is floatops.select_tokens:
            result = result.with_alias(node, arguments(node)[0])
            continue
        result = result.with_mean(node, observers[node.name].mean)
        for role in _roles(node):
            grid = _inherited_grid(node, role, result)
            if grid is None:
                bits = 8 if role not in BYTES or _answers(node, role) or reads_image(node) else policy.activations
                observer, offset = observers[node.name], _value_offset(node, result)
                grid = _grid(graph.module, node, role, observer, replace(policy, activations=bits), offset)
                grid = grid.no_finer_than(_finest(graph.module, node, role, result))
                if role is Role.PRODUCT:
                    grid = grid.no_finer_than(_balanced(graph.module, node, grid, observer, bits, width))
            result = result.with_grid(node, role, grid)
        if node.name in distances:
            result = result.with_softmax_levels(node, distances[node.name].best(1 << policy.activations))
        if node.target is floatops.attention and policy.published:
            result = result.with_grid(node, Role.LOGIT, _logit_grid(node, observers[scores_name(node.name)]))
        if node.target in SUMS:
            result = result.with_grid(node, Role.ACCUMULATOR, _accumulator_grid(graph.module, node, result))
    return _with_shared_scales(result) if policy.published else result


def _answers(node: fx.Node, role: Role) -> bool:
    """What only layers read that give an answer."""
    readers = roles_read(node).get(role, [])
    return bool(readers) and all(answers(reader) for reader in readers)


def _roles(node: fx.Node) -> list[Role]:
    """In which `node` has a grid, that which is stored first."""
    stored = stored_role(node)
    roles = [stored, *(role for role in Role if role in roles_read(node) and role is not stored)]
    return [role for role in roles if role is not Role.ACCUMULATOR]


def _finest(module: fx.GraphModule, node: fx.Node, role: Role, result: CalibratedGraph) -> Tensor:
    """The smallest step that tells more: that of the 16 bits which are stored; of a mean, a share of its input's."""
    stored = stored_role(node)
    if role in BYTES and stored is Role.WIDE:
        return result.grid(node, Role.WIDE).scale
    if node.target is floatops.pool and role is Role.WIDE:
        source, size, kernel, stride, padding, _ = arguments(node)
        fewest = min(Geometry.of(list(size), list(kernel), list(stride), list(padding)).counts)
        return result.grid(source, Role.WIDE).scale / fewest
    return torch.zeros(1, dtype=torch.float64)


def _balanced(module: fx.GraphModule, node: fx.Node, grid: Grid, observer: Observer, bits: int, width: Width) -> Tensor:
    """The scales that weights of fewer bits than `node` want, those of the grid where there are none."""
    channels, layers = observer.deviation.numel(), layers_reading(node)
    if grid.scale.numel() != channels or not any(width(layer) < bits for layer in layers):
        return grid.scale
    energy = importance(module, node)
    assert energy is not None, "linear layers read it"
    weights = [module.get_buffer(str(arguments(layer)[1].target)) for layer in layers]
    readers = [Columns.of(w, channels, width(layer)) for w, layer in zip(weights, layers, strict=True)]
    return balanced(grid.scale, energy.double(), readers, observer.deviation.square(), bits)


def _pixel_grid(node: fx.Node, input_grid: InputGrid) -> Grid:
    """Of the int8 `pixel - 128` in each column of a patch, channels last."""
    _, height, width = arguments(node)
    scale = torch.tensor(input_grid.scale, dtype=torch.float64).repeat(height * width)
    offset = torch.tensor(input_grid.offset, dtype=torch.float64).repeat(height * width)
    return Grid(scale, offset + 128 * scale, "int8")


def _inherited_grid(node: fx.Node, role: Role, result: CalibratedGraph) -> Grid | None:
    """The grid of an operation that only moves or weighs the integers that it reads, None for any other."""
    if node.target is floatops.unfold and role is Role.PRODUCT:
        source, _, kernel, *_ = arguments(node)
        return result.grid(source, role).repeated(math.prod(kernel))
    if node.target is floatops.pool and role is Role.WIDE and arguments(node)[-1] == "max":
        return result.grid(arguments(node)[0], role)
    if node.target is floatops.softmax and role is Role.WIDE:
        return Grid(
            torch.tensor([PROBABILITY_SCALE], dtype=torch.float64), torch.zeros(1, dtype=torch.float64), "int16"
        )
    return None


def _value_offset(node: fx.Node, result: CalibratedGraph) -> Tensor:
    """Of the values that an attention weighs, whose weights add up to 1: of its result too. 0 of anything else."""
    if node.target is not floatops.attention:
        return torch.zeros(1, dtype=torch.float64)
    return result.grid(arguments(node)[2], Role.VALUE).offset


def _is_centred(node: fx.Node) -> bool:
    """Values whose grid lies around their middle: products on either side of the attention, whose biases take it."""
    readers = roles_read(node)
    if node.target is not floatops.linear or set(readers) != {Role.VALUE}:
        return False
    return all(_only_products_read(attention) for attention in readers[Role.VALUE])


def _only_products_read(node: fx.Node) -> bool:
    """Nothing but linear layers: windows would fill the outside of an image with a 0, which may be far off the grid."""
    readers = roles_read(node)
    return set(readers) == {Role.PRODUCT} and all(n.target is floatops.linear for n in readers[Role.PRODUCT])


def _grid(
    module: fx.GraphModule, node: fx.Node, role: Role, observer: Observer, policy: Policy, offset: Tensor
) -> Grid:
    """`offset`: of the result of an attention."""
    if node.target is floatops.rearrange:
        return _rearranged_grid(module, node, role, observer, policy.activations)
    channels, bits = observer.mean.numel(), policy.activations
    if role is Role.PRODUCT and not policy.published:
        if node.target is floatops.gelu:
            bounds = widened(observer.bounds(1), torch.tensor([2.0**-GELU_FRACTION]))
            return activated(bounds, observer, bits, policy.codebook)
        if node.target is floatops.pointwise:
            return activated(observer.bounds(1), observer, bits, policy.codebook)
        if stored_role(node) is Role.PRODUCT and node.target in NORMALIZATIONS:
            return affine(*widened(expected(observer, bits), _normalized_step(module, node, observer)), bits)
        return around(offset, expected(observer, bits), bits)
    if role is Role.SCORE and not policy.published:
        heads = heads_reading(node)
        return symmetric(largest(observer.bounds(heads)).repeat_interleave(channels // heads), bits)
    if role is Role.VALUE and not policy.published:
        bounds = observer.bounds(channels) if observer.count >= MANY else likely_bounds(observer)
        return around(middle(bounds), bounds, bits) if _is_centred(node) else symmetric(largest(bounds), bits)
    if role is Role.FIXED:
        bound = largest(observer.extremes(1))
        return published_gelu(bound) if policy.published else fixed_point(bound)
    if role is Role.OUTPUT and node.target in SUMS:
        bound = largest(observer.extremes(1)).double() * OUTPUT_HEADROOM
        return Grid((bound / OUTPUT_RANGE).clamp(min=1e-12), torch.zeros(1, dtype=torch.float64), "int32")
    if role in (Role.WIDE, Role.OUTPUT):
        return Grid.symmetric(widest(observer), "int16")
    return symmetric(largest(observer.bounds(1)), bits)


def _normalized_step(module: fx.GraphModule, node: fx.Node, observer: Observer) -> Tensor:
    """The finest useful step per channel: its deviation over 255, and what integer LayerNorm can tell apart."""
    deviation = module.get_buffer(arguments(node)[1].target).abs()
    low, high = observer.bounds(deviation.numel())
    return torch.maximum(deviation / 255, torch.maximum(-low, high) * NORMALIZED_PRECISION)


def _logit_grid(node: fx.Node, observer: Observer) -> Grid:
    """Of I-ViT's int8 scores, coarse enough for the sum of a row's exponentials to fit 32 bits."""
    keys = arguments(node)[1].meta["shape"][0]
    finest = finest_scale(SOFTMAX_BITS, keys)
    return Grid.symmetric(largest(observer.extremes(1)).double().clamp(min=127 * finest), "int8")


def _rearranged_grid(module: fx.GraphModule, node: fx.Node, role: Role, observer: Observer, bits: int) -> Grid:
    """That of its role, made coarser where channels of the result have a channel of a source in common."""
    channels = observer.mean.numel()
    if role in (Role.WIDE, Role.OUTPUT, Role.FIXED):
        bound = widest(observer)
        return fixed_point(bound) if role is Role.FIXED else Grid.symmetric(bound, "int16")
    groups = 1 if role is Role.MATRIX else heads_reading(node) if role is Role.SCORE else channels
    bounds = likely_bounds(observer) if role is Role.PRODUCT else observer.bounds(groups)
    grid = symmetric(largest(bounds), bits)
    scale = grid.scale.repeat_interleave(channels // groups)
    sources, index, chunk = arguments(node)
    shapes = [_shape(module, source) for source in sources]
    classes = Classes.of(shapes, module.get_buffer(index.target), chunk, groups)
    return replace(grid, scale=classes.largest(scale), offset=torch.zeros(1, dtype=torch.float64))


def _shape(module: fx.GraphModule, source: fx.Node) -> tuple[int, ...]:
    """`[tokens, channels]` of a node or a constant."""
    return tuple(module.get_buffer(str(source.target)).shape if source.op == "get_attr" else source.meta["shape"])


def _accumulator_grid(module: fx.GraphModule, node: fx.Node, result: CalibratedGraph) -> Grid:
    """Per row: the largest weight, with the input's scales folded in, is 127; the bias and its offsets fit 30 bits."""
    if node.target is floatops.product:
        a, b = (result.grid(operand, Role.MATRIX) for operand in arguments(node)[:2])
        return Grid(a.scale * b.scale, torch.zeros_like(a.scale), "int32")
    source, *constants = arguments(node)[:3]
    weight, bias = (module.get_buffer(c.target).double() for c in constants)
    grid = result.grid(source, Role.PRODUCT)
    centred = _is_centred(node) and not result.published
    offset = result.grid(node, Role.VALUE).offset if centred else torch.zeros(1, dtype=torch.float64)
    if node.target is floatops.depthwise:
        constant = bias + weight.sum(0) * grid.offset
        scale = torch.maximum((weight * grid.scale).abs().amax(0) / 127, constant.abs() / BIAS_RANGE).clamp(min=1e-15)
        return Grid(scale, torch.zeros_like(scale), "int32")
    constant = bias - offset + weight @ grid.offset.expand(weight.shape[1])
    scale = torch.maximum((weight * grid.scale).abs().amax(1) / 127, constant.abs() / BIAS_RANGE).clamp(min=1e-15)
    return Grid(scale, offset.expand_as(scale), "int32")


def _with_shared_scales(result: CalibratedGraph) -> CalibratedGraph:
    """I-ViT's one scale for q, k and v: the largest of the three."""
    for node in result.source.module.graph.nodes:
        if node.target is floatops.attention:
            operands = list(zip(arguments(node)[:3], READS[floatops.attention], strict=True))
            scale = torch.stack([result.grid(x, role).scale for x, role in operands]).amax(0)
            for x, role in operands:
                result = result.with_grid(x, role, Grid(scale, torch.zeros_like(scale), "int8"))
    return result
