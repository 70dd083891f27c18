"""Build the cost table of a network space on an accelerator space, or load it from the cache.

Prints a JSON summary: where the table is, what it holds, and the cost within reach.
"""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

from dance_tf.files import Json, strict_data

from . import flags as common

if TYPE_CHECKING:
    from dance_tf.hardware.cost_table import CostTable

FLAGS = common.shared_flags("preset", "config", "set", "cache_dir")


def main(argv: list[str]) -> None:
    """Build or load, and print."""
    del argv
    config = common.experiment_config(FLAGS)
    common.check_effects(config, "build_cost_table", FLAGS)
    common.load_tensorflow()
    from dance_tf.hardware.cost_table import cost_source, default_cache_dir, load_or_build_table
    from dance_tf.run.terminal import progress
    from dance_tf.supernet.space_files import make_space

    space = make_space(config.space)
    folder = FLAGS["cache_dir"].value or default_cache_dir()
    began = time.monotonic()
    with progress("cost table") as report:
        table = load_or_build_table(space, config.hardware, cache_dir=folder, on_progress=report)
    summary = {
        "space": space.name,
        "num_architectures": space.num_architectures,
        "num_accelerators": len(table.accelerators),
        "num_cells": int(space.op_mask.sum()),
        "num_layers": len(table.layer_rows),
        "cost_source": cost_source(config.hardware),
        "content_hash": table.content_hash,
        "cache_dir": os.path.abspath(folder),
        "is_from_cache": not table.was_built,
        "wall_s": time.monotonic() - began,
        "num_cost_model_calls": table.num_cost_model_calls,
        **_reach(table),
    }
    print(json.dumps(strict_data(summary), indent=2, allow_nan=False))


def _reach(table: CostTable) -> dict[str, Json]:
    """Return what runs, and the smallest and largest metric of any network on any accelerator."""
    import numpy as np

    mask = table.space.op_mask[..., None]
    fixed = {"latency_ms": table.fixed_latency_ms, "energy_mj": table.fixed_energy_mj}
    reach: dict[str, Json] = {
        "num_infeasible_cells": int((mask & ~np.isfinite(table.latency_ms)).sum())
    }
    for name, always in fixed.items():
        cells = getattr(table, name).astype(np.float64)
        least = always + np.where(mask, cells, np.inf).min(axis=1).sum(axis=0)
        most = always + np.where(mask & np.isfinite(cells), cells, -np.inf).max(axis=1).sum(axis=0)
        reach[name] = {"min": least.min(), "max": most[np.isfinite(most)].max()}
    reach["area_mm2"] = {"min": table.area_mm2.min(), "max": table.area_mm2.max()}
    names = ("latency_ms", "energy_mj", "area_mm2")
    reach["reference"] = dict(zip(names, np.asarray(table.reference).tolist(), strict=True))
    return reach


if __name__ == "__main__":
    common.run(main, FLAGS)
