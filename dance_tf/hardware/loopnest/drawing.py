"""Pictures of the PE array under mappings: what each PE holds, as SVG and as pages of HTML.

All are texts that stand alone: no scripts, no styles from elsewhere, and an SVG has no
identifiers, so that any number of them can stand in one page.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping as MappingOf
from collections.abc import Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape, quoteattr

from dance_tf.errors import UserError
from dance_tf.hardware.loopnest.mapping import Mapping, format_loop_nest
from dance_tf.structs import LOOPS, Accelerator, Layer

__all__ = ["LayerDrawing", "draw_array", "draw_layers", "drawing_page"]

_INK = {"weights": "#1f5fa8", "inputs": "#1d7a3a", "outputs": "#b02a2a"}
_FILLS = {"used": "#ffffff", "padding": "#f2f2f2", "unused": "#d0d0d0"}
_FONT, _CHARACTER, _LINE = 9, 5.6, 11  # size of the text, its width and height, in pixels
_MARGIN = 34

#: A range of indices, both ends included; None where only padding is left.
_Range = tuple[int, int] | None


class LayerDrawing(NamedTuple):
    """The mapping of one layer, and of those of the same shape, for a page or a file."""

    names: tuple[str, ...]  # of these layers, in the order in which they run
    loop_nest: str  # text of several lines, outer loop first
    svg: str  # a whole SVG file, which HTML can hold as it is


def draw_layers(
    layers: Sequence[Layer], mappings: Sequence[Mapping], accelerator: Accelerator
) -> list[LayerDrawing]:
    """Return a drawing of each different layer of a network; nothing is written.

    Args:
        layers: L layers, in the order in which they run.
        mappings: Mapping of each layer, such as those of
            `mapper.best_mappings(layers, accelerator, machine)`.
        accelerator: Accelerator that runs them.
    Returns:
        One drawing for all layers of the same shape and mapping, those that run first
        first.
    Raises:
        UserError: If a mapping needs more PEs than there are.
    """
    names: dict[tuple[Layer, Mapping], list[str]] = {}
    for layer, mapping in zip(layers, mappings, strict=True):
        shape = dataclasses.replace(layer, name="")
        names.setdefault((shape, mapping), []).append(layer.name)
    return [
        LayerDrawing(
            tuple(of_shape),
            format_loop_nest(mapping),
            draw_array(mapping, dataclasses.replace(shape, name=of_shape[0]), accelerator),
        )
        for (shape, mapping), of_shape in names.items()
    ]


def draw_array(mapping: Mapping, layer: Layer, accelerator: Accelerator) -> str:
    """Return an SVG picture of the array: the indices that each PE holds of each operand.

    It shows the first iteration of the loops outside the array. X runs to the right, Y
    down. A PE names the indices that differ from PE to PE; the legend names those that
    all share. Input columns and rows are counted in the padded input. PEs that the
    mapping does not use are grey, those that only hold padding are hatched. A viewer
    shows all that a PE holds when the pointer rests on it.

    Args:
        mapping: Mapping of the layer or of the padded layer.
        layer: The layer, without padding.
        accelerator: Accelerator that runs it.
    Returns:
        The text of an SVG file.
    Raises:
        UserError: If the mapping needs more PEs than there are.
    """
    across = mapping.levels[1]
    sides = [
        math.prod(bound for _, bound in loops) for loops in (across.spatial_x, across.spatial_y)
    ]
    if sides[0] > accelerator.pe_x or sides[1] > accelerator.pe_y:
        raise UserError(
            f"layer {layer.name!r}: the mapping spreads over {sides[0]}x{sides[1]} PEs,"
            f" the array has {accelerator.pe_x}x{accelerator.pe_y}"
        )
    cells = {
        (x, y): _held(layer, mapping, x, y)
        for x, y in itertools.product(range(sides[0]), range(sides[1]))
    }
    # Indices that are the same everywhere go to the legend.
    shared = {
        (operand, name)
        for operand, ranges in cells[0, 0].items()
        for name in ranges
        if len({cell[operand][name] for cell in cells.values()}) == 1
    }
    texts = {
        place: {
            operand: " ".join(
                _format(name, span)
                for name, span in ranges.items()
                if (operand, name) not in shared
            )
            for operand, ranges in held.items()
        }
        for place, held in cells.items()
    }
    lines = [o for o in _INK if any(text[o] for text in texts.values())]
    longest = max((len(t) for text in texts.values() for t in text.values()), default=0)
    width, height = max(24.0, longest * _CHARACTER + 8), max(1, len(lines)) * _LINE + 8
    legend = _legend(mapping, layer, accelerator, cells, shared, sides)
    top = _MARGIN + (len(legend) + 1) * (_LINE + 4)
    head = [
        _text(_MARGIN, 22 + row * (_LINE + 4), text, f' fill="{ink}"')
        for row, (text, ink) in enumerate(legend)
    ]
    columns = [_text(_MARGIN + (x + 0.5) * width, top - 5, str(x)) for x in range(accelerator.pe_x)]
    rows = [
        _text(_MARGIN - 5, top + (y + 0.5) * height + _FONT / 3, str(y))
        for y in range(accelerator.pe_y)
    ]
    boxes: dict[str, list[str]] = {kind: [] for kind in _FILLS}
    held_texts: dict[str, list[str]] = {operand: [] for operand in lines}
    for y, x in itertools.product(range(accelerator.pe_y), range(accelerator.pe_x)):
        left, upper = _MARGIN + x * width, top + y * height
        held = cells.get((x, y))
        kind = _kind(held)
        boxes[kind].append(_cell((x, y), kind, held, (left, upper, width, height)))
        for row, operand in enumerate(lines if held else ()):
            baseline = upper + 4 + (row + 0.8) * _LINE
            held_texts[operand].append(_text(left + 4, baseline, texts[x, y][operand]))
    # Attributes that many elements have in common stand once, at their group.
    body = [
        _group(f'fill="{_FILLS[kind]}" stroke="#707070"', found) for kind, found in boxes.items()
    ]
    body += [_group(f'fill="{_INK[operand]}"', found) for operand, found in held_texts.items()]
    body += [_group('font-size="11"', head)]
    body += [_group('text-anchor="middle"', columns), _group('text-anchor="end"', rows)]
    return _document(
        max(2 * _MARGIN + accelerator.pe_x * width, _MARGIN + max(len(t) for t, _ in legend) * 6.8),
        top + accelerator.pe_y * height + _MARGIN,
        f"mapping of {layer.name}",
        body,
    )


def _held(layer: Layer, mapping: Mapping, x: int, y: int) -> dict[str, dict[str, _Range]]:
    """Return the ranges of indices that PE (x, y) holds, by operand and coordinate."""
    is_depthwise = layer.kind == "depthwise"
    bounds = dict(zip(LOOPS, (*layer.dims, 1) if is_depthwise else layer.loop_bounds, strict=True))
    first = dict.fromkeys(LOOPS, 0)
    steps = dict(zip(LOOPS, _extents(mapping, 2), strict=True))
    across = mapping.levels[1]
    for loops, position in ((across.spatial_y, y), (across.spatial_x, x)):
        for name, bound in reversed(loops):
            position, digit = divmod(position, bound)
            first[name] += digit * steps[name]
            steps[name] *= bound

    def held(level: int) -> dict[str, _Range]:
        extents = zip(LOOPS, _extents(mapping, level), strict=True)
        return {
            name: (first[name], min(first[name] + extent, bounds[name]) - 1)
            if first[name] < bounds[name]
            else None
            for name, extent in extents
        }

    is_split = mapping.is_split
    weights, inputs, outputs = held(3 if is_split else 2), held(2), held(4 if is_split else 2)
    names = [name for name in ("N", "G", "K" if is_depthwise else "C") if bounds[name] > 1]
    windows = {
        "column": _window(inputs["P"], inputs["R"], layer.stride[0], layer.dilation[0]),
        "row": _window(inputs["Q"], inputs["S"], layer.stride[1], layer.dilation[1]),
    }
    return {
        "weights": {name: weights[name] for name in "GKCRS" if bounds[name] > 1},
        "inputs": {name: inputs[name] for name in names} | windows,
        "outputs": {name: outputs[name] for name in "NGKPQ" if bounds[name] > 1},
    }


def _extents(mapping: Mapping, level: int) -> list[int]:
    """Return what the loops of a level and of those inside it cover, in the order of LOOPS."""
    extents = dict.fromkeys(LOOPS, 1)
    for inside in mapping.levels[level:]:
        for name, bound in inside.temporal:
            extents[name] *= bound
    return list(extents.values())


def _window(outputs: _Range, taps: _Range, stride: int, dilation: int) -> _Range:
    """Return the input indices between the first and the last that outputs and taps touch."""
    if outputs is None or taps is None:
        return None
    return (
        outputs[0] * stride + taps[0] * dilation,
        outputs[1] * stride + taps[1] * dilation,
    )


def _format(name: str, span: _Range) -> str:
    if span is None:
        return f"{name} -"
    return f"{name}{span[0]}" if span[0] == span[1] else f"{name}{span[0]}-{span[1]}"


def _legend(
    mapping: Mapping,
    layer: Layer,
    accelerator: Accelerator,
    cells: MappingOf[tuple[int, int], dict[str, dict[str, _Range]]],
    shared: set[tuple[str, str]],
    sides: Sequence[int],
) -> list[tuple[str, str]]:
    """Return lines of text and their colours."""
    black = "#000000"
    array = f"{accelerator.pe_x}x{accelerator.pe_y} {accelerator.dataflow}"
    lines = [
        (f"{layer.name} on {array}, register file of {accelerator.rf_bytes} B", black),
        (f"{sides[0]}x{sides[1]} PEs used; grey: unused; hatched: padding only", black),
        ("indices in the first iteration of the loops outside the array", black),
    ]
    for level in mapping.levels[:2]:
        loops = ", ".join(f"{name} x {bound}" for name, bound in level.temporal)
        lines.append((f"loops at {level.name}, outer to inner: {loops or 'none'}", black))
    for operand, ink in _INK.items():
        ranges = cells[0, 0][operand]
        same = [_format(name, span) for name, span in ranges.items() if (operand, name) in shared]
        other = [name for name in ranges if (operand, name) not in shared]
        parts = [f"every PE holds {' '.join(same)}"] if same else []
        parts += [f"each PE its own {' '.join(other)}"] if other else []
        lines.append((f"{operand}: {'; '.join(parts) or 'one word, the same in every PE'}", ink))
    return lines


def _kind(held: MappingOf[str, MappingOf[str, _Range]] | None) -> str:
    if not held:
        return "unused"
    is_empty = any(span is None for ranges in held.values() for span in ranges.values())
    return "padding" if is_empty else "used"


def _cell(
    place: tuple[int, int],
    kind: str,
    held: MappingOf[str, MappingOf[str, _Range]] | None,
    box: tuple[float, float, float, float],
) -> str:
    """Return the box (left, top, width, height) of a PE, its tooltip all that the PE holds."""
    lines = [f"PE {place[0]},{place[1]}"]
    for operand, ranges in (held or {}).items():
        lines.append(
            f"{operand}: {' '.join(_format(*item) for item in ranges.items()) or '1 word'}"
        )
    left, upper, width, height = box
    hatch = ""
    if kind == "padding":
        # A broken line as thick as the box is high.
        hatch = (
            f'<path d="M{left:.1f} {upper + height / 2:.1f}h{width:.1f}" stroke="#c8c8c8"'
            f' stroke-width="{height:.1f}" stroke-dasharray="1 4" pointer-events="none"/>'
        )
    return (
        f'<rect class="{kind}" x="{left:.1f}" y="{upper:.1f}" width="{width:.1f}"'
        f' height="{height:.1f}"><title>{escape(chr(10).join(lines))}</title></rect>{hatch}'
    )


def _text(x: float, y: float, text: str, attributes: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}"{attributes}>{escape(_printable(text))}</text>'


def _printable(text: str) -> str:
    # XML has no control characters, and a layer's name may be anything.
    return "".join(c if c.isprintable() else "?" for c in text)


def _group(attributes: str, elements: Sequence[str]) -> str:
    return "\n".join([f"<g {attributes}>", *elements, "</g>"]) if elements else ""


def _document(width: float, height: float, label: str, body: Sequence[str]) -> str:
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}"'
            f' viewBox="0 0 {width:.0f} {height:.0f}" font-family="monospace" font-size="{_FONT}"'
            f' stroke-width="0.5" role="img" aria-label={quoteattr(_printable(label))}>',
            '<rect width="100%" height="100%" fill="#ffffff"/>',
            *filter(None, body),
            "</svg>",
            "",
        ]
    )


# Pages

_PAGE_STYLE = (
    "body{font-family:sans-serif;margin:1em}pre,figure{overflow-x:auto;margin:.5em 0}"
    "summary{cursor:pointer;padding:.2em 0}"
)


def drawing_page(heading: str, drawings: Sequence[LayerDrawing], files: Sequence[str] = ()) -> str:
    """Return a page of HTML with every drawing, each folded.

    Args:
        heading: Title of the page, one line.
        drawings: Drawings as `draw_layers` returns them.
        files: Names of the SVG files that the page shows in place of holding them; as many
            as drawings, or none.
    """
    title = escape(_printable(heading))
    page = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title}</title><style>{_PAGE_STYLE}</style></head><body><h1>{title}</h1>",
    ]
    for number, drawing in enumerate(drawings):
        picture = drawing.svg
        if files:
            name = quoteattr(files[number])
            picture = f'<a href={name}><img src={name} alt="" loading="lazy"></a>'
        names = escape(_printable(", ".join(drawing.names)))
        page.append(
            f"<details><summary>{names}</summary><pre>{escape(drawing.loop_nest)}</pre>"
            f"<figure>{picture}</figure></details>"
        )
    return "\n".join([*page, "</body></html>", ""])
