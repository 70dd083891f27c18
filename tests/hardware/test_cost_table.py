"""The cost table: sums of layers, relaxation, cache."""

from __future__ import annotations

import dataclasses
import itertools
import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from dance_tf.config import AcceleratorSpaceConfig, HardwareConfig, MachineConfig, SpaceConfig
from dance_tf.errors import UserError
from dance_tf.hardware.cost_table import load_or_build_table
from dance_tf.hardware.mapper import best_mapping
from dance_tf.structs import Cost
from dance_tf.supernet.search_space import make_space

SPACE = make_space(SpaceConfig(name="tiny_mbconv"))
HARDWARE = HardwareConfig(
    accelerators=AcceleratorSpaceConfig(pe_x=(8, 12), pe_y=(8, 16), rf_bytes=(16, 64))
)


class ArithmeticModel:
    """A cost model of someone's own: exact in float32, infeasible on demand, counts its calls."""

    def __init__(self, *, scale: float = 1.0, infeasible_kernel: int | None = None) -> None:
        self.scale, self.infeasible_kernel, self.num_calls = scale, infeasible_kernel, 0

    @property
    def fingerprint(self) -> str:
        return json.dumps([self.scale, self.infeasible_kernel])

    def __call__(self, workload, accelerators):
        self.num_calls += 1
        macs = np.asarray(workload.dims, np.float64).prod(axis=1)[:, None]
        pes = np.asarray(accelerators.pe_x * accelerators.pe_y, np.float64)
        cycles = self.scale * macs * 1024 / pes
        # A large filter does not run on the last dataflow.
        kernel = np.asarray(workload.dims)[:, 6, None]
        is_blocked = (kernel == self.infeasible_kernel) & (np.asarray(accelerators.dataflow) == 2)
        cycles = np.where(is_blocked, np.inf, cycles)
        energy = np.where(is_blocked, np.inf, macs * 1e3 + cycles)
        return Cost(latency_cycles=cycles, energy_pj=energy, area_um2=pes * 2e3)


def _table(folder, model=None, space=SPACE, hardware=HARDWARE, **options):
    model = ArithmeticModel() if model is None else model
    return load_or_build_table(space, hardware, cost_model=model, cache_dir=folder, **options)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return _table(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def blocked(tmp_path_factory):
    """Return a table in which 7x7 filters do not run on row_stationary."""
    return _table(tmp_path_factory.mktemp("cache"), ArithmeticModel(infeasible_kernel=7))


@pytest.fixture
def mixtures():
    """Return random mixture weights, float32 [5, D, O]."""
    logits = np.random.default_rng(0).normal(size=(5, *SPACE.op_mask.shape))
    weights = np.exp(logits) * SPACE.op_mask
    return (weights / weights.sum(axis=-1, keepdims=True)).astype(np.float32)


def _all_op_indices():
    choices = [np.flatnonzero(row) for row in SPACE.op_mask]
    return np.asarray(list(itertools.product(*choices)), np.int32)


def test_one_hot_is_the_sum_of_the_layers(table):
    """Every network of the space, against its layers costed one by one."""
    ops = _all_op_indices()
    assert len(ops) == SPACE.num_architectures
    metrics = table.metrics_of(ops).numpy()
    accelerators = table.accelerators.all()
    pes = np.asarray(accelerators.pe_x * accelerators.pe_y, np.float64)
    for row, indices in enumerate(ops):
        macs = sum(layer.macs for layer in SPACE.layers(SPACE.from_indices(indices)))
        cycles = macs * 1024 / pes
        expected = np.stack(
            [
                cycles / (table.machine.clock_mhz * 1e3),
                (macs * 1e3 + cycles) * 1e-9,
                pes * 2e-3,
            ],
            axis=-1,
        )
        np.testing.assert_allclose(metrics[row], expected, rtol=1e-6)


def test_expected_metrics_are_linear_in_the_weights(table, mixtures):
    parts = table.expected_metrics(mixtures).numpy()
    share = np.float32([0.1, 0.2, 0.3, 0.15, 0.25])
    mixed = table.expected_metrics(np.einsum("b,bdo->do", share, mixtures)[None]).numpy()[0]
    np.testing.assert_allclose(mixed, np.einsum("b,bam->am", share, parts), rtol=1e-5)


def test_gradients_are_the_costs_of_the_ops(table, mixtures):
    weights = tf.Variable(mixtures)
    with tf.GradientTape() as tape:
        latency = tf.reduce_sum(table.expected_metrics(weights)[..., 0], axis=-1)
    gradient = tape.gradient(latency, weights).numpy()
    step = 0.5  # the function is linear, so a large step is exact and rounds least
    for block, op in np.argwhere(SPACE.op_mask):
        shifted = []
        for sign in (1, -1):
            moved = mixtures.copy()
            moved[:, block, op] += sign * step
            shifted.append(table.expected_metrics(moved).numpy()[..., 0].sum(axis=-1))
        difference = (shifted[0] - shifted[1]) / (2 * step)
        np.testing.assert_allclose(gradient[:, block, op], difference, rtol=1e-3, atol=1e-4)
        if SPACE.op_names[op] != "zero":
            assert (gradient[:, block, op] > 0).all()
    assert np.isfinite(gradient).all()


def test_one_accelerator_per_row_is_a_row_of_all(table, mixtures):
    index = np.asarray([0, 23, 7, 7, 12], np.int32)
    found = table.metrics_at(mixtures, index).numpy()
    everything = table.expected_metrics(mixtures).numpy()
    np.testing.assert_allclose(found, everything[np.arange(5), index], rtol=1e-6)


def test_what_cannot_run_is_infinite_and_only_that(blocked):
    seven = [i for i, name in enumerate(SPACE.op_names) if name.startswith("mbconv7")]
    is_row = np.asarray(blocked.accelerators.all().dataflow) == 2
    ops = _all_op_indices()
    metrics = blocked.metrics_of(ops).numpy()
    uses_seven = np.isin(ops, seven).any(axis=1)
    np.testing.assert_array_equal(np.isinf(metrics[..., 0]), uses_seven[:, None] & is_row[None, :])
    np.testing.assert_array_equal(np.isinf(metrics[..., 0]), np.isinf(metrics[..., 1]))
    assert np.isfinite(metrics[..., 2]).all()
    assert not np.isnan(metrics).any()
    at = blocked.metrics_at(blocked.one_hot(ops), np.full(len(ops), np.argmax(is_row))).numpy()
    np.testing.assert_array_equal(np.isinf(at[:, 0]), uses_seven)
    assert np.isfinite(blocked.reference).all()


def test_an_infeasible_op_leaves_gradients_finite(blocked, mixtures):
    weights = tf.Variable(mixtures)
    with tf.GradientTape() as tape:
        metrics = blocked.expected_metrics(weights)
        total = tf.reduce_sum(tf.where(tf.math.is_finite(metrics), metrics, 0.0))
    assert np.isfinite(tape.gradient(total, weights).numpy()).all()


def test_reference_is_a_row_of_the_uniform_mixture(table):
    uniform = SPACE.op_mask / SPACE.op_mask.sum(axis=1, keepdims=True)
    metrics = table.expected_metrics(uniform[None].astype(np.float32)).numpy()[0]
    best = metrics.astype(np.float64).prod(axis=-1).min()
    assert table.reference.astype(np.float64).prod() == pytest.approx(best, rel=1e-5)
    assert table.latency_cycles(table.reference[0]) == pytest.approx(table.reference[0] * 2e5)


# Cache


def test_a_table_is_built_once(tmp_path):
    model, progress = ArithmeticModel(), []
    first = _table(tmp_path / "a b", model)
    second = _table(str(tmp_path / "a b"), model, on_progress=lambda *p: progress.append(p))
    assert model.num_calls == 1 and not progress
    assert second.content_hash == first.content_hash
    assert second.num_cost_model_calls == first.num_cost_model_calls > 0
    for name in ("latency_ms", "energy_mj", "fixed_latency_ms", "fixed_energy_mj", "area_mm2"):
        array = getattr(second, name)
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, getattr(first, name))
    assert [path.suffix for path in (tmp_path / "a b").iterdir()] == [".npz"]


def test_whatever_changes_the_numbers_changes_the_key(tmp_path):
    faster = dataclasses.replace(HARDWARE, machine=MachineConfig(clock_mhz=400.0))
    fewer = dataclasses.replace(
        HARDWARE, accelerators=dataclasses.replace(HARDWARE.accelerators, rf_bytes=(16,))
    )
    wider = make_space(SpaceConfig(name="tiny_mbconv", width_multiplier=2.0))
    classes = make_space(SpaceConfig(name="tiny_mbconv"), num_classes=7)
    tables = [
        _table(tmp_path),
        _table(tmp_path, ArithmeticModel(scale=2.0)),
        _table(tmp_path, hardware=faster),
        _table(tmp_path, hardware=fewer),
        _table(tmp_path, space=wider),
        _table(tmp_path, space=classes),
    ]
    assert len({table.content_hash for table in tables}) == len(tables)
    assert len(list(tmp_path.iterdir())) == len(tables)
    np.testing.assert_allclose(tables[2].latency_ms * 2, tables[0].latency_ms)


def _damage(path: pathlib.Path):
    """Yield damaged contents of a cached table."""
    whole = path.read_bytes()
    yield b""
    yield b"not a table\n"
    for share in (0.1, 0.5, 0.9, 0.999):
        yield whole[: int(len(whole) * share)]
    rng = np.random.default_rng(3)
    for position in rng.choice(len(whole), 150, replace=False):
        changed = bytearray(whole)
        changed[position] ^= 1 << int(rng.integers(8))
        yield bytes(changed)


def test_a_damaged_file_is_never_used(tmp_path):
    intact = _table(tmp_path)
    (path,) = tmp_path.iterdir()
    num_refused = 0
    for content in list(_damage(path)):
        path.write_bytes(content)
        try:
            table = _table(tmp_path)
        except UserError as error:
            num_refused += 1
            assert str(path) in str(error) and "delete it" in str(error)
            assert "\n" not in str(error)
        else:  # a byte of zip's own bookkeeping that does not matter
            np.testing.assert_array_equal(table.latency_ms, intact.latency_ms)
            np.testing.assert_array_equal(table.area_mm2, intact.area_mm2)
            assert table.num_cost_model_calls == intact.num_cost_model_calls
    assert num_refused > 100
    path.unlink()
    np.testing.assert_array_equal(_table(tmp_path).latency_ms, intact.latency_ms)


def test_the_file_of_another_table_is_not_used(tmp_path):
    _table(tmp_path / "a")
    _table(tmp_path / "b", ArithmeticModel(scale=2.0))
    (mine,), (other,) = ((tmp_path / name).iterdir() for name in "ab")
    mine.write_bytes(other.read_bytes())
    with pytest.raises(UserError, match="corrupted"):
        _table(tmp_path / "a")


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="table cache"):
        _table(tmp_path / "file" / "cache")


def test_a_failed_build_leaves_nothing(tmp_path):
    class Failing(ArithmeticModel):
        def __call__(self, workload, accelerators):
            cost = super().__call__(workload, accelerators)
            return cost._replace(latency_cycles=np.full_like(cost.latency_cycles, np.inf))

    with pytest.raises(UserError, match="can run on no accelerator"):
        _table(tmp_path, Failing())
    assert not list(tmp_path.iterdir())


# The real model


def test_cells_are_the_best_mappings_of_their_layers(tmp_path):
    hardware = HardwareConfig(
        accelerators=AcceleratorSpaceConfig(pe_x=(8,), pe_y=(9,), rf_bytes=(16,))
    )
    done = []
    table = load_or_build_table(
        SPACE, hardware, cache_dir=tmp_path, on_progress=lambda *p: done.append(p)
    )
    assert done[-1][0] == done[-1][1] == len(done)
    assert table.num_cost_model_calls == len(done) * len(table.accelerators)
    op = SPACE.op_names.index("mbconv5_e3")
    for index in range(len(table.accelerators)):
        accelerator = table.accelerators.decode(index)
        best = [
            best_mapping(layer, accelerator, hardware.machine)
            for layer in SPACE.op_layers(1, "mbconv5_e3")
        ]
        cycles = sum(b.cycles for b in best)
        energy_pj = sum(b.energy_pj for b in best)
        assert table.latency_ms[1, op, index] == pytest.approx(cycles / 2e5, rel=1e-6)
        assert table.energy_mj[1, op, index] == pytest.approx(energy_pj * 1e-9, rel=1e-6)
