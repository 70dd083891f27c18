"""A cost table of made-up numbers, for tests that should not wait for the cost model.

Plausible and cheap: cycles are passes over a ragged array, energy falls with the
register file's reuse, area is a sum of components. No cost model behind it.
"""

from __future__ import annotations

import numpy as np

from dance_tf.config import AcceleratorSpaceConfig, HardwareConfig, SpaceConfig
from dance_tf.hardware.accelerator import AcceleratorSpace
from dance_tf.hardware.cost_table import CostTable
from dance_tf.supernet.space_files import make_space

SMALL = HardwareConfig(
    accelerators=AcceleratorSpaceConfig(pe_x=(8, 12, 16), pe_y=(8, 10, 16), rf_bytes=(16, 64))
)


def make_fake_table(space_name: str = "tiny_mbconv", hardware: HardwareConfig = SMALL) -> CostTable:
    """Return a table of a shipped space on made-up physics."""
    space = make_space(SpaceConfig(name=space_name))
    accelerators = AcceleratorSpace(hardware.accelerators)
    rows = accelerators.all()
    num_pes = rows.pe_x * rows.pe_y

    def cost(layers):
        latency, energy = np.zeros(len(accelerators)), np.zeros(len(accelerators))
        for layer in layers:
            k, c, p, q, r, s = layer.dims[1:]
            weight = np.ceil(c / rows.pe_x) * np.ceil(k / rows.pe_y) * p * q * r * s
            output = np.ceil(p / rows.pe_x) * np.ceil(q / rows.pe_y) * k * c * r * s
            row = np.ceil(q / rows.pe_x) * np.ceil(s * c / rows.pe_y) * k * p * r
            compute = np.choose(rows.dataflow, [weight, output, row])
            reuse = np.choose(rows.dataflow, [p, c * r, r * s]) ** 0.3 * rows.rf_bytes**0.2
            words = layer.macs / (reuse * num_pes**0.25)
            latency += np.maximum(compute, words / 6.4) / 2e5
            energy += (layer.macs * (1.0 + rows.rf_bytes / 64) + 40 * words) * 1e-9
        return latency, energy

    cells = [
        [cost(space.op_layers(block, op)) for op in space.op_names]
        for block in range(space.num_blocks)
    ]
    cells = np.moveaxis(np.asarray(cells, np.float32), 2, 0)  # [2, D, O, A]
    cells = cells * space.op_mask[None, :, :, None]
    fixed = np.asarray(cost(space.fixed_layers()), np.float32)
    area = (0.5 + num_pes * (1e-3 + 4e-5 * rows.rf_bytes)).astype(np.float32)
    arrays = {
        "latency_ms": cells[0],
        "energy_mj": cells[1],
        "fixed_latency_ms": fixed[0],
        "fixed_energy_mj": fixed[1],
        "area_mm2": area,
    }
    content_hash = f"fake {space_name} x {len(accelerators)}"
    return CostTable(space, accelerators, hardware.machine, content_hash, arrays, 1)


def with_arrays(table: CostTable, **arrays: np.ndarray) -> CostTable:
    """Return a table with some of its arrays replaced."""
    names = ("latency_ms", "energy_mj", "fixed_latency_ms", "fixed_energy_mj", "area_mm2")
    changed = {name: arrays.get(name, getattr(table, name)) for name in names}
    return CostTable(table.space, table.accelerators, table.machine, table.content_hash, changed, 1)
