"""The tables hold the contract's figures; a user's own is read as it stands, or refused."""

from __future__ import annotations

import csv
import dataclasses
import json
import pathlib

import numpy as np
import pytest

from dance_tf.config import MachineConfig
from dance_tf.errors import UserError
from dance_tf.hardware.layer_costs import area_by_component_um2, break_down
from dance_tf.hardware.loopnest.cost_model import accelerator_area_um2, cost_of_mappings
from dance_tf.hardware.loopnest.mapper import best_mapping
from dance_tf.hardware.technology import (
    format_technology,
    shipped_technologies,
    technology,
    technology_of,
)
from dance_tf.structs import Accelerator, Layer
from tests import reference
from tests.conformance import cases as conformance

WORDS = sorted(reference.RF_PJ)
SHIPPED = ("accelergy_2020_45nm", "cacti_45nm")


@pytest.mark.parametrize("name", SHIPPED)
def test_figures(name):
    tech = technology(name)
    for words in WORDS:
        twin = reference.technology(name, words)
        assert tech.register_file_pj(words, "timeloop_2020") == (reference.RF_PJ[words],) * 2
        assert float(tech.register_file_um2(words)) == pytest.approx(twin["rf_um2"], rel=1e-12)
        assert float(tech.pe_pitch_mm(words)) == pytest.approx(twin["pitch_mm"], rel=1e-12)
    for accounting in ("timeloop_2020", "timeloop_2025"):
        twin = reference.technology(name, 16, accounting)
        figures = (twin["gb_read_pj"], twin["gb_write_pj"])
        assert tech.global_buffer_pj(128, accounting) == pytest.approx(figures, rel=1e-12)
    assert tech.global_buffer_area_um2(128) == twin["gb_um2"]
    assert tech.wire_pj_per_bit_mm.value == twin["wire_pj"]
    assert (tech.mac_pj.value, tech.mac_um2.value) == (2.2, 1239.5)
    assert tech.dram_pj("timeloop_2020") == (128.0, 128.0)


def test_figures_are_those_of_the_shared_table():
    folder = conformance.shared_folder()
    if folder is None:
        pytest.skip("no shared folder: name it with DANCE_TF_SHARED")
    tech = technology("accelergy_2020_45nm")
    with open(folder / "accelergy_2020_45nm.csv", encoding="utf-8", newline="") as file:
        rows = {row["component"]: row for row in csv.DictReader(file)}
    files = [row for name, row in rows.items() if name.startswith("rf_")]
    assert len(files) == len(tech.rf_read_pj.values) > 10
    for row in files:
        words = int(row["words16"])
        assert tech.register_file_pj(words, "timeloop_2020")[0] == float(row["per_16b_word_max_pj"])
        assert float(tech.register_file_um2(words)) == float(row["area_um2"])
    for kib, _ in tech.global_buffer_um2.values:
        row = rows[f"glb_{kib}KiB_64b_32banks"]
        figures = (float(row["read_pj"]) / 4, float(row["write_pj"]) / 4)  # of four words
        assert tech.global_buffer_pj(kib, "timeloop_2025") == figures
        assert tech.global_buffer_area_um2(kib) == float(row["area_um2"])


def test_the_shipped_tables_are_files_with_unit_and_source():
    assert shipped_technologies() == SHIPPED
    for name in SHIPPED:
        tech = technology(name)
        rows = [row for row in tech.to_json().values() if isinstance(row, dict)]
        assert (tech.name, tech.word_bits, len(rows)) == (name, 16, 10)
        assert all(row["unit"] and row["source"] for row in rows)


def test_energy_and_area_grow_with_the_register_file():
    words = np.arange(1, 513)
    for name in SHIPPED:
        tech = technology(name)
        assert (np.diff(tech.register_file_pj(words, "timeloop_2020")[0]) > 0).all()
        assert (np.diff(tech.register_file_um2(words)) > 0).all()


def test_area_of_accelerators():
    machine = MachineConfig()
    area = accelerator_area_um2([8, 24], [8, 24], [8, 128], machine)
    per_pe = [16 * 5.98 * words + 180 + 1239.5 for words in (8, 128)]
    np.testing.assert_allclose(area, 530829 + np.asarray([64, 576]) * per_pe)
    split = accelerator_area_um2([8], [8], [8], MachineConfig(rf_mode="split"))
    assert split[0] - area[0] == pytest.approx(2 * 64 * (16 * 5.98 * 8 + 180))


@pytest.mark.parametrize("words", [0, 513])
def test_a_size_without_a_figure(words):
    with pytest.raises(UserError, match=f"not for {words}"):
        technology("cacti_45nm").register_file_pj([16, words, 32], "timeloop_2020")


def test_names_without_a_table():
    with pytest.raises(UserError, match="there are accelergy_2020_45nm, cacti_45nm"):
        technology("7nm")
    with pytest.raises(UserError, match="did you mean 'cacti_45nm'"):
        technology("cacti_4nm")
    with pytest.raises(UserError, match="known for 128 KiB, not for 99"):
        technology("cacti_45nm").global_buffer_pj(99, "timeloop_2020")


# A table of one's own


@pytest.fixture
def mine(tmp_path):
    """Write changes of a shipped table into a file and return its path."""

    def write(change=None, *, shipped="cacti_45nm", name="my 22 nm.json"):
        data = json.loads(format_technology(technology(shipped)))
        if change is not None:
            data = change(data) or data
        path = tmp_path / name
        path.write_text(json.dumps(data), encoding="utf-8")
        return str(path)

    return write


def _set(path, value):
    """Return a change that sets one key, named with dots; None removes it."""

    def change(data):
        *parents, key = path.split(".")
        node = data
        for parent in parents:
            node = node[parent]
        if value is None:
            del node[key]
        else:
            node[key] = value
        return data

    return change


@pytest.mark.parametrize("name", SHIPPED)
def test_what_is_printed_reads_back_as_the_same(tmp_path, name):
    path = tmp_path / "copy.json"
    path.write_text(format_technology(technology(name)), encoding="utf-8")
    assert technology(str(path)) == technology(name)
    assert technology(str(path)).sha256 == technology(name).sha256
    assert len({technology(shipped).sha256 for shipped in SHIPPED}) == 2


def test_a_home_folder_bom_and_crlf_do_no_harm(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    text = format_technology(technology("cacti_45nm"))
    content = b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode()
    (tmp_path / "mine.json").write_bytes(content)
    assert technology("~/mine.json") == technology("cacti_45nm")


def test_a_change_of_the_file_is_never_missed(mine):
    path = mine()
    before = technology(path)
    assert technology(path) is before  # read again, parsed once
    assert mine(_set("mac_pj.value", 1.1)) == path
    assert technology(path).mac_pj.value == 1.1
    assert technology(path).sha256 != before.sha256


def test_register_files_are_interpolated_where_the_file_says_so(mine):
    def change(data):
        data["rf_pj"]["values"] = [[4, 1.0], [8, 2], [16, 6.0]]

    tech = technology(mine(change))
    words = np.asarray([[4, 5, 8], [10, 12, 16]])
    expected = [[1.0, 1.25, 2.0], [3.0, 4.0, 6.0]]
    np.testing.assert_allclose(
        tech.register_file_pj(words, "timeloop_2020")[0], expected, rtol=1e-15
    )
    for outside in (3, 17):
        with pytest.raises(UserError, match=f"rf_pj is known for 4 to 16 words, not for {outside}"):
            tech.register_file_pj(outside, "timeloop_2020")
    listed = technology(
        mine(lambda data: change(data) or _set("rf_pj.between_sizes", "none")(data))
    )
    assert listed.register_file_pj(8, "timeloop_2020") == (2.0, 2.0)
    with pytest.raises(UserError, match="known for 4, 8, 16 words, not for 10"):
        listed.register_file_pj([4, 10], "timeloop_2020")


def test_buffers_have_sizes_between_only_where_the_file_says_so(mine):
    keys = ("global_buffer_read_pj", "global_buffer_write_pj", "global_buffer_um2")

    def change(data):
        for key in keys:
            data[key]["between_sizes"] = "linear"

    with pytest.raises(UserError, match="known for 32, 64, 128, 256, 512 KiB, not for 48"):
        technology("accelergy_2020_45nm").global_buffer_area_um2(48)
    tech = technology(mine(change, shipped="accelergy_2020_45nm"))
    assert tech.global_buffer_area_um2(48) == (331492 + 578331) / 2
    read, write = tech.global_buffer_pj(48, "timeloop_2025")
    assert read == pytest.approx((38.505 + 49.666) / 8) and write != read
    with pytest.raises(UserError, match="not for 1024"):
        tech.global_buffer_pj(1024, "timeloop_2025")


# Reads and writes

#: One PE, whose buffer has 17 reads and 37 writes, first visits of outputs counted.
LAYER = Layer("line", "conv", 1, 1, 1, 10, 1, 4, 1)
ARRAY = Accelerator(1, 1, 64, "weight_stationary")
MEMORIES = ("rf", "global_buffer", "dram")


def _read_and_write(charges, read=1.0, write=3.0):
    """Return a change that gives every memory a row for reads and one for writes."""

    def change(data):
        for memory in MEMORIES:
            one = data.pop(f"{memory}_pj", None)
            for action, figure in (("read", read), ("write", write)):
                name = f"{memory}_{action}_pj"
                row = data[name] = dict(one or data[name])
                if "values" in row:
                    row["values"] = [[size, figure] for size, _ in row["values"]]
                else:
                    row["value"] = figure
        if charges is not None:
            data["charges"] = charges

    return change


@pytest.mark.parametrize(
    ("charges", "pj"), [("own", (128.0, 88.0)), ("dearest", (162.0, 162.0)), (None, None)]
)
def test_a_read_costs_what_a_read_costs_where_the_table_says_so(mine, charges, pj):
    energies = []
    for figures in ((1.0, 3.0), (3.0, 1.0)):
        path = mine(_read_and_write(charges, *figures))
        machine = MachineConfig(technology=path)
        if charges is None:
            with pytest.raises(UserError, match='rf_read_pj and rf_write_pj differ: add "charges"'):
                technology_of(machine)
            assert technology_of(dataclasses.replace(machine, accounting="timeloop_2025"))
        else:
            energies.append(break_down([LAYER], ARRAY, machine)["energy_by_component_pj"])
    if pj is not None:
        assert tuple(parts["global_buffer"] for parts in energies) == pj
        is_own = charges == "own"
        for memory in ("register_file", "dram"):
            assert (energies[0][memory] != energies[1][memory]) == is_own
        # 40 updates; 80 reads of weights and inputs, and of all partial sums but the first 10.
        fills = 4 + 13 + 10
        accesses = (80 + 30, 40 + fills)
        assert energies[0]["register_file"] == (
            accesses[0] + 3 * accesses[1] if is_own else 3 * sum(accesses)
        )


def test_a_shipped_table_keeps_what_its_accounting_charges(mine):
    name = "accelergy_2020_45nm"
    (note, other) = technology(name).notes("timeloop_2020")
    assert "global_buffer_read_pj and global_buffer_write_pj differ" in note
    assert "pe_pitch_rf_um2 has no effect" in other
    assert technology(name).notes("timeloop_2025") == [other]
    assert technology("cacti_45nm").notes("timeloop_2020") == []
    # As the technology.json of a run is, which has to go on.
    assert technology_of(MachineConfig(technology=mine(shipped=name))) == technology(name)


@pytest.mark.parametrize("wire_pj", [0.0, 0.3])
@pytest.mark.parametrize("accounting", ["timeloop_2020", "timeloop_2025"])
@pytest.mark.parametrize("charges", ["own", "dearest", None])
def test_every_row_changes_a_cost_or_is_said_not_to(mine, charges, accounting, wire_pj):
    mappings = [best_mapping(LAYER, ARRAY, MachineConfig()).mapping]

    def costs(key=None, factor=1.5):
        def change(data):
            _read_and_write(charges)(data)
            data["wire_pj_per_bit_mm"]["value"] = wire_pj
            row = data.get(key, {})
            if "values" in row:
                row["values"] = [[size, figure * factor] for size, figure in row["values"]]
            elif row:
                row["value"] = row["value"] * factor or 0.1

        machine = MachineConfig(technology=mine(change), accounting=accounting)
        _, cost = cost_of_mappings(
            mappings,
            [LAYER],
            rf_words=np.asarray([32]),
            is_row_stationary=np.asarray([False]),
            machine=machine,
        )
        figures = (cost.energy_pj[0], *area_by_component_um2(ARRAY, machine).values())
        return figures, " ".join(technology(machine.technology).notes(accounting))

    if charges is None and accounting == "timeloop_2020":
        with pytest.raises(UserError, match="differ: add"):
            costs()
        return
    before, _ = costs()
    table = technology(mine(_read_and_write(charges))).to_json()
    rows = [key for key, row in table.items() if isinstance(row, dict)]
    assert len(rows) == 12
    for key in rows:
        after, notes = costs(key)
        assert after != before or key in notes, key


def test_the_distance_of_pes_follows_from_their_own_area_unless_said(mine):
    tech = technology(mine(_set("pe_pitch_rf_um2", None), shipped="accelergy_2020_45nm"))
    assert float(tech.pe_pitch_mm(64)) == pytest.approx((1114.68 + 1239.5) ** 0.5 * 1e-3)
    assert dataclasses.asdict(tech)["pe_pitch_rf_um2"] == dataclasses.asdict(tech)["rf_um2"]


def test_words_of_another_width_are_refused(mine):
    path = mine(_set("word_bits", 8))
    with pytest.raises(UserError, match=r"word_bits is 16, but technology .* words of 8 bits"):
        technology_of(MachineConfig(technology=path))
    with pytest.raises(UserError, match=r"word_bits is 8, but technology cacti_45nm .* of 16"):
        technology_of(MachineConfig(word_bits=8))
    machine = MachineConfig(technology=path, word_bits=8)
    assert technology_of(machine).word_bits == 8
    assert machine.rf_words(64) == 64 and machine.global_buffer_words == 128 * 1024


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda data: [data], "not an object"),
        (_set("mac_pJ", {}), "unknown key 'mac_pJ'; did you mean 'mac_pj'?"),
        (_set("rf_pj.valeus", []), "unknown key 'rf_pj.valeus'; did you mean 'values'?"),
        (_set("rf_pj.value", 1.0), "unknown key 'rf_pj.value'"),
        (_set("rf_um2", None), "rf_um2 is missing"),
        (_set("dram_pj", None), "dram_pj is missing"),
        (_set("dram_read_pj", {}), "dram_pj and dram_read_pj are both given"),
        (lambda data: data.update(rf_read_pj=data.pop("rf_pj")), "rf_write_pj is missing"),
        (_set("charges", "cheapest"), "charges is 'cheapest', not 'own' or 'dearest'"),
        (_set("dram_pj.source", None), "dram_pj.source is missing"),
        (_set("dram_pj.source", " "), "dram_pj.source is ' ', not a text"),
        (_set("name", None), "name is missing"),
        (_set("name", ""), "name is ''"),
        (_set("schema_version", 2), "schema_version is 2, this reads 1"),
        (_set("schema_version", None), "schema_version is missing"),
        (_set("word_bits", 0), "word_bits is 0"),
        (_set("word_bits", 16.0), "word_bits is 16.0"),
        (_set("mac_pj", 2.2), "mac_pj is 2.2, not an object with value, unit, source"),
        (_set("mac_pj.value", -2.2), "mac_pj.value is -2.2, not positive"),
        (_set("mac_pj.value", 0), "mac_pj.value is 0, not positive"),
        (_set("mac_pj.value", "2.2"), "mac_pj.value is '2.2', not a number"),
        (_set("mac_pj.value", True), "mac_pj.value is True, not a number"),
        (_set("mac_pj.value", 10**400), "not positive and finite"),
        (_set("mac_um2.value", float("nan")), "mac_um2.value is not a number"),
        (_set("mac_um2.value", float("inf")), "mac_um2.value is infinite"),
        (_set("wire_pj_per_bit_mm.value", -0.1), "wire_pj_per_bit_mm.value is -0.1"),
        (_set("mac_pj.unit", "fJ per MAC"), "mac_pj.unit is 'fJ per MAC', not 'pJ per MAC'"),
        (_set("rf_pj.size", "bytes"), "rf_pj.size is 'bytes', not 'words'"),
        (_set("rf_pj.between_sizes", "cubic"), "'cubic', not 'linear' or 'none'"),
        (_set("rf_pj.values", {"1": 2}), "not a list of [size, figure]"),
        (_set("rf_pj.values", []), "not a list of [size, figure]"),
        (_set("rf_pj.values", [[1, 2, 3]]), "rf_pj.values has [1, 2, 3]"),
        (_set("rf_pj.values", [[1, 1.0], [1, 2.0]]), "rf_pj.values has size 1 after 1"),
        (_set("rf_pj.values", [[8, 1.0], [4, 2.0]]), "rf_pj.values has size 4 after 8"),
        (_set("rf_pj.values", [[0, 1.0]]), "rf_pj.values has size 0"),
        (_set("rf_pj.values", [[1.5, 1.0]]), "rf_pj.values has size 1.5"),
        (_set("rf_pj.values", [[4, 0.0]]), "rf_pj.values at 4 is 0.0, not positive"),
    ],
)
def test_a_mistake_in_the_file_is_one_line_with_file_and_key(mine, change, says):
    with pytest.raises(UserError) as error:
        technology(mine(change))
    assert says in str(error.value)
    assert "my 22 nm.json: " in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "not a table", '{"mac_pj": NaN}', "1e999", "[[" * 9999])
def test_what_is_no_json_is_one_line(tmp_path, text):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"bad\.json: ") as error:
        technology(str(path))
    assert "\n" not in str(error.value)
    path.unlink()
    with pytest.raises(UserError, match=r"bad\.json: no such file"):
        technology(str(path))


def test_the_files_go_where_the_package_goes():
    project = (pathlib.Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    shipped = project.partition("[tool.setuptools.package-data]")[2].partition("\n[")[0]
    assert '"hardware/technologies/*.json"' in shipped
