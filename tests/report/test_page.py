"""The page as a file: whole, small, loads nothing, and no name in it becomes markup."""

import html.parser
import json
import re
from dataclasses import replace
from typing import Any

import numpy as np

from intvit.report.accuracy import Accuracy
from intvit.report.figures import Figures
from intvit.report.page import FOLDER, LIMIT, SCRIPTS, STYLES, content, page


def data_of(text: str) -> dict[str, Any]:
    """The data in a page."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    loaded: dict[str, Any] = json.loads(found[1])
    return loaded


class Outline(html.parser.HTMLParser):
    """The tags of a page, and what they load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]


def test_it_holds_everything_and_loads_nothing(figures: Figures) -> None:
    text = page(figures)
    outline = Outline(text)
    assert outline.tags.count("script") == 2 and outline.tags.count("style") == 1
    assert all(address.startswith(("#", "data:")) for address in outline.addresses)
    assert "<!-- " not in text.partition("<body>")[0] + text.rpartition("</main>")[2]
    assert "default-src 'none'" in text
    for name in (*SCRIPTS, *STYLES):
        assert (FOLDER / name).read_text(encoding="utf-8") in text
    assert {path.name for path in FOLDER.iterdir()} == {"page.html", *SCRIPTS, *STYLES}
    assert len(text.encode()) < LIMIT


def test_names_are_data_and_not_markup(figures: Figures) -> None:
    metadata = replace(figures.metadata, name="<script>alert(1)</script><!-- data -->")
    text = page(replace(figures, metadata=metadata))
    assert data_of(text)["name"] == metadata.name
    assert data_of(text)["worst"][0]["ours"]["name"].startswith("</script><b>kind")
    assert Outline(text).tags.count("script") == 2
    assert "<b>" not in text


def test_its_data_are_the_figures(figures: Figures) -> None:
    data = data_of(page(figures))
    assert data == json.loads(json.dumps(content(figures)))
    assert data["accuracy"]["images"] == 20
    assert [row["node"] for row in data["layers"]] == [layer.node for layer in figures.metadata.layers]
    for row, tensor in zip(data["tensors"], figures.tensors, strict=True):
        assert sum(row["histogram"]["counts"]) == tensor.histogram.total
    assert data["latency"]["seconds"] == sum(step["seconds"] for step in data["latency"]["steps"])


def test_pictures_are_left_out_where_the_page_would_be_too_large(figures: Figures) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (160, 160, 3), np.uint8)
    many = tuple(replace(figures.worst[0], pixels=noise) for _ in range(400))
    text = page(replace(figures, worst=many))
    assert len(text.encode()) < LIMIT
    data = data_of(text)
    assert 100 < len(data["worst"]) < 400
    assert data["worstLeftOut"] == 400 - len(data["worst"])


def test_a_long_curve_keeps_its_ends(figures: Figures) -> None:
    cosines = tuple(np.linspace(0.5, 1, 50_000).tolist())
    curve = content(replace(figures, cosines=cosines))["cosines"]
    assert len(curve) <= 400
    assert (curve[0], curve[-1]) == ((0.0, 0.5), (1.0, 1.0))


def test_a_page_of_little(figures: Figures) -> None:
    """Neither labels, nor a float model, nor a module."""
    bare = replace(figures, accuracy=Accuracy(3), cosines=(), worst=(), effects=(), latency=None)
    data = data_of(page(bare))
    assert (data["latency"], data["worst"], data["cosines"]) == (None, [], [])
