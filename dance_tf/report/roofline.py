"""Plots of a run's network: rooflines of its layers, and its cost on every accelerator.

Words moved are known of mappings alone, so rooflines are for costs of the loop-nest model. The
scatter of all accelerators is from the exact table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from dance_tf.config import MachineConfig
from dance_tf.files import Json
from dance_tf.hardware.accelerator import accelerator_to_json
from dance_tf.hardware.loopnest.cost_model import BOUNDS
from dance_tf.hardware.loopnest.drawing import LayerDrawing, draw_layers
from dance_tf.hardware.loopnest.mapper import best_mappings
from dance_tf.report.charts import Mark, Plot, line_path, points_path, scale_of
from dance_tf.report.exact import ExactParts
from dance_tf.report.run_folder import Run
from dance_tf.report.texts import accelerator_name, component_name, number
from dance_tf.structs import DATAFLOWS, Accelerator, Layer

__all__ = [
    "MappedLayer",
    "MappedNetwork",
    "accelerator_scatter",
    "front_rows",
    "map_network",
    "roofline_rows",
    "rooflines",
]


@dataclasses.dataclass(frozen=True)
class MappedLayer:
    """Cycles of a layer under its best mapping, and the words that it moves.

    Attributes:
        layer: Layer of the network.
        cycles: Latency in cycles.
        dram_words: Words read from DRAM and written to it.
        buffer_words: Words read from the global buffer, or written to it where these are more.
        bound_by: One of cost_model.BOUNDS.
    """

    layer: Layer
    cycles: float
    dram_words: float
    buffer_words: float
    bound_by: str

    @property
    def macs_per_cycle(self) -> float:
        """MACs of the layer, without padding, over its cycles."""
        return self.layer.macs / self.cycles


@dataclasses.dataclass(frozen=True)
class MappedNetwork:
    """The layers of a network on one accelerator, and pictures of their mappings."""

    accelerator: Accelerator
    machine: MachineConfig
    layers: tuple[MappedLayer, ...]
    drawings: tuple[LayerDrawing, ...]


def map_network(
    layers: Sequence[Layer], accelerator: Accelerator, machine: MachineConfig
) -> MappedNetwork:
    """Find the best mapping of each layer again, and count what it moves.

    Raises:
        UserError: If a layer cannot run on the accelerator.
    """
    best = best_mappings(layers, accelerator, machine)
    found = [
        MappedLayer(
            layer=layer,
            cycles=float(each.cost.cycles),
            dram_words=float(each.counts.dram_accesses),
            buffer_words=float(
                max(each.counts.global_buffer_words_out, each.counts.global_buffer_words_in)
            ),
            bound_by=BOUNDS[int(each.cost.cycle_terms.argmax())],
        )
        for layer, each in zip(layers, best, strict=True)
    ]
    drawings = draw_layers(layers, [each.mapping for each in best], accelerator)
    return MappedNetwork(accelerator, machine, tuple(found), tuple(drawings))


def rooflines(network: MappedNetwork) -> list[Plot]:
    """Return the roofline of DRAM and that of the global buffer.

    A layer does at most as many MACs per cycle as there are PEs, and at most as many as
    the words that come in a cycle serve.
    """
    machine = network.machine
    return [
        _roofline(network, title, name, words, per_cycle, network.accelerator.num_pes)
        for title, name, words, per_cycle in (
            (
                "Roofline of DRAM",
                "word of DRAM",
                [layer.dram_words for layer in network.layers],
                machine.dram_words_per_cycle,
            ),
            (
                "Roofline of the global buffer",
                "word of the buffer, the busier way",
                [layer.buffer_words for layer in network.layers],
                machine.global_buffer_words_per_cycle,
            ),
        )
    ]


def _roofline(
    network: MappedNetwork,
    title: str,
    name: str,
    words: Sequence[float],
    per_cycle: float | None,
    num_pes: int,
) -> Plot:
    points = [
        (layer.layer.macs / moved, layer.macs_per_cycle, layer)
        for layer, moved in zip(network.layers, words, strict=True)
    ]
    reuse = [point[0] for point in points]
    y = scale_of([*(point[1] for point in points), float(num_pes)], is_log=True)
    ridge = None if per_cycle is None else num_pes / per_cycle
    x = scale_of([*reuse, *([] if ridge is None else [ridge])], is_log=True)
    marks, key = [], []
    if per_cycle is not None and ridge is not None:
        start = max(x.low, y.low / per_cycle)
        slope = line_path([(start, start * per_cycle), (ridge, num_pes)], x, y)
        marks.append(Mark(slope, "roof slope"))
        key.append(("line-slope", f"{per_cycle:g} words per cycle"))
    start = x.low if ridge is None else ridge
    marks.append(Mark(line_path([(start, num_pes), (x.high, num_pes)], x, y), "roof array"))
    key.append(("line-roof", f"{num_pes:,} MACs per cycle, one for each PE"))
    for bound in BOUNDS:
        of_bound = [point for point in points if point[2].bound_by == bound]
        for at, rate, layer in of_bound:
            text = f"{layer.layer.name}: {number(at, 3)} MACs per word, {number(rate, 3)} per cycle"
            marks.append(Mark(points_path([(at, rate)], x, y), f"dot by-{bound}", text))
        if of_bound:
            key.append((f"dot by-{bound}", f"layer bound by {component_name(bound)}"))
    best = max(points, key=lambda point: point[1])
    return Plot(
        title=title,
        description=(
            f"{len(points)} layers, from {number(min(reuse), 3)} to {number(max(reuse), 3)} MACs"
            f" per {name}; the fastest, {best[2].layer.name}, does {number(best[1], 3)} of"
            f" {num_pes:,} MACs per cycle."
        ),
        x_label=f"MACs per {name}",
        y_label="MACs per cycle",
        x=x,
        y=y,
        marks=tuple(marks),
        key=tuple(key),
    )


def roofline_rows(network: MappedNetwork) -> list[dict[str, Json]]:
    """Return the points of both rooflines, layer by layer, as texts for a table."""
    num_pes = network.accelerator.num_pes
    rows = []
    for each in network.layers:
        macs, rates = each.layer.macs, [float(num_pes)]
        per_dram = network.machine.dram_words_per_cycle
        rates += [] if per_dram is None else [per_dram * macs / each.dram_words]
        rates.append(network.machine.global_buffer_words_per_cycle * macs / each.buffer_words)
        rows.append(
            {
                "name": each.layer.name,
                "dram": number(macs / each.dram_words, 3),
                "buffer": number(macs / each.buffer_words, 3),
                "rate": number(each.macs_per_cycle, 3),
                "roof": number(min(rates), 3),
                "share": f"{100 * min(1.0, each.macs_per_cycle / min(rates)):.1f} %",
                "bound_by": component_name(each.bound_by),
            }
        )
    return rows


# Sizes of dots, by area.
_NUM_SIZES = 4


def accelerator_scatter(run: Run, exact: ExactParts) -> Plot | None:
    """Return latency against energy of the network on every accelerator; None of a cost of 0.

    Colours are dataflows, sizes areas. Dark dots are the front of latency, energy and area.
    """
    metrics = exact.metrics
    runs = np.isfinite(metrics).all(axis=1)
    dataflows = np.asarray(exact.accelerators.all().dataflow)
    if (metrics[runs] <= 0).any():  # a measured table may say so; a logarithm cannot show it
        return None
    given = {} if run.limits is None else dataclasses.asdict(run.limits)
    limits = [given.get("max_latency_ms"), given.get("max_energy_mj")]
    scales = [
        scale_of([*metrics[runs, i].tolist(), *([limit] if limit else [])], is_log=True)
        for i, limit in enumerate(limits)
    ]
    x, y = scales
    edges = np.geomspace(metrics[runs, 2].min(), metrics[runs, 2].max(), _NUM_SIZES + 1)[1:]
    sizes = np.minimum(np.searchsorted(edges, metrics[:, 2]), _NUM_SIZES - 1)
    marks = []
    for size in range(_NUM_SIZES - 1, -1, -1):  # the small ones on top, so that they are seen
        for code in range(len(DATAFLOWS)):
            points = metrics[runs & (sizes == size) & (dataflows == code), :2]
            if len(points):
                path = points_path(points.tolist(), x, y)
                marks.append(Mark(path, f"dot cloud d{code} z{size}"))
    marks.append(Mark(points_path(metrics[exact.front, :2].tolist(), x, y), "dot on-front"))
    key = [
        (f"dot d{code}", dataflow.replace("_", " "))
        for code, dataflow in enumerate(DATAFLOWS)
        if (runs & (dataflows == code)).any()
    ]
    key += [
        (f"dot z{size}", f"up to {number(float(edge), 3)} mm²")
        for size, edge in enumerate(edges)
        if (runs & (sizes == size)).any()
    ]
    key.append(("dot on-front", "beaten by no other in latency, energy and area"))
    if limits[0]:
        marks.append(Mark(f"M{x.at(limits[0]):g} 0V100", "limit"))
    if limits[1]:
        marks.append(Mark(f"M0 {100 - y.at(limits[1]):.5g}H100", "limit"))
    if any(limits):
        key.append(("line-limit", "limit"))
    own = metrics[exact.row, :2].tolist()
    name = accelerator_name(run.result["accelerator"])
    path = points_path([own], x, y)
    marks += [Mark(path, "dot ring"), Mark(path, "dot hole"), Mark(path, "dot core", name)]
    key.append(("dot ring+dot hole+dot core", "this run"))
    share = np.mean((metrics[runs, :2] >= metrics[exact.row, :2]).all(axis=1))
    return Plot(
        title="Latency and energy on every accelerator",
        description=(
            f"{runs.sum():,} accelerators, from {_range(metrics[runs, 0])} ms and"
            f" {_range(metrics[runs, 1])} mJ. This run's, {name}, has {number(own[0])} ms and"
            f" {number(own[1])} mJ; {100 * share:.0f} % of all are no better in either."
        ),
        x_label="latency, ms",
        y_label="energy, mJ",
        x=x,
        y=y,
        marks=tuple(marks),
        key=tuple(key),
    )


def front_rows(run: Run, exact: ExactParts) -> list[dict[str, Json]]:
    """Return the accelerators on the front, as texts for a table."""
    return [
        {
            "name": accelerator_name(accelerator_to_json(exact.accelerators.decode(row))),
            "values": [number(value) for value in exact.metrics[row].tolist()],
            "objective": number(float(run.objective(exact.metrics[row], run.reference))),
            "is_chosen": row == exact.row,
        }
        for row in exact.front.tolist()
    ]


def _range(values: np.ndarray) -> str:
    return f"{number(float(values.min()))} to {number(float(values.max()))}"
