"""report.html says what the run's files say, whole or with a word on what is left out."""

from __future__ import annotations

import html.parser
import json
import re
import shutil

import pytest

from dance_tf.errors import UserError
from dance_tf.files import read_json
from dance_tf.hardware.cost_table import load_or_build_table
from dance_tf.report import page
from dance_tf.report.exact import exact_parts
from dance_tf.report.page import write_report
from dance_tf.report.run_folder import read_run
from dance_tf.report.texts import number
from dance_tf.structs import METRICS
from tests.hardware.arithmetic_model import ArithmeticModel

_EMPTY = {"meta", "link", "br", "img"}  # of HTML; those of SVG close themselves


class _Reader(html.parser.HTMLParser):
    """Collects tags and texts, and holds every element to its end tag."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in _EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


@pytest.fixture
def write(run_dir, table):
    def write(**options):
        path = write_report(str(run_dir), **{"table": table, **options})
        with open(path, encoding="utf-8") as file:
            return _Reader(file.read())

    return write


def _change(folder, name, change):
    data = json.loads((folder / name).read_text("utf-8"))
    change(data)
    (folder / name).write_text(json.dumps(data), "utf-8")


def test_numbers_are_those_of_the_files(run_dir, write, table):
    found, result = write(), read_json(run_dir / "result.json")
    cost, text = result["exact_cost"], found.text
    assert (run_dir / "report.html").exists()
    assert "87.50 % retrained, 40 images of test" in text
    for name, unit in (("latency_ms", "ms"), ("energy_mj", "mJ"), ("area_mm2", "mm²")):
        assert f"{number(cost[name])} {unit}" in text
    assert f"{number(cost['edap_ms_mj_mm2'])} ms mJ mm²" in text
    array = result["accelerator"]
    assert f"{array['pe_x']} x {array['pe_y']} = {array['pe_x'] * array['pe_y']} PEs" in text
    exact = exact_parts(read_run(run_dir), table)
    for layer, entry in zip(exact.layers, exact.entries, strict=True):
        row = text[text.index(f"{layer.name} {layer.R}x{layer.S}") :]
        assert row.index(number(1e3 * entry["latency_ms"])) < 120, layer.name
        assert row.index(number(1e-6 * entry["energy_pj"])) < 160, layer.name
    assert f"Energy by component, µJ MACs {number(1e-6 * _component(exact, 'mac'))} µJ" in text
    assert f"{number(exact.cheapest.metrics[0])} " in text
    assert "Seed 1, deterministic" in text and "Retraining 1 min 16 s" in text
    assert f"tensorflow {result['versions']['tensorflow']}" in text
    assert "left out" not in text.replace("the block is left out", "")


def _component(exact, name):
    return sum(entry["energy_by_component_pj"][name] for entry in exact.entries)


def test_the_array_and_the_network_are_drawn(run_dir, write):
    found, result = write(), read_json(run_dir / "result.json")
    array = result["accelerator"]
    paths = {attrs.get("class"): attrs["d"] for tag, attrs in found.tags if tag == "path"}
    for part in ("mac", "register_file"):
        corners = re.findall(r"M(\d+) (\d+)", paths[part])
        assert len(set(corners)) == len(corners) == array["pe_x"] * array["pe_y"]
        assert len({x for x, _ in corners}) == array["pe_x"]
    blocks = [attrs["class"] for tag, attrs in found.tags if tag == "li" and "class" in attrs]
    ops = result["architecture"]["ops"]
    assert len(blocks) == len(ops) + 4
    assert [b == "block is-zero" for b in blocks[2:-2]] == [op == "zero" for op in ops]
    charts = [attrs["aria-label"] for tag, attrs in found.tags if attrs.get("role") == "img"]
    titles = {label.partition(":")[0] for label in charts}
    assert {"Cross-entropy", "lambda_2", "Entropy of the mixture weights", "PE array"} <= titles
    last = [r for r in read_run(run_dir).history if r["phase"] == "search"][-1]
    (latency,) = (c for c in charts if c.startswith("Latency of"))
    assert latency.endswith(f"to {number(last['exact_latency_ms'])}")


def test_nothing_is_fetched_and_no_script_is_needed(run_dir, write):
    found = write()
    text = (run_dir / "report.html").read_text("utf-8")
    assert not {tag for tag, _ in found.tags} & {"script", "iframe", "object", "embed"}
    hrefs = [attrs["href"] for _, attrs in found.tags if "href" in attrs]
    assert {href for href in hrefs if not href.startswith("#")} == {"data:,"}
    assert not [name for _, attrs in found.tags for name in attrs if name.startswith("on")]
    sources = [attrs["src"] for _, attrs in found.tags if "src" in attrs]
    assert sources and all(source.startswith("data:image/png;base64,") for source in sources)
    assert "@import" not in text and "url(" not in text
    assert "http:" not in text.replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert "https:" not in text


def test_contents_name_every_section_and_lead_to_it(write):
    found = write()
    sections = [attrs["id"] for tag, attrs in found.tags if tag == "section"]
    ids = [attrs["id"] for _, attrs in found.tags if "id" in attrs]
    targets = {a["href"][1:] for t, a in found.tags if t == "a"}
    assert len(ids) == len(set(ids)) and targets <= set(ids)
    assert targets - {"top"} == set(sections) and len(sections) == 12


def test_the_first_words_are_a_verdict(write, run_dir):
    text, cost = write().text, read_json(run_dir / "result.json")["exact_cost"]
    first = text.partition("first run")[2].partition("first run")[2][:140]
    assert first.startswith(" 87.50 % of 40 test images right; ")
    assert f"{number(cost['latency_ms'])} ms and {number(cost['energy_mj'])} mJ" in first
    assert text.index("What to try next") < text.index("Accuracy 87.50 %") < text.index("Network ")


def test_every_accelerator_is_drawn_and_the_front_listed(write, run_dir, table):
    found, exact = write(), exact_parts(read_run(run_dir), table)
    (plot,) = (a for a in found.tags if a[1].get("aria-label", "").startswith("Latency and energy"))
    clouds = [a["d"] for t, a in found.tags if t == "path" and "cloud" in a.get("class", "")]
    assert plot[0] == "svg" and 0 < sum(d.count("h0") for d in clouds) <= exact.num_accelerators
    assert f"{exact.num_accelerators:,} accelerators, from" in found.text
    front = found.text.partition("no other beats in latency, energy and area: ")[2]
    assert front.startswith(f"{len(exact.front)} ") and "this run" in front


def test_answers_and_exports_are_shown(write, run_dir):
    found = write()
    assert "5 of 40 test images are taken for another class" in found.text
    assert "<i>zero</i> 15 5 75.00 % one 20 100.00 %" in found.text
    assert "taken for one, 75.0 % sure" in found.text
    row = found.text.partition("TFLite, int8 ")[2]
    assert row.startswith("exports/tflite_int8 1.23 MB 75.00 % 50.00 %")
    assert "Each is fed" not in found.text and "in float" not in found.text
    # Of many classes, pairs take the place of the matrix.
    change = {"num_classes": 300, "class_names": None}
    _change(run_dir, "predictions.json", lambda data: data.update(change))
    assert "is taken for images of its class 0 1 5 25.0 %" in write().text


def test_what_exports_are_fed_and_compute_in_float_is_told(write, run_dir):
    def describe(report):
        report["inputs"] = {"height": 8, "width": 12, "value_range": [0.0, 1.0], "crop": None}
        operation = {"operation": "ELU", "tensor": "t", "dtype": "float32"}
        report["tflite_int8"]["float_operations"] = [
            {**operation, "layer": "stem"},
            {**operation, "layer": ""},
        ]

    _change(run_dir, "exports/export.json", describe)
    text = write().text
    assert "Each is fed images of 8x12 pixels; values of 0 to 1." in text
    assert "exports/tflite_int8 in float: ELU of an unknown layer, ELU of stem" in text


def test_texts_of_a_user_are_escaped(run_dir, write):
    name = "<script>alert('x')</script>"
    _change(run_dir, "config.json", lambda data: data["data"].update(dataset=name))
    _change(run_dir, "run_info.json", lambda data: data.update(command=f'search "{name}"'))
    found = write()
    assert "script" not in {tag for tag, _ in found.tags}
    assert found.text.count(name) == 2
    assert "a warning with <b>markup</b> & more" in found.text
    assert "b" in {tag for tag, _ in found.tags} and "<b>markup" not in (
        (run_dir / "report.html").read_text("utf-8")
    )


def test_what_is_missing_is_left_out_with_a_word(run_dir, write):
    (run_dir / "history.jsonl").unlink()
    (run_dir / "run_info.json").unlink()
    (run_dir / "predictions.json").unlink()
    shutil.rmtree(run_dir / "exports")

    def forget(result):
        for name in ("predicted_cost", "arch_logits", "times", "versions", "evaluator"):
            del result[name]
        del result["accuracy"]
        result["accuracy_reason"] = "the network was not retrained"

    _change(run_dir, "result.json", forget)
    text = write().text
    for words in (
        "no history of its search",
        "no run_info.json",
        "no predicted cost",
        "Mixture weights are left out",
        "Left out: the network was not retrained",
        "Versions not in result.json",
        "Accuracy none",
        "has not kept the answers",
        "no exports/export.json",
        "Whether the search settled cannot be said",
    ):
        assert words in text


def test_an_older_history_shows_what_it_has(run_dir, write):
    lines = (run_dir / "history.jsonl").read_text("utf-8").splitlines()
    kept = ("step", "phase", "cross_entropy", "predicted_latency_ms")
    older = [{k: v for k, v in json.loads(line).items() if k in kept} for line in lines]
    older.append({"phase": "search", "step": None, "cross_entropy": "unknown"})
    text = "".join(json.dumps(record) + "\n" for record in older)
    (run_dir / "history.jsonl").write_text(text, "utf-8")
    found = write()
    labels = " ".join(a["aria-label"] for _, a in found.tags if a.get("role") == "img")
    assert "Cross-entropy" in labels and "Latency of the network so far: predicted" in labels
    assert "Entropy" not in labels and "Share of Zero" not in labels


def test_a_table_that_is_gone_leaves_out_its_parts_alone(run_dir, write):
    _change(
        run_dir,
        "config.json",
        lambda data: data["hardware"].update(measured_csv=str(run_dir / "gone.csv")),
    )
    text = write(table=None).text
    assert "Costs by layer and component are left out" in text and "gone.csv" in text
    assert "Exact best accelerator for this network" in text


def test_costs_of_another_day_are_said(run_dir, write):
    _change(run_dir, "run_info.json", lambda data: data.update(cost_table_sha256="1" * 64))
    assert "the cost model has changed since this run" in write().text


def test_a_baseline_is_compared(run_dir, write, tmp_path):
    baseline = shutil.copytree(run_dir, tmp_path / "accuracy alone")

    def double(result):
        result["exact_cost"]["latency_ms"] *= 2
        result["accuracy"]["value"] = 0.9

    _change(baseline, "result.json", double)
    text = write(baseline_dir=str(baseline)).text
    row = text[text.index("Baseline (90.00 % on test)") :][:260]
    assert "accuracy alone: " in row and " 2 x" in row
    _change(baseline, "run_info.json", lambda data: data.update(cost_table_sha256="1" * 64))
    with pytest.raises(UserError, match="cannot be compared"):
        write(baseline_dir=str(baseline))


@pytest.mark.parametrize(
    "changes",
    [
        {"accuracy": 5},
        {"accuracy": {"value": "high", "split": "test", "num_images": 40}},
        {"times": {"search_s": "long"}},
        {"versions": [1]},
        {"warnings": 3},
    ],
)
def test_nonsense_in_a_result_is_one_line(run_dir, write, changes):
    _change(run_dir, "result.json", lambda data: data.update(changes))
    with pytest.raises(UserError, match="what no run writes") as error:
        write()
    assert str(run_dir) in str(error.value) and not (run_dir / "report.html").exists()


def test_limits_are_shown_with_what_they_took(run_dir, write):
    run = read_run(run_dir)
    cost = run.costs["exact_cost"]

    def limit(result):
        result["limits"] = {
            "max_latency_ms": 2 * cost["latency_ms"],
            "max_energy_mj": None,
            "max_area_mm2": cost["area_mm2"] * 1.0001,
            "kept_by": "gradient",
            "is_repaired": True,
            "lost_log_probability": 0.125,
            "derived_ops": ["mbconv7_e6", "mbconv5_e3"],
            "derived_exact": {m: 2 * cost[m] for m in METRICS},
            "derived_predicted": {m: 2 * cost[m] for m in METRICS},
        }

    _change(run_dir, "result.json", limit)
    lines = (run_dir / "history.jsonl").read_text("utf-8").splitlines()
    records = [json.loads(line) | {"altered_share": 0.5} for line in lines]
    (run_dir / "history.jsonl").write_text(
        "".join(json.dumps(record) + "\n" for record in records), "utf-8"
    )
    found = write()
    assert f"{number(cost['latency_ms'])} 50.00 %" in found.text
    assert "energy, mJ" not in found.text.partition(" Limits ")[2].partition(" Costs ")[0]
    assert "kept to them by altered steps" in found.text and "0.1250 nats" in found.text
    row = found.text.partition("Before the repair")[2][:200]
    assert "k7e6, k5e3" in row and " 8 x" in row
    labels = [a["aria-label"] for _, a in found.tags if a.get("role") == "img"]
    assert "Altered architecture steps: altered share from 0.5000 to 0.5000" in labels
    (latency,) = (label for label in labels if label.startswith("Latency of"))
    assert f"limit from {number(2 * cost['latency_ms'])}" in latency
    best = found.text.partition("network, within the limits accelerator")[2]
    areas = re.findall(r"stationary \S+ \S+ (0\.\d+)", best.partition("Search")[0])
    assert areas and max(map(float, areas)) <= cost["area_mm2"] * 1.001


def test_measured_costs_have_no_parts(run_dir, write, tmp_path):
    space, hardware = read_run(run_dir).space, read_run(run_dir).config.hardware
    totals = load_or_build_table(
        space, hardware, cost_model=ArithmeticModel(), cache_dir=tmp_path / "cache"
    )
    _change(
        run_dir,
        "config.json",
        lambda data: data["hardware"].update(measured_csv="mine & yours.csv"),
    )
    found = write(table=totals)
    assert "measured: mine & yours.csv" in found.text
    assert "Area by component is left out" in found.text
    assert "Components and bounds are left out" in found.text
    macs = sum(layer.macs for layer in space.layers(read_run(run_dir).architecture))
    assert f"All layers {number(macs)} " in found.text
    (files,) = {a.get("class") for t, a in found.tags if t == "path" and "z" in a["d"]}
    assert files == "mac"


def test_a_page_that_fails_leaves_the_old_one(run_dir, write, monkeypatch):
    (run_dir / "report.html").write_text("the old one", "utf-8")
    monkeypatch.setattr(page, "render", lambda *_: "\udc80")  # cannot be encoded
    with pytest.raises(UnicodeEncodeError):
        write()
    assert (run_dir / "report.html").read_text("utf-8") == "the old one"
    assert not list(run_dir.glob("*.partial"))
