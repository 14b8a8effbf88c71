"""Models with movements, whose operations take lists of tensors, through every back end and into files."""

from pathlib import Path

import moved
import numpy as np
import pytest
import tiny
from torch.utils._pytree import tree_leaves

import intvit
from intvit.errors import VerifyError
from intvit.fusion import name_of
from intvit.integer_model import IntegerModel
from intvit.stages import copy_of
from intvit.targets import runs_here
from intvit.verify.bit_exact import prove_bit_exact
from intvit.verify.no_float import prove_no_float


@pytest.mark.parametrize("target", ["auto", "x86-64-v1"])
def test_a_compiled_module_has_the_same_integers(target: str) -> None:
    if target != "auto" and not runs_here(target):
        pytest.skip(f"this machine does not run {target}")
    prove_bit_exact(intvit.compile(moved.integer_model(), target, threads=2), moved.integer_model())


def test_a_file_holds_it(tmp_path: Path) -> None:
    model, path = moved.integer_model(), tmp_path / "moved.intvit"
    model.save(path)
    loaded = IntegerModel.load(path)
    assert loaded.digest == model.digest
    assert np.array_equal(loaded.integers(tiny.pixels(2))[0], model.integers(tiny.pixels(2))[0])


def test_a_float_in_a_list_is_found() -> None:
    graph = moved.integer_model().graph
    module = copy_of(graph.module)
    node = next(n for n in module.graph.nodes if name_of(n) == "rearrange")
    assert prove_no_float(graph)
    node.args = ([*node.args[0], 2.5], *node.args[1:])
    assert 2.5 in tree_leaves(node.args)
    broken = type(graph)(module, graph.input_grid, graph.output_scales, graph.output_shapes)
    with pytest.raises(VerifyError, match=r"takes the number 2\.5"):
        prove_no_float(broken)
