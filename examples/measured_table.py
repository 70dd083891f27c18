"""A cost table of one's own hardware, from template to the best network for it.

Here a formula stands in for the measurements; on a bench, run each row's layer on its
board, or in a simulator, and type in what it took.

`python -m examples.measured_table`
"""

import csv
import math
import pathlib
import tempfile

import numpy as np

import dance_tf

# Two boards: the same 16x16 array with a small and a large register file in each PE.
config = dance_tf.override(
    dance_tf.preset("tiny"),
    [
        "hardware.accelerators.pe_x=[16]",
        "hardware.accelerators.pe_y=[16]",
        "hardware.accelerators.rf_bytes=[64,128]",
        'hardware.accelerators.dataflow=["row_stationary"]',
        "hardware.machine.clock_mhz=100",
    ],
)
space = dance_tf.make_space(config.space)
boards = dance_tf.AcceleratorSpace(config.hardware.accelerators)
path = pathlib.Path(tempfile.mkdtemp()) / "measured.csv"

# Step 1: a template that has every layer of the space on every board.
layers = dance_tf.space_layers(space)
num_rows = dance_tf.write_cost_template(path, layers, boards.all())
print(f"{num_rows} rows: {len(layers)} layers on {len(boards)} boards")

# Step 2: fill it in. Filters of 7x7 do not run on the small register file.
with open(path, encoding="utf-8", newline="") as file:
    rows = list(csv.DictReader(file))
for row in rows:
    macs = math.prod(int(row[name]) for name in ("N", "K", "C", "P", "Q", "R", "S"))
    is_small = row["rf_bytes"] == "64"
    if is_small and row["S"] == "7":
        row["latency_ms"] = "infeasible"
    else:
        row["latency_ms"] = 0.002 + macs / (150 if is_small else 200) / 100e3
        row["energy_mj"] = macs * (6e-9 if is_small else 7e-9)
    row["area_mm2"] = 1.1 if is_small else 1.6
with open(path, "w", encoding="utf-8", newline="") as file:
    writer = csv.DictWriter(file, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)

# Step 3: use it. The search takes it as --set=hardware.measured_csv=FILE.
config = dance_tf.override(config, [f"hardware.measured_csv={path}"])
table = dance_tf.load_or_build_table(space, config.hardware)
networks = space.sample(100, seed=0)
objectives = np.tile(dance_tf.EDAP.vector, (len(networks), 1))
best = dance_tf.best_accelerators(table, table.one_hot(networks), objectives)
for index, board in enumerate(map(boards.decode, range(len(boards)))):
    share = np.mean(np.asarray(best.accelerator_index) == index)
    print(f"{board.rf_bytes} B: the better board of {share:.0%} of the networks")
cheapest = int(np.argmin(best.value))
latency_ms, energy_mj, area_mm2 = np.asarray(best.metrics)[cheapest]
ops = space.from_indices(networks[cheapest]).ops
print(f"least EDAP: {ops}, {latency_ms:.4f} ms, {energy_mj:.5f} mJ, {area_mm2:.1f} mm2")
