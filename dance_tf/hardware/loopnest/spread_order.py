"""Order in which the spreads of a layer are searched, and those that need no search.

Whatever the tilings, a buffer has to be given what its PEs use once, and an array computes
no faster than all its PEs together. Where that alone costs more than a mapping found before,
on every array that a spread is for, none of the spread's mappings can win.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from dance_tf.hardware.loopnest.channel_terms import DesignPoint, Figures, least_fills
from dance_tf.hardware.loopnest.mapspace import Candidates

__all__ = ["SpreadOrder"]

#: Spreads that are searched all at once; and tilings of the plane in the first part of more.
_FEW, _FIRST_TILINGS = 64, 2_048

#: Relative error of a score in float32, generously.
_SCORE_ERROR = 1e-4


class SpreadOrder:
    """Order in which spreads are searched: promising ones first, hopeless ones never.

    A spread is hopeless where less than it can cost, whatever its tilings, is more than what
    others have been found to cost on every array that it is for.
    """

    def __init__(
        self, candidates: Candidates, points: Sequence[DesignPoint], figures: Figures
    ) -> None:
        self._candidates, self._spreads = candidates, candidates.spreads
        num = len(self._spreads)
        self._left = np.arange(num)
        ways = self._spreads.fits_x.astype(np.int64).T @ self._spreads.fits_y.astype(np.int64)
        self._is_choice = bool(num) and ways.max() > 1 and num > _FEW
        if not self._is_choice:
            return
        self._of_x, self._groups_x = _groups(self._spreads.fits_x)
        self._of_y, self._groups_y = _groups(self._spreads.fits_y)
        self._least = self._least_scores(points, figures)
        # How far each is from the least of those for an array, at one of the points.
        middle = self._least[:, len(points) // 2]
        table = np.full((len(self._groups_x), len(self._groups_y)), np.inf)
        np.minimum.at(table, (self._of_x, self._of_y), middle)
        along_x = np.stack([table[fits].min(axis=0) for fits in self._groups_x.T])
        of_arrays = np.stack([along_x[:, fits].min(axis=1) for fits in self._groups_y.T], axis=1)
        self._left = np.argsort(middle / self._most(of_arrays[None])[:, 0], kind="stable")

    def chunks(self, best: np.ndarray) -> Iterator[np.ndarray]:
        """Yield rows of spreads, as long as any may beat `best`, [points, xs, ys], as it is."""
        if not self._is_choice:
            yield from map(np.asarray, self._candidates.chunks(self._left))
            return
        num_tilings = _FIRST_TILINGS
        while len(self._left):
            most = self._most(best)[self._left]
            self._left = self._left[(self._least[self._left] <= most).any(axis=1)]
            chunk = next(self._candidates.chunks(self._left, num_tilings), [])
            self._left = self._left[len(chunk) :]
            num_tilings *= 2
            if chunk:
                yield np.asarray(chunk)

    def _most(self, values: np.ndarray) -> np.ndarray:
        """Return the largest value among the arrays of each spread, [spreads, points].

        Args:
            values: [points, xs, ys].
        """
        along_x = np.stack([values[:, fits].max(axis=1) for fits in self._groups_x], axis=1)
        both = np.stack([along_x[:, :, fits].max(axis=2) for fits in self._groups_y], axis=2)
        return both[:, self._of_x, self._of_y].T

    def _least_scores(self, points: Sequence[DesignPoint], figures: Figures) -> np.ndarray:
        """Return what the mappings of each spread score at least, float64 [spreads, points]."""
        fills = least_fills(self._candidates.layer, self._spreads)
        fills = np.concatenate([np.ones((len(fills), 1)), fills], axis=1)
        least = np.einsum("sfm,sm->sf", figures.weights, fills)
        num_words = len(figures.words_per_cycle)
        waiting = np.ceil(least[:, :num_words] / figures.words_per_cycle)
        computing = self._spreads.temporal_bounds.prod(axis=1, dtype=np.float64)
        waiting = waiting.reshape(len(fills), -1, 3).max(axis=2)
        cycles = np.maximum(waiting, computing[:, None])[:, figures.bandwidth_of]
        energy = least[:, figures.energy_of]
        objective = points[0].machine.mapping_objective
        score = {"edp": energy * cycles, "energy": energy, "latency": cycles}[objective]
        return score * (1 - _SCORE_ERROR)


def _groups(fits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the group of each row [n], and the different rows that are not empty, [g, sides]."""
    different, group = np.unique(fits, axis=0, return_inverse=True)
    return group.reshape(-1), different
