"""The cost table: sums of layers, relaxation, cache."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf

from dance_tf.config import AcceleratorSpaceConfig, HardwareConfig, MachineConfig, SpaceConfig
from dance_tf.errors import UserError
from dance_tf.hardware.cost_table import load_or_build_table
from dance_tf.hardware.layer_costs import break_down
from dance_tf.hardware.loopnest.cost_model import BOUNDS
from dance_tf.hardware.loopnest.mapper import best_mapping
from dance_tf.structs import METRICS
from dance_tf.supernet.space_files import make_space
from tests.hardware.arithmetic_model import ArithmeticModel, DetailedModel

SPACE = make_space(SpaceConfig(name="tiny_mbconv"))
HARDWARE = HardwareConfig(
    accelerators=AcceleratorSpaceConfig(pe_x=(8, 12), pe_y=(8, 16), rf_bytes=(16, 64))
)


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


def test_sums_are_exact_and_rounded_once(table, mixtures):
    """In float64, whatever the order: alone, in a batch, at one accelerator."""
    metrics = table.expected_metrics(mixtures).numpy()
    for row, weights in enumerate(mixtures.astype(np.float64)):
        for column, name in enumerate(METRICS[:2]):
            cells = np.asarray(getattr(table, name), np.float64)
            total = np.einsum("do,doa->a", weights, cells)
            total += np.asarray(getattr(table, f"fixed_{name}"), np.float64)
            np.testing.assert_array_equal(metrics[row, :, column], total.astype(np.float32))
    index = np.asarray([0, 23, 7, 7, 12], np.int32)
    np.testing.assert_array_equal(table.metrics_at(mixtures, index), metrics[np.arange(5), index])


def test_weights_of_another_shape_are_refused(table, mixtures):
    for weights in (mixtures[0], mixtures[:, :1], mixtures[None]):
        with pytest.raises(ValueError, match=r"mixture weights have shape .*, not \[B, 2, 7\]"):
            table.expected_metrics(weights)


# Single layers


def test_layers_keep_their_costs_and_add_up(tmp_path):
    table = _table(tmp_path, DetailedModel(infeasible_kernel=7))
    assert table.layers.latency_cycles.shape == (len(table.layer_rows), len(table.accelerators))
    architecture = SPACE.from_indices([SPACE.op_names.index("mbconv5_e3")] * SPACE.num_blocks)
    layers, index = SPACE.layers(architecture), 17
    accelerator = table.accelerators.decode(index)
    entries = table.layer_costs(layers, index)
    assert [entry["name"] for entry in entries] == [layer.name for layer in layers]
    num_pes = accelerator.pe_x * accelerator.pe_y
    for entry, layer in zip(entries, layers, strict=True):
        assert (entry["kind"], entry["macs"]) == (layer.kind, layer.macs)
        assert entry["latency_cycles"] == pytest.approx(layer.macs * 1024 / num_pes, rel=1e-6)
        assert entry["energy_pj"] == pytest.approx(layer.macs * 1e3 + entry["latency_cycles"])
        assert sum(entry["energy_by_component_pj"].values()) == pytest.approx(entry["energy_pj"])
        assert entry["energy_by_component_pj"]["mac"] == pytest.approx(entry["energy_pj"] / 2)
        assert entry["utilisation"] == pytest.approx(1 / 1024)
        assert entry["array_utilisation"] == pytest.approx(2 / 1024)
        assert entry["bound_by"] in BOUNDS
    assert len({entry["bound_by"] for entry in entries}) > 1
    metrics = table.metrics_of([SPACE.to_indices(architecture)]).numpy()[0, index]
    assert sum(entry["latency_ms"] for entry in entries) == pytest.approx(metrics[0], rel=1e-6)
    assert sum(entry["energy_pj"] for entry in entries) * 1e-9 == pytest.approx(
        metrics[1], rel=1e-6
    )


def test_a_model_of_totals_has_totals(table):
    layers = SPACE.fixed_layers()
    entries = table.layer_costs(layers, 3)
    assert [entry["macs"] for entry in entries] == [layer.macs for layer in layers]
    for entry in entries:
        assert entry["utilisation"] > 0
        assert not {"energy_by_component_pj", "bound_by", "compute_cycles"} & set(entry)
    assert table.layers.bound_by is None


def test_layers_without_a_cost_are_named(blocked):
    (last,) = np.flatnonzero(np.asarray(blocked.accelerators.all().dataflow) == 2)[-1:]
    layers = SPACE.op_layers(1, "mbconv7_e3")
    assert len(blocked.layer_costs(layers, int(last) - 1)) == 3
    with pytest.raises(UserError, match="'block1/mbconv7_e3/depthwise' cannot run on 12x16 row"):
        blocked.layer_costs(layers, int(last))
    stranger = dataclasses.replace(layers[0], name="stranger", K=5)
    with pytest.raises(UserError, match=r"'stranger' .* is not in the cost table"):
        blocked.layer_costs([stranger], 0)


@pytest.mark.parametrize("value", [np.nan, -1.0, -np.inf])
@pytest.mark.parametrize("field", ["latency_cycles", "energy_pj", "area_um2"])
def test_a_cost_that_is_none_is_refused(tmp_path, field, value):
    class Wrong(ArithmeticModel):
        def __call__(self, layers, accelerators):
            cost = super().__call__(layers, accelerators)
            values = np.array(getattr(cost, field))
            values[..., -1] = value
            return cost._replace(**{field: values})

    with pytest.raises(UserError, match="the cost model gives") as caught:
        _table(tmp_path, Wrong())
    assert str(value) in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("field", ["latency_cycles", "energy_pj", "area_um2"])
def test_costs_of_another_shape_are_refused(tmp_path, field):
    class Short(ArithmeticModel):
        def __call__(self, layers, accelerators):
            cost = super().__call__(layers, accelerators)
            return cost._replace(**{field: getattr(cost, field)[..., :1]})

    with pytest.raises(UserError, match=rf"{field} of shape \(.*1,?\), not \(.*24,?\)"):
        _table(tmp_path, Short())


# On disk


ARRAYS = ("latency_ms", "energy_mj", "fixed_latency_ms", "fixed_energy_mj", "area_mm2")


def _bytes(folder: pathlib.Path) -> dict[str, bytes]:
    (path,) = folder.iterdir()
    return {file.name: file.read_bytes() for file in path.iterdir()}


def test_a_table_is_built_once(tmp_path):
    model, progress = DetailedModel(), []
    first = _table(tmp_path / "a b", model)
    num_calls = model.num_calls
    second = _table(str(tmp_path / "a b"), model, on_progress=lambda *p: progress.append(p))
    assert model.num_calls == num_calls and not progress
    assert first.was_built and not second.was_built
    assert second.content_hash == first.content_hash
    assert second.num_cost_model_calls == first.num_cost_model_calls
    assert first.num_cost_model_calls == len(first.layer_rows) * len(first.accelerators)
    for name in ARRAYS:
        array = getattr(second, name)
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, getattr(first, name))
    assert isinstance(second.latency_ms.base, np.memmap)
    for ours, theirs in zip(first.layers, second.layers, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert [path.name for path in (tmp_path / "a b").iterdir()] == [
        f"table_{first.content_hash[:16]}"
    ]


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
        _table(tmp_path, DetailedModel()),
        _table(tmp_path, hardware=faster),
        _table(tmp_path, hardware=fewer),
        _table(tmp_path, space=wider),
        _table(tmp_path, space=classes),
    ]
    assert len({table.content_hash for table in tables}) == len(tables)
    assert len(list(tmp_path.iterdir())) == len(tables)
    np.testing.assert_allclose(tables[3].latency_ms * 2, tables[0].latency_ms)


def test_an_interrupted_build_goes_on_to_the_same_bytes(tmp_path):
    class Interrupted(DetailedModel):
        def __call__(self, layers, accelerators):
            if self.num_calls == 3:
                raise KeyboardInterrupt
            return super().__call__(layers, accelerators)

    whole = DetailedModel()
    _table(tmp_path / "whole", whole)
    with pytest.raises(KeyboardInterrupt):
        _table(tmp_path / "stopped", Interrupted())
    rest, progress = DetailedModel(), []
    table = _table(tmp_path / "stopped", rest, on_progress=lambda *p: progress.append(p))
    assert table.was_built
    assert rest.num_calls == whole.num_calls - 3 > 0
    num_layers = len(table.layer_rows)
    assert progress[0] == (6, num_layers) and progress[-1] == (num_layers, num_layers)
    assert _bytes(tmp_path / "stopped") == _bytes(tmp_path / "whole")


def test_a_damaged_file_is_never_used(tmp_path):
    intact = _table(tmp_path, DetailedModel())
    (path,) = tmp_path.iterdir()
    for file in sorted(path.iterdir()):
        content = file.read_bytes()
        file.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
        with pytest.raises(UserError, match="corrupted") as caught:
            _table(tmp_path, DetailedModel())
        message = str(caught.value)
        assert str(path) in message and "delete it" in message and "\n" not in message
        file.write_bytes(content)
    shutil.rmtree(path)
    np.testing.assert_array_equal(_table(tmp_path, DetailedModel()).latency_ms, intact.latency_ms)


def test_the_folder_of_another_table_is_not_used(tmp_path):
    _table(tmp_path / "a")
    _table(tmp_path / "b", ArithmeticModel(scale=2.0))
    (mine,), (other,) = ((tmp_path / name).iterdir() for name in "ab")
    shutil.rmtree(mine)
    shutil.copytree(other, mine)
    with pytest.raises(UserError, match="something else"):
        _table(tmp_path / "a")


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="table cache"):
        _table(tmp_path / "file" / "cache")


def test_a_failed_build_leaves_nothing(tmp_path):
    class Failing(ArithmeticModel):
        def __call__(self, layers, accelerators):
            cost = super().__call__(layers, accelerators)
            cost.latency_cycles[[layer.S == 5 for layer in layers]] = np.inf
            return cost

    with pytest.raises(UserError, match=r"layer 'block0/mbconv5_e3/depthwise' .* no accelerator"):
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
    assert done[-1] == (len(table.layer_rows), len(table.layer_rows))
    op = SPACE.op_names.index("mbconv5_e3")
    layers = SPACE.op_layers(1, "mbconv5_e3")
    for index in range(len(table.accelerators)):
        accelerator = table.accelerators.decode(index)
        best = [best_mapping(layer, accelerator, hardware.machine) for layer in layers]
        cycles = sum(b.cost.cycles for b in best)
        energy_pj = sum(b.cost.energy_pj for b in best)
        assert table.latency_ms[1, op, index] == pytest.approx(cycles / 2e5, rel=1e-6)
        assert table.energy_mj[1, op, index] == pytest.approx(energy_pj * 1e-9, rel=1e-6)
        report = break_down(layers, accelerator, hardware.machine)
        for ours, theirs in zip(table.layer_costs(layers, index), report["layers"], strict=True):
            for key in ("macs", "latency_cycles", "compute_cycles", "bound_by"):
                assert ours[key] == theirs[key], key
            for key in ("energy_pj", "utilisation", "array_utilisation"):
                assert ours[key] == pytest.approx(theirs[key], rel=1e-6), key
            for name, energy_pj in ours["energy_by_component_pj"].items():
                assert energy_pj == pytest.approx(
                    theirs["energy_by_component_pj"][name], rel=1e-6
                ), name
