"""Where graphs are cut: blocks of a Transformer, whatever is before and after them."""

import tiny
import torch
from torch import Tensor, nn

from intvit import floatops
from intvit.frontend import capture
from intvit.rounding.segments import LAYERS, segments


def test_a_block_is_a_segment() -> None:
    graph = capture(tiny.vit(), tiny.SHAPE)
    found = segments(graph.module.graph)
    assert [len(part.layers) for part in found] == [LAYERS + 1, LAYERS]  # the first with the patches
    assert found[0].nodes[-1] is found[1].entry
    for part in found:
        assert part.nodes[-1].target is floatops.add
        assert {x for node in part.nodes for x in node.all_input_nodes if x.op != "get_attr"} <= {
            part.entry,
            *part.nodes,
        }


def test_a_value_that_is_read_later_is_no_cut() -> None:
    class Skipping(nn.Module):
        """The first block's input is added to the last one's output."""

        def __init__(self) -> None:
            super().__init__()
            self.vit = tiny.vit()

        def forward(self, image: Tensor) -> Tensor:
            x = self.vit.patch(image).flatten(2).transpose(1, 2)
            return self.vit.blocks[1](self.vit.blocks[0](x)) + x

    graph = capture(Skipping().eval(), tiny.SHAPE)
    found = segments(graph.module.graph)
    assert [len(part.layers) for part in found] == [2 * LAYERS + 1]


def test_outputs_on_the_way_change_nothing() -> None:
    class States(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vit = tiny.vit()

        def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
            x = self.vit.patch(image).flatten(2).transpose(1, 2)
            first = self.vit.blocks[0](x)
            return first, self.vit.blocks[1](first)

    graph = capture(States().eval(), tiny.SHAPE)
    assert [len(part.layers) for part in segments(graph.module.graph)] == [LAYERS + 1, LAYERS]


def test_a_model_without_blocks_has_no_segments() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.Flatten(2), nn.Linear(16, 4)).eval()
    assert segments(capture(model, tiny.SHAPE).module.graph) == []
    assert torch.is_tensor(model(torch.zeros(1, 3, 32, 32)))
