"""Names, constants and functions of a scope."""

import numpy as np
import onnx
import onnx.inliner
import pytest

from intvit.errors import IntvitError
from intvit.to_onnx.scope import DOMAIN, Scope


def scope(**choices: bool) -> Scope:
    return Scope.graph(21, **choices)


def test_names_are_unique_whatever_the_labels() -> None:
    s = scope()
    labels = ["a", "a", "a_2", "", "", "a_3", "a", "1", "", "b", "b_2", "b"]
    found = [s.name(label) for label in labels]
    with s.at("a"):
        found += [s.name(label) for label in labels]
    with s.at("a/1"):
        found += [s.name(label) for label in ("", "", "1")]
    assert len(set(found)) == len(found)
    assert found[:3] == ["a", "a_2", "a_2_2"]


def test_a_path_takes_no_name() -> None:
    """A module may be called what the graph's output is."""
    s = scope()
    with s.at("logits"):
        assert s.name("") == "logits/1"
    assert s.name("logits") == "logits"


def test_paths_end() -> None:
    s = scope()
    with pytest.raises(ValueError, match="inside"), s.at("p"):
        raise ValueError("inside")
    assert s.name("x") == "x"


def test_constants_are_stored_once() -> None:
    s = scope()
    row = np.arange(4)
    first = s.constant(row, "int32", "row")
    assert s.constant(row.astype(np.int64), "int32", "other") == first
    others = {
        s.constant(row, "int64", "row"),
        s.constant(row[None], "int32", "row"),
        s.constant(row + 1, "int32", "row"),
        s.int32(0),
        s.int64(0),
        s.int32(0, 1),
    }
    assert len(others | {first}) == 7
    assert np.array_equal(onnx.numpy_helper.to_array(s.constants[first]), row.astype(np.int32))


@pytest.mark.parametrize(("value", "dtype"), [(1 << 31, "int32"), (-1, "uint32"), (256, "uint8"), (-129, "int8")])
def test_constants_do_not_wrap(value: int, dtype: str) -> None:
    with pytest.raises(IntvitError, match=f"sum leaves {dtype}"):
        scope().constant(np.array([0, value]), dtype, "sum")


def test_transposed_constants() -> None:
    s = scope()
    table = np.arange(6, dtype=np.int8).reshape(2, 3)
    assert np.array_equal(onnx.numpy_helper.to_array(s.constants[s.constant(table.T, "int8", "w")]), table.T)


def double(s: Scope, x: str, y: str, *, times: int) -> str:
    """x + y, doubled some times.

    More.
    """
    for _ in range(times):
        x = s.op("Add", x, y)
    return s.op("Mul", x, s.int32(2))


@pytest.mark.parametrize("keep", [False, True])
def test_calls(keep: bool) -> None:
    """The nodes are the same, and one function is written for each choice."""
    s = scope(keep_functions=keep)
    for path, times in (("a", 1), ("b", 1), ("c", -1), ("d", 1), ("e", 2)):
        with s.at(path):
            last = s.call("Double", double, "x", "y", times=times)
    info = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT32, [2]) for name in ("x", "y", last)]
    model = s.model(info[:2], info[2:], "g")
    onnx.checker.check_model(model, full_check=True)
    assert [f.name for f in model.functions] == (["Double", "Double_2", "Double_3"] if keep else [])
    choices = [f"x + y, doubled some times. times={times}" for times in (1, -1, 2)]
    assert [f.doc_string for f in model.functions] == (choices if keep else [])
    assert all(f.domain == DOMAIN for f in model.functions)
    if keep:
        assert [f.input for f in model.functions] == [["x", "y"]] * 3
    inlined = onnx.inliner.inline_local_functions(model)
    kinds = [node.op_type for node in inlined.graph.node if node.op_type not in ("Constant", "Identity")]
    assert kinds == ["Add", "Mul", "Add", "Mul", "Mul", "Add", "Mul", "Add", "Add", "Mul"]


def joined(s: Scope, first: str, *more: str, axis: int) -> str:
    """All of them."""
    return s.op("Concat", first, *more, axis=axis)


def test_calls_with_any_number_of_inputs() -> None:
    s = scope(keep_functions=True)
    last = s.call("Joined", joined, "x", "y", "x", axis=0)
    info = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT32, [n]) for name, n in (("x", 2), ("y", 2))]
    result = onnx.helper.make_tensor_value_info(last, onnx.TensorProto.INT32, [6])
    model = s.model(info, [result], "g")
    onnx.checker.check_model(model, full_check=True)
    assert [list(f.input) for f in model.functions] == [["first", "more_0", "more_1"]]


def test_constants_that_no_node_reads_are_left_out() -> None:
    s = scope()
    s.constant(np.arange(9), "int32", "unread")
    last = s.op("Add", "x", s.int32(1))
    info = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT32, [2]) for name in ("x", last)]
    assert [t.name for t in s.model(info[:1], info[1:], "g").graph.initializer] == ["int32_1"]
