"""The page in headless Chromium, light and dark, wide and narrow: no error, no request, and it does what it offers."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from intvit.report.accuracy import Accuracy
from intvit.report.figures import Figures
from intvit.report.page import page

Opened = Callable[..., Any]
SIZES = [pytest.param((width, scheme), id=f"{width}-{scheme}") for width in (400, 1400) for scheme in ("light", "dark")]


@pytest.fixture
def opened(chromium: Any, tmp_path: Path) -> Iterator[Opened]:
    """Opens a page of figures; an error on the console and any request beyond the file fail the test."""
    errors: list[str] = []
    tabs: list[Any] = []

    def open_page(figures: Figures, look: tuple[int, str] = (1400, "light")) -> Any:
        path = tmp_path / "report.html"
        path.write_text(page(figures), encoding="utf-8")
        width, scheme = look
        tab = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce")
        tabs.append(tab)
        tab.on("console", lambda message: errors.append(message.text))
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.on(
            "request",
            lambda request: None if request.url.startswith(("file:", "data:")) else errors.append(request.url),
        )
        tab.goto(path.as_uri())
        tab.wait_for_selector("body[data-state=ready]")
        return tab

    yield open_page
    for tab in tabs:
        tab.close()
    assert not errors, errors


def view(tab: Any, chart: str) -> tuple[float, float]:
    """The part of the data that a chart shows."""
    low, high = tab.get_attribute(f"{chart} .chart", "data-view").split()
    return float(low), float(high)


@pytest.mark.parametrize("look", SIZES)
def test_it_opens_and_fits(opened: Opened, figures: Figures, look: tuple[int, str]) -> None:
    tab = opened(figures, look)
    assert tab.evaluate("document.documentElement.scrollWidth") <= look[0]
    assert tab.title() == f"{figures.metadata.name}: where the error is"
    for part in ("accuracy", "depth", "sensitivity", "tensors", "worst", "latency"):
        assert tab.locator(f"#{part} > *").count() > 1, part
    assert tab.locator("#depth .mark:not(.legend .mark)").count() == len(figures.layers)
    tab.wait_for_function("[...document.querySelectorAll('#worst img')].every((image) => image.naturalWidth > 0)")
    outside = """() => [...document.querySelectorAll('.plot')].flatMap((plot) => {
        const box = plot.getBoundingClientRect();
        return [...plot.querySelectorAll('text')].filter((text) => {
            const b = text.getBoundingClientRect();
            return b.left < box.left - 1 || b.right > box.right + 1 || b.top < box.top - 1 || b.bottom > box.bottom + 1;
        }).map((text) => text.textContent);
    })"""
    assert tab.evaluate(outside) == []
    overlapping = """() => [...document.querySelectorAll('.plot')].flatMap((plot) => {
        const boxes = [...plot.querySelectorAll('text.tick')].map((text) => [text.getBoundingClientRect(), text]);
        return boxes.flatMap(([a, one], i) => boxes.slice(i + 1).filter(([b]) =>
            a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 2 && b.top < a.bottom - 2,
        ).map(([, other]) => `${one.textContent} | ${other.textContent}`));
    })"""
    assert tab.evaluate(overlapping) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_told_from_its_ground(opened: Opened, figures: Figures, scheme: str) -> None:
    """WCAG's contrast of at least 4.5 for text, 3 for marks."""
    tab = opened(figures, (1400, scheme))
    contrast = """([front, back]) => {
        const style = getComputedStyle(document.documentElement);
        const light = (name) => {
            const probe = document.createElement("canvas").getContext("2d");
            probe.fillStyle = style.getPropertyValue(name);
            probe.fillRect(0, 0, 1, 1);
            const [r, g, b] = [...probe.getImageData(0, 0, 1, 1).data].map((c) => c / 255)
                .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const [a, b] = [light(front), light(back)];
        return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    }"""
    for front in ("--ink", "--muted", "--accent", "--good", "--bad"):
        for back in ("--card", "--paper", "--soft"):
            assert tab.evaluate(contrast, [front, back]) >= 4.5, (front, back)
    for kind in range(6):
        assert tab.evaluate(contrast, [f"--kind-{kind}", "--card"]) >= 3, kind


def test_dragging_zooms_and_a_double_click_shows_all(opened: Opened, figures: Figures) -> None:
    tab = opened(figures)
    full = view(tab, "#depth")
    plot = tab.locator("#depth .plot")
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    tab.mouse.move(box["x"] + 0.4 * box["width"], box["y"] + 80)
    tab.mouse.down()
    tab.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 90, steps=4)
    tab.mouse.up()
    low, high = view(tab, "#depth")
    assert full[0] < low < high < full[1]
    assert 0.2 < (high - low) / (full[1] - full[0]) < 0.4
    plot.dblclick(position={"x": 200, "y": 80})
    assert view(tab, "#depth") == full


def test_buttons_zoom_and_move(opened: Opened, figures: Figures) -> None:
    tab = opened(figures)
    full = view(tab, "#latency")
    left, right, out, into, everything = (tab.locator("#latency .zoom button").nth(i) for i in range(5))
    assert out.is_disabled() and everything.is_disabled()
    into.click()
    zoomed = view(tab, "#latency")
    assert zoomed[1] - zoomed[0] < full[1] - full[0]
    right.click()
    assert view(tab, "#latency")[0] >= zoomed[0]
    left.click()
    everything.click()
    assert view(tab, "#latency") == full


def test_ctrl_and_the_wheel_zoom_and_the_wheel_alone_scrolls(opened: Opened, figures: Figures) -> None:
    tab = opened(figures)
    full = view(tab, "#depth")
    tab.locator("#depth .plot").hover()
    tab.mouse.wheel(0, 200)
    tab.wait_for_function("window.scrollY > 0")
    assert view(tab, "#depth") == full
    tab.locator("#depth .plot").hover()
    tab.keyboard.down("Control")
    tab.mouse.wheel(0, -200)
    tab.keyboard.up("Control")
    tab.wait_for_function(f"document.querySelector('#depth .chart').dataset.view !== '{full[0]:.3f} {full[1]:.3f}'")


def test_the_keyboard_reaches_every_layer(opened: Opened, figures: Figures) -> None:
    tab = opened(figures)
    full = view(tab, "#depth")
    tab.focus("#depth .plot")
    tab.keyboard.press("ArrowRight")
    first = figures.layers[0].layer
    assert tab.inner_text("#depth [role=status]").startswith(f"{first.path or '(model)'}, {first.operation}")
    tab.keyboard.press("End")
    last = figures.layers[-1]
    assert f"{last.snr:.1f} dB" in tab.inner_text("#depth [role=status]")
    tab.keyboard.press("+")
    zoomed = view(tab, "#depth")
    assert zoomed[1] - zoomed[0] < full[1] - full[0]
    assert tab.is_visible("#depth .tip")
    tab.keyboard.press("0")
    assert view(tab, "#depth") == full
    tab.keyboard.press("Enter")
    assert last.layer.node in tab.inner_text(".detail h3")
    tab.keyboard.press("Escape")
    assert tab.is_hidden("#depth .tip")


def test_the_pointer_tells_what_lies_there(opened: Opened, figures: Figures) -> None:
    tab = opened(figures, (400, "light"))
    tab.locator("#depth .plot").hover()
    said = tab.inner_text("#depth .tip")
    assert "dB" in said and "scale" in said


def test_the_legend_hides_a_kind(opened: Opened, figures: Figures) -> None:
    tab = opened(figures)
    marks = tab.locator("#depth .canvas .mark")
    linear = sum(row.layer.operation == "linear" for row in figures.layers)
    entry = tab.locator("#depth .legend button", has_text="linear")
    entry.click()
    assert entry.get_attribute("aria-pressed") == "false"
    assert marks.count() == len(figures.layers) - linear
    entry.click()
    assert marks.count() == len(figures.layers)


def test_a_tensor_is_found_and_shown(opened: Opened, figures: Figures) -> None:
    tab = opened(figures)
    tab.fill("#search", "gelu int8")
    rows = tab.locator("#tensors .table tbody tr")
    expected = [row for row in figures.tensors if (row.operation, row.dtype) == ("gelu", "int8")]
    assert rows.count() == len(expected) > 0
    rows.first.locator("button").click()
    assert expected[0].node in tab.inner_text(".detail h3")
    bars = tab.locator(".detail .fill")
    before = bars.nth(100).bounding_box()
    assert bars.count() == 256
    tab.uncheck("#logarithmic")
    assert tab.locator(".detail .fill").nth(100).bounding_box() != before
    tab.fill("#search", "no such tensor")
    assert rows.count() == 0


def test_tables_are_sorted_by_their_headings(opened: Opened, figures: Figures) -> None:
    tab = opened(figures)
    tab.locator("#tensors .more").click()
    heading = tab.locator("#tensors th", has_text="At an end")
    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    first = tab.locator("#tensors .table tbody tr").first.inner_text()
    most = max(figures.tensors, key=lambda row: row.at_low + row.at_high)
    assert first.startswith(most.path or "(model)")
    assert tab.locator("#tensors .table tbody tr").count() == len(figures.tensors)


def test_names_are_shown_as_text_and_pictures_on_request(opened: Opened, figures: Figures) -> None:
    tab = opened(figures)
    assert tab.locator("#worst li").count() == 12
    tab.locator("#worst .more").click()
    assert tab.locator("#worst li").count() == 14
    assert "</script><b>kind" in tab.inner_text("#worst")
    assert tab.locator("#worst b").count() == 0
    assert "integers: </script>" in tab.get_attribute("#worst img >> nth=0", "alt")


def test_everything_clickable_can_be_focused_and_has_a_name(opened: Opened, figures: Figures) -> None:
    tab = opened(figures)
    nameless = """all => all.filter((e) => !(e.getAttribute("aria-label") || e.textContent.trim() || e.labels?.length))
        .map((e) => e.outerHTML)"""
    assert tab.locator("button, a, input, .plot, .scroll").evaluate_all(nameless) == []
    assert tab.locator(".plot:not([tabindex='0']), .scroll:not([tabindex='0'])").count() == 0
    ids = tab.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))


def test_what_is_missing_is_said(opened: Opened, figures: Figures) -> None:
    metadata = replace(figures.metadata, layers=(), labels=None)
    bare = replace(
        figures, metadata=metadata, accuracy=Accuracy(3), cosines=(), worst=(), layers=(), effects=(), latency=None
    )
    tab = opened(bare)
    assert "--labels CSV" in tab.inner_text("#accuracy")
    assert "quantize it again" in tab.inner_text("#depth")
    assert "--sensitivity N" in tab.inner_text("#sensitivity")
    assert "--against MODEL" in tab.inner_text("#worst")
    assert "--module m.so" in tab.inner_text("#latency")
