"""The best mapping of every (layer, accelerator), exhaustive within the mapspace.

The counts of a mapping do not depend on the array's sides, only on the sides that it
uses and on the register file that it needs. So each mapping is evaluated once, the
best of each spread and register-file size is kept (`spread_search`), and the best of an
accelerator is the best of the spreads that its sides allow. What won is counted anew in
float64.

Ties go to the first mapping in the order of enumeration, so results are repeatable.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from dance_tf.config import MachineConfig
from dance_tf.errors import UserError
from dance_tf.hardware.loopnest import cost_model
from dance_tf.hardware.loopnest.access_counts import AccessCounts, count_accesses
from dance_tf.hardware.loopnest.channel_terms import (
    DesignPoint,
    figures_of,
)
from dance_tf.hardware.loopnest.mapping import (
    NUM_DRAM_SLOTS,
    FoundMapping,
    Mapping,
    MappingBatch,
    as_batch,
    as_mapping,
    num_slots,
)
from dance_tf.hardware.loopnest.mapspace import Candidates, dram_orders, shortage
from dance_tf.hardware.loopnest.spread_order import SpreadOrder
from dance_tf.hardware.loopnest.spread_search import SpreadSearch
from dance_tf.hardware.loopnest.spreads import MAPSPACE_RULES, spreads
from dance_tf.hardware.technology import technology_of
from dance_tf.run.threads import map_in_threads
from dance_tf.structs import DATAFLOWS, Accelerator, Accelerators, Cost, Layer

__all__ = [
    "MODEL_VERSION",
    "BestMapping",
    "DetailedCost",
    "LoopNestCostModel",
    "best_mapping",
    "best_mappings",
    "count_mappings",
]

#: Part of the key of cached tables; raise it whenever the model's numbers change.
MODEL_VERSION = 2


class BestMapping(NamedTuple):
    """The best mapping of one layer on one accelerator, and its cost."""

    mapping: Mapping
    padded_layer: Layer  # what the mapping multiplies out to
    counts: AccessCounts  # of the padded layer, fields of shape [] or [3]
    cost: cost_model.MappingCost  # fields of shape [], [3] or [4]


class DetailedCost(NamedTuple):
    """Cost of every layer on every accelerator in parts; infinite where it cannot run."""

    latency_cycles: np.ndarray  # float64 [L, A]
    compute_cycles: np.ndarray  # float64 [L, A], without waiting for buffer and DRAM
    energy_by_component_pj: np.ndarray  # float64 [5, L, A], as cost_model.ENERGY_COMPONENTS
    bound_by: np.ndarray  # int8 [L, A], index into cost_model.BOUNDS; -1: cannot run
    area_um2: np.ndarray  # float64 [A]


@dataclasses.dataclass(frozen=True)
class LoopNestCostModel:
    """Cost of layers under their best mappings; a protocols.CostModel.

    The best mapping minimises `machine.mapping_objective` per layer and accelerator,
    among those that `rule` allows (see `mapspace`).
    """

    machine: MachineConfig = dataclasses.field(default_factory=MachineConfig)
    rule: str = "strip"

    def __post_init__(self) -> None:
        technology_of(self.machine).global_buffer_area_um2(self.machine.global_buffer_kib)
        if self.rule not in MAPSPACE_RULES:
            raise UserError(f"rule is {self.rule!r}, not one of {', '.join(MAPSPACE_RULES)}")

    @property
    def fingerprint(self) -> str:
        """Everything that determines the numbers, as text."""
        # A technology counts by its figures, not by the name or path that it goes by.
        machine = dataclasses.asdict(self.machine)
        machine["technology"] = technology_of(self.machine).to_json()
        content = {"model": MODEL_VERSION, "rule": self.rule, "machine": machine}
        return json.dumps(content, sort_keys=True)

    def __call__(
        self,
        layers: Sequence[Layer],
        accelerators: Accelerators,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Cost:
        """Return the cost of every layer on every accelerator.

        Args:
            layers: L layers.
            accelerators: Fields [A].
            on_progress: Called with (layers done, layers) after each layer.
        Returns:
            latency_cycles and energy_pj, float64 [L, A], infinite where a layer cannot
            run; area_um2, float64 [A].
        """
        parts = self.detailed(layers, accelerators, on_progress)
        return Cost(
            latency_cycles=parts.latency_cycles,
            energy_pj=parts.energy_by_component_pj.sum(axis=0),
            area_um2=parts.area_um2,
        )

    def why_infeasible(self, layer: Layer, accelerators: Accelerators) -> str:
        """Return which resource is too small for a layer that can run on no accelerator."""
        return _why_infeasible(layer, accelerators, self.machine, self.rule)

    def detailed(
        self,
        layers: Sequence[Layer],
        accelerators: Accelerators,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> DetailedCost:
        """Return the cost of every layer on every accelerator in parts; see `__call__`."""
        # Winners are costed at the end, all layers together; entry 0 is "cannot run".
        found: list[FoundMapping] = []
        choice = np.zeros((len(layers), len(np.asarray(accelerators.pe_x))), np.int64)

        def search(layer: Layer) -> list[tuple[np.ndarray, list[FoundMapping], np.ndarray]]:
            return [*_search_dataflows(layer, accelerators, self.machine, self.rule)]

        for index, results in enumerate(map_in_threads(search, layers)):
            for rows, part, of_rows in results:
                choice[index, rows] = np.where(of_rows < 0, 0, of_rows + 1 + len(found))
                found += part
            if on_progress is not None:
                on_progress(index + 1, len(layers))
        _, cost = _exact_cost(found, self.machine)

        def pick(values: np.ndarray) -> np.ndarray:
            return np.concatenate([[np.inf], values])[choice]

        latency, compute = pick(cost.cycles), pick(cost.cycle_terms[0])
        energy = np.stack([pick(values) for values in cost.energy_parts_pj])
        bounds = np.concatenate([[-1], np.argmax(cost.cycle_terms, axis=0)])
        bound_by = bounds[choice].astype(np.int8)
        area = cost_model.accelerator_area_um2(
            accelerators.pe_x,
            accelerators.pe_y,
            self.machine.rf_words(np.asarray(accelerators.rf_bytes)),
            self.machine,
        )
        return DetailedCost(latency, compute, energy, bound_by, area)


def _why_infeasible(
    layer: Layer, accelerators: Accelerators, machine: MachineConfig, rule: str
) -> str:
    """Return what each dataflow lacks on the largest of its accelerators."""
    reasons: dict[str, list[str]] = {}
    for code, dataflow in enumerate(DATAFLOWS):
        rows = np.flatnonzero(np.asarray(accelerators.dataflow) == code)
        if rows.size:
            pe_x, pe_y, rf_bytes = (np.asarray(field)[rows] for field in accelerators[:3])
            reason = shortage(
                layer,
                dataflow,
                np.unique(pe_x).tolist(),
                np.unique(pe_y).tolist(),
                rule,
                rf_words=int(machine.rf_words(rf_bytes.max())),
                global_buffer_words=machine.global_buffer_words,
                is_split=machine.rf_mode == "split",
            )
            reasons.setdefault(reason or "no mapping fits", []).append(dataflow)
    if len(reasons) == 1:
        return next(iter(reasons))
    return "; ".join(f"{reason} ({', '.join(names)})" for reason, names in reasons.items())


def best_mapping(
    layer: Layer, accelerator: Accelerator, machine: MachineConfig, rule: str = "strip"
) -> BestMapping:
    """Return the best mapping of one layer on one accelerator.

    Raises:
        UserError: If the accelerator cannot run the layer.
    """
    return best_mappings([layer], accelerator, machine, rule)[0]


def best_mappings(
    layers: Sequence[Layer], accelerator: Accelerator, machine: MachineConfig, rule: str = "strip"
) -> list[BestMapping]:
    """Return the best mapping of each layer; those of the same shape share one search.

    Raises:
        UserError: If the accelerator cannot run a layer.
    """
    single = Accelerators(
        pe_x=np.asarray([accelerator.pe_x]),
        pe_y=np.asarray([accelerator.pe_y]),
        rf_bytes=np.asarray([accelerator.rf_bytes]),
        dataflow=np.asarray([DATAFLOWS.index(accelerator.dataflow)]),
    )
    found: dict[Layer, FoundMapping] = {}
    shapes = [dataclasses.replace(layer, name="") for layer in layers]
    for layer, shape in zip(layers, shapes, strict=True):
        if shape in found:
            continue
        ((_, winners, choice),) = _search_dataflows(layer, single, machine, rule)
        if choice[0] < 0:
            raise UserError(
                f"layer {layer.name!r} cannot run on {accelerator.pe_x}x{accelerator.pe_y}"
                f" {accelerator.dataflow} with {accelerator.rf_bytes} B:"
                f" {_why_infeasible(layer, single, machine, rule)}"
            )
        found[shape] = winners[int(choice[0])]
    counts, cost = _exact_cost(list(found.values()), machine)
    column = {shape: m for m, shape in enumerate(found)}
    return [
        BestMapping(
            mapping=as_mapping(found[shape], machine.rf_mode == "split"),
            padded_layer=_padded(layer, found[shape]),
            counts=AccessCounts._make(field[..., column[shape]] for field in counts),
            cost=cost_model.MappingCost._make(field[..., column[shape]] for field in cost),
        )
        for layer, shape in zip(layers, shapes, strict=True)
    ]


def _padded(layer: Layer, found: FoundMapping) -> Layer:
    """Return the layer that a mapping multiplies out to."""
    n, k, c, p, q, r, s, g = found.spread.padded_bounds
    groups = 1 if layer.kind == "depthwise" else g
    return dataclasses.replace(layer, N=n, K=k * g, C=c, P=p, Q=q, R=r, S=s, groups=groups)


def count_mappings(
    layer: Layer, accelerators: Accelerators, machine: MachineConfig, rule: str = "strip"
) -> int:
    """Return how many different mappings a search of a layer chooses among.

    Orders of DRAM loops that the mapper passes over as no better are not counted.
    """
    return sum(
        SpreadSearch(candidates, spreads_of_chunk, points).count()
        for _, candidates, points, _ in _candidates(layer, accelerators, machine, rule)
        for spreads_of_chunk in candidates.chunks(range(len(candidates.spreads)))
    )


def _candidates(
    layer: Layer, accelerators: Accelerators, machine: MachineConfig, rule: str
) -> Iterator[tuple[np.ndarray, Candidates, list[DesignPoint], np.ndarray]]:
    """Yield of each dataflow its accelerators' rows, its mappings, points and each row's point."""
    points, point_of = design_points(accelerators, machine)
    for code, dataflow in enumerate(DATAFLOWS):
        rows = np.flatnonzero(np.asarray(accelerators.dataflow) == code)
        if not rows.size:
            continue
        pe_x, pe_y = (
            np.unique(np.asarray(sides)[rows]).tolist()
            for sides in (accelerators.pe_x, accelerators.pe_y)
        )
        used, of_row = np.unique(point_of[rows], return_inverse=True)
        of_dataflow = [points[index] for index in used]
        candidates = Candidates(
            layer,
            dataflow,
            spreads(layer, dataflow, pe_x, pe_y, rule),
            dram_orders(layer, dataflow),
            rf_words=max(point.rf_words for point in of_dataflow),
            global_buffer_words=max(point.machine.global_buffer_words for point in of_dataflow),
            is_split=machine.rf_mode == "split",
        )
        yield rows, candidates, of_dataflow, of_row


def design_points(
    accelerators: Accelerators, machine: MachineConfig
) -> tuple[list[DesignPoint], np.ndarray]:
    """Return the different points of accelerators, and the index of each row's, int [A]."""
    rf_words = np.asarray(machine.rf_words(np.asarray(accelerators.rf_bytes)))
    different, of_row = np.unique(rf_words, return_inverse=True)
    return [DesignPoint(machine, words) for words in different.tolist()], of_row


def _search_dataflows(
    layer: Layer, accelerators: Accelerators, machine: MachineConfig, rule: str
) -> Iterator[tuple[np.ndarray, list[FoundMapping], np.ndarray]]:
    """Yield of each dataflow its rows, the mappings that win, and each row's (-1: none)."""
    for rows, candidates, points, point_of in _candidates(layer, accelerators, machine, rule):
        x = np.searchsorted(candidates.spreads.sides_x, np.asarray(accelerators.pe_x)[rows])
        y = np.searchsorted(candidates.spreads.sides_y, np.asarray(accelerators.pe_y)[rows])
        winners, choice = _search(candidates, points)
        yield rows, winners, choice[point_of, x, y]


def _search(
    candidates: Candidates, points: Sequence[DesignPoint]
) -> tuple[list[FoundMapping], np.ndarray]:
    """Return the mappings that win anywhere, and which one wins, int [points, xs, ys]."""
    winners: list[FoundMapping] = []
    all_spreads = candidates.spreads
    shape = (len(points), len(all_spreads.sides_x), len(all_spreads.sides_y))
    choice, best_row = np.full(shape, -1), np.full(shape, -1)
    best, best_tie = (np.full(shape, np.inf, np.float32) for _ in range(2))
    figures = figures_of(all_spreads, candidates.dataflow, points)
    order = SpreadOrder(candidates, points, figures)
    for rows in order.chunks(best):
        search = SpreadSearch(candidates, rows, points, figures)
        score, tie_break = search.best()
        fits_x, fits_y = search.spreads.fits_x, search.spreads.fits_y
        for point in range(len(points)):
            order_of_point = np.lexsort((search.rows, tie_break[:, point], score[:, point]))
            ranked = order_of_point[np.isfinite(score[order_of_point, point])]
            if not ranked.size:
                continue
            fits = fits_x[ranked][:, :, None] & fits_y[ranked][:, None]
            spread = ranked[fits.argmax(axis=0)]
            value, tie, row = score[spread, point], tie_break[spread, point], search.rows[spread]
            is_better = value < best[point]
            is_tied = value == best[point]
            is_better |= is_tied & (tie < best_tie[point])
            # Chunks come in any order; ties go to the first in that of enumeration.
            is_better |= is_tied & (tie == best_tie[point]) & (row < best_row[point])
            is_better &= fits.any(axis=0)
            if not is_better.any():
                continue
            for known, new in ((best, value), (best_tie, tie), (best_row, row)):
                known[point][is_better] = new[is_better]
            indices, which = np.unique(spread[is_better], return_inverse=True)
            choice[point][is_better] = len(winners) + which
            winners += search.winners(indices, point)
    used, choice_of_used = np.unique(choice, return_inverse=True)
    kept = [winners[index] for index in used if index >= 0]
    return kept, choice_of_used.reshape(shape) - (1 if -1 in used else 0)


def _exact_cost(
    found: Sequence[FoundMapping], machine: MachineConfig
) -> tuple[AccessCounts, cost_model.MappingCost]:
    """Return counts and cost of M mappings, float64 arrays."""
    is_split = machine.rf_mode == "split"
    batch = MappingBatch(*(tf.convert_to_tensor(f) for f in as_batch(found, is_split)))
    counts = _counter(is_split, machine.accounting)(batch)
    cost = cost_model.mapping_cost(
        counts,
        rf_words=np.asarray([each.rf_words for each in found]),
        is_row_stationary=np.asarray([each.dataflow == "row_stationary" for each in found], bool),
        machine=machine,
    )
    return (
        AccessCounts._make(map(np.asarray, counts)),
        cost_model.MappingCost._make(map(np.asarray, cost)),
    )


@functools.lru_cache(maxsize=4)
def _counter(is_split: bool, accounting: str) -> Callable[[MappingBatch], AccessCounts]:
    """Return `count_accesses`, traced once for any number of mappings."""
    slots = num_slots(is_split)
    height = {"bound": slots, "dim": slots, "stride": 2, "dilation": 2}
    specs = (tf.TensorSpec([height.get(f, 8), None], tf.int32) for f in MappingBatch._fields)
    return tf.function(
        functools.partial(
            count_accesses,
            num_dram_slots=NUM_DRAM_SLOTS,
            is_split=is_split,
            accounting=accounting,
        ),
        input_signature=[MappingBatch(*specs)],
        autograph=False,  # nothing depends on values; tracing takes half the time
    )
