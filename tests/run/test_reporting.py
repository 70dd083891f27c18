"""History, tables, CSV files and TensorBoard logs: what is written can be read."""

import math

import numpy as np
import pytest

from dance_tf.errors import UserError
from dance_tf.run import reporting

NAN, INF = math.nan, math.inf


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


# Tables and CSV


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
