"""A picture of the PE array under a mapping: what each PE holds, as SVG."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping as MappingOf
from collections.abc import Sequence
from xml.sax.saxutils import escape

from dance_tf.errors import UserError
from dance_tf.hardware.mapper import BestMapping
from dance_tf.hardware.mapping import Mapping
from dance_tf.structs import LOOPS, Accelerator, Layer

__all__ = ["draw_array"]

_INK = {"weights": "#1f5fa8", "inputs": "#1d7a3a", "outputs": "#b02a2a"}
_FILLS = {"used": "#ffffff", "padding": "url(#padding)", "unused": "#d0d0d0"}
_FONT, _CHARACTER, _LINE = 9, 5.6, 11  # size of the text, its width and height, in pixels
_MARGIN = 34

#: A range of indices, both ends included; None where only padding is left.
_Range = tuple[int, int] | None


def draw_array(best: BestMapping, layer: Layer, accelerator: Accelerator) -> str:
    """Return an SVG picture of the array: the indices that each PE holds of each operand.

    It shows the first iteration of the loops outside the array. X runs to the right, Y
    down. A PE names the indices that differ from PE to PE; the legend names those that
    all share. Input columns and rows are counted in the padded input. PEs that the
    mapping does not use are grey, those that only hold padding are hatched. A viewer
    shows all that a PE holds when the pointer rests on it.

    Args:
        best: Mapping and padded layer, of `mapper.best_mapping`.
        layer: The layer without that padding.
        accelerator: What runs it.
    Returns:
        The text of an SVG file.
    Raises:
        UserError: If the mapping needs more PEs than there are.
    """
    mapping = best.mapping
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
    legend = _legend(best, layer, accelerator, cells, shared, sides)
    top = _MARGIN + (len(legend) + 1) * (_LINE + 4)
    body = [
        _text(_MARGIN, 22 + row * (_LINE + 4), text, ink, size=11)
        for row, (text, ink) in enumerate(legend)
    ]
    for x in range(accelerator.pe_x):
        body.append(_text(_MARGIN + (x + 0.5) * width, top - 5, str(x), anchor="middle"))
    for y in range(accelerator.pe_y):
        middle = top + (y + 0.5) * height + _FONT / 3
        body.append(_text(_MARGIN - 5, middle, str(y), anchor="end"))
    for y, x in itertools.product(range(accelerator.pe_y), range(accelerator.pe_x)):
        left, upper = _MARGIN + x * width, top + y * height
        held = cells.get((x, y))
        body.append(_cell(x, y, held, left, upper, width, height))
        for row, operand in enumerate(lines if held else ()):
            baseline = upper + 4 + (row + 0.8) * _LINE
            body.append(_text(left + 4, baseline, texts[x, y][operand], _INK[operand]))
    return _document(
        max(2 * _MARGIN + accelerator.pe_x * width, _MARGIN + max(len(t) for t, _ in legend) * 6.8),
        top + accelerator.pe_y * height + _MARGIN,
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
    best: BestMapping,
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
    for level in best.mapping.levels[:2]:
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


def _cell(
    x: int,
    y: int,
    held: MappingOf[str, MappingOf[str, _Range]] | None,
    left: float,
    upper: float,
    width: float,
    height: float,
) -> str:
    """Return the box of a PE, with all that it holds as its tooltip."""
    kind, lines = "unused", [f"PE {x},{y}"]
    for operand, ranges in (held or {}).items():
        lines.append(
            f"{operand}: {' '.join(_format(*item) for item in ranges.items()) or '1 word'}"
        )
    if held:
        is_empty = any(span is None for ranges in held.values() for span in ranges.values())
        kind = "padding" if is_empty else "used"
    return (
        f'<rect class="{kind}" x="{left:.1f}" y="{upper:.1f}" width="{width:.1f}"'
        f' height="{height:.1f}" fill="{_FILLS[kind]}" stroke="#707070" stroke-width="0.5">'
        f"<title>{escape(chr(10).join(lines))}</title></rect>"
    )


def _text(
    x: float, y: float, text: str, ink: str = "#000000", *, size: int = _FONT, anchor: str = "start"
) -> str:
    # XML has no control characters, and a layer's name may be anything.
    printable = "".join(c if c.isprintable() else "?" for c in text)
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{ink}" font-size="{size}"'
        f' text-anchor="{anchor}">{escape(printable)}</text>'
    )


def _document(width: float, height: float, body: Sequence[str]) -> str:
    hatch = (
        '<defs><pattern id="padding" width="6" height="6" patternUnits="userSpaceOnUse">'
        '<rect width="6" height="6" fill="#f2f2f2"/>'
        '<path d="M0 6L6 0" stroke="#a0a0a0" stroke-width="1"/></pattern></defs>'
    )
    return "\n".join(
        [
            '<?xml version="1.0" encoding="UTF-8"?>',
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}"'
            f' viewBox="0 0 {width:.0f} {height:.0f}" font-family="monospace">',
            '<rect width="100%" height="100%" fill="#ffffff"/>',
            hatch,
            *body,
            "</svg>",
            "",
        ]
    )
