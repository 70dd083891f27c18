"""Access counts by holding every word in a set: no boxes, no formulas.

All loops of a layer are walked, down to the single multiply-accumulate. A buffer
instance holds the set of words that the loops inside it touch, and what it lacks of
the next set is fetched. The contract counts bounding boxes; where a set has no gaps it
is its box, and then these counts are the contract's.

Plain Python; imports no product code.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from tests.reference import LOOPS, OPERANDS, Nest, axes, coordinates


class Words:
    """What the instances of one level hold of one operand while the layer runs."""

    def __init__(self, nest: Nest, operand: str, level: int):
        self._nest, self._operand = nest, operand
        numbers = range(len(nest.loops))
        self._outside = nest.outside(level)
        # Loops over instances: those of the array, seen from below it.
        self._across = [i for i in numbers if nest.loops[i][2] != "temporal" and level > 1]
        self._inside = [i for i in numbers if i not in (*self._outside, *self._across)]
        self.has_gaps = False
        used = axes(nest.layer, operand)
        self.instances = list(self._indices(self._across))
        # Instances that differ in nothing that the operand uses hold the same words.
        self.group_of = [tuple(one.get(d, 0) for d in used) for one in self.instances]

    def _indices(self, loops: list[int]) -> Iterator[dict[str, int]]:
        """Yield what each iteration of some loops adds to the index of every dimension."""
        nest = self._nest
        for iterations in itertools.product(*(range(nest.loops[i][1]) for i in loops)):
            index = dict.fromkeys(LOOPS, 0)
            for i, iteration in zip(loops, iterations, strict=True):
                index[nest.loops[i][0]] += iteration * nest.steps[i]
            yield index

    def touched(self, instance: dict[str, int]) -> Iterator[list[tuple[int, ...]]]:
        """Yield, step by step, the word of each access in one instance, repeats included."""
        inside = list(self._indices(self._inside))
        for outer in self._indices(self._outside):
            yield [
                tuple(
                    coordinates(
                        self._nest.layer,
                        self._operand,
                        {d: outer[d] + instance[d] + index[d] for d in LOOPS},
                    )
                )
                for index in inside
            ]

    def run(self, instance: dict[str, int]) -> dict[str, int]:
        """Return what one instance fetches, writes up and touches for the first time."""
        held, direction, started = set(), None, set()
        found = dict.fromkeys(("fetched", "first", "written_up", "tile_words"), 0)
        for accesses in self.touched(instance):
            words = set(accesses)
            sides = [max(axis) - min(axis) + 1 for axis in zip(*words, strict=True)]
            box = 1
            for side in sides:
                box *= side
            self.has_gaps |= box != len(words)
            found["tile_words"] = len(words)
            if words == held:
                direction = None
                continue
            kept, direction = _kept(held, words, direction)
            missing = words - kept
            found["fetched"] += len(missing)
            found["first"] += len(missing - started)
            found["written_up"] += len(held - kept)
            started |= missing
            held = words
        found["written_up"] += len(held)
        return found


def _kept(held: set, words: set, direction) -> tuple[set, object]:
    """Return the words that stay, and the direction of the slide if there is one.

    Words stay when the set slides along one coordinate, as it did the last time.
    """
    if not held:
        return set(), None
    lows = [[min(axis) for axis in zip(*one, strict=True)] for one in (held, words)]
    moved = [
        (axis, new > old) for axis, (old, new) in enumerate(zip(*lows, strict=True)) if new != old
    ]
    if len(moved) != 1 or direction not in (None, moved[0]) or not held & words:
        return set(), None
    return held & words, moved[0]


def word_counts(layer: dict, mapping: list[dict], accounting: str = "timeloop_2020") -> dict:
    """Return counts[level][operand], as `reference.walk_counts`; None where sets have gaps.

    A count is None if it is of a set of words with gaps, which is not the box that the
    contract counts.
    """
    nest = Nest(layer, mapping)
    counts: dict = {level["level"]: {} for level in mapping}
    charges_first = accounting == "timeloop_2020"
    for operand in OPERANDS:
        rf_level = nest.level_of(operand, is_global=False)
        file, buffer = Words(nest, operand, rf_level), Words(nest, operand, 1)
        whole = Words(nest, operand, 0)
        in_files = [file.run(instance) for instance in file.instances]
        (in_buffer,) = (buffer.run(instance) for instance in buffer.instances)
        (in_dram,) = (whole.run(instance) for instance in whole.instances)
        # One of each group is served, and the partial sums of a group arrive as one.
        served = list(dict(zip(file.group_of, in_files, strict=True)).values())
        accesses = [
            [word for step in file.touched(instance) for word in step]
            for instance in file.instances
        ]
        macs = sum(map(len, accesses))
        rf = {"reads": macs, "fills": _sum(in_files, "fetched"), "updates": 0}
        gb = {"reads": _sum(served, "fetched"), "fills": in_buffer["fetched"], "updates": 0}
        dram = {"reads": in_buffer["fetched"], "fills": 0, "updates": 0}
        if operand == "outputs":
            # Every multiply-accumulate adds to what it reads, but for the first of a word.
            rf |= {"updates": macs, "reads": macs - sum(len(set(words)) for words in accesses)}
            gb |= {
                "updates": _sum(served, "written_up"),
                "reads": _sum(served, "fetched") - _sum(served, "first"),
            }
            dram |= {
                "updates": in_buffer["written_up"],
                "reads": in_buffer["fetched"] - in_buffer["first"],
            }
            if not charges_first:
                rf["fills"] -= _sum(in_files, "first")
                gb["fills"] -= in_buffer["first"]
        rf["tile_words"], gb["tile_words"] = in_files[0]["tile_words"], in_buffer["tile_words"]
        dram["tile_words"] = in_dram["tile_words"]
        if file.has_gaps:
            rf["fills"] = rf["tile_words"] = gb["reads"] = None
        if buffer.has_gaps:
            gb["fills"] = gb["tile_words"] = dram["reads"] = None
        if whole.has_gaps:
            dram["tile_words"] = None
        counts[mapping[rf_level]["level"]][operand] = rf
        counts["global_buffer"][operand] = gb
        counts["dram"][operand] = dram
    return counts


def _sum(instances: list[dict], key: str) -> int:
    return sum(found[key] for found in instances)
