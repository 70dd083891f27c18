"""Each estimator of the architecture gradient against what it is said to be."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import tensorflow as tf

from dance_tf.config import ARCH_GRADIENTS, SearchConfig
from dance_tf.hardware.objective import EDAP
from dance_tf.search.arch_gradients import ESTIMATORS, cross_entropy, estimate, keep_totals
from dance_tf.search.steps import CoSearchSteps
from dance_tf.structs import Evaluation
from dance_tf.supernet.supernet import SUPERNETS, Supernet
from tests.search.problems import ScoredSupernet, make_problem, tinted_images

SPACE = make_problem().space
ZERO = SPACE.op_names.index("zero")
NOTHING = (tf.zeros([1, 8, 8, 3]), tf.zeros([1], tf.int32))  # what a ScoredSupernet looks at


class _Costs:
    """An evaluator whose latency is linear in the mixture weights."""

    def __init__(self, costs):
        self._costs = tf.constant(costs, tf.float32)

    def evaluate(self, mixture_weights, objective_vectors):
        latency = tf.reduce_sum(mixture_weights * self._costs, axis=(1, 2))
        return Evaluation(tf.stack([latency, [1.0], [1.0]], axis=-1), tf.zeros([1], tf.int32))


def _config(gradient, **changes):
    return SearchConfig(arch_gradient=gradient, **changes)


def _gradient_of(supernet, gradient, batch, seed):
    """Return the cross-entropy and the estimate of its gradient, [D, O]."""
    logits = supernet.arch_logits.value
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(logits)
        found = estimate(supernet, _config(gradient), *batch, tf.convert_to_tensor(seed))
    return found.cross_entropy, tape.gradient(found.surrogate, logits)


def _scored(seed=0):
    random = np.random.RandomState(seed)
    supernet = ScoredSupernet(SPACE, random.normal(size=(2, 7)))
    supernet.arch_logits.assign(random.normal(size=(2, 7)) * 0.5)
    return supernet


def _pair_shares(logits, pair):
    weights = np.exp(logits.astype(np.float64)) * (pair > 0)
    return weights / weights.sum(axis=1, keepdims=True)


def test_names_are_those_of_the_configuration():
    assert tuple(ESTIMATORS) == ARCH_GRADIENTS


def test_score_function_is_unbiased():
    """Its mean over many draws is the gradient of the expected cross-entropy, Zero included."""
    supernet = _scored()
    every = tf.constant(list(itertools.product(range(6), range(7))))
    losses = tf.constant(supernet.cross_entropy(every), tf.float32)
    logits = supernet.arch_logits.value
    with tf.GradientTape() as tape:
        tape.watch(logits)
        p = supernet.mixture_weights()
        chances = tf.gather(p[0], every[:, 0]) * tf.gather(p[1], every[:, 1])
        expected_loss = tf.reduce_sum(chances * losses)
    expected = tape.gradient(expected_loss, logits)
    seeds = tf.stack([tf.ones(1500, tf.int32), tf.range(1500)], axis=1)

    @tf.function
    def draw(seeds):
        return tf.map_fn(
            lambda seed: _gradient_of(supernet, "score_function", NOTHING, seed),
            seeds,
            fn_output_signature=(tf.float32, tf.float32),
        )

    found, gradients = (x.numpy() for x in draw(seeds))
    assert np.mean(found) == pytest.approx(float(expected_loss), abs=0.02)
    error = gradients.mean(axis=0) - expected
    standard_error = gradients.std(axis=0) / np.sqrt(len(gradients))
    assert np.abs(error).max() < 4 * standard_error.max()
    assert np.linalg.norm(error) < 0.2 * np.linalg.norm(expected)
    assert abs(expected.numpy()[1, ZERO]) > 0 and gradients[:, 1, ZERO].std() > 0


@pytest.fixture(scope="module", params=SUPERNETS)
def real(request):
    """A supernet of either kind whose ops differ in probability, and held-out images."""
    supernet = Supernet(SPACE, 0, request.param)
    supernet.arch_logits.assign(np.random.RandomState(2).normal(size=(2, 7)) * 0.5)
    return supernet, next(iter(tinted_images().split("architecture", batch_size=8, seed=0)))


def _steps(supernet, config, costs):
    return CoSearchSteps(
        supernet=supernet,
        evaluator=_Costs(costs),
        objective=EDAP,
        reference=np.ones(3),
        config=config,
        total_steps=10,
    )


def _gate_gradients(supernet, batch, op_indices, inactive=None):
    """Return the gradient of the cross-entropy in the gates at those of a path, [D, O]."""
    gates = tf.one_hot(op_indices, SPACE.num_ops)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(gates)
        logits = supernet.call_path(batch[0], op_indices, gates, True, inactive)
        loss = cross_entropy(batch[1], logits)
    return loss, tape.gradient(loss, gates).numpy().astype(np.float64)


def test_one_path_takes_the_gates_of_what_is_computed(real):
    """d logit_i = sum_j g_j p_j (delta_ij - p_i), where g_j is 0 of what is not computed."""
    supernet, batch = real
    p = supernet.mixture_weights().numpy().astype(np.float64)
    for number in range(2):
        path, _ = supernet.sample_gates([number, 0])
        loss, gates = _gate_gradients(supernet, batch, path)
        found_loss, found = _gradient_of(supernet, "one_path", batch, [number, 0])
        assert float(found_loss) == pytest.approx(float(loss), rel=1e-5)
        expected = gates * p - p * np.sum(gates * p, axis=1, keepdims=True)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)
        if supernet.kind == "proxyless":
            is_sampled = np.eye(SPACE.num_ops)[path.numpy()] > 0
            assert not gates[~is_sampled].any()


def test_two_paths_compare_the_gates_of_two_ops(real):
    """d logit_i = q_i q_j (g_i - g_j); the value is the active path's alone."""
    supernet, batch = real
    drawn = {number: supernet.sample_pair([number, 0]) for number in range(80)}
    with_zero = [n for n, (pair, *_) in drawn.items() if pair[1, ZERO] > 0]
    is_active = [n for n in with_zero if drawn[n][1][1] == ZERO]
    is_inactive = [n for n in with_zero if drawn[n][2][1] == ZERO]
    for number in (is_active[0], is_inactive[0]):
        pair, active, inactive = supernet.sample_pair([number, 0])
        loss, gates = _gate_gradients(supernet, batch, active, inactive)
        alone = cross_entropy(batch[1], supernet.call_path(batch[0], active, None, True))
        found_loss, found = _gradient_of(supernet, "two_path", batch, [number, 0])
        assert float(found_loss) == pytest.approx(float(alone), rel=1e-5)
        assert float(loss) == pytest.approx(float(alone), rel=1e-5)
        q = _pair_shares(supernet.arch_logits.numpy(), pair.numpy())
        for d, (a, b) in enumerate(zip(active.numpy(), inactive.numpy(), strict=True)):
            moved = q[d, a] * q[d, b] * (gates[d, a] - gates[d, b])
            expected = np.zeros(SPACE.num_ops)
            expected[[a, b]] = moved, -moved
            np.testing.assert_allclose(found[d], expected, rtol=1e-3, atol=1e-6)
        # Zero's own gate has none, so all of it is the other op's.
        assert gates[1, ZERO] == 0 and found[1, ZERO] != 0


def test_the_gate_of_the_inactive_op_is_the_inner_product_with_its_outputs(real):
    """Against finite differences; neither weights nor inputs hear of the inactive op."""
    supernet, batch = real
    path, inactive = tf.constant([1, 2]), tf.constant([4, 5])
    _, gradient = _gate_gradients(supernet, batch, path, inactive)
    gates = np.eye(SPACE.num_ops, dtype=np.float32)[path.numpy()]
    for d, o in ((0, 1), (0, 4), (1, 2), (1, 5)):
        ends = []
        for nudge in (1e-2, -1e-2):
            moved = gates.copy()
            moved[d, o] += nudge
            logits = supernet.call_path(batch[0], path, moved, True, inactive)
            ends.append(float(cross_entropy(batch[1], logits)))
        assert gradient[d, o] == pytest.approx((ends[0] - ends[1]) / 2e-2, rel=0.1, abs=2e-3)
    values = [w.value for w in supernet.network_weights]
    found = []
    for with_gates in (None, gates):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            beside = None if with_gates is None else inactive
            logits = supernet.call_path(batch[0], path, with_gates, True, beside)
            loss = cross_entropy(batch[1], logits)
        found.append([tf.convert_to_tensor(g) for g in tape.gradient(loss, values)])
    for plain, beside in zip(*found, strict=True):
        np.testing.assert_allclose(beside, plain, rtol=1e-4, atol=1e-6)


def test_two_paths_by_hand_where_one_is_zero():
    """Scores 3 and 0, logits log 3 and 0: all that follows can be done on paper."""
    supernet = ScoredSupernet(SPACE, np.zeros((2, 7)))
    scores, logits = np.zeros((2, 7), np.float32), np.full((2, 7), -30.0, np.float32)
    scores[1, 0], logits[1, 0], logits[1, ZERO] = 3.0, np.log(3.0), 0.0
    supernet.scores = tf.constant(scores)
    supernet.arch_logits.assign(logits)
    seen = {}
    for number in range(20):
        _, active, _ = supernet.sample_pair([number, 0])
        loss, gradient = _gradient_of(supernet, "two_path", NOTHING, [number, 0])
        seen[int(active[1])] = (float(loss), gradient.numpy()[1])
    assert set(seen) == {0, ZERO}
    # The loss log(1 + exp(-score)) falls by 1 / (1 + exp(score)) per score; q is 3/4 and 1/4.
    for active, score in ((0, 3.0), (ZERO, 0.0)):
        loss, gradient = seen[active]
        assert loss == pytest.approx(np.log1p(np.exp(-score)), rel=1e-5)
        moved = 0.75 * 0.25 * -3.0 / (1.0 + np.exp(score))
        expected = np.zeros(7)
        expected[[0, ZERO]] = moved, -moved
        np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-9)


def test_a_step_on_two_paths_keeps_their_total_probability():
    """Cross-entropy and cost together move two logits of each block, and the total stays."""
    supernet, costs = _scored(3), np.random.RandomState(4).uniform(0.1, 2.0, (2, 7))
    steps = _steps(supernet, _config("two_path", arch_learning_rate=0.1), costs)
    for number in range(5):
        seed = [number, 1]
        pair = supernet.sample_pair(seed)[0].numpy() > 0
        before, old = supernet.mixture_weights().numpy(), supernet.arch_logits.numpy()
        steps.architecture_step(*NOTHING, tf.constant(seed), tf.constant(0.5))
        after = supernet.mixture_weights().numpy()
        moved = supernet.arch_logits.numpy() != old
        assert np.array_equal(moved, pair) and np.abs(after - before)[pair].min() > 1e-3
        np.testing.assert_allclose((after * pair).sum(1), (before * pair).sum(1), rtol=1e-5)
        np.testing.assert_allclose(after[~pair], before[~pair], rtol=1e-5)


def test_the_cost_weighs_on_two_paths_as_the_cross_entropy_does():
    """Both go through q: the first step's direction is that of the sum, op against op."""
    supernet, lambda_2 = _scored(5), 0.7
    costs = np.random.RandomState(6).uniform(0.1, 2.0, (2, 7))
    config = _config("two_path", arch_learning_rate=0.01)
    for number in range(4):
        pair, active, inactive = supernet.sample_pair([number, 2])
        total = float(tf.reduce_sum(tf.one_hot(active, 7) * supernet.scores))
        gates = -supernet.scores.numpy() / (1.0 + np.exp(total))
        worth = gates + lambda_2 * costs  # of each op: what the loss gains to first order
        q = _pair_shares(supernet.arch_logits.numpy(), pair.numpy())
        with tf.GradientTape() as tape:
            tape.watch(supernet.arch_logits.value)
            found = estimate(supernet, config, *NOTHING, tf.constant([number, 2]))
            metrics = _Costs(costs).evaluate(found.mixture_weights[None], None).metrics[0]
            loss = found.surrogate + lambda_2 * metrics[0]
        np.testing.assert_allclose(found.mixture_weights, supernet.mixture_weights(), atol=1e-6)
        gradient = tape.gradient(loss, supernet.arch_logits.value).numpy()
        for d, (a, b) in enumerate(zip(active.numpy(), inactive.numpy(), strict=True)):
            moved = q[d, a] * q[d, b] * (worth[d, a] - worth[d, b])
            assert gradient[d, a] == pytest.approx(moved, rel=1e-3)
            assert gradient[d, b] == pytest.approx(-moved, rel=1e-3)


def test_totals_by_hand():
    before = np.log([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    after = np.log([[2.0, 2.0, 4.0], [4.0, 5.0, 6.0]])
    pair = np.float32([[1, 0, 1], [0, 1, 1]])
    kept = keep_totals(*(tf.constant(x, tf.float32) for x in (before, after, pair)))
    # 2 + 4 has to be 1 + 3 again.
    np.testing.assert_allclose(np.exp(kept), [[4 / 3, 2.0, 8 / 3], [4.0, 5.0, 6.0]], rtol=1e-5)


def test_pairs_are_drawn_without_replacement_and_the_active_op_by_their_own_shares():
    supernet = _scored(1)
    num = 6000
    seeds = tf.stack([tf.range(num), tf.ones(num, tf.int32)], axis=1)
    dtypes = (tf.float32, tf.int32, tf.int32)
    draw = tf.function(lambda s: tf.map_fn(supernet.sample_pair, s, fn_output_signature=dtypes))
    pairs, active, inactive = draw(seeds)
    p = supernet.mixture_weights().numpy().astype(np.float64)
    counts = np.zeros((2, 7, 7))  # active, inactive
    for d in range(2):
        np.add.at(counts[d], (active[:, d], inactive[:, d]), 1)
    assert not counts[:, range(7), range(7)].any()
    one_hots = tf.one_hot(active, 7) + tf.one_hot(inactive, 7)
    np.testing.assert_array_equal(pairs, one_hots)
    expected = np.zeros_like(counts)
    for d, (i, j) in itertools.product(range(2), itertools.permutations(range(7), 2)):
        drawn = p[d, i] * p[d, j] * (1 / (1 - p[d, i]) + 1 / (1 - p[d, j]))
        expected[d, i, j] = drawn * p[d, i] / max(p[d, i] + p[d, j], 1e-30)
    assert expected.sum(axis=(1, 2)) == pytest.approx([1, 1])
    np.testing.assert_allclose(counts / num, expected, atol=0.02)


@pytest.mark.parametrize("kind", SUPERNETS)
def test_a_block_with_one_op_stays_as_it_is(kind):
    """The first block of this space has no Zero, so here it has nothing to choose."""
    space = dataclasses.replace(SPACE, op_names=("mbconv3_e3", "zero"))
    assert space.op_mask.tolist() == [[True, False], [True, True]]
    images = tinted_images()
    batch = next(iter(images.split("architecture", batch_size=8, seed=0)))
    supernet = Supernet(space, 0, kind)
    for gradient in ARCH_GRADIENTS:
        loss, found = _gradient_of(supernet, gradient, batch, [3, 0])
        assert np.isfinite(loss) and np.isfinite(found).all()
        np.testing.assert_allclose(found[0], 0.0, atol=1e-7)
    pair, active, inactive = supernet.sample_pair([3, 0])
    assert pair.numpy().tolist() == [[1, 0], [1, 1]] and active[0] == inactive[0] == 0
    assert {int(active[1]), int(inactive[1])} == {0, 1} and np.abs(found[1]).min() > 0
