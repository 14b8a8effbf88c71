"""Walks an exported program with abstract values and leaves a graph of canonical float operations.

    aten graph, any spelling          canonical graph
    conv2d, flatten, transpose   ->   patchify, linear
    reshape, permute, unbind     ->   (nothing: index maps)
    softmax(q @ k.T * s) @ v     ->   attention
    dropout, to, contiguous      ->   (nothing)
    linear, mul(gamma)           ->   linear

Whatever depends on constants only is computed here. An operation that has no rule is recorded with its module path
and the walk goes on, so that the user learns of every one at once (`UnsupportedOp`).
"""

import contextlib
import operator
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx.experimental.proxy_tensor import make_fx

from intvit.errors import IntvitError, UnsupportedOp
from intvit.frontend.aliases import read_later
from intvit.frontend.builder import Builder
from intvit.frontend.materialize import as_view
from intvit.frontend.rules import RULES
from intvit.frontend.rules.movement import AS_NUMBERS, MOVEMENT, move
from intvit.frontend.trail import Trail, Visit, steps_of
from intvit.frontend.values import (
    PROBE,
    Constant,
    Mapped,
    Norm,
    NotCanonical,
    Refused,
    Unknown,
    Value,
    View,
    shape_of,
    whole,
)
from intvit.nodes import arguments
from intvit.stages import FloatGraph

IDENTITY = {"dropout", "dropout_", "to", "_to_copy", "detach", "detach_", "alias", "lift_fresh_copy", "clone",
            "contiguous", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "identity"}  # fmt: skip
WRAPPED = {"wrap_with_set_grad_enabled", "wrap_with_autocast"}
"""Parts of a model under `torch.no_grad()` or `torch.autocast()`: graphs of their own in the exported program."""
LIKE = {"new_zeros", "zeros_like", "new_ones", "ones_like", "new_full", "full_like", "new_empty", "empty_like"}
"""Constants of the shape or the type of a tensor."""
IGNORED = {"_assert_tensor_metadata", "_assert_scalar", "sym_constrain_range", "sym_constrain_range_for_size"}


def canonicalize(program: ExportedProgram) -> FloatGraph:
    """The canonical graph of a program with one image input `[batch, channels, height, width]`.

    Raises `UnsupportedOp` with every operation that cannot be expressed, each with its module path and reason.
    """
    return _Walk(program).run()


def trail(program: ExportedProgram) -> Trail:
    """What every operation of a program becomes, and all that keeps it from being canonical."""
    walk = _Walk(program)
    with contextlib.suppress(UnsupportedOp):
        walk.run()
    builder = walk.builder
    return Trail(steps_of(program, walk.visits, builder.remade, builder.graph), tuple(walk.unsupported))


class _Walk:
    def __init__(self, program: ExportedProgram) -> None:
        self.program = program
        self.builder = Builder()
        self.values: dict[fx.Node, Any] = {}
        self.unsupported: list[str] = []
        self.visits: list[Visit] = []
        self._makers: dict[int, Visit] = {}
        self._decomposing = False
        self.input_shape: tuple[int, int, int] = (0, 0, 0)

    def run(self) -> FloatGraph:
        self._inputs()
        outputs = self._outputs(self._walk(self.program.graph_module))
        if self.unsupported:
            raise UnsupportedOp(
                f"{len(self.unsupported)} operations have no integer form:\n  " + "\n  ".join(self.unsupported)
            )
        if not outputs:
            raise IntvitError("the model returns no tensor: it must return its logits or features")
        self.builder.graph.output(tuple(view.base for view, _ in outputs))
        self.builder.graph.eliminate_dead_code()
        return FloatGraph.of(
            self.builder.root, self.builder.graph, self.input_shape, tuple(shape for _, shape in outputs)
        )

    def _inputs(self) -> None:
        state = {**self.program.state_dict, **self.program.constants}
        specs = {spec.arg.name: spec for spec in self.program.graph_signature.input_specs}
        images = []
        for node in self.program.graph.find_nodes(op="placeholder"):
            spec = specs[node.name]
            if spec.kind == InputKind.USER_INPUT:
                images.append(node)
            else:
                self.values[node] = Constant(state[spec.target].detach())
        used = [node for node in images if node.users and "val" in node.meta]
        if len(used) != 1 or used[0].meta["val"].ndim != 4:
            found = ", ".join(f"{node.name} {list(getattr(node.meta.get('val'), 'shape', []))}" for node in used)
            raise IntvitError(
                f"the model must take one image tensor [batch, channels, height, width]; it takes {found}"
            )
        channels, height, width = (int(size) for size in used[0].meta["val"].shape[1:])
        self.input_shape = (channels, height, width)
        self.values[used[0]] = image_view(self.builder.graph.placeholder("image"), *self.input_shape)

    def _walk(self, module: fx.GraphModule) -> fx.Node:
        """Gives every node of a graph its value; the output node."""
        for node in module.graph.nodes:
            if node.op == "get_attr":
                found = getattr(module, str(node.target))
                self.values[node] = Constant(found.detach()) if isinstance(found, torch.Tensor) else found
            elif node.op == "call_function":
                self.values[node] = self._call(node)
        return module.graph.output_node()

    def _inlined(self, args: Any) -> Any:
        """The results of a graph among `args`, for the arguments behind it."""
        at = next(i for i, argument in enumerate(args) if isinstance(argument, fx.GraphModule))
        inputs = args[at].graph.find_nodes(op="placeholder")
        self.values.update(zip(inputs, args[at + 1 :], strict=True))
        return fx.map_arg(arguments(self._walk(args[at]))[0], self.values.__getitem__)

    def _call(self, node: fx.Node) -> Any:
        name = _name(node)
        if not self._decomposing:
            self.builder.path = _path(node)
        args = fx.map_arg(node.args, self.values.__getitem__)
        kwargs = fx.map_arg(node.kwargs, self.values.__getitem__)
        flat = [leaf for leaf in torch.utils._pytree.tree_leaves((args, kwargs))]
        if name in WRAPPED:
            return self._inlined(args)
        visit, before = Visit(node, self.builder.path, name), len(self.builder.emitted)
        try:
            value = self._attempted(node, name, args, kwargs, flat)
        except NotCanonical as reason:
            if self._decomposing:
                raise NotCanonical(f"{name}: {reason}") from reason
            self.unsupported.append(f"{self.builder.path or '(model)'}: {name}: {reason}")
            visit.reason, value = str(reason), Unknown()
        if not self._decomposing:
            self._keep(visit, value, args, before)
        return value

    def _keep(self, visit: Visit, value: Any, args: Any, before: int) -> None:
        """Remembers a visit, and to which visit belongs what was emitted: a lazy value's is that of what made it."""
        visit.kind = _kind(visit.operation, value)
        if visit.kind == "value" and any(value is argument for argument in args[:1]):
            visit.kind = "identity"
        if visit.node.target is not operator.getitem:
            self.visits.append(visit)
        moved = visit.kind == "movement" and args and id(args[0]) in self._makers
        self._makers.setdefault(id(value), self._makers[id(args[0])] if moved else visit)
        for node, lazy in self.builder.emitted[before:]:
            self._makers.get(id(lazy), visit).emitted.append(node)

    def _attempted(self, node: fx.Node, name: str, args: Any, kwargs: Any, flat: list[Any]) -> Any:
        if name in IGNORED:
            return Unknown()
        if any(isinstance(leaf, Unknown) for leaf in flat):
            return _behind_unknown(node, name)
        for leaf in flat:
            if isinstance(leaf, Refused) and node.target is not operator.getitem:
                return _still_refused(leaf, name)
        if any(_meet(self.values.get(arguments(node)[0]), self.values.get(other)) for other in read_later(node)):
            raise NotCanonical("it changes in place what is also read under another name")
        try:
            return self._value(node, name, args, kwargs, flat)
        except NotCanonical:
            raise
        except Exception as error:  # a form of the operation that its rule did not foresee is refused like any other
            first = str(error).strip().partition("\n")[0]
            raise NotCanonical(f"not in this form ({type(error).__name__}: {first})") from error

    def _value(self, node: fx.Node, name: str, args: Any, kwargs: Any, flat: list[Any]) -> Any:
        if name == "sym_size":
            return _size(node, args[0], args[1])
        if node.target is operator.getitem:
            return args[0][args[1]]
        if not any(isinstance(leaf, Value) and not isinstance(leaf, Constant) for leaf in flat):
            return _evaluated(node.target, args, kwargs)
        if name in IDENTITY:
            if "dropout" in name and args[1] > 0 and args[2]:
                raise NotCanonical("dropout that is active in evaluation too")
            if not node.meta["val"].dtype.is_floating_point:
                raise NotCanonical(f"a cast to {node.meta['val'].dtype}")
            return args[0]
        if name in LIKE:
            return _evaluated(node.target, (Constant(torch.empty(shape_of(args[0]))), *args[1:]), kwargs)
        if name in MOVEMENT | AS_NUMBERS:
            return self._moved(node, name, args, kwargs)
        found = RULES[name](self.builder, *args, **kwargs) if name in RULES else None
        return found if found is not None else self._decomposed(node, flat, args, kwargs)

    def _moved(self, node: fx.Node, name: str, args: Any, kwargs: Any) -> Any:
        value, *rest = args
        if isinstance(value, Norm):
            return value
        if isinstance(value, Constant):
            raise NotCanonical("a constant is moved by what depends on the image")
        moved = move(name, node.target, value, rest, kwargs)  # type: ignore[arg-type]
        return move(name, node.target, as_view(self.builder, value), rest, kwargs) if moved is None else moved  # type: ignore[arg-type]

    def _decomposed(self, node: fx.Node, flat: list[Any], args: Any, kwargs: Any) -> Any:
        """An operation that torch itself says in terms of others, `einsum` for one."""
        target: Any = node.target
        if not isinstance(target, torch._ops.OpOverload) or not target._can_decompose():
            raise NotCanonical("no rule for this operation")
        _, spec = torch.utils._pytree.tree_flatten((args, kwargs))
        values = [leaf for leaf in flat if isinstance(leaf, Value)]
        graph = _decomposition(
            target, [torch.empty(shape_of(leaf)) if isinstance(leaf, Value) else leaf for leaf in flat], spec
        )
        self.values.update(zip(graph.graph.find_nodes(op="placeholder"), values, strict=True))
        outer, self._decomposing = self._decomposing, True
        try:
            return fx.map_arg(arguments(self._walk(graph))[0], self.values.__getitem__)
        finally:
            self._decomposing = outer

    def _outputs(self, node: fx.Node) -> list[tuple[View, tuple[int, ...]]]:
        outputs = []
        for source in arguments(node)[0]:
            value = self.values[source] if isinstance(source, fx.Node) else source
            if value is None or isinstance(value, Unknown):
                continue
            try:
                if isinstance(value, Refused):
                    raise NotCanonical(value.reason)
                if isinstance(value, Constant):
                    raise NotCanonical("an output that does not depend on the image")
                view = as_view(self.builder, value)
                outputs.append((self.builder.cut(view), tuple(view.index.shape[1:])))
            except NotCanonical as reason:
                self.unsupported.append(f"output {source}: {reason}")
        return outputs


def _still_refused(value: Refused, name: str) -> Refused:
    """What has no integer form may be moved, but not read."""
    if name in MOVEMENT | IDENTITY:
        return value
    raise NotCanonical(value.reason)


def _meet(changed: Any, other: Any) -> bool:
    """Whether two values may have an element in common; constants do as their tensors do, whose memory it is."""
    if isinstance(changed, Constant):
        return False
    first, second = (value.view if isinstance(value, Mapped) else value for value in (changed, other))
    if not (isinstance(first, View) and isinstance(second, View)):
        return isinstance(second, Value)
    return first.base is second.base and bool(torch.isin(first.index, second.index).any())


def _behind_unknown(node: fx.Node, name: str) -> Unknown:
    """What follows an unsupported operation is not known, but that it has a rule of its own is."""
    known = {*RULES, *IDENTITY, *MOVEMENT, *AS_NUMBERS, *LIKE, "sym_size"}
    if name in known or node.target is operator.getitem:
        return Unknown()
    missing = [part for part in _parts(node, name) if part not in known]
    if missing:
        within = "" if missing == [name] else f"{missing[0]}: "
        raise NotCanonical(f"{within}no rule for this operation")
    return Unknown()


def _parts(node: fx.Node, name: str) -> list[str]:
    """The operations of which torch makes a composite one, for the shapes at which it was exported; else itself."""
    target: Any = node.target
    if not isinstance(target, torch._ops.OpOverload) or not target._can_decompose():
        return [name]
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda argument: _example(argument.meta["val"]))
    try:
        graph = _decomposition(target, *torch.utils._pytree.tree_flatten((args, kwargs))).graph
    except Exception:  # on zeros it may be impossible; what it follows is refused anyway
        return []
    return [_name(part) for part in graph.nodes if part.op == "call_function" and part.target is not operator.getitem]


def _decomposition(target: Any, flat: list[Any], spec: Any) -> fx.GraphModule:
    """What a composite operation is made of; the inputs are the tensors among its flat arguments."""
    tensors = [i for i, leaf in enumerate(flat) if isinstance(leaf, torch.Tensor)]

    def body(*given: torch.Tensor) -> Any:
        leaves = list(flat)
        for i, tensor in zip(tensors, given, strict=True):
            leaves[i] = tensor
        positional, named = torch.utils._pytree.tree_unflatten(leaves, spec)
        return target.decompose(*positional, **named)

    return make_fx(body)(*(flat[i] for i in tensors))


def _example(value: Any) -> Any:
    """A tensor of zeros like one of the export, a size as it was then."""
    if isinstance(value, torch.Tensor):
        return torch.zeros([_example(size) for size in value.shape], dtype=value.dtype)
    return value.node.hint if isinstance(value, torch.SymInt) else value


def _kind(name: str, value: Any) -> str:
    """What a `Visit` says of the value of an operation."""
    leaves = torch.utils._pytree.tree_leaves(value)
    if name in IGNORED:
        return "check"
    if any(isinstance(leaf, Unknown) for leaf in leaves):
        return "unknown"
    if not any(isinstance(leaf, Value) and not isinstance(leaf, Constant) for leaf in leaves):
        return "constant"
    return "movement" if name in MOVEMENT | AS_NUMBERS | {"pad", "constant_pad_nd"} else "value"


def _path(node: fx.Node) -> str:
    """The module that an operation is in, as its user names it."""
    stack = node.meta.get("nn_module_stack") or {}
    path = next(reversed([path for path, _ in stack.values()]), "")
    return "" if path.startswith("_empty_nn_module_stack") else path  # torch's name for none


def _size(node: fx.Node, value: Any, dim: int) -> int:
    """A size that depends on the batch, at batch `PROBE`."""
    if isinstance(value, Value) and not isinstance(value, Unknown):
        return shape_of(value)[dim]
    return PROBE if dim == 0 else int(arguments(node)[0].meta["val"].shape[dim])


def _name(node: fx.Node) -> str:
    packet = getattr(node.target, "overloadpacket", None)
    return packet.__name__ if packet is not None else getattr(node.target, "__name__", str(node.target))


def _evaluated(target: Any, args: Any, kwargs: Any) -> Any:
    """The result of an operation on constants and numbers."""

    def unwrapped(value: Any) -> Any:
        return value.tensor if isinstance(value, Constant) else value

    def wrapped(value: Any) -> Any:
        return Constant(value) if isinstance(value, torch.Tensor) else value

    tree_map = torch.utils._pytree.tree_map
    return tree_map(wrapped, target(*tree_map(unwrapped, args), **tree_map(unwrapped, kwargs)))


def image_view(node: fx.Node, channels: int, height: int, width: int) -> View:
    """The input of a graph."""
    flat = whole(node, channels, height * width)
    return flat.moved(flat.index.reshape(PROBE, channels, height, width))
