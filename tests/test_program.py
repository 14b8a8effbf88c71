"""Programs: what depends on what decides the phases, and memory is shared only between what is not needed at once."""

import pytest
import tiny

pytest.importorskip("tvm")
from intvit.kernels.isa import AVX2, AVX512_VNNI
from intvit.program import Program, Value, program_of


@pytest.fixture(scope="module", params=[AVX2, AVX512_VNNI], ids=lambda isa: isa.name)
def program(request: pytest.FixtureRequest) -> Program:
    return program_of(tiny.integer_model(), request.param)


def test_a_step_reads_only_what_earlier_phases_wrote(program: Program) -> None:
    written = {step.result: phase for step, phase in zip(program.steps, program.phases, strict=True)}
    for step, phase in zip(program.steps, program.phases, strict=True):
        assert all(written[a] < phase for a in step.arguments if isinstance(a, Value))


def test_queries_keys_and_values_are_one_phase(program: Program) -> None:
    """Seven phases a block, of nine kernels: LayerNorm, Q K V, attention, projection, LayerNorm, two of the MLP."""
    products = [p for s, p in zip(program.steps, program.phases, strict=True) if s.name == "product"]
    assert any(products.count(phase) == 3 for phase in products)
    assert max(program.phases) + 1 < len(program.steps)


def test_memory_holds_what_is_read_until_it_is_read(program: Program) -> None:
    """A run over the plan in which every value is its own number: no value is overwritten before its last reader."""
    memory: dict[int, Value] = {}
    for phase in range(max(program.phases) + 1):
        steps = [s for s, p in zip(program.steps, program.phases, strict=True) if p == phase]
        results = [s.result for s in steps if s.result not in program.outputs]
        for value in results:
            memory.update(dict.fromkeys(places(program, value), value))
        for step in steps:
            for argument in step.arguments:
                if isinstance(argument, Value):
                    assert all(memory[place] is argument for place in places(program, argument))


def places(program: Program, value: Value) -> range:
    """The cache lines of a value."""
    first = program.offsets[value] // 64
    return range(first, first + -(-value.bytes // 64))


def test_outputs_are_not_in_the_workspace(program: Program) -> None:
    assert program.outputs and not set(program.outputs) & set(program.offsets)
