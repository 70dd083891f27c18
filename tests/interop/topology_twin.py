"""What SCALE-Sim's releases make of a topology file."""

from __future__ import annotations

import math


def read_topology(text: str, num_numbers: int) -> list[tuple[str, list[int]]]:
    """Return names and numbers of the layers that SCALE-Sim makes of a file.

    As its releases do: the first line is a header; a row is what stands before its last
    comma; a name with DP in it stands for one layer per channel.
    """
    lines = text.split("\n")
    assert lines[-1] == "" and lines[0].count(",") == num_numbers + 1
    found = []
    for line in lines[1:-1]:
        name, *numbers = line.split(",")[:-1]
        values = [int(number) for number in numbers]
        assert len(values) == num_numbers, line
        if num_numbers == 7:
            values.append(values[6])  # one stride for both
        copies = values[4] if "DP" in name else 1
        values[4] = 1 if "DP" in name else values[4]
        found += [(name, values)] * copies
    return found


def macs_of(values: list[int]) -> int:
    """Return MACs of one layer: SCALE-Sim's own size of the output, times a filter's taps."""
    height, width, taps_h, taps_w, channels, filters, stride_h, stride_w = values
    assert taps_h <= height and taps_w <= width
    rows = math.ceil((height - taps_h + stride_h) / stride_h)
    columns = math.ceil((width - taps_w + stride_w) / stride_w)
    return rows * columns * taps_h * taps_w * channels * filters
