"""Flags of the command lines: what they make, and how mistakes end."""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest
from absl import flags

from dance_tf.config import config_to_json, override
from dance_tf.config_fields import FIELDS
from dance_tf.errors import UserError
from dance_tf.presets import preset
from dance_tf.run import terminal
from dance_tf.version import __version__
from tools import flags as common

ROOT = pathlib.Path(__file__).resolve().parents[2]


def _parsed(*arguments: str) -> flags.FlagValues:
    values = common.shared_flags(*common.EXPERIMENT, "output_dir", "resume")
    values(["tool", *arguments])
    return values


def _call(main, *arguments: str) -> int:
    values = common.shared_flags(*common.EXPERIMENT, "output_dir")
    flags.DEFINE_string("reference", None, "A file.", flag_values=values)
    flags.DEFINE_integer("num_layers", 3, "How many.", flag_values=values)
    return common.call(main, values, ["/some where/tool.py", *arguments])


def test_default_is_the_digits_preset():
    assert common.experiment_config(_parsed()) == preset("digits")


def test_later_flags_win_over_set_and_set_over_the_preset():
    config = common.experiment_config(
        _parsed(
            "--preset=cifar10_small",
            "--set=search.epochs=9",
            "--set=search.epochs=11",
            "--set=seed=4",
            "--seed=7",
            "--set=space.name=cifar_mbconv",
            "--space=tiny_mbconv",
            "--dataset=mnist",
            "--data_dir=a b",
            "--evaluator=exact",
        )
    )
    expected = override(
        preset("cifar10_small"),
        [
            "search.epochs=11",
            "seed=7",
            "space.name=tiny_mbconv",
            "data.dataset=mnist",
            "data.data_dir=a b",
            "evaluator.kind=exact",
        ],
    )
    assert config == expected


def test_data_of_ones_own_and_a_named_data_set_take_each_others_place(tmp_path: pathlib.Path):
    def data(*arguments: str) -> tuple[str, str | None]:
        config = common.experiment_config(_parsed(*arguments))
        return config.data.dataset, config.data.path

    own = tmp_path / "my images"
    assert data("--preset=cifar10", f"--data={own}") == ("digits", str(own))
    assert data("--data=my_module.Builder") == ("digits", "my_module.Builder")
    file = tmp_path / "config.json"
    for field, flag, expected in (
        (f"data.path={own}", "--dataset=mnist", ("mnist", None)),
        ("data.dataset=mnist", f"--data={own}", ("digits", str(own))),
    ):
        config = override(preset("tiny"), [field])
        file.write_text(json.dumps(config_to_json(config)), encoding="utf-8")
        assert data(f"--config={file}", flag) == expected
    with pytest.raises(UserError, match="give one of them"):
        data(f"--data={own}", "--dataset=mnist")


def test_fields_given_in_vain_are_warned_of_or_refused(tmp_path: pathlib.Path, capsys):
    def check(*arguments: str) -> tuple[str, ...]:
        values = _parsed(*arguments)
        return common.check_effects(common.experiment_config(values), "search", values)

    assert check("--preset=digits", "--set=search.epochs=50", "--seed=3") == ()
    assert capsys.readouterr().err == ""
    (line,) = check("--preset=tiny", "--set=search.gumbel_temperature=2")
    assert capsys.readouterr().err == f"warning: {line}\n"
    for arguments in (["--data_dir=a"], ["--set=data.data_dir=a"], ["--set=evaluator.path=a"]):
        with pytest.raises(UserError, match="no effect"):
            check("--preset=tiny", *arguments)
    assert check("--preset=tiny", "--data_dir=a", "--dataset=mnist") == ()
    # In a file: what neither the default nor a preset has.
    file = tmp_path / "mine.json"
    config = override(preset("tiny"), ["search.limit_delta=0.5"])
    file.write_text(json.dumps(config_to_json(config)), encoding="utf-8")
    (line,) = check(f"--config={file}")
    assert "search.limit_delta" in line


def test_config_file_gives_back_the_config(tmp_path: pathlib.Path):
    config = override(preset("tiny"), ["seed=3", "search.lambda_2=0.25"])
    file = tmp_path / "my config.json"
    file.write_text(json.dumps(config_to_json(config)), encoding="utf-8")
    assert common.experiment_config(_parsed(f"--config={file}")) == config


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--preset=digit"], "did you mean 'digits'"),
        (["--set=search.epoch=2"], "did you mean 'epochs'"),
        (["--set=search.epochs=two"], "search.epochs=two"),
        (["--set=search"], "NAME=VALUE"),
        (["--config=/no/such.json"], "/no/such.json"),
        (["--config=x.json", "--preset=tiny"], "give one of them"),
    ],
)
def test_bad_configuration_says_what_and_how(arguments: list[str], words: str):
    with pytest.raises(UserError, match="(?s)" + words) as error:
        common.experiment_config(_parsed(*arguments))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ['{"seed": NaN}', '{"seed": 1', "[1]", '{"sead": 1}'])
def test_bad_config_file_is_one_line(tmp_path: pathlib.Path, text: str):
    file = tmp_path / "config.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as error:
        common.experiment_config(_parsed(f"--config={file}"))
    assert "\n" not in str(error.value)


def test_output_dir_is_expanded_once_and_not_created(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HOME", str(tmp_path / "home of me"))
    monkeypatch.chdir(tmp_path)
    path = common.output_dir(_parsed("--output_dir=~/my runs"))
    assert path == str(tmp_path / "home of me" / "my runs")
    assert list(tmp_path.iterdir()) == []


def test_output_dir_that_is_a_file_or_missing_is_refused(tmp_path: pathlib.Path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"):
        common.output_dir(_parsed(f"--output_dir={tmp_path / 'file'}"))
    with pytest.raises(UserError, match="--output_dir is missing"):
        common.output_dir(_parsed())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--num_layer=2"], "num_layers"),
        (["--num_layers=two"], "--num_layers=two"),
        (["--evaluator=none"], "neural|exact"),
        (["--seed=-1"], "--seed=-1"),
        (["--seed"], "seed"),
        (["digits"], "unexpected argument 'digits'"),
        (["--seed=1", "digits", "--num_layers=2"], "unexpected argument 'digits'"),
    ],
)
def test_wrong_flag_ends_with_2_and_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture
):
    assert _call(lambda argv: pytest.fail("main ran"), *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("tool: ")
    assert err.count("\n") == 1
    assert words in err


@pytest.mark.parametrize("asking", ["--help", "-h", "--helpfull", "-help"])
def test_help_lists_every_flag_on_stdout(asking: str, capsys: pytest.CaptureFixture):
    assert _call(lambda argv: pytest.fail("main ran"), "--seed=1", asking) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for name in (*common.EXPERIMENT, "output_dir", "reference", "num_layers"):
        assert f"  --{name}\n" in out
    assert "Flags of the command lines" in out  # the docstring of main's module
    assert "(default '3')" in out


@pytest.mark.parametrize("arguments", [["--version"], ["--preset=nonsense", "--version"]])
def test_version_of_every_tool(arguments: list[str], capsys: pytest.CaptureFixture):
    assert _call(lambda argv: pytest.fail("main ran"), *arguments) == 0
    assert capsys.readouterr() == (f"dance_tf {__version__}\n", "")


def test_a_flag_of_that_name_keeps_its_values(capsys: pytest.CaptureFixture):
    values = common.shared_flags("seed")
    flags.DEFINE_integer("version", None, "Of what is written.", flag_values=values)
    seen = []

    def main(argv):
        seen.append(values["version"].value)

    for arguments in (["--version=3"], ["--version", "4"], ["--version", "5", "--seed=1"]):
        assert common.call(main, values, ["tool", *arguments]) == 0
    assert seen == [3, 4, 5] and capsys.readouterr().out == ""
    assert common.call(main, values, ["tool", "--seed=1", "--version"]) == 0
    assert capsys.readouterr().out == f"dance_tf {__version__}\n"


def test_help_config_lists_every_field_as_set_takes_it(capsys: pytest.CaptureFixture):
    main, arguments = (lambda argv: pytest.fail("main ran")), ["--preset=cifar10", "--seed=7"]
    assert _call(main, *arguments, "--help_config") == 0
    out, err = capsys.readouterr()
    assert err == ""
    settings = [line.strip() for line in out.splitlines() if re.match(r"  \w", line)]
    assert [setting.partition("=")[0] for setting in settings] == list(FIELDS)
    # Given to another preset, they make it this one.
    config = common.experiment_config(_parsed(*arguments))
    assert override(preset("tiny"), settings) == config
    assert "(float: 0.001 to 1000)" in out
    assert FIELDS["search.gumbel_temperature"].meaning in out


def test_help_config_of_a_mistake_is_the_mistake(capsys: pytest.CaptureFixture):
    assert _call(lambda argv: pytest.fail("main ran"), "--preset=no", "--help_config") == 1
    assert "unknown preset 'no'" in capsys.readouterr().err


@pytest.mark.parametrize(("level", "told"), [("0", 2), ("-1", 1), ("-2", 0)])
def test_verbosity_is_obeyed_and_errors_are_told_always(
    level: str, told: int, capsys: pytest.CaptureFixture
):
    def main(argv):
        terminal.note("a note")
        terminal.warn("a warning")
        raise UserError("a mistake")

    assert _call(main, f"--verbosity={level}") == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["a note", "warning: a warning", "tool: a mistake"][2 - told :]
    assert _call(lambda argv: terminal.note("a note")) == 0
    assert capsys.readouterr().err == "a note\n", "the next call starts from the default"


@pytest.mark.parametrize("level", ["2", "-3", "loud"])
def test_a_verbosity_that_is_none_is_refused(level: str, capsys: pytest.CaptureFixture):
    assert _call(lambda argv: pytest.fail("main ran"), f"--verbosity={level}") == 2
    assert "verbosity" in capsys.readouterr().err


def test_status_is_that_of_main():
    assert _call(lambda argv: None) == 0
    assert _call(lambda argv: 143) == 143


def test_users_mistake_and_unusable_file_end_with_1_and_one_line(capsys: pytest.CaptureFixture):
    def mistaken(argv):
        raise UserError("no such op\nas this")

    def missing(argv):
        pathlib.Path("/no/such/file").read_text(encoding="utf-8")

    assert _call(mistaken) == 1
    assert _call(missing) == 1
    assert capsys.readouterr().err == (
        "tool: no such op as this\ntool: /no/such/file: No such file or directory\n"
    )


def test_a_full_disk_ends_in_one_line_that_says_how_to_go_on(capsys: pytest.CaptureFixture):
    class Full(Exception):
        pass

    Full.__module__ = "tensorflow.errors"
    values = common.shared_flags("resume")

    def full(argv):
        raise OSError(28, "No space left on device", "/runs/a/history.jsonl")

    def of_tensorflow(argv):
        raise Full("/runs/a/tensors; No space left on device [Op:SaveV2]")

    for main in (full, of_tensorflow):
        assert common.call(main, values, ["search"]) == 1
    words = "No space left on device; make room there, and go on with --resume"
    assert capsys.readouterr().err.splitlines() == [
        f"search: /runs/a/history.jsonl: {words}",
        f"search: /runs/a/tensors: {words}",
    ]


@pytest.mark.parametrize("size", [1, 10**6])
def test_stdout_without_room_is_named_in_one_line(size: int):
    program = (
        "import sys; from tools import flags; values = flags.shared_flags();"
        f" sys.exit(flags.call(lambda argv: print('x' * {size}), values, ['tool']))"
    )
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, stdout=full, stderr=subprocess.PIPE
        )
    assert done.returncode == 1
    assert done.stderr == b"tool: standard output: No space left on device\n"


@pytest.mark.parametrize("path", ["gs://bucket/run", "~no_such_user_here/x", '"/data/x y"', "link"])
def test_a_path_that_is_none_here_is_a_wrong_flag(
    path: str,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "flags.txt").write_text(f"--output_dir={path}\n")
    assert _call(lambda argv: pytest.fail("main ran"), "--flagfile=flags.txt") == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and f"--output_dir={path}" in err
    assert sorted(os.listdir(tmp_path)) == ["flags.txt", "link"]


def test_repeated_paths_are_each_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = flags.FlagValues()
    common.define_path("found", "A file.", values, is_repeated=True)
    values(["tool", "--found=a", "--found=b c"])
    assert values["found"].value == [str(tmp_path / "a"), str(tmp_path / "b c")]
    values.unparse_flags()
    values(["tool"])
    assert values["found"].value == []


def test_own_fault_keeps_its_traceback():
    def faulty(argv):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        _call(faulty)


def test_a_second_call_starts_from_the_defaults():
    seen = []
    values = common.shared_flags("set", "seed")

    def main(argv):
        seen.append((values["seed"].value, list(values["set"].value)))

    assert common.call(main, values, ["tool", "--seed=1", "--set=a=1", "--set=b=2"]) == 0
    assert common.call(main, values, ["tool", "--set=c=3"]) == 0
    assert common.call(main, values, ["tool"]) == 0
    assert seen == [(1, ["a=1", "b=2"]), (None, ["c=3"]), (None, [])]


def test_shared_flags_refuses_a_name_it_does_not_know():
    with pytest.raises(KeyError):
        common.shared_flags("sead")


def test_tensorflow_loads_without_a_word():
    program = (
        "import sys; from tools import flags; assert 'tensorflow' not in sys.modules;"
        " flags.load_tensorflow(); import tensorflow as tf;"
        " print(float(tf.function(lambda x: x + 1)(tf.ones(()))));"
        # Of libraries, what is told to their developers is left out, and nothing else is.
        " import warnings; from absl import logging;"
        " dtype, array = '`FeatureConnector.dtype` is deprecated.', '__array__ implementation';"
        " [logging.warning(text) for text in (dtype, 'a shard is missing')];"
        " array += ' doesn\\'t accept a copy keyword, so passing copy=False failed.';"
        " [warnings.warn(text, DeprecationWarning) for text in (array, 'sold out')]"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "2.0\n"
    assert done.stderr.splitlines() == [
        "WARNING:absl:a shard is missing",
        "<string>:1: DeprecationWarning: sold out",
    ]
