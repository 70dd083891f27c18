"""The tables hold the contract's figures."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from dance_tf.config import MachineConfig
from dance_tf.errors import UserError
from dance_tf.hardware.cost_model import accelerator_area_um2
from dance_tf.hardware.technology import TECHNOLOGIES, Row, SizedRow, technology
from tests import reference
from tests.conformance import cases as conformance

WORDS = sorted(reference.RF_PJ)


@pytest.mark.parametrize("name", ["accelergy_2020_45nm", "cacti_45nm"])
def test_figures(name):
    tech = technology(name)
    for words in WORDS:
        twin = reference.technology(name, words)
        assert float(tech.register_file_pj(words)) == reference.RF_PJ[words]
        assert float(tech.register_file_um2(words)) == pytest.approx(twin["rf_um2"], rel=1e-12)
        assert float(tech.pe_pitch_mm(words)) == pytest.approx(twin["pitch_mm"], rel=1e-12)
    for accounting in ("timeloop_2020", "timeloop_2025"):
        twin = reference.technology(name, 16, accounting)
        figures = (twin["gb_read_pj"], twin["gb_write_pj"])
        assert tech.global_buffer_pj(128, accounting) == pytest.approx(figures, rel=1e-12)
    assert tech.global_buffer_area_um2(128) == twin["gb_um2"]
    assert tech.wire_pj_per_bit_mm.value == twin["wire_pj"]
    assert (tech.mac_pj.value, tech.mac_um2.value, tech.dram_pj.value) == (2.2, 1239.5, 128.0)


def test_register_files_are_those_of_the_shared_table():
    folder = conformance.shared_folder()
    if folder is None:
        pytest.skip("no shared folder: name it with DANCE_TF_SHARED")
    tech = technology("accelergy_2020_45nm")
    with open(folder / "accelergy_2020_45nm.csv", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["component"].startswith("rf_")]
    assert len(rows) > 10
    for row in rows:
        words = int(row["words16"])
        assert float(tech.register_file_pj(words)) == float(row["per_16b_word_max_pj"])
        assert float(tech.register_file_um2(words)) == float(row["area_um2"])


def test_every_row_names_unit_and_source():
    for tech in TECHNOLOGIES.values():
        rows = [value for value in vars(tech).values() if isinstance(value, Row | SizedRow)]
        assert len(rows) >= 9
        assert all(row.unit and row.source for row in rows)


def test_energy_and_area_grow_with_the_register_file():
    words = np.arange(1, 513)
    for tech in TECHNOLOGIES.values():
        assert (np.diff(tech.register_file_pj(words)) > 0).all()
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
        technology("cacti_45nm").register_file_pj(words)


def test_names_without_a_table():
    with pytest.raises(UserError, match="there are accelergy_2020_45nm, cacti_45nm"):
        technology("7nm")
    with pytest.raises(UserError, match="no global buffer of 99 KiB"):
        technology("cacti_45nm").global_buffer_pj(99, "timeloop_2020")
