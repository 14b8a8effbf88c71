"""The proof about ONNX models: an integer graph passes, and every way in which a float can hide is found."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

from intvit.errors import IntvitError, VerifyError

if importlib.util.find_spec("onnx") is None:
    pytest.skip("onnx is not installed: pip install 'intvit[onnx]'", allow_module_level=True)

import onnx
from onnx import TensorProto, helper, numpy_helper, parser

from intvit.verify.no_float_onnx import INTEGER_OPERATORS, STANDARD, prove_no_float_onnx

HEAD = '<ir_version: 10, opset_import: ["" : 21, "local" : 1]>\n'
SIGNATURE = "g (uint8[batch, 4] image) => (int32[batch, 2] logits)\n"
WEIGHTS = (
    "<int8[4, 2] w = {1, -2, 3, -4, 5, -6, 7, -8}, uint8 z = {128}, int32 two = {2}, int64[1] rows = {1}, "
    "int64[2] sides = {-1, 2}HALF>\n"
)
TAIL = "{ a = MatMulInteger(image, w, z)  BODY }"


def model(body: str, signature: str = SIGNATURE, functions: str = "", product: bool = True) -> onnx.ModelProto:
    """A graph whose nodes are a product `a` and those of `body`."""
    nodes = TAIL.replace("BODY", body) if product else "{" + body + "}"
    weights = WEIGHTS.replace("HALF", ", float half = {0.5}" if re.search(r"\bhalf\b", body) else "")
    return parser.parse_model(HEAD + signature + weights + nodes + "\n" + functions)


def test_an_integer_graph_passes(tmp_path: Path) -> None:
    proto = model("b = Div(a, two) logits = Max(b, two)")
    assert prove_no_float_onnx(proto) == 3
    onnx.save(proto, tmp_path / "m.onnx")
    assert prove_no_float_onnx(tmp_path / "m.onnx") == prove_no_float_onnx(str(tmp_path / "m.onnx")) == 3


def test_external_data_are_not_read(tmp_path: Path) -> None:
    proto = model("logits = Max(a, two)")
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
    onnx.save_model(
        proto,
        tmp_path / "m.onnx",
        save_as_external_data=True,
        location="m.data",
        size_threshold=0,
    )
    (tmp_path / "m.data").unlink()
    assert prove_no_float_onnx(tmp_path / "m.onnx") == 2


def test_a_local_function_is_looked_into() -> None:
    function = '<opset_import: ["" : 21], domain: "local"> Twice (x) => (y) { BODY }'
    clean = model("logits = local.Twice(a)", functions=function.replace("BODY", "y = Add(x, x)"))
    assert prove_no_float_onnx(clean) == 2
    body = "f = Cast<to = 1>(x) h = Add(f, f) y = Cast<to = 6>(h)"
    with pytest.raises(VerifyError, match="float"):
        prove_no_float_onnx(model("logits = local.Twice(a)", functions=function.replace("BODY", body)))
    recursive = '<opset_import: ["" : 21, "local" : 1], domain: "local"> Twice (x) => (y) { y = local.Twice(x) }'
    with pytest.raises(VerifyError, match="cannot be inferred"):
        prove_no_float_onnx(model("logits = local.Twice(a)", functions=recursive))


FLOAT_IN = SIGNATURE.replace("uint8[batch, 4] image", "float[batch, 4] real")
TO_PIXELS = "m = Mul(real, half) r = Round(m) image = Cast<to = 2>(r) a = MatMulInteger(image, w, z)"
FLOAT_OUT = SIGNATURE.replace("int32[batch, 2]", "float[batch, 2]")


@pytest.mark.parametrize(
    ("signature", "body", "count"),
    [
        (FLOAT_IN, f"{TO_PIXELS} logits = Max(a, two)", 2),
        (
            FLOAT_IN,
            f"half_too = Constant<value_float = 0.25>() {TO_PIXELS} logits = Identity(a)".replace("half)", "half_too)"),
            2,
        ),
        (FLOAT_OUT, "a = MatMulInteger(image, w, z) f = Cast<to = 1>(a) logits = Mul(f, half)", 1),
        (FLOAT_OUT, "a = MatMulInteger(image, w, z) f = Cast<to = 1>(a) logits = Mul(half, f)", 1),
        (FLOAT_OUT, "a = MatMulInteger(image, w, z) logits = DequantizeLinear(a, half)", 1),
        (FLOAT_OUT, "a = MatMulInteger(image, w, z) d = DequantizeLinear(a, half) logits = Reshape(d, sides)", 1),
    ],
)
def test_the_boundary_may_be_float(signature: str, body: str, count: int) -> None:
    assert prove_no_float_onnx(model(body, signature, product=False)) == count


@pytest.mark.parametrize(
    ("signature", "body", "words"),
    [
        (FLOAT_IN, "a = Exp(real) s = ReduceMax(a, rows) "
                   "t = Concat<axis = 1>(s, s) logits = Cast<to = 6>(t)", ["0 uint8 tensors", "Exp"]),
        (FLOAT_IN, f"{TO_PIXELS} side = Cast<to = 6>(real) s = ReduceMax(side, rows) logits = Add(a, s)", ["side"]),
        (FLOAT_IN, f"{TO_PIXELS} again = Cast<to = 2>(real) logits = MatMulInteger(again, w)", ["2 uint8 tensors"]),
        (FLOAT_IN, f"{TO_PIXELS.replace('m = Mul(real, half)', 'm = Mul(real, real)')} logits = Max(a, two)", ["Mul"]),
        (FLOAT_IN, f"{TO_PIXELS.replace('r = Round', 's = Sigmoid(m) r = Round').replace('(m) image', '(s) image')} "
                   "logits = Max(a, two)", ["Sigmoid"]),
        (FLOAT_OUT, "a = MatMulInteger(image, w, z) f = Cast<to = 1>(a) logits = Sqrt(f)", ["logits", "one number"]),
        (FLOAT_OUT, "a = MatMulInteger(image, w, z) f = Cast<to = 1>(a) logits = Mul(f, f)", ["logits", "one number"]),
        (FLOAT_OUT, "a = MatMulInteger(image, w, z) f = Cast<to = 1>(a) e = Mul(f, half) logits = Mul(e, half)",
         ["logits", "one number"]),
        (FLOAT_OUT, "a = MatMulInteger(image, w, z) p = Constant<value_floats = [1.0, 2.0]>() f = Cast<to = 1>(a) "
                    "logits = Mul(f, p)", ["logits", "one number"]),
        (FLOAT_OUT, "a = MatMulInteger(image, w, z) d = DequantizeLinear(a, half) s = Softmax(d) "
                    "logits = Reshape(s, sides)", ["logits", "one number"]),
        (FLOAT_OUT, "f = Cast<to = 1>(image) s = ReduceMax(f, rows) "
                    "t = Concat<axis = 1>(s, s) logits = Mul(t, half)", ["logits", "one number"]),
    ],
)  # fmt: skip
def test_more_than_the_boundary_is_refused(signature: str, body: str, words: list[str]) -> None:
    refused(model(body, signature, product=False), *words)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("f = Cast<to = 1>(a) logits = Cast<to = 6>(f)", ["(Cast) gives f: float"]),
        ("f = Cast<to = 11>(a) logits = Cast<to = 6>(f)", ["(Cast) gives f: double"]),
        ("f = Cast<to = 10>(a) logits = Cast<to = 6>(f)", ["(Cast) gives f: float16"]),
        ("c = Constant<value_float = 1.5>() d = Cast<to = 6>(c) logits = Add(a, d)", ["gives c: float", "value_float"]),
        ("c = Constant<value = float {1.5}>() d = Cast<to = 6>(c) logits = Add(a, d)", ["holds a constant: float"]),
        ("d = Cast<to = 6>(half) logits = Add(a, d)", ["gives half: float"]),
        ("logits = Pow(a, two)", ["(Pow) is no operator of integer arithmetic"]),
        (
            "u = Cast<to = 2>(a) q = QLinearMatMul(image, half, z, w, half, wz, half, z) "
            "i = Cast<to = 6>(q) logits = Add(a, i)",
            ["half: float", "(QLinearMatMul)"],
        ),
        (
            "s = Shape(a) c = ConstantOfShape<value = float[1] {1.5}>(s) d = Cast<to = 6>(c) logits = Add(a, d)",
            ["c: float"],
        ),
    ],
)
def test_planted_floats_are_found(body: str, words: list[str]) -> None:
    proto = model(body)
    proto.graph.initializer.append(helper.make_tensor("wz", TensorProto.INT8, [], [0]))
    refused(proto, *words)


BRANCH = "BRANCH () => (int32[batch, 2] NAME) { INSIDE }"


@pytest.mark.parametrize(
    ("inside", "words"),
    [
        ("f = Cast<to = 1>(a) n = Cast<to = 6>(f)", ["gives f: float"]),
        ("n = local.Odd(a)", ["the domain local"]),
        ("n = Pow(a, two)", ["(Pow)"]),
    ],
)
def test_what_hides_in_a_branch_is_found(inside: str, words: list[str]) -> None:
    other = "e () => (int32[batch, 2] o) { o = Identity(a) }"
    then = "t () => (int32[batch, 2] n) {INSIDE}"
    body = f"c = Constant<value = bool {{1}}>() logits = If(c)<then_branch = {then}, else_branch = OTHER>"
    clean = body.replace("INSIDE", "n = Add(a, a)").replace("OTHER", other)
    assert prove_no_float_onnx(model(clean)) == 2
    refused(model(body.replace("INSIDE", inside).replace("OTHER", other)), *words)


def test_a_branch_may_not_read_the_boundary() -> None:
    then = "t () => (int32[batch, 4] n) {n = Add(i, i)}"
    other = "e () => (int32[batch, 4] o) {o = Add(i, two)}"
    body = f"c = Constant<value = bool {{1}}>() b = If(c)<then_branch = {then}, else_branch = {other}>"
    body = f"i = Cast<to = 6>(real) {body} s = ReduceMax(b, rows) logits = Add(a, s)"
    refused(model(f"{TO_PIXELS} {body}", FLOAT_IN, product=False), "reads i, which belongs to the boundary")


def test_a_custom_domain_and_what_inference_cannot_tell_are_found() -> None:
    refused(model("logits = local.Odd(a)"), "the domain local")
    refused(model("b = local.Odd(a) logits = Add(b, two)"), "the domain local", "gives b: of unknown type")


def test_contradicting_types_are_found() -> None:
    with pytest.raises(VerifyError, match="cannot be inferred"):
        prove_no_float_onnx(model("b = Cast<to = 7>(a) logits = Add(b, two)"))


def test_every_fault_is_counted_and_few_are_shown() -> None:
    body = " ".join(f"f{i} = Cast<to = 1>(a)" for i in range(9)) + " logits = Identity(a)"
    refused(model(body), "9 places", "and 4 more")


def test_files_that_hold_no_model(tmp_path: Path) -> None:
    with pytest.raises(IntvitError, match="no such file"):
        prove_no_float_onnx(tmp_path / "m.onnx")
    (tmp_path / "m.onnx").write_bytes(b"no model" * 9)
    with pytest.raises(IntvitError, match="damaged or not an ONNX model"):
        prove_no_float_onnx(tmp_path / "m.onnx")


def test_integer_operators_exist_and_take_integers() -> None:
    for name in INTEGER_OPERATORS:
        schema = onnx.defs.get_schema(name, 21, STANDARD[0])
        types = {kind for constraint in schema.type_constraints for kind in constraint.allowed_type_strs}
        assert types & {"tensor(int32)", "tensor(uint8)", "tensor(bool)", "tensor(uint32)"} or name in {"Shape"}, name


def refused(proto: onnx.ModelProto, *words: str) -> None:
    """The proof fails with these words."""
    with pytest.raises(VerifyError) as caught:
        prove_no_float_onnx(proto)
    missing = [word for word in words if word not in str(caught.value)]
    assert not missing, (missing, str(caught.value))


def test_the_planted_models_run() -> None:
    """The floats that the tests plant are in models that a runtime accepts, not in impossible ones."""
    runtime = pytest.importorskip("onnxruntime")
    image = np.arange(8, dtype=np.uint8).reshape(2, 4)
    for body in (
        "f = Cast<to = 1>(a) logits = Cast<to = 6>(f)",
        "logits = Pow(a, two)",
        "d = Cast<to = 6>(half) logits = Add(a, d)",
    ):
        onnx.checker.check_model(proto := model(body), full_check=True)
        session = runtime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        assert session.run(None, {"image": image})[0].dtype == np.int32
