"""The mappings of a layer under one dataflow, as lists whose pairs they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from dance_tf.config import MachineConfig
from dance_tf.hardware.mapspace import CHANNEL_LOOPS, OTHER_LOOPS, Spread, dram_orders, tilings
from dance_tf.structs import LOOPS, Layer

__all__ = ["Candidates"]

#: Tilings of the other loops per chunk: some 100 MB of coefficients.
_ROWS = 16_384


@dataclasses.dataclass(frozen=True)
class Candidates:
    """All mappings of one layer and dataflow, in parts that multiply."""

    layer: Layer
    dataflow: str
    spreads: tuple[Spread, ...]
    channels: tuple[np.ndarray, ...]  # of each spread, [3, 3, n]
    others: tuple[np.ndarray, ...]  # of each spread, [3, 5, m]
    orders: tuple[str, ...]

    @classmethod
    def of(
        cls,
        layer: Layer,
        dataflow: str,
        spreads: Sequence[Spread],
        machine: MachineConfig,
        max_rf_words: int,
    ) -> Candidates:
        """List the tilings of every spread; spreads that no mapping fits are left out."""
        limits: Any = {
            "rf_words": max_rf_words,
            "global_buffer_words": machine.global_buffer_words,
            "is_split": machine.rf_mode == "split",
        }
        kept, channels, others = [], [], []
        # Spreads that treat some loops alike share the tilings of those.
        listed: dict[tuple, np.ndarray] = {}

        def tilings_of(spread: Spread, names: str) -> np.ndarray:
            loops = [LOOPS.index(name) for name in names]
            bounds = spread.temporal_bounds
            key = (names, *((bounds[d], spread.x[d] * spread.y[d]) for d in loops))
            if key not in listed:
                listed[key] = tilings(layer, dataflow, spread, names, **limits)
            return listed[key]

        for spread in spreads:
            channel, other = tilings_of(spread, CHANNEL_LOOPS), tilings_of(spread, OTHER_LOOPS)
            if channel.shape[2] and other.shape[2]:
                kept.append(spread)
                channels.append(channel)
                others.append(other)
        return cls(
            layer,
            dataflow,
            tuple(kept),
            tuple(channels),
            tuple(others),
            dram_orders(layer, dataflow),
        )

    def chunks(self) -> Iterator[range]:
        """Yield ranges of spreads that together have a bounded number of tilings."""
        start, rows = 0, 0
        for index, other in enumerate(self.others):
            if rows and rows + other.shape[2] > _ROWS:
                yield range(start, index)
                start, rows = index, 0
            rows += other.shape[2]
        if rows:
            yield range(start, len(self.others))
