"""No float in the graph, the TVM module and the machine code: proved for a model, refused where one is planted."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import integer_model
from torch import fx

import intvit
from intvit import compilation
from intvit.constants import ConstantPool
from intvit.errors import IntvitError, VerifyError
from intvit.kernels.function import Tensor, function
from intvit.program import program_of
from intvit.runtime import CompiledModel
from intvit.stages import IntGraph, copy_of
from intvit.to_tir import to_tir
from intvit.verify.no_float import prove_no_float
from intvit.verify.no_float_code import prove_no_float_instructions
from intvit.verify.no_float_module import prove_no_float_module

tvm = pytest.importorskip("tvm")
from tvm import tirx  # noqa: E402
from tvm.tirx.script import builder as T  # noqa: E402

OBJECTS = {
    "x86-64": {"mtriple": "x86_64-linux-gnu", "mcpu": "x86-64"},
    "haswell": {"mtriple": "x86_64-linux-gnu", "mcpu": "haswell"},
    "alderlake": {"mtriple": "x86_64-linux-gnu", "mcpu": "alderlake"},
    "sapphirerapids": {"mtriple": "x86_64-linux-gnu", "mcpu": "sapphirerapids"},
    "aarch64": {"mtriple": "aarch64-linux-gnu", "mcpu": "generic"},
    "neoverse-v2": {"mtriple": "aarch64-linux-gnu", "mcpu": "neoverse-v2"},
    "riscv64": {"mtriple": "riscv64-linux-gnu", "mcpu": "generic-rv64", "mattr": ["+m", "+a", "+f", "+d", "+c"]},
    "riscv64-vector": {"mtriple": "riscv64-linux-gnu", "mcpu": "generic-rv64", "mattr": ["+m", "+v"]},
    "riscv64-soft-float": {"mtriple": "riscv64-linux-gnu", "mcpu": "generic-rv64", "mattr": ["+m"]},
}


def changed() -> IntGraph:
    """A copy of the tiny integer graph that a test may change."""
    graph = integer_model().graph
    return IntGraph(copy_of(graph.module), graph.input_grid, graph.output_scales, graph.output_shapes)


def node_at(graph: IntGraph, path: str, name: str = "") -> fx.Node:
    """The first operation of a module, or the first whose name contains `name`."""
    found = [n for n in graph.module.graph.nodes if n.meta.get("path") == path and n.op == "call_function"]
    return next(n for n in found if name in str(n.target))


def kernel(scale: float | int, name: str = "planted") -> Any:
    """`y = x * scale` on eight int32, computed in the type of the scale."""
    dtype = "float32" if isinstance(scale, float) else "int32"

    def body(x: Any, y: Any) -> None:
        with T.serial(8) as i:
            T.buffer_store(y, (x[i].astype(dtype) * tirx.const(scale, dtype)).astype("int32"), [i])

    return function(name, [Tensor("x", (8,), "int32"), Tensor("y", (8,), "int32")], body)


class TestGraph:
    @pytest.mark.parametrize("preset", ["default", "paper"])
    def test_every_operation_is_proved(self, preset: str) -> None:
        graph = integer_model(preset).graph
        operations = sum(node.op == "call_function" for node in graph.module.graph.nodes)
        assert prove_no_float(graph) == operations > 20

    @pytest.mark.parametrize("operation", [torch.ops.aten.mul.Tensor, torch.mul, torch.ops.aten.relu.default])
    def test_an_operation_of_no_dialect(self, operation: Any) -> None:
        graph = changed()
        node = node_at(graph, "blocks.1.fc1")
        with graph.module.graph.inserting_after(node):
            planted = graph.module.graph.call_function(operation, (node,))
        planted.meta["path"] = "blocks.1.act"
        with pytest.raises(VerifyError, match=r"blocks\.1\.act: .*(mul|relu).* is not an operation of the dialect"):
            prove_no_float(graph)

    def test_a_module_call(self) -> None:
        graph = changed()
        with graph.module.graph.inserting_after(node_at(graph, "head")):
            graph.module.graph.call_method("float", (node_at(graph, "head"),))
        with pytest.raises(VerifyError, match="float is not an operation of the dialect"):
            prove_no_float(graph)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.complex64])
    def test_a_float_constant(self, dtype: torch.dtype) -> None:
        graph = changed()
        name = node_at(graph, "blocks.0.fc1").args[1].target
        graph.module.register_buffer(name, graph.module.get_buffer(name).to(dtype))
        with pytest.raises(VerifyError, match=rf"blocks\.0\.fc1: constant {name} is {dtype}"):
            prove_no_float(graph)

    def test_a_float_number(self) -> None:
        graph = changed()
        node = next(n for n in graph.module.graph.nodes if "requantize" in str(n.target))
        node.args = (*node.args[:3], 14.5, *node.args[4:])
        with pytest.raises(VerifyError, match=r"takes the number 14\.5"):
            prove_no_float(graph)

    def test_every_fault_is_listed(self) -> None:
        graph = changed()
        for path in ("blocks.0.fc1", "blocks.1.fc2"):
            name = node_at(graph, path, "linear").args[1].target
            graph.module.register_buffer(name, graph.module.get_buffer(name).float())
        with pytest.raises(VerifyError, match="2 places") as caught:
            prove_no_float(graph)
        assert "blocks.0.fc1" in str(caught.value) and "blocks.1.fc2" in str(caught.value)


class TestModule:
    def test_every_function_is_proved(self) -> None:
        program = program_of(integer_model(), intvit.targets.resolve("x86-64-v1").isa)
        module = to_tir(program, ConstantPool(), "run")
        assert prove_no_float_module(module) == len(module.functions) > 8

    def test_a_kernel_that_computes_in_float(self) -> None:
        assert prove_no_float_module(tvm.IRModule({"integer": kernel(3)})) == 1
        module = tvm.IRModule({"integer": kernel(3), "planted": kernel(2.5)})
        with pytest.raises(VerifyError, match=r"planted: float32: .*2\.5") as caught:
            prove_no_float_module(module)
        assert "integer:" not in str(caught.value)

    def test_a_constant_that_is_passed_over_cannot_be_float(self) -> None:
        with pytest.raises(Exception, match="IntImm supports only int"):
            tirx.IntImm("float32", 1)

    @pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
    def test_memory_of_floats(self, dtype: str) -> None:
        def body(x: Any, y: Any) -> None:
            held = T.alloc_buffer((8,), dtype)
            with T.serial(8) as i:
                T.buffer_store(y, T.reinterpret("int32", x[i]), [i])
            T.evaluate(held.data)

        tensors = [Tensor("x", (8,), "int32"), Tensor("y", (8,), "int32")]
        with pytest.raises(VerifyError, match=f"memory: {dtype}"):
            prove_no_float_module(tvm.IRModule({"memory": function("memory", tensors, body)}))

    def test_code_from_elsewhere(self) -> None:
        def body(x: Any, y: Any) -> None:
            with T.serial(8) as i:
                T.buffer_store(y, T.call_extern("int32", "foreign_softmax", x[i]), [i])

        tensors = [Tensor("x", (8,), "int32"), Tensor("y", (8,), "int32")]
        with pytest.raises(VerifyError, match=r"main: calls foreign_softmax, which is not in the module"):
            prove_no_float_module(tvm.IRModule({"main": function("main", tensors, body)}))

    def test_it_is_not_built(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def planted(*arguments: Any) -> Any:
            module = to_tir(*arguments)
            module["planted"] = kernel(2.5)
            return module

        monkeypatch.setattr(compilation, "to_tir", planted)
        monkeypatch.setattr(compilation, "build_object", lambda *a, **k: pytest.fail("built"))
        with pytest.raises(VerifyError, match="planted: float32"):
            intvit.compile(integer_model())


class TestCode:
    def test_a_module_is_proved(self, compiled: CompiledModel) -> None:
        assert prove_no_float_instructions(compiled.path) > 5000

    @pytest.mark.parametrize("name", OBJECTS)
    def test_objects_of_other_processors(self, name: str, tmp_path: Path) -> None:
        target = tvm.target.Target({"kind": "llvm", **OBJECTS[name]})
        for scale in (3, 2.5):
            module = tvm.IRModule({"scaled": kernel(scale, "scaled")})
            tvm.compile(module, target=target).mod.write_to_file(str(tmp_path / f"{scale}.o"), "o")
        assert prove_no_float_instructions(tmp_path / "3.o") > 20
        with pytest.raises(VerifyError, match="floating-point arithmetic") as caught:
            prove_no_float_instructions(tmp_path / "2.5.o")
        assert ("__mulsf3" if "soft" in name else "scaled_compute_: 0x") in str(caught.value)

    @pytest.mark.parametrize(
        "expression", ["a * 0.5f", "(int) b", "b + 1", "sqrt(b)", "a / b", "b < 2.5 ? a : 1", "(long double) b * a"]
    )
    def test_a_planted_function(self, expression: str, build: Callable[[str], Path]) -> None:
        assert prove_no_float_instructions(build("int innocent(int a) { return a * 3; }")) > 5
        source = "double sqrt(double);\nint innocent(int a) { return a * 3; }\n"
        with pytest.raises(VerifyError, match=r"planted: 0x|sqrt, of another library") as caught:
            prove_no_float_instructions(build(f"{source}int planted(int a, double b) {{ return {expression}; }}"))
        assert "innocent:" not in str(caught.value)

    @pytest.mark.parametrize(
        "name", ["expf", "__addsf3", "__floatsidf", "_ZGVdN8v_expf", "__expf_finite", "__gnu_h2f_ieee"]
    )
    def test_arithmetic_of_other_libraries(self, name: str, build: Callable[[str], Path]) -> None:
        with pytest.raises(VerifyError, match=f"{name}, of another library, is called"):
            prove_no_float_instructions(build(f"int {name}(int); int f(int a) {{ return {name}(a) + 1; }}"))

    def test_the_first_faults_are_named(self, build: Callable[[str], Path]) -> None:
        functions = "".join(f"float f{i}(float a) {{ return a * {i + 2}.5f; }}\n" for i in range(9))
        with pytest.raises(VerifyError, match="f0: 0x") as caught:
            prove_no_float_instructions(build(functions))
        assert len(str(caught.value).splitlines()) == 7
        assert "and 4 more" in str(caught.value)

    def test_files_that_hold_no_code_of_ours(self, compiled: CompiledModel, tmp_path: Path) -> None:
        content = compiled.path.read_bytes()
        foreign = bytearray(content)
        struct.pack_into("<H", foreign, 18, 22)
        no_sections = bytearray(content)
        struct.pack_into("<H", no_sections, 60, 0)
        cases = {
            "missing": (None, IntvitError, "no such file"),
            "text": (b"#!/bin/sh", IntvitError, "not a library"),
            "cut": (content[: len(content) // 2], IntvitError, "damaged"),
            "foreign": (bytes(foreign), VerifyError, r"processor 22 \(ELF\)"),
            "stripped": (bytes(no_sections), VerifyError, "holds no code"),
        }
        for name, (bytes_of, error, message) in cases.items():
            if bytes_of is not None:
                (tmp_path / name).write_bytes(bytes_of)
            with pytest.raises(error, match=message):
                prove_no_float_instructions(tmp_path / name)
