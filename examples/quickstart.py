"""Cost, best accelerator and gradient of networks of a tiny space; the README shows it.

`python -m examples.quickstart`
"""

import numpy as np
import tensorflow as tf

import dance_tf

# A network space, an accelerator space, and the exact cost of every pair of them.
config = dance_tf.preset("tiny")
space = dance_tf.make_space(config.space)
table = dance_tf.load_or_build_table(space, config.hardware)
print(f"{space.num_architectures} networks x {len(table.accelerators)} accelerators")

# What one network costs on one accelerator.
network = dance_tf.Architecture(space.name, ("mbconv5_e3", "zero"))
accelerator = dance_tf.Accelerator(pe_x=16, pe_y=8, rf_bytes=64, dataflow="row_stationary")
row = table.accelerators.encode(accelerator)
latency_ms, energy_mj, area_mm2 = table.metrics_of([space.to_indices(network)])[0, row].numpy()
print(f"{latency_ms:.4f} ms, {energy_mj:.5f} mJ, {area_mm2:.3f} mm2")

# The best accelerator of each of 40 networks, for energy x delay x area.
networks = table.one_hot(space.sample(40, seed=0))
objectives = np.tile(dance_tf.EDAP.vector, (40, 1))
best = dance_tf.best_accelerators(table, networks, objectives)
rows, counts = np.unique(best.accelerator_index, return_counts=True)
print(f"most often best: {table.accelerators.decode(int(rows[counts.argmax()]))}")

# The cost of a mixture of networks, and its gradient: what the search follows.
evaluator = dance_tf.ExactEvaluator(table)
logits = tf.Variable(tf.zeros([space.num_blocks, space.num_ops]))
with tf.GradientTape() as tape:
    mixture_weights = tf.nn.softmax(tf.where(space.op_mask, logits, -np.inf))
    evaluation = evaluator.evaluate(mixture_weights[None], dance_tf.EDAP.vector[None])
    cost = dance_tf.EDAP(evaluation.metrics, table.reference)[0]
gradient = tape.gradient(cost, logits)
cheapest = [space.op_names[i] for i in np.argmin(gradient, axis=1)]
print(f"EDAP {float(cost):.2f} of the mixture; falls fastest towards {cheapest}")
