"""The tables of `model.h`, read back: what they say is the program, within what the loader may count on."""

import re
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from vits import MODELS, integer_model

from intvit.constants import ConstantPool
from intvit.cuda.compilation import device_program, kernels_of
from intvit.cuda.legalize import DeviceCall
from intvit.cuda.source import named
from intvit.cuda.tables import SLACK, Binary, model_header
from intvit.kernels.cuda.arch import ARCHS
from intvit.kernels.cuda.launch import DeviceKernel
from intvit.program import Image, Program, Step, Value

TABLE = re.compile(r"static const [\w ]*?(\w+)\[\] = \{(.*?)\};", re.DOTALL)
DEFINED = re.compile(r"#define (\w+) (?:INT64_C\()?(\d+)")
BINARIES = (Binary("sm_90", 90, False, b"code"), Binary("PTX", 90, True, b"text"))


@dataclass
class Header:
    """A model's `model.h`, its tables as rows of fields."""

    program: Program
    kernels: dict[DeviceKernel, str]
    constants: ConstantPool
    text: str

    def __post_init__(self) -> None:
        self.defined = {name: int(value) for name, value in DEFINED.findall(self.text)}
        self.tables = {
            name: [row.split(", ") for row in re.findall(r"\{(.+?)\}", body)] or body.split(", ")
            for name, body in TABLE.findall(self.text)
        }

    def numbers(self, table: str) -> list[list[int]]:
        return [list(map(int, row)) for row in self.tables[table]]


@pytest.fixture(scope="module", params=MODELS)
def header(request: pytest.FixtureRequest) -> Header:
    program = device_program(integer_model(request.param), ARCHS["sm_90"])
    kernels = named([kernel for step in program.steps for kernel in kernels_of(step.kernel)])
    constants = ConstantPool()
    return Header(program, kernels, constants, model_header(program, constants, kernels, BINARIES))


def test_sizes(header: Header) -> None:
    outputs = header.program.outputs
    assert header.defined["INTVIT_WORKSPACE"] == header.program.workspace
    assert header.defined["INTVIT_IMAGE_BYTES"] == 32 * 32 * 3
    assert header.defined["INTVIT_CONSTANT_BYTES"] == header.constants.size
    assert header.defined["INTVIT_OUTPUTS"] == len(outputs)
    assert [int(size) for size in header.tables["output_bytes"]] == [value.bytes for value in outputs]


def test_indices_of_the_largest_batch_fit_32_bits(header: Header) -> None:
    """With the tile that reaches past the last row; a batch more, and they would not."""
    most = header.defined["INTVIT_MOST_BATCH"]
    largest = max(32 * 32 * 3, *(step.result.tokens * step.result.columns for step in header.program.steps))
    assert most * largest + SLACK <= 1 << 31 < (most + 1) * largest + SLACK
    reach = max(kernel.per for kernel in header.kernels) * max(s.result.columns for s in header.program.steps)
    assert reach <= SLACK


def test_kernels_are_launched_as_they_were_made(header: Header) -> None:
    rows = header.tables["kernels"]
    assert rows == [[f'"{name}"', str(k.threads), str(k.shared)] for k, name in header.kernels.items()]
    assert all(k.threads % 32 == 0 and k.threads <= 1024 and k.shared <= 227 << 10 for k in header.kernels)


def test_steps_and_their_alternatives_follow_one_another(header: Header) -> None:
    steps, launches, arguments = (header.numbers("steps"), header.numbers("launches"), header.tables["arguments"])
    first_launch, first_argument = 0, 0
    for row, step in zip(steps, header.program.steps, strict=True):
        _, units, launch, count, argument, operands = row
        assert (launch, argument) == (first_launch, first_argument) and count > 0
        assert isinstance(step.kernel, DeviceCall) and units == step.kernel.units
        kernels = [list(header.kernels)[launches[i][0]] for i in range(launch, launch + count)]
        assert tuple(kernels) == step.kernel.kernels
        assert all(operands + 1 == len(kernel.function.params) for kernel in kernels)
        first_launch, first_argument = launch + count, argument + operands
    assert (first_launch, first_argument) == (len(launches), len(arguments))


def test_phases_are_those_of_the_program(header: Header) -> None:
    phases = [row[0] for row in header.numbers("steps")]
    assert phases == list(header.program.phases) == sorted(phases)


@pytest.mark.parametrize("batches", [range(1, 301)], ids=["1 to 300"])
def test_blocks_cover_the_rows_of_every_batch(header: Header, batches: range) -> None:
    """Each launch all of them and no block more; the alternatives of a step have more and more blocks."""
    launches = header.numbers("launches")
    for _, units, first, count, _, _ in header.numbers("steps"):
        for batch in batches:
            rows = batch * units
            alternatives = launches[first : first + count]
            for _, per, times in alternatives:
                blocks = -(-rows // per) * times
                assert blocks // times * per >= rows > (blocks // times - 1) * per
            counts = [-(-rows // per) * times for _, per, times in alternatives]
            assert all(a <= b for a, b in pairwise(counts))


def test_every_argument_is_where_the_table_says(header: Header) -> None:
    """Images, constants by their content, values of the workspace within it, outputs by their number."""
    program, arguments = header.program, iter(header.tables["arguments"])
    pool = ConstantPool()
    for step in program.steps:
        for operand in (*step.arguments, step.result):
            role, offset = next(arguments)
            if isinstance(operand, Image):
                assert (role, offset) == ("IMAGE", "0")
            elif not isinstance(operand, Value):
                assert (role, int(offset)) == ("CONSTANT", pool.add(operand))
                assert int(offset) % 16 == 0 and int(offset) + operand.nbytes <= header.constants.size
            elif operand in program.outputs:
                assert (role, int(offset)) == ("OUTPUT", program.outputs.index(operand))
            else:
                assert role == "WORKSPACE" and int(offset) % 16 == 0
                assert int(offset) + operand.bytes <= program.workspace


def test_values_of_a_batch_do_not_meet(header: Header) -> None:
    """A value lies at batch * offset, which must keep apart what is needed at once, at any batch, and aligned."""
    program = header.program
    for batch in (1, 3, 7):
        for step, phase in zip(program.steps, program.phases, strict=True):
            needed = values_of(step, program)
            at_once = [v for s, p in zip(program.steps, program.phases, strict=True) if p == phase
                       for v in values_of(s, program)]  # fmt: skip
            for one in needed:
                for other in at_once:
                    if one is not other:
                        a, b = (np.array([0, v.bytes]) * batch + program.offsets[v] * batch for v in (one, other))
                        assert a[1] <= b[0] or b[1] <= a[0]
            assert all(program.offsets[value] * batch % 16 == 0 for value in needed)


def values_of(step: Step, program: Program) -> list[Value]:
    """What a step reads and writes in the workspace."""
    return [v for v in (*step.arguments, step.result) if isinstance(v, Value) and v not in program.outputs]


def test_images(header: Header) -> None:
    assert header.tables["images"] == [
        ['"sm_90"', "90", "0", "image_0", "image_0_end"],
        ['"PTX"', "90", "1", "image_1", "image_1_end"],
    ]
    assert header.text.count("INCLUDE(") == 2
    assert header.text.index("image_1_end[] INCLUDED") < header.text.index("struct image images[]")
