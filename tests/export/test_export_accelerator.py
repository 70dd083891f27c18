"""accelerator.json reads back as it was written, and says what is wrong with it."""

import dataclasses
import json

import pytest

from dance_tf.config import MachineConfig
from dance_tf.errors import UserError
from dance_tf.export import networks
from dance_tf.structs import Accelerator

ACCELERATOR = Accelerator(16, 12, 64, "row_stationary")
MACHINE = MachineConfig(clock_mhz=100.0, dram_words_per_cycle=None)


@dataclasses.dataclass
class _Cost:
    latency_ms: float
    energy_mj: float


def test_round_trip(tmp_path):
    path = tmp_path / "accelerator.json"
    networks.write_accelerator(path, ACCELERATOR, MACHINE, _Cost(0.5, float("inf")))
    accelerator, machine, cost = networks.read_accelerator(path)
    assert (accelerator, machine) == (ACCELERATOR, MACHINE)
    assert cost == {"latency_ms": 0.5, "energy_mj": None, "energy_mj_reason": "infinite"}
    data = json.loads(path.read_text())
    assert set(data["units"]) == set(data["accelerator"])
    assert "cost_source" not in data


def test_where_the_cost_comes_from_is_kept(tmp_path):
    path, source = tmp_path / "accelerator.json", {"kind": "measured", "name": "mine.csv"}
    networks.write_accelerator(path, ACCELERATOR, MACHINE, {}, cost_source=source)
    assert json.loads(path.read_text())["cost_source"] == source
    assert networks.read_accelerator(path)[:2] == (ACCELERATOR, MACHINE)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"schema_version": 2}, "schema_version is 2"),
        ({"machine": None}, "machine is missing"),
        ({"accelerator": {"pe_x": 1}}, "accelerator has to have pe_x, pe_y"),
        ({"machine": {"clock_mh": 1.0}}, "did you mean 'clock_mhz'"),
        ({"machine": {"clock_mhz": -1.0}}, "not within"),
    ],
)
def test_mistakes_are_named(tmp_path, change, says):
    path = tmp_path / "accelerator.json"
    networks.write_accelerator(path, ACCELERATOR, MACHINE, {})
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=r"accelerator\.json") as error:
        networks.read_accelerator(path)
    assert says in str(error.value)


def test_values_out_of_range_are_named(tmp_path):
    path = tmp_path / "accelerator.json"
    networks.write_accelerator(path, ACCELERATOR, MACHINE, {})
    for old, new in (("row_stationary", "column_stationary"), ('"pe_x": 16', '"pe_x": 0')):
        path.write_text(path.read_text().replace(old, new))
        with pytest.raises(UserError, match=r"accelerator\.json: accelerator"):
            networks.read_accelerator(path)
    path.write_text("[]")
    with pytest.raises(UserError, match="schema_version is None"):
        networks.read_accelerator(path)
