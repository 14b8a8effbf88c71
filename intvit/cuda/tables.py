"""What `cuda.c` has to know of a model: the tables of `model.h`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

from intvit.constants import ConstantPool
from intvit.cuda.legalize import DeviceCall
from intvit.kernels.cuda.launch import MOST_ELEMENTS, DeviceKernel
from intvit.program import Argument, Image, Program, Value

SLACK = 1 << 22
"""Elements by which a kernel's last tile may reach past the last row."""


@dataclass(frozen=True)
class Binary:
    """An image of the kernels: machine code for an architecture (`sm_90`, 90), or PTX."""

    name: str
    architecture: int
    is_ptx: bool
    content: bytes


@dataclass
class _Tables:
    """Rows of the tables, as C initializers."""

    arguments: list[str] = field(default_factory=list)
    launches: list[str] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)


def most_batch(program: Program) -> int:
    """The largest batch whose tensors 32-bit indices reach."""
    values = [step.result for step in program.steps]
    largest = max(prod(program.image.shape), *(value.tokens * value.columns for value in values))
    return (MOST_ELEMENTS - SLACK) // largest


def model_header(
    program: Program, constants: ConstantPool, kernels: dict[DeviceKernel, str], binaries: Sequence[Binary]
) -> str:
    """The text of `model.h`; the program's constants go into `constants`."""
    order = {kernel: index for index, kernel in enumerate(kernels)}
    tables = _Tables()
    for phase, step in zip(program.phases, program.steps, strict=True):
        call = step.kernel
        assert isinstance(call, DeviceCall)
        operands = [_argument(a, program, constants) for a in (*step.arguments, step.result)]
        spans = f"{len(tables.launches)}, {len(call.kernels)}, {len(tables.arguments)}, {len(operands)}"
        tables.steps.append(f"{phase}, {call.units}, {spans}")
        tables.launches += [f"{order[kernel]}, {kernel.per}, {kernel.times}" for kernel in call.kernels]
        tables.arguments += operands
    definitions = {
        "INTVIT_WORKSPACE": program.workspace,
        "INTVIT_MOST_BATCH": most_batch(program),
        "INTVIT_IMAGE_BYTES": prod(program.image.shape),
        "INTVIT_CONSTANT_BYTES": constants.size,
    }
    rows = {
        "struct kernel kernels": [f'"{name}", {k.threads}, {k.shared}' for k, name in kernels.items()],
        "struct argument arguments": tables.arguments,
        "struct launch launches": tables.launches,
        "struct step steps": tables.steps,
    }
    return "".join(
        [
            *(f"#define {name} INT64_C({value})\n" for name, value in definitions.items()),
            f"#define INTVIT_OUTPUTS {len(program.outputs)}\n",
            f"static const int64_t output_bytes[] = {{{', '.join(str(v.bytes) for v in program.outputs)}}};\n",
            *(_table(name, entries) for name, entries in rows.items()),
            *(_included(index) for index in range(len(binaries))),
            _table("struct image images", [_image(index, binary) for index, binary in enumerate(binaries)]),
        ]
    )


def image_file(index: int) -> str:
    """The file that holds an image."""
    return f"image_{index}.bin"


def _argument(argument: Argument, program: Program, constants: ConstantPool) -> str:
    if isinstance(argument, Image):
        return "IMAGE, 0"
    if not isinstance(argument, Value):
        return f"CONSTANT, {constants.add(argument)}"
    if argument in program.outputs:
        return f"OUTPUT, {program.outputs.index(argument)}"
    return f"WORKSPACE, {program.offsets[argument]}"


def _table(name: str, entries: Sequence[str]) -> str:
    return f"static const {name}[] = {{\n" + "".join(f"    {{{entry}}},\n" for entry in entries) + "};\n"


def _included(index: int) -> str:
    symbol = f"image_{index}"
    included = f'INCLUDE("{symbol}", "{image_file(index)}");\n'
    return f"{included}extern const uint8_t {symbol}[] INCLUDED, {symbol}_end[] INCLUDED;\n"


def _image(index: int, binary: Binary) -> str:
    return f'"{binary.name}", {binary.architecture}, {int(binary.is_ptx)}, image_{index}, image_{index}_end'
