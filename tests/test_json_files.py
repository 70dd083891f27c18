"""JSON files that any reader accepts, whole or absent."""

import dataclasses
import json
import math
import os
import typing

import numpy as np
import pytest

from dance_tf.errors import UserError
from dance_tf.files import is_partial, read_json, write_json, written_aside

NAN, INF = math.nan, math.inf


def _refuse(constant):
    raise AssertionError(f"bare {constant}")


def _strict_load(path):
    """Read a file as a reader does that knows the standard only."""
    return json.loads(path.read_text("utf-8"), parse_constant=_refuse)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (NAN, "not a number"),
        (INF, "infinite"),
        (-INF, "minus infinite"),
        (np.float32(INF), "infinite"),
        (np.asarray(NAN), "not a number"),
        ([1.0, NAN], "[1] is not a number"),
        ((INF, [0.0, -INF]), "[0] is infinite; [1][1] is minus infinite"),
        (np.asarray([[1.0], [NAN]], np.float32), "[1][0] is not a number"),
    ],
)
def test_json_replaces_non_finite_by_null_and_a_reason(tmp_path, value, reason):
    path = tmp_path / "result.json"
    write_json(path, {"exact": {"latency_ms": value, "energy_mj": 2.0}})
    exact = _strict_load(path)["exact"]
    assert exact["latency_ms_reason"] == reason
    assert exact["energy_mj"] == 2.0
    flat = np.ravel(np.asarray(exact["latency_ms"], dtype=object))
    assert None in flat
    assert read_json(path)["exact"] == exact


def test_json_keeps_the_callers_reason(tmp_path):
    path = tmp_path / "result.json"
    write_json(path, {"loss_reason": "diverged at step 3", "loss": NAN})
    assert _strict_load(path) == {"loss": None, "loss_reason": "diverged at step 3"}


def test_json_takes_records_arrays_and_scalars(tmp_path):
    @dataclasses.dataclass
    class Record:
        size: int
        name: str

    class Pair(typing.NamedTuple):
        first: typing.Any
        second: typing.Any

    path = tmp_path / "r.json"
    data = {
        "record": Record(3, "ä"),
        "pair": Pair(np.int64(1), np.bool_(True)),
        "array": np.asarray([[1, 2]], np.int32),
        "path": tmp_path,
        "none": None,
    }
    write_json(path, data)
    assert _strict_load(path) == {
        "record": {"size": 3, "name": "ä"},
        "pair": {"first": 1, "second": True},
        "array": [[1, 2]],
        "path": str(tmp_path),
        "none": None,
    }


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path):
    path = tmp_path / "result.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError, match="object"):
        write_json(path, {"a": object()})
    with pytest.raises(ValueError, match="no key"):
        write_json(path, [1.0, NAN])
    with pytest.raises(OSError):
        write_json(tmp_path / "no" / "folder.json", {"a": 1})
    with pytest.raises(UnicodeEncodeError):
        write_json(path, {"a": "\ud800"})
    assert read_json(path) == {"a": 1}
    assert os.listdir(tmp_path) == ["result.json"]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('{"cost": {"latency_ms": NaN}}', "cost.latency_ms is not a number"),
        ('{"losses": [1, {"a": Infinity}]}', "losses[1].a is infinite"),
        ('{"x": -Infinity}', "x is minus infinite"),
        ('{"x": 1e999}', "x is infinite"),
        ("NaN", "the value is not a number"),
    ],
)
def test_json_reader_refuses_non_finite_with_file_and_key(tmp_path, text, key):
    path = tmp_path / "result.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"result\.json") as error:
        read_json(path)
    assert key in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"a": 1,\n', "line 2"),
        (b"", "line 1"),
        (b"\xff\xfe\x00", "UTF-8"),
        (b"[" * 99999, "deep"),
    ],
)
def test_json_reader_says_what_is_wrong(tmp_path, content, says):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"config\.json") as error:
        read_json(path)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_json_reader_names_missing_files_and_takes_a_bom(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_json(tmp_path / "missing.json")
    with pytest.raises(UserError, match="directory"):
        read_json(tmp_path)
    (tmp_path / "bom.json").write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n')
    assert read_json(tmp_path / "bom.json") == {"a": 1}


def test_written_files_have_ordinary_permissions(tmp_path):
    write_json(tmp_path / "a.json", {})
    (tmp_path / "b.json").write_text("{}")
    assert (tmp_path / "a.json").stat().st_mode == (tmp_path / "b.json").stat().st_mode


@pytest.mark.parametrize("before", [None, "as it was"])
def test_a_file_whose_writing_fails_stays_as_it_was(tmp_path, before):
    path = tmp_path / "a.svg"
    if before is not None:
        path.write_text(before)
    with pytest.raises(KeyboardInterrupt), written_aside(path) as aside:
        with open(aside, "w", encoding="utf-8") as file:
            file.write("half of")
        assert is_partial(os.path.basename(aside)), "what a kill leaves is told by its name"
        raise KeyboardInterrupt
    assert [p.read_text() for p in tmp_path.iterdir()] == ([] if before is None else [before])
    with written_aside(path) as aside, open(aside, "w", encoding="utf-8") as file:
        file.write("all of it")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.svg", "all of it")]
