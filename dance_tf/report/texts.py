"""Texts of the report: numbers, durations and names in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from dance_tf.files import Json
from dance_tf.structs import Layer
from dance_tf.supernet.op_names import op_words

__all__ = [
    "accelerator_name",
    "component_name",
    "duration",
    "enumeration",
    "is_number",
    "layer_shape",
    "number",
    "op_name",
    "power_of_ten",
    "ten_to",
]

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float | None, digits: int = 4) -> str:
    """Return a number with `digits` significant digits and commas between thousands."""
    if value is None:
        return "not a number"  # what null stands for in our JSON
    if isinstance(value, int):
        return f"{value:,}"
    if value == 0:
        return "0"
    power = power_of_ten(abs(value))
    if power:
        return f"{number(value * 10.0**-power, digits)} x {ten_to(power)}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"


def is_number(value: object) -> bool:
    """Return whether a value of a JSON file is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def power_of_ten(value: float) -> int:
    """Return the multiple of three to take out of a value that is long to write; mostly 0."""
    if value == 0 or 1e-3 <= value < 1e7:
        return 0
    return 3 * math.floor(math.log10(value) / 3)


def ten_to(power: int) -> str:
    """Return a power of ten."""
    return f"10{str(power).translate(_RAISED)}"


def component_name(name: str) -> str:
    """Return a component or a resource in words."""
    return {"mac": "MACs", "macs": "MACs", "dram": "DRAM"}.get(name, name.replace("_", " "))


def duration(seconds: float) -> str:
    """Return a time in the units that suit it."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def enumeration(texts: Sequence[str]) -> str:
    """Return texts as a list in a sentence: a, b and c."""
    *others, last = texts
    return f"{', '.join(others)} and {last}" if others else last


def accelerator_name(accelerator: Mapping[str, Json]) -> str:
    """Return an accelerator's fields in one line."""
    return (
        f"{accelerator['pe_x']} x {accelerator['pe_y']} PEs, {accelerator['rf_bytes']} B,"
        f" {accelerator['dataflow']}"
    )


def op_name(op: str) -> str:
    """Return a candidate op in words."""
    return op_words(op)


def layer_shape(layer: Layer) -> str:
    """Return kernel, channels, output size and stride of a layer."""
    kernel = f"{layer.R}x{layer.S}"
    if layer.kind == "depthwise":
        parts = [f"{kernel} depthwise", f"{layer.K} channels"]
    else:
        parts = [kernel, f"{layer.C * layer.groups} to {layer.K} channels"]
    parts.append(f"output {layer.P}x{layer.Q}")
    if layer.stride != (1, 1):
        parts.append(f"stride {layer.stride[0]}")
    return ", ".join(parts)
