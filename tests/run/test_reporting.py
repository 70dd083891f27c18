"""History, tables, JSON and CSV: what is written can be read, by any reader."""

import dataclasses
import json
import math
import os
import typing

import numpy as np
import pytest

from dance_tf.errors import UserError
from dance_tf.files import is_partial, written_aside
from dance_tf.run import reporting

NAN, INF = math.nan, math.inf


def _refuse(constant):
    raise AssertionError(f"bare {constant}")


def _strict_load(path):
    """What a reader does that knows the standard only."""
    return json.loads(path.read_text("utf-8"), parse_constant=_refuse)


# Strict JSON (field report P5)


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
    reporting.write_json(path, {"exact": {"latency_ms": value, "energy_mj": 2.0}})
    exact = _strict_load(path)["exact"]
    assert exact["latency_ms_reason"] == reason
    assert exact["energy_mj"] == 2.0
    flat = np.ravel(np.asarray(exact["latency_ms"], dtype=object))
    assert None in flat
    assert reporting.read_json(path)["exact"] == exact


def test_json_keeps_the_callers_reason(tmp_path):
    path = tmp_path / "result.json"
    reporting.write_json(path, {"loss_reason": "diverged at step 3", "loss": NAN})
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
    reporting.write_json(path, data)
    assert _strict_load(path) == {
        "record": {"size": 3, "name": "ä"},
        "pair": {"first": 1, "second": True},
        "array": [[1, 2]],
        "path": str(tmp_path),
        "none": None,
    }


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path):
    path = tmp_path / "result.json"
    reporting.write_json(path, {"a": 1})
    with pytest.raises(TypeError, match="object"):
        reporting.write_json(path, {"a": object()})
    with pytest.raises(ValueError, match="no key"):
        reporting.write_json(path, [1.0, NAN])
    with pytest.raises(OSError):
        reporting.write_json(tmp_path / "no" / "folder.json", {"a": 1})
    with pytest.raises(UnicodeEncodeError):
        reporting.write_json(path, {"a": "\ud800"})
    assert reporting.read_json(path) == {"a": 1}
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
        reporting.read_json(path)
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
        reporting.read_json(path)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_json_reader_names_missing_files_and_takes_a_bom(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        reporting.read_json(tmp_path / "missing.json")
    with pytest.raises(UserError, match="directory"):
        reporting.read_json(tmp_path)
    (tmp_path / "bom.json").write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n')
    assert reporting.read_json(tmp_path / "bom.json") == {"a": 1}


def test_written_files_have_ordinary_permissions(tmp_path):
    reporting.write_json(tmp_path / "a.json", {})
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


# History


def test_history_is_on_disk_as_soon_as_written(tmp_path):
    path = tmp_path / "history.jsonl"
    with reporting.HistoryWriter(path) as history:
        for step in (1, 2):
            history.write({"step": step, "loss": NAN if step == 2 else 0.5})
            assert len(reporting.read_history(path)) == step
    assert reporting.read_history(path) == [
        {"step": 1, "loss": 0.5},
        {"step": 2, "loss": None, "loss_reason": "not a number"},
    ]


def _history(path, *records):
    with reporting.HistoryWriter(path) as history:
        for phase, step in records:
            history.write({"phase": phase, "step": step})


def _steps(path):
    return [(r["phase"], r["step"]) for r in reporting.read_history(path)]


def test_history_resumes_at_a_step(tmp_path):
    path = tmp_path / "history.jsonl"
    _history(path, ("search", 1), ("search", 2), ("search", 3), ("search", 4))
    with open(path, "a") as file:
        file.write('{"phase": "search", "st')  # killed while writing
    assert len(_steps(path)) == 4
    with reporting.HistoryWriter(path, resume_step=2) as history:
        history.write({"phase": "search", "step": 3})
    assert _steps(path) == [("search", 1), ("search", 2), ("search", 3)]


def test_history_of_a_later_phase_keeps_the_earlier_one(tmp_path):
    path = tmp_path / "history.jsonl"
    _history(path, ("search", 5), ("search", 10), ("retrain", 1), ("retrain", 2))
    reporting.HistoryWriter(path, resume_step=1, phase="retrain").close()
    assert _steps(path) == [("search", 5), ("search", 10), ("retrain", 1)]
    reporting.HistoryWriter(path, resume_step=5, phase="search").close()
    assert _steps(path) == [("search", 5)]  # the retraining of a discarded search goes with it


def test_history_begins_anew_without_resume(tmp_path):
    path = tmp_path / "history.jsonl"
    _history(path, ("search", 1))
    _history(path, ("search", 9))
    assert _steps(path) == [("search", 9)]
    reporting.HistoryWriter(tmp_path / "new.jsonl", resume_step=3).close()
    assert reporting.read_history(tmp_path / "new.jsonl") == []


def test_history_with_a_bad_line_inside_is_refused(tmp_path):
    path = tmp_path / "history.jsonl"
    path.write_text('{"step": 1}\n{"step": \n{"step": 3}\n')
    with pytest.raises(UserError, match=r"history\.jsonl line 2"):
        reporting.read_history(path)
    path.write_text("[1]\n")
    with pytest.raises(UserError, match="line 1: not a JSON object"):
        reporting.read_history(path)


# Tables and CSV (field report P7)


def test_table_aligns_numbers_right():
    table = reporting.format_table(
        ["cost", "latency_ms"], [["predicted", 1.23456], ["exact", 10], ["none", None]]
    )
    assert table.splitlines() == [
        "cost       latency_ms",
        "---------  ----------",
        "predicted       1.235",
        "exact              10",
        "none                -",
    ]
    assert reporting.format_table(["a"], []).splitlines() == ["a", "-"]
    with pytest.raises(ValueError, match="2 cells"):
        reporting.format_table(["a"], [[1, 2]])


PLAIN = b"name,macs\nstem,10\nhead,20\n"


@pytest.mark.parametrize(
    "content",
    [
        PLAIN,
        b"\xef\xbb\xbf" + PLAIN,
        PLAIN.replace(b"\n", b"\r\n"),
        b"\xef\xbb\xbf" + PLAIN.replace(b"\n", b"\r\n") + b"\r\n",
        PLAIN.replace(b"\n", b"\n\n"),
        PLAIN[:-1],
        b'"name", macs \nstem,10\nhead, 20\n,\n',
    ],
)
def test_csv_of_a_spreadsheet_reads_as_the_plain_file(tmp_path, content):
    path = tmp_path / "layers.csv"
    path.write_bytes(content)
    assert reporting.read_csv(path, ["name", "macs"]) == [
        {"name": "stem", "macs": "10"},
        {"name": "head", "macs": "20"},
    ]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (PLAIN.replace(b",", b";"), "separated by ';'"),
        (PLAIN.replace(b",", b"\t"), "separated by tabs"),
        (b"\xef\xbb\xbfname,mac\nstem,1\n", "no column 'macs'; the header has name, mac"),
        (b"name,macs\nstem\n", "line 2: 1 cells, but the header has 2"),
        (b"\r\n", "empty"),
        (b"name,macs,name\nstem,1,2\n", "two columns are called 'name'"),
        (b'name,macs\nstem,"' + b"1," * 200_000, "line 2: not CSV"),
    ],
)
def test_csv_mistakes_are_named(tmp_path, content, says):
    path = tmp_path / "layers.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"layers\.csv") as error:
        reporting.read_csv(path, ["name", "macs"])
    assert says in str(error.value)


def test_csv_that_we_write_has_no_blank_lines(tmp_path):
    path = tmp_path / "out.csv"
    reporting.write_csv(path, ["name", "text"], [["a", "x,y"], ["b", "two\nlines"]])
    assert path.read_bytes() == b'name,text\na,"x,y"\nb,"two\nlines"\n'
    assert reporting.read_csv(path, ["name"])[1] == {"name": "b", "text": "two\nlines"}


def test_scalars_images_and_texts_reach_tensorboard(tmp_path):
    tf = pytest.importorskip("tensorflow")
    log = reporting.TensorBoardLog(tmp_path)
    log.write(3, {"loss": 0.5, "name": "text", "flag": True, "none": None})
    log.write_image(4, "map", np.zeros((2, 3, 3), np.uint8), "what it shows")
    log.write_text(5, "array", "8 x 8 PEs")
    log.close()
    (file,) = tmp_path.iterdir()
    events = [
        tf.compat.v1.Event.FromString(record.numpy())
        for record in tf.data.TFRecordDataset(str(file))
    ]
    tags = [(event.step, v.tag) for event in events for v in event.summary.value]
    assert tags == [(3, "loss"), (4, "map"), (5, "array")]
