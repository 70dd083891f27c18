"""The neural evaluator: choice, forwarding, and what a saved one survives."""

from __future__ import annotations

import dataclasses
import json
import resource
import shutil

import numpy as np
import pytest
import tensorflow as tf

from dance_tf.config import AcceleratorSpaceConfig, EvaluatorConfig, HardwareConfig
from dance_tf.errors import UserError
from dance_tf.evaluator import loading
from dance_tf.evaluator.dataset import CandidateTable, sample_mixtures
from dance_tf.evaluator.domain import EvaluatorDomain, NetworkShapes, make_networks
from dance_tf.evaluator.exact import ExactEvaluator
from dance_tf.evaluator.loading import check_evaluator, load_evaluator, shipped_path
from dance_tf.evaluator.networks import head_one_hot
from dance_tf.evaluator.neural import FORWARDINGS, NeuralEvaluator, TrustThresholds
from dance_tf.hardware.objective import objective_values, random_objectives
from dance_tf.structs import Evaluation
from tests.evaluator.fake_table import SMALL, make_fake_table

CANDIDATES = np.asarray([3, 20, 41], np.int32)


def _untrained(table, **form: str) -> NeuralEvaluator:
    domain = EvaluatorDomain.of_table(table)
    config = EvaluatorConfig(generator_units=16, estimator_units=24, **form)
    shapes = NetworkShapes.of(config, table, len(CANDIDATES))
    generator, estimator = make_networks(domain, shapes)
    estimator.normalise(table)
    if config.estimator_form == "linear":
        estimator.bound_errors(table)
    return NeuralEvaluator(
        generator, estimator, domain=domain, shapes=shapes, candidates=CANDIDATES
    )


@pytest.fixture(scope="module")
def evaluator(table) -> NeuralEvaluator:
    """Untrained: what is tested here does not depend on the weights."""
    return _untrained(table)


@pytest.fixture(scope="module")
def saved(evaluator, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("saved") / "an evaluator"
    evaluator.save(str(path), metrics={"note": 1.5})
    return str(path)


@pytest.fixture(scope="module")
def queries(table) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return sample_mixtures(table.space, 64, rng), random_objectives(64, rng)


@pytest.mark.parametrize("generator_form", ["ranked", "joint"])
def test_chooses_the_likeliest_candidate(table, queries, generator_form):
    evaluator = _untrained(table, generator_form=generator_form)
    logits = evaluator.logits(*queries).numpy()
    index = evaluator.evaluate(*queries).accelerator_index
    np.testing.assert_array_equal(index, CANDIDATES[logits.argmax(axis=1)])


@pytest.mark.parametrize("estimator_form", ["linear", "plain", "unforwarded"])
def test_the_papers_heads_choose_each_for_itself(table, queries, estimator_form):
    objectives = "edap" if estimator_form == "unforwarded" else "all"
    evaluator = _untrained(
        table,
        generator_form="heads",
        estimator_form=estimator_form,
        training_objectives=objectives,
    )
    logits = evaluator.logits(*queries).numpy()
    ends = np.cumsum(evaluator.head_sizes)
    positions = [part.argmax(axis=1) for part in np.split(logits, ends[:-1], axis=1)]
    evaluation = evaluator.evaluate(*queries)
    np.testing.assert_array_equal(
        table.accelerators.head_indices(np.asarray(evaluation.accelerator_index)),
        np.stack(positions, axis=1),
    )
    assert evaluation.metrics.shape == (64, 3) and np.all(evaluation.metrics > 0)
    trust = evaluator.trust(*queries, evaluation)
    assert trust.predicted_regret.shape == (64,) and np.all(trust.predicted_regret >= 0)
    assert np.isinf(trust.error_bound).all() == (estimator_form != "linear")


def test_a_ranked_choice_follows_the_predicted_objective(table, evaluator, queries):
    index = evaluator.evaluate(*queries).accelerator_index
    metrics = [evaluator.estimate(queries[0], np.full(64, c)) for c in CANDIDATES]
    values = np.stack([objective_values(queries[1], m, table.reference) for m in metrics], axis=1)
    chosen = np.take_along_axis(values, np.searchsorted(CANDIDATES, index)[:, None], axis=1)[:, 0]
    regret = chosen / values.min(axis=1) - 1
    trust = evaluator.trust(*queries, evaluator.evaluate(*queries))
    np.testing.assert_allclose(trust.predicted_regret, regret, atol=1e-5)
    assert regret.max() < 0.01  # The untrained trunk adds little.


def test_trust_is_within_both_thresholds(table, evaluator, queries):
    index = np.full(64, CANDIDATES[1], np.int32)
    evaluation = Evaluation(evaluator.estimate(queries[0], index), index)
    regret, bound, _ = evaluator.trust(*queries, evaluation)
    assert np.all(bound == bound[0]) and np.ptp(regret) > 0
    middle = float(np.sort(regret)[32])
    for max_bound, expected in (
        (float(bound[0]), np.asarray(regret) <= middle),
        (float(bound[0]) * 0.99, np.zeros(64, bool)),
    ):
        evaluator.thresholds = TrustThresholds(middle, max_bound)
        np.testing.assert_array_equal(evaluator.trust(*queries, evaluation).is_trusted, expected)
    evaluator.thresholds = TrustThresholds()


def test_the_exact_evaluator_is_always_trusted(table, queries):
    trust = ExactEvaluator(table).trust(*queries, ExactEvaluator(table).evaluate(*queries))
    assert np.asarray(trust.is_trusted).all()
    assert not np.any(trust.predicted_regret) and not np.any(trust.error_bound)


def test_metrics_are_the_estimate_of_the_generated_accelerator(evaluator, queries):
    evaluation = evaluator.evaluate(*queries)
    estimate = evaluator.estimate(queries[0], evaluation.accelerator_index)
    np.testing.assert_allclose(evaluation.metrics, estimate, rtol=1e-6)
    assert evaluation.metrics.shape == (64, 3)
    assert evaluation.accelerator_index.dtype == tf.int32


def _gradient(evaluator, mixtures, objectives, **options) -> np.ndarray:
    weights = tf.constant(mixtures)
    with tf.GradientTape() as tape:
        tape.watch(weights)
        total = tf.reduce_sum(evaluator.evaluate(weights, objectives, **options).metrics)
    return tape.gradient(total, weights).numpy()


def test_forwarded_hard_the_accelerator_has_no_gradient(evaluator, queries):
    mixtures, objectives = queries
    index = evaluator.evaluate(mixtures, objectives).accelerator_index
    weights = tf.constant(mixtures)
    with tf.GradientTape() as tape:
        tape.watch(weights)
        total = tf.reduce_sum(evaluator.estimate(weights, index))
    fixed = tape.gradient(total, weights)
    np.testing.assert_allclose(_gradient(evaluator, mixtures, objectives), fixed, rtol=1e-5)


def test_forwarded_soft_or_gumbel_it_has(evaluator, queries):
    hard = _gradient(evaluator, *queries)
    for forwarding in ("soft", "gumbel"):
        gradient = _gradient(evaluator, *queries, forwarding=forwarding, seed=(0, 1))
        assert np.isfinite(gradient).all()
        assert np.abs(gradient - hard).max() > 1e-6


def test_gumbel_samples_are_one_hot_and_follow_the_seed(table, queries):
    evaluator = _untrained(table, generator_form="joint")
    first, again, other = (
        evaluator.evaluate(*queries, forwarding="gumbel", seed=(0, seed)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.accelerator_index, again.accelerator_index)
    assert np.any(first.accelerator_index != other.accelerator_index)
    # Forwarded as samples, the metrics are those of the sampled accelerators.
    estimate = evaluator.estimate(queries[0], first.accelerator_index)
    np.testing.assert_allclose(first.metrics, estimate, rtol=1e-4)


def test_a_wrong_forwarding_is_refused(evaluator, queries):
    with pytest.raises(UserError, match="not one of " + ", ".join(FORWARDINGS)):
        evaluator.evaluate(*queries, forwarding="harder")
    with pytest.raises(ValueError, match="seed"):
        evaluator.evaluate(*queries, forwarding="gumbel")


def test_soft_forwarding_is_a_mean_over_the_softmax(table, queries):
    evaluator = _untrained(table, generator_form="joint")
    shares = tf.nn.softmax(evaluator.logits(*queries) / 0.5)
    heads = head_one_hot(table.accelerators.head_indices(CANDIDATES), evaluator.head_sizes)
    expected = evaluator.estimator((queries[0], tf.matmul(shares, heads)))
    soft = evaluator.evaluate(*queries, forwarding="soft", temperature=0.5)
    np.testing.assert_allclose(soft.metrics, expected, rtol=1e-5)


def test_the_soft_minimum_is_that_of_the_exact_evaluator_over_the_candidates(table, queries):
    evaluator = _untrained(table)
    exact = evaluator.estimator.table_coefficients(table)[CANDIDATES]
    evaluator._candidate_costs = tf.constant(exact), tf.constant(table.area_mm2[CANDIDATES])
    # Choosing by the exact cost too: what is left is the average.
    evaluator.generator.log_sharpness.assign(15.0)
    expected = ExactEvaluator(CandidateTable(table, CANDIDATES), 0.01).evaluate(*queries)
    evaluation = evaluator.evaluate(*queries, forwarding="soft_minimum")
    np.testing.assert_array_equal(
        evaluation.accelerator_index, CANDIDATES[expected.accelerator_index]
    )
    np.testing.assert_allclose(evaluation.metrics, expected.metrics, rtol=1e-4)
    with pytest.raises(UserError, match="needs a choice among candidates"):
        _untrained(table, generator_form="heads").evaluate(*queries, forwarding="soft_minimum")


def test_is_frozen(evaluator):
    assert evaluator.generator.trainable_variables == []
    assert evaluator.estimator.trainable_variables == []


def test_graph_equals_eager(evaluator, queries):
    eager, in_graph = evaluator.evaluate(*queries), tf.function(evaluator.evaluate)(*queries)
    np.testing.assert_allclose(in_graph.metrics, eager.metrics, rtol=1e-5)
    np.testing.assert_array_equal(in_graph.accelerator_index, eager.accelerator_index)


def test_a_saved_one_loads_as_it_was(saved, evaluator, queries):
    loaded = NeuralEvaluator.load(saved)
    assert loaded.domain == evaluator.domain
    ours, theirs = loaded.evaluate(*queries), evaluator.evaluate(*queries)
    np.testing.assert_array_equal(ours.metrics, theirs.metrics)
    np.testing.assert_array_equal(ours.accelerator_index, theirs.accelerator_index)
    with open(f"{saved}/manifest.json") as file:
        assert json.load(file)["metrics"] == {"note": 1.5}


def test_saving_again_replaces_and_leaves_nothing_aside(saved, evaluator, tmp_path):
    copy = shutil.copytree(saved, tmp_path / "copy")
    evaluator.save(str(copy))
    assert sorted(p.name for p in copy.iterdir()) == [
        "estimator.weights.h5",
        "generator.weights.h5",
        "manifest.json",
    ]
    NeuralEvaluator.load(str(copy))


def _spoil(path, how: str) -> None:
    manifest = path / "manifest.json"
    data = json.loads(manifest.read_text())
    if how == "no manifest":
        manifest.unlink()
    elif how == "half a manifest":
        manifest.write_text(manifest.read_text()[:500])
    elif how == "other schema":
        manifest.write_text(json.dumps(data | {"schema_version": 99}))
    elif how == "no files":
        manifest.write_text(json.dumps(data | {"files": {}}))
    elif how == "other shapes":
        data["networks"]["generator_units"] = 8
        manifest.write_text(json.dumps(data))
    elif how == "no domain":
        del data["domain"]["machine"]
        manifest.write_text(json.dumps(data))
    elif how == "no weights":
        (path / "estimator.weights.h5").unlink()
    elif how == "cut weights":
        weights = path / "generator.weights.h5"
        weights.write_bytes(weights.read_bytes()[:1000])


@pytest.mark.filterwarnings("ignore:Skipping:UserWarning")
@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("no manifest", "manifest.json: no such file"),
        ("half a manifest", "manifest.json: not JSON"),
        ("other schema", "schema version 2"),
        ("no files", "does not list its files"),
        ("other shapes", "manifest.json does not fit"),
        ("no domain", "manifest.json does not fit"),
        ("no weights", "estimator.weights.h5 is missing"),
        ("cut weights", "generator.weights.h5 is not what was saved"),
    ],
)
def test_a_spoilt_folder_is_refused_in_one_line(saved, tmp_path, how, says):
    copy = shutil.copytree(saved, tmp_path / "copy")
    _spoil(copy, how)
    with pytest.raises(UserError) as raised:
        NeuralEvaluator.load(str(copy))
    message = str(raised.value)
    assert says in message and str(copy) in message and "\n" not in message
    assert "tools.train_evaluator" in message and "--evaluator=exact" in message


def test_load_evaluator_gives_the_kind_that_is_asked_for(table, saved):
    exact = load_evaluator(EvaluatorConfig(kind="exact", softmin_temperature=0.3), table)
    assert isinstance(exact, ExactEvaluator) and exact.softmin_temperature == 0.3
    neural = load_evaluator(EvaluatorConfig(path=saved), table)
    assert isinstance(neural, NeuralEvaluator) and neural.kind == "neural"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("space", "network space (tiny_mbconv, not cifar_mbconv_small)"),
        ("num_classes", "network space (num_classes differ)"),
        ("accelerators", "accelerator space (pe_x, pe_y differ)"),
        ("machine", "machine (clock_mhz differ)"),
        ("content", "cost table (content hash fake tiny_m"),
    ],
)
def test_an_evaluator_of_another_table_is_refused(saved, change, says):
    if change == "space":
        other = make_fake_table("cifar_mbconv_small")
    elif change == "accelerators":
        smaller = AcceleratorSpaceConfig(pe_x=(8,), pe_y=(8,), rf_bytes=(16, 64))
        other = make_fake_table(hardware=HardwareConfig(accelerators=smaller))
    else:
        other = make_fake_table()
        if change == "num_classes":
            other.space = dataclasses.replace(other.space, num_classes=7)
        elif change == "machine":
            other.machine = dataclasses.replace(other.machine, clock_mhz=100.0)
        else:
            other.content_hash = "another"
    with pytest.raises(UserError) as raised:
        load_evaluator(EvaluatorConfig(path=saved), other)
    assert says in str(raised.value) and "--evaluator=exact" in str(raised.value)


def test_the_exact_evaluator_stands_in_where_none_fits(table, monkeypatch, saved):
    says = "no neural evaluator is shipped for space tiny_mbconv"
    standing_in = load_evaluator(EvaluatorConfig(softmin_temperature=0.3), table)
    assert (standing_in.kind, standing_in.softmin_temperature) == ("exact", 0.3)
    assert standing_in.reason == says
    with pytest.raises(UserError, match=says):
        load_evaluator(EvaluatorConfig(kind="neural"), table)
    assert load_evaluator(EvaluatorConfig(kind="exact"), table).reason is None
    # Shipped it would be.
    monkeypatch.setattr(loading, "shipped_path", lambda name: saved)
    shipped = load_evaluator(EvaluatorConfig(), table)
    assert (shipped.kind, shipped.reason) == ("neural", None)
    other = make_fake_table()
    other.space = dataclasses.replace(other.space, num_classes=7)
    assert "num_classes differ" in load_evaluator(EvaluatorConfig(), other).reason
    other = make_fake_table()
    other.content_hash = "another"
    assert "cost table" in load_evaluator(EvaluatorConfig(), other).reason


def test_what_does_not_fit_is_known_before_the_table(saved, monkeypatch):
    space, fitting = make_fake_table().space, SMALL
    other = dataclasses.replace(space, num_classes=7)
    neural, auto = EvaluatorConfig(kind="neural"), EvaluatorConfig()
    for named in (EvaluatorConfig(path=saved), EvaluatorConfig(kind="neural", path=saved)):
        assert check_evaluator(named, space, fitting) is None
        for wrong in ((other, fitting), (space, HardwareConfig())):
            with pytest.raises(UserError, match="differ"):
                check_evaluator(named, *wrong)
    with pytest.raises(UserError, match="no neural evaluator is shipped"):
        check_evaluator(neural, space, fitting)
    monkeypatch.setattr(loading, "shipped_path", lambda name: saved)
    assert check_evaluator(neural, space, fitting) is check_evaluator(auto, space, fitting) is None
    measured = dataclasses.replace(fitting, measured_csv="mine.csv")
    for wrong in ((other, fitting), (space, HardwareConfig()), (space, measured)):
        assert check_evaluator(auto, *wrong)
        assert check_evaluator(EvaluatorConfig(kind="exact"), *wrong) is None
        with pytest.raises(UserError):
            check_evaluator(neural, *wrong)


def test_where_shipped_evaluators_are():
    assert shipped_path("tiny_mbconv").endswith("saved_models/evaluator_tiny_mbconv")


def test_a_full_disk_is_an_error_and_leaves_what_was_there(evaluator, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            evaluator.save(str(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(caught.value.filename).startswith(str(tmp_path))
    assert list(tmp_path.iterdir()) == []
