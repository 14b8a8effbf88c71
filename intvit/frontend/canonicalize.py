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

import operator
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from intvit.errors import IntvitError, UnsupportedOp
from intvit.frontend.builder import Builder
from intvit.frontend.rules import RULES, image_view
from intvit.frontend.values import PROBE, Constant, NotCanonical, Unknown, Value, View
from intvit.nodes import arguments
from intvit.stages import FloatGraph

IDENTITY = {"dropout", "dropout_", "to", "_to_copy", "detach", "detach_", "alias", "lift_fresh_copy", "clone",
            "contiguous", "feature_dropout", "_dropout", "identity"}  # fmt: skip
MOVEMENT = {"view", "reshape", "_unsafe_view", "permute", "transpose", "t", "flatten", "unflatten", "squeeze",
            "unsqueeze", "select", "slice", "unbind", "split", "split_with_sizes", "chunk", "narrow", "expand",
            "expand_as", "movedim", "moveaxis", "swapaxes", "swapdims", "mT", "flip", "roll"}  # fmt: skip
WRAPPED = {"wrap_with_set_grad_enabled", "wrap_with_autocast"}
"""Parts of a model under `torch.no_grad()` or `torch.autocast()`: graphs of their own in the exported program."""
IGNORED = {"_assert_tensor_metadata", "_assert_scalar", "sym_constrain_range", "sym_constrain_range_for_size"}


def canonicalize(program: ExportedProgram) -> FloatGraph:
    """The canonical graph of a program with one image input `[batch, channels, height, width]`.

    Raises `UnsupportedOp` with every operation that cannot be expressed, each with its module path and reason.
    """
    return _Walk(program).run()


class _Walk:
    def __init__(self, program: ExportedProgram) -> None:
        self.program = program
        self.builder = Builder()
        self.values: dict[fx.Node, Any] = {}
        self.unsupported: list[str] = []
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
        stack = node.meta.get("nn_module_stack") or {}
        self.builder.path = next(reversed([path for path, _ in stack.values()]), "") if stack else ""
        args = fx.map_arg(node.args, self.values.__getitem__)
        kwargs = fx.map_arg(node.kwargs, self.values.__getitem__)
        flat = [leaf for leaf in torch.utils._pytree.tree_leaves((args, kwargs))]
        if name in IGNORED:
            return Unknown()
        if name in WRAPPED:
            return self._inlined(args)
        try:
            if any(isinstance(leaf, Unknown) for leaf in flat):
                return _behind_unknown(node, name)
            return self._value(node, name, args, kwargs, flat)
        except NotCanonical as reason:
            self.unsupported.append(f"{self.builder.path or '(model)'}: {name}: {reason}")
            return Unknown()

    def _value(self, node: fx.Node, name: str, args: Any, kwargs: Any, flat: list[Any]) -> Any:
        if name == "sym_size":
            return _size(node, args[0], args[1])
        if node.target is operator.getitem:
            return args[0][args[1]]
        if not any(isinstance(leaf, Value) and not isinstance(leaf, Constant) for leaf in flat):
            return _evaluated(node.target, args, kwargs)
        if name in IDENTITY:
            if not node.meta["val"].dtype.is_floating_point:
                raise NotCanonical(f"a cast to {node.meta['val'].dtype}")
            return args[0]
        if name in MOVEMENT and isinstance(args[0], View):
            move = torch.reshape if name in ("view", "_unsafe_view") else node.target
            moved = move(args[0].index, *args[1:], **kwargs)  # type: ignore[operator]
            return args[0].moved(moved) if isinstance(moved, torch.Tensor) else [args[0].moved(m) for m in moved]
        if name in MOVEMENT and name in ("view", "reshape", "expand", "contiguous"):
            return args[0]
        if name not in RULES:
            raise NotCanonical("no rule for this operation")
        return RULES[name](self.builder, *args, **kwargs)

    def _outputs(self, node: fx.Node) -> list[tuple[View, tuple[int, ...]]]:
        outputs = []
        for source in arguments(node)[0]:
            value = self.values[source] if isinstance(source, fx.Node) else source
            if value is None or isinstance(value, Unknown):
                continue
            try:
                if not isinstance(value, View):
                    raise NotCanonical("an output that does not depend on the image")
                outputs.append((self.builder.cut(value), tuple(value.index.shape[1:])))
            except NotCanonical as reason:
                self.unsupported.append(f"output {source}: {reason}")
        return outputs


def _behind_unknown(node: fx.Node, name: str) -> Unknown:
    """What follows an unsupported operation is not known, but that it has a rule of its own is."""
    if name not in RULES and name not in IDENTITY | MOVEMENT | {"sym_size"} and node.target is not operator.getitem:
        raise NotCanonical("no rule for this operation")
    return Unknown()


def _size(node: fx.Node, value: Any, dim: int) -> int:
    """A size that depends on the batch, at batch `PROBE`."""
    if isinstance(value, View):
        return value.index.shape[dim]
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
