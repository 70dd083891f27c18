"""The picture of the array shows what each PE holds."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from dance_tf.config import MachineConfig
from dance_tf.errors import UserError
from dance_tf.hardware.loopnest.drawing import draw_array, draw_layers, drawing_page
from dance_tf.hardware.loopnest.mapper import best_mapping, best_mappings
from dance_tf.hardware.loopnest.mapping import mapping_from_json
from dance_tf.structs import DATAFLOWS, Accelerator, Layer
from tests import reference
from tests.hardware import plain
from tests.reference_words import Words
from tests.strategies import examples, mapped_layers

SVG = "{http://www.w3.org/2000/svg}"


def _draw(layer: dict, mapping: list, pe_x: int, pe_y: int, real: dict | None = None):
    """Return the picture's root element."""
    array = Accelerator(pe_x, pe_y, 32, "weight_stationary")
    text = draw_array(mapping_from_json(mapping), plain.to_layer(real or layer), array)
    return ElementTree.fromstring(text)


def _cells(root) -> dict[tuple[int, int], tuple[str, dict]]:
    """Return of each PE its kind, and by operand the text of what it holds."""
    cells = {}
    for rect in root.iter(f"{SVG}rect"):
        title = rect.find(f"{SVG}title")
        if title is not None:
            first, *lines = title.text.splitlines()
            place = tuple(int(n) for n in first.removeprefix("PE ").split(","))
            assert place not in cells
            cells[place] = rect.get("class"), dict(line.split(": ") for line in lines)
    return cells


def _ranges(text: str) -> dict[str, tuple[int, int]]:
    found = {}
    for name, first, last in re.findall(r"([A-Za-z]+)(\d+)(?:-(\d+))?", text):
        found[name] = (int(first), int(last or first))
    return found


@pytest.mark.parametrize("mode", ["shared", "split"])
def test_each_pe_shows_the_words_that_it_holds_first(mode):
    names = {"weights": "GKCRS", "outputs": "NGKPQ"}
    for layer, mapping in examples(mapped_layers(mode, max_macs=300), 80):
        nest = reference.Nest(layer, mapping)
        channel = "K" if layer["type"] == "depthwise" else "C"
        side_x, side_y = (
            math.prod(b for _, b in mapping[1][k]) for k in ("spatial_x", "spatial_y")
        )
        cells = _cells(_draw(layer, mapping, side_x + 1, side_y + 2))
        assert len(cells) == (side_x + 1) * (side_y + 2)
        for operand in reference.OPERANDS:
            axes = names.get(operand) or ("N", "G", channel, "column", "row")
            words = Words(nest, operand, nest.level_of(operand, is_global=False))
            # Instances count through X before Y, outer loops first.
            for number, instance in enumerate(words.instances):
                kind, held = cells[divmod(number, side_y)]
                assert kind == "used"
                coordinates = list(zip(*next(words.touched(instance)), strict=True))
                shown = _ranges(held[operand].replace("1 word", ""))
                for axis, touched in zip(axes, coordinates, strict=True):
                    wanted = (min(touched), max(touched))
                    assert shown.get(axis, (0, 0)) == wanted, (layer, mapping, operand)
        assert sum(kind == "unused" for kind, _ in cells.values()) == len(cells) - side_x * side_y


@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_the_best_mapping_is_drawn(dataflow):
    layer = Layer("a <layer> & more\x07", "conv", 1, 10, 5, 7, 7, 3, 3)
    array = Accelerator(8, 8, 64, dataflow)
    best = best_mapping(layer, array, MachineConfig())
    text = draw_array(best.mapping, layer, array)
    cells = _cells(ElementTree.fromstring(text))
    level = best.mapping.levels[1]
    used = math.prod(bound for _, bound in (*level.spatial_x, *level.spatial_y))
    assert sum(kind != "unused" for kind, _ in cells.values()) == used
    assert "a &lt;layer&gt; &amp; more?" in text and dataflow in text
    assert draw_array(best.mapping, layer, array) == text


def test_padding_is_hatched_and_not_numbered():
    real = {"type": "conv", "stride": 1, "dilation": 1}
    real |= {"N": 1, "K": 5, "C": 1, "P": 1, "Q": 1, "R": 1, "S": 1}
    empty = {"temporal": [], "spatial_x": [], "spatial_y": []}
    mapping = [
        {"level": "dram"} | empty,
        {"level": "global_buffer", "temporal": [], "spatial_x": [], "spatial_y": [["K", 4]]},
        {"level": "register_file", "temporal": [["K", 2]], "spatial_x": [], "spatial_y": []},
    ]
    cells = _cells(_draw(real | {"K": 8}, mapping, 1, 5, real))
    kinds = [cells[0, y][0] for y in range(5)]
    assert kinds == ["used", "used", "used", "padding", "unused"]
    assert [cells[0, y][1].get("weights") for y in range(4)] == ["K0-1", "K2-3", "K4", "K -"]


def test_a_large_array_is_legible():
    """Texts stay inside their cells, and cells inside the picture."""
    layer = Layer("wide", "conv", 1, 576, 960, 14, 14, 1, 1)
    array = Accelerator(24, 24, 64, "weight_stationary")
    root = ElementTree.fromstring(
        draw_array(best_mapping(layer, array, MachineConfig()).mapping, layer, array)
    )
    width = float(root.get("width"))
    boxes = [r for r in root.iter(f"{SVG}rect") if r.find(f"{SVG}title") is not None]
    assert len(boxes) == 576
    lefts = sorted({float(box.get("x")) for box in boxes})
    cell = float(boxes[0].get("width"))
    assert lefts[-1] + cell <= width
    assert root.get("font-size") == "9"
    held = [group for group in root.iter(f"{SVG}g") if group.get("fill")]
    inside = [text for group in held for text in group.iter(f"{SVG}text")]
    assert len(inside) >= 576
    # A monospaced character is some 0.6 of its size wide.
    assert max(len(t.text) for t in inside) * 9 * 0.6 <= cell - 4


def test_more_pes_than_there_are():
    layer, mapping = {"type": "conv", "stride": 1, "dilation": 1, "name": "much"}, []
    layer |= {"N": 1, "K": 4, "C": 1, "P": 1, "Q": 1, "R": 1, "S": 1}
    empty = {"temporal": [], "spatial_x": [], "spatial_y": []}
    mapping = [
        {"level": "dram"} | empty,
        {"level": "global_buffer", "temporal": [], "spatial_x": [], "spatial_y": [["K", 4]]},
        {"level": "register_file"} | empty,
    ]
    with pytest.raises(UserError, match="'much': the mapping spreads over 1x4 PEs"):
        _draw(layer, mapping, 8, 3)


@pytest.fixture(scope="module")
def drawings():
    layers = [
        Layer("stem <a>", "conv", 1, 4, 3, 4, 4, 3, 3),
        Layer("first", "depthwise", 1, 4, 1, 4, 4, 3, 3),
        Layer("again", "conv", 1, 4, 3, 4, 4, 3, 3),
    ]
    array = Accelerator(4, 5, 64, "weight_stationary")
    mappings = [best.mapping for best in best_mappings(layers, array, MachineConfig())]
    return draw_layers(layers, mappings, array)


def test_layers_of_one_shape_are_drawn_once(drawings):
    assert [drawing.names for drawing in drawings] == [("stem <a>", "again"), ("first",)]
    for drawing in drawings:
        assert drawing.loop_nest.endswith("multiply_accumulate")
        assert len(_cells(ElementTree.fromstring(drawing.svg))) == 20


def test_drawings_can_stand_in_one_page(drawings):
    """Nothing in one refers to something that another might define too."""
    for drawing in drawings:
        assert drawing.svg.startswith("<svg ") and not re.search(r"\bid=|url\(|href", drawing.svg)
    page = drawing_page("a & b", drawings)
    assert page.count("<svg ") == page.count("<details>") == 2
    assert "a &amp; b" in page and "stem &lt;a&gt;, again" in page
    index = drawing_page("a", drawings, ["1.svg", "2.svg"])
    assert "<svg " not in index and index.count('"1.svg"') == 2
