"""A table of one's own measurements: read as it stands, complete, or refused."""

from __future__ import annotations

import csv
import dataclasses
import io
import math

import numpy as np
import pytest

from dance_tf.config import AcceleratorSpaceConfig, HardwareConfig, MachineConfig, SpaceConfig
from dance_tf.errors import UserError
from dance_tf.hardware.accelerator import AcceleratorSpace
from dance_tf.hardware.cost_table import load_or_build_table
from dance_tf.hardware.layers import layer_key, space_layers
from dance_tf.hardware.measured import MeasuredCostModel, write_cost_template
from dance_tf.hardware.objective import EDAP
from dance_tf.hardware.oracle import best_accelerators
from dance_tf.structs import DATAFLOWS, Accelerators, Cost, Layer
from dance_tf.supernet.space_files import make_space

SPACE = make_space(SpaceConfig(name="tiny_mbconv"))
MACHINE = MachineConfig(clock_mhz=150.0)
BOARDS = HardwareConfig(
    machine=MACHINE,
    accelerators=AcceleratorSpaceConfig(
        pe_x=(16,), pe_y=(16,), rf_bytes=(64, 128), dataflow=("row_stationary",)
    ),
)
LAYERS = [
    Layer("stem", "conv", 1, 8, 3, 16, 12, 3, 5, stride=(2, 1)),
    Layer("depthwise", "depthwise", 1, 8, 1, 16, 16, 3, 3, dilation=(2, 2)),
    Layer("grouped", "conv", 2, 8, 3, 4, 4, 1, 1, groups=4),
    Layer("dense", "conv", 1, 10, 80, 1, 1, 1, 1),
]
ARRAYS = Accelerators(
    np.asarray([16, 16]), np.asarray([8, 8]), np.asarray([64, 128]), np.asarray([0, 2])
)


def _costs(layers, accelerators):
    """Return made-up costs: positive, of no pattern, one pair infeasible."""
    rng = np.random.default_rng(5)
    shape = (len(layers), len(np.asarray(accelerators.pe_x)))
    cycles, energy = rng.uniform(1e3, 1e7, shape), rng.uniform(1e5, 1e9, shape)
    cycles[0, -1] = energy[0, -1] = math.inf
    return Cost(cycles, energy, rng.uniform(1e6, 1e7, shape[1]))


@pytest.fixture
def mine(tmp_path):
    """Return a CSV file of made-up costs of LAYERS on ARRAYS, and the costs."""
    cost = _costs(LAYERS, ARRAYS)
    path = tmp_path / "my boards.csv"
    assert write_cost_template(path, LAYERS, ARRAYS, cost, MACHINE) == 8
    return path, cost


def _edit(path, change):
    """Change the rows of a CSV file, a list of lists with the header first."""
    rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"))))
    rows = change(rows) or rows
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    path.write_text(text.getvalue(), encoding="utf-8")
    return rows[0]


def _put(row, column, value):
    def change(rows):
        rows[row][rows[0].index(column)] = value

    return change


def test_what_was_written_is_read(mine):
    path, cost = mine
    found = MeasuredCostModel(path, MACHINE)(LAYERS, ARRAYS)
    for name in Cost._fields:
        np.testing.assert_allclose(getattr(found, name), getattr(cost, name), rtol=1e-15)
    assert math.isinf(found.latency_cycles[0, 1]) and math.isinf(found.energy_pj[0, 1])


def test_any_part_in_any_order_is_costed(mine):
    path, cost = mine
    model = MeasuredCostModel(path, MACHINE)
    part = Accelerators(*(np.asarray(field)[::-1] for field in ARRAYS))
    found = model([LAYERS[2], LAYERS[1], LAYERS[2]], part)
    expected = cost.latency_cycles[[2, 1, 2]][:, ::-1]
    np.testing.assert_allclose(found.latency_cycles, expected, rtol=1e-15)
    np.testing.assert_allclose(found.area_um2, cost.area_um2[::-1], rtol=1e-15)


def test_a_table_of_ours_read_back_is_the_same_table(tmp_path):
    """Through the CSV file or straight from the model: equal to the last bit."""
    hardware = HardwareConfig(
        machine=MACHINE,
        accelerators=AcceleratorSpaceConfig(pe_x=(8, 12), pe_y=(8,), rf_bytes=(16, 64)),
    )
    layers, accelerators = space_layers(SPACE), AcceleratorSpace(hardware.accelerators).all()

    class Model:
        fingerprint = "made up"

        def __call__(self, layers, accelerators):
            num = len(np.asarray(accelerators.pe_x))
            dims = np.asarray([layer.dims for layer in layers])
            drawn = [np.random.default_rng(row).uniform(1e3, 1e9, (2, num)) for row in dims]
            cycles, energy = np.stack(drawn, axis=1)
            cycles[dims[:, 6] == 7, -1] = energy[dims[:, 6] == 7, -1] = math.inf
            return Cost(cycles, energy, np.random.default_rng(0).uniform(1e6, 1e7, num))

    write_cost_template(
        tmp_path / "t.csv", layers, accelerators, Model()(layers, accelerators), MACHINE
    )
    tables = [
        load_or_build_table(SPACE, hardware, cost_model=model, cache_dir=tmp_path / "cache")
        for model in (Model(), MeasuredCostModel(tmp_path / "t.csv", MACHINE))
    ]
    assert tables[0].content_hash != tables[1].content_hash
    for name in ("latency_ms", "energy_mj", "fixed_latency_ms", "fixed_energy_mj", "area_mm2"):
        np.testing.assert_array_equal(getattr(tables[0], name), getattr(tables[1], name))
    assert np.isinf(tables[1].latency_ms).any()


def test_a_space_has_each_shape_once():
    layers = space_layers(SPACE)
    keys = [layer_key(layer) for layer in layers]
    assert len(set(keys)) == len(keys)
    every = {layer_key(layer) for layer in SPACE.fixed_layers()}
    for ops in SPACE.sample(200, seed=1):
        every |= {layer_key(layer) for layer in SPACE.layers(SPACE.from_indices(ops))}
    assert set(keys) == every


def test_a_handful_of_boards_is_a_space(tmp_path):
    path = tmp_path / "boards.csv"
    boards = AcceleratorSpace(BOARDS.accelerators)
    layers = space_layers(SPACE)
    cost = _costs(layers, boards.all())
    cost.latency_cycles[0, -1] = cost.energy_pj[0, -1] = 1e6  # the stem has to run somewhere
    write_cost_template(path, layers, boards.all(), cost, MACHINE)
    model = MeasuredCostModel(path, MACHINE)
    table = load_or_build_table(SPACE, BOARDS, cost_model=model, cache_dir=tmp_path / "cache")
    weights = table.one_hot(SPACE.sample(20, seed=0))
    best = best_accelerators(table, weights, np.tile(EDAP.vector, (20, 1)))
    metrics = table.expected_metrics(weights).numpy().astype(np.float64)
    np.testing.assert_array_equal(best.accelerator_index, metrics.prod(axis=-1).argmin(axis=1))
    assert table.num_cost_model_calls == len(layers) * 2 == model.num_rows


# How the file may look


def _as_spreadsheet(text):
    return b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode() + b"\r\n,,,\r\n"[:2]


def test_bom_crlf_and_blank_last_line_read_the_same(mine):
    path, _ = mine
    plain = MeasuredCostModel(path, MACHINE)
    path.write_bytes(_as_spreadsheet(path.read_text(encoding="utf-8")))
    assert MeasuredCostModel(str(path), MACHINE).fingerprint == plain.fingerprint


def test_order_and_what_is_left_out_make_no_difference(mine):
    path, _ = mine
    plain = MeasuredCostModel(path, MACHINE)
    _edit(path, lambda rows: [rows[0], *rows[:0:-1]])
    assert MeasuredCostModel(path, MACHINE).fingerprint == plain.fingerprint
    _edit(path, lambda rows: [row[::-1] for row in rows])
    assert MeasuredCostModel(path, MACHINE).fingerprint == plain.fingerprint
    default = {"name": None, "kind": "conv", "N": "1", "groups": "1", "dilation_h": None}
    default |= {"stride_w": "1", "dilation_w": "1"}

    def empty(rows):
        for row in rows[1:]:
            for column, value in default.items():
                index = rows[0].index(column)
                row[index] = "" if value in (None, row[index]) else row[index]

    _edit(path, empty)
    assert MeasuredCostModel(path, MACHINE).fingerprint == plain.fingerprint

    def drop(rows):
        kept = [i for i, name in enumerate(rows[0]) if name not in ("name", "dilation_h")]
        return [[row[i] for i in kept] for row in rows]

    _edit(path, drop)
    assert MeasuredCostModel(path, MACHINE).fingerprint == plain.fingerprint


def test_whatever_changes_a_number_changes_the_fingerprint(mine):
    path, _ = mine
    seen = {MeasuredCostModel(path, MACHINE).fingerprint}
    for row, column in ((1, "latency_ms"), (2, "energy_mj"), (1, "area_mm2"), (4, "Q")):
        _edit(path, _put(row, column, "7"))
        seen.add(MeasuredCostModel(path, MACHINE).fingerprint)
    assert len(seen) == 5


@pytest.mark.parametrize(
    ("column", "other", "factor"),
    [
        ("latency_ms", "latency_cycles", 150e3),
        ("energy_mj", "energy_pj", 1e9),
        ("area_mm2", "area_um2", 1e6),
    ],
)
def test_units_are_those_of_the_column(mine, column, other, factor):
    path, cost = mine

    def change(rows):
        index = rows[0].index(column)
        rows[0][index] = other
        for row in rows[1:]:
            if row[index] not in ("", "infeasible"):
                row[index] = repr(float(row[index]) * factor)

    _edit(path, change)
    found = MeasuredCostModel(path, MACHINE)(LAYERS, ARRAYS)
    for name in Cost._fields:
        np.testing.assert_allclose(getattr(found, name), getattr(cost, name), rtol=1e-14)
    _edit(path, lambda rows: [[*row, "1" if i else column] for i, row in enumerate(rows)])
    with pytest.raises(UserError, match=f"has both {column} and {other}"):
        MeasuredCostModel(path, MACHINE)


def test_milliseconds_stay_what_they_are_at_any_clock(mine, tmp_path):
    path, cost = mine
    for clock_mhz in (150.0, 600.0):
        machine = MachineConfig(clock_mhz=clock_mhz)
        found = MeasuredCostModel(path, machine)(LAYERS, ARRAYS)
        found_ms = found.latency_cycles / machine.cycles_per_ms
        np.testing.assert_allclose(found_ms, cost.latency_cycles / 150e3, rtol=1e-14)


# What is refused


def test_a_missing_pair_is_named(mine):
    path, _ = mine
    _edit(path, lambda rows: rows[:6] + rows[7:])
    model = MeasuredCostModel(path, MACHINE)
    model(LAYERS, Accelerators(*(f[:1] for f in ARRAYS)))
    with pytest.raises(UserError) as error:
        model(LAYERS, ARRAYS)
    assert str(error.value).startswith(
        f"{path} has no row for depthwise N=1 K=8 C=1 P=16 Q=16 R=3 S=3, stride 1x1,"
        " dilation 2x2 on 16x8 row_stationary with 128 B: add it, with infeasible"
    )
    unknown = Layer("a", "conv", 1, 9, 9, 9, 9, 1, 1, groups=3)
    with pytest.raises(UserError, match=r"K=9 C=9 .* groups 3 on .*; .* \(2 of 10 are missing\)"):
        model([*LAYERS[2:], LAYERS[0], LAYERS[0], unknown], ARRAYS)
    others = [dataclasses.replace(unknown, P=size) for size in (5, 6)]
    with pytest.raises(UserError, match=r"; 4 more \(7 of 14 are missing\): add them"):
        model([*LAYERS, unknown, *others], ARRAYS)


def test_all_that_a_table_lacks_is_said_before_a_layer_is_costed(tmp_path, monkeypatch):
    """72 of the 144 rows, whatever parts a table is built in."""
    path, boards = tmp_path / "half.csv", AcceleratorSpace(BOARDS.accelerators).all()
    layers = space_layers(SPACE)
    num = write_cost_template(path, layers, boards, _costs(layers, boards), MACHINE)
    _edit(path, lambda rows: rows[: 1 + num // 2])
    model = MeasuredCostModel(path, MACHINE)
    monkeypatch.setattr(MeasuredCostModel, "__call__", None)
    with pytest.raises(UserError, match=rf"{num // 2 - 3} more \({num // 2} of {num} are missing"):
        load_or_build_table(SPACE, BOARDS, cost_model=model, cache_dir=tmp_path / "cache")


def test_several_mistakes_are_said_together(mine):
    path, _ = mine

    def change(rows):
        for row, column in ((1, "K"), (3, "latency_ms"), (4, "energy_mj"), (6, "pe_x")):
            rows = _put(row, column, "no")(rows) or rows
        return rows

    _edit(path, change)
    with pytest.raises(UserError) as error:
        MeasuredCostModel(path)
    text = str(error.value)
    assert all(f"row {row} below the header" in text for row in (1, 3, 4)) and "\n" not in text
    assert text.endswith("; and 1 more")
    _edit(path, lambda rows: [["Kay", "See", *rows[0][2:]], *rows[1:]])
    with pytest.raises(UserError, match=r"unknown column 'Kay'.*unknown column 'See'"):
        MeasuredCostModel(path)


@pytest.mark.parametrize(
    ("column", "unit", "factor"),
    [
        ("latency_ms", "latency_s", 1e-3),
        ("latency_ms", "latency_us", 1e3),
        ("latency_ms", "latency_ns", 1e6),
        ("energy_mj", "energy_j", 1e-3),
        ("energy_mj", "energy_uj", 1e3),
        ("energy_mj", "energy_nj", 1e6),
        ("area_mm2", "area_cm2", 1e-2),
    ],
)
def test_units_that_others_measure_in_are_read(mine, column, unit, factor):
    test_units_are_those_of_the_column(mine, column, unit, factor)


@pytest.mark.parametrize("unit", ["latency_min", "energy_fj", "area_nm2"])
def test_a_unit_that_is_not_read_is_never_renamed(mine, unit):
    path, _ = mine
    column = {"l": "latency_ms", "e": "energy_mj", "a": "area_mm2"}[unit[0]]
    _edit(path, _put(0, column, unit))
    with pytest.raises(UserError, match=f"unknown column '{unit}'.*convert the number") as error:
        MeasuredCostModel(path)
    assert "did you mean" not in str(error.value)


def test_a_missing_area_is_named(mine):
    path, _ = mine
    _edit(path, _put(5, "area_mm2", ""))
    model = MeasuredCostModel(path, MACHINE)
    with pytest.raises(UserError, match="no area for 16x8 row_stationary with 128 B"):
        model(LAYERS, ARRAYS)


def test_an_empty_template_asks_to_be_filled_in(tmp_path):
    path = tmp_path / "template.csv"
    assert write_cost_template(path, [*LAYERS, LAYERS[0]], ARRAYS) == 8
    text = path.read_text(encoding="utf-8")
    assert text.splitlines()[0] == (
        "name,kind,N,K,C,P,Q,R,S,stride_w,stride_h,dilation_w,dilation_h,groups,"
        "pe_x,pe_y,rf_bytes,dataflow,latency_ms,energy_mj,area_mm2"
    )
    assert (
        text.splitlines()[1] == "stem,conv,1,8,3,16,12,3,5,2,1,1,1,1,16,8,64,weight_stationary,,,"
    )
    with pytest.raises(
        UserError, match=r"row 1 below the header: latency_ms is empty, .* or infeas"
    ):
        MeasuredCostModel(path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_put(1, "latency_ms", "0"), "row 1 below the header: latency_ms is '0'"),
        (_put(2, "latency_ms", "-1"), "row 2 below the header: latency_ms is '-1'"),
        (_put(2, "latency_ms", "nan"), "latency_ms is 'nan'"),
        (_put(2, "latency_ms", "1e999"), "latency_ms is '1e999'"),
        (_put(2, "latency_ms", "1_0"), "latency_ms is '1_0'"),
        (_put(2, "latency_ms", "3 ms"), "latency_ms is '3 ms', not a positive finite number"),
        (_put(2, "energy_mj", ""), "energy_mj is empty"),
        (_put(2, "energy_mj", "inf"), "energy_mj is 'inf'"),
        (_put(2, "latency_ms", "infeasible"), "infeasible, and yet"),
        (_put(2, "energy_mj", "infeasible"), "infeasible, and yet"),
        (_put(1, "area_mm2", "nought"), "area_mm2 is 'nought'"),
        (_put(2, "area_mm2", "3"), "area_mm2 of 16x8 weight_stationary with 64 B is 3, but"),
        (_put(1, "K", "0"), "row 1 below the header: K is '0', not a positive integer"),
        (_put(1, "K", ""), "K is '', not a positive integer"),
        (_put(1, "C", "3.5"), "C is '3.5'"),
        (_put(1, "stride_h", "-2"), "stride_h is '-2'"),
        (_put(1, "groups", "3"), "3 groups do not divide K = 8"),
        (_put(2, "C", "2"), "a depthwise layer has C = 1, not 2"),
        (_put(1, "kind", "pool"), "kind is 'pool', not 'conv' or 'depthwise'"),
        (_put(1, "dataflow", "weight"), "dataflow is 'weight', not one of"),
        (_put(1, "rf_bytes", "64 B"), "rf_bytes is '64 B'"),
        (_put(0, "stride_h", "stride_x"), "unknown column 'stride_x'; did you mean 'stride_w'?"),
        (_put(0, "pe_y", "pe_z"), "no column 'pe_y'"),
        (_put(0, "latency_ms", "latency"), "unknown column 'latency'; did you mean 'latency_"),
        (_put(0, "latency_ms", "note"), "no column latency_ms or latency_s"),
        (_put(0, "area_mm2", "note"), "no column area_mm2 or area_cm2"),
        (_put(0, "name", "K"), "two columns are called 'K'"),
        (lambda rows: rows[:1], "a header and no rows"),
        (lambda rows: [*rows, rows[3]], "row 9 below the header: a second cost of conv N=2 K=8"),
    ],
)
def test_a_mistake_is_one_line_with_file_and_place(mine, change, says):
    path, _ = mine
    _edit(path, change)
    with pytest.raises(UserError) as error:
        MeasuredCostModel(path, MACHINE)
    assert says in str(error.value)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_another_separator_and_no_file_are_one_line(mine, tmp_path):
    path, _ = mine
    path.write_text(path.read_text(encoding="utf-8").replace(",", ";"), encoding="utf-8")
    with pytest.raises(UserError, match="separated by ';', not by commas"):
        MeasuredCostModel(path)
    with pytest.raises(UserError, match="no such file"):
        MeasuredCostModel(tmp_path / "none.csv")
    assert len(DATAFLOWS) == 3  # the column holds their names, not their codes
