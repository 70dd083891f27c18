"""The comparison of gradient estimators: its arithmetic, a tiny run, and going on with it."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from dance_tf.config import ARCH_GRADIENTS
from dance_tf.search import supernet_training
from studies import compare_arch_gradients as compare
from tools import flags as common
from tools import train_supernet

TINY = ("--preset=tiny", "--set=search.epochs=2", "--set=search.batch_size=64")
SIZES = ("--num_paths=24", "--num_steps=3", "--num_batches=2")


def test_the_fit_finds_the_gradient_of_the_expected_loss():
    """On all paths of a small space, where it can be computed from its definition."""
    random = np.random.RandomState(0)
    mixture = np.asarray([[0.2, 0.5, 0.3], [0.4, 0.6, 0.0]])
    every = np.asarray(list(itertools.product(range(3), range(2))))
    table = random.normal(size=(3, 2))  # with interactions: not a sum of effects
    chances = mixture[0][every[:, 0]] * mixture[1][every[:, 1]]
    losses = table[every[:, 0], every[:, 1]]
    ops = np.repeat(every, np.round(chances * 100).astype(int), axis=0)
    gradient = compare.fit_gradient(
        ops, table[ops[:, 0], ops[:, 1]], np.zeros(len(ops), int), mixture
    )
    mean = chances @ losses
    expected = np.zeros((2, 3))
    for d, o in itertools.product(range(2), range(3)):
        if mixture[d, o]:
            has = every[:, d] == o
            given = chances[has] @ losses[has] / chances[has].sum()
            expected[d, o] = mixture[d, o] * (given - mean)
    np.testing.assert_allclose(gradient, expected, atol=1e-9)
    # What a batch adds to all losses changes nothing.
    twice, doubled = np.tile(ops, (2, 1)), np.repeat([0, 1], len(ops))
    shifted = np.tile(table[ops[:, 0], ops[:, 1]], 2) + 5.0 * doubled
    np.testing.assert_allclose(
        compare.fit_gradient(twice, shifted, doubled, mixture), expected, atol=1e-9
    )


def test_agreement_by_hand():
    truth = np.asarray([[3.0, -3.0, 0.0], [1.0, 1.0, -2.0]])
    is_zero = np.asarray([False, False, True])
    half = compare.agreement(np.stack([truth * 0.5, truth * 0.5]), truth, is_zero)
    assert half == pytest.approx(
        {"slope": 0.5, "correlation": 1.0, "slope_of_zero": 0.5, "noise": 0.0}
    )
    apart = np.asarray([[1.0, -1.0, 0.0], [0.0, 0.0, 0.0]])
    steps = np.stack([truth + apart, truth - apart])
    noisy = compare.agreement(steps, truth, is_zero)
    assert noisy["noise"] == pytest.approx(2.0 / np.sqrt(24.0))
    assert noisy["slope"] == pytest.approx(1.0)
    nothing = compare.agreement(np.zeros((2, 2, 3)), truth, is_zero)
    assert nothing["noise"] is nothing["correlation"] is None and nothing["slope"] == 0.0


@pytest.fixture
def supernet_dir(without_tracing, tmp_path_factory):
    """A supernet after two steps."""
    folder = str(tmp_path_factory.mktemp("runs") / "supernet")
    arguments = ["train_supernet", *TINY, "--set=search.batch_size=999", f"--output_dir={folder}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(supernet_training, "_NUM_JUDGED_NETWORKS", 1)
        assert common.call(train_supernet.main, train_supernet.FLAGS, arguments) == 0
    return folder


def _call(*arguments):
    return common.call(compare.main, compare.FLAGS, ["compare_arch_gradients", *arguments])


def test_it_goes_on_and_prints_what_the_rows_say(supernet_dir, tmp_path, monkeypatch, capsys):
    output = tmp_path / "gradients.json"
    arguments = (*TINY, *SIZES, f"--supernet_dir={supernet_dir}", f"--output={output}")
    monkeypatch.setattr(compare, "_PATHS_AT_A_TIME", 10)
    monkeypatch.setattr(compare, "fit_gradient", _interrupt)
    assert _call(*arguments) == 130
    half = json.loads(output.read_text(encoding="utf-8"))
    assert len(half["paths"]) == 20 and half["rows"] == []
    monkeypatch.undo()

    monkeypatch.setattr(compare, "ARCH_GRADIENTS", ARCH_GRADIENTS[2:])
    assert _call(*arguments) == 0
    first = json.loads(output.read_text(encoding="utf-8"))
    monkeypatch.undo()
    capsys.readouterr()
    assert _call(*arguments) == 0
    report = json.loads(output.read_text(encoding="utf-8"))
    assert report["rows"][:2] == first["rows"] and report["truth"] == first["truth"]
    assert [r["estimator"] for r in report["rows"]] == [*ARCH_GRADIENTS[2:], *ARCH_GRADIENTS[:2]]
    gradient = np.asarray(report["truth"]["gradient"])
    assert gradient.shape == (2, 7) and gradient[0, 6] == 0  # no Zero in the first block
    np.testing.assert_allclose(gradient.sum(axis=1), 0.0, atol=1e-6)
    assert all(row["cpu_s_per_step"] > 0 and row["noise"] > 0 for row in report["rows"])
    table = capsys.readouterr().out.splitlines()
    assert table[0].count("|") == table[1].count("---") + 1 == 7
    assert table[2].startswith(f"| one_path | {report['rows'][0]['slope']:.3g} |")

    assert _call(*arguments, "--num_steps=4") == 1
    assert "is of other settings" in capsys.readouterr().err
    assert _call(*TINY, f"--output={output}") == 1
    assert "--supernet_dir is missing" in capsys.readouterr().err


def _interrupt(*_):
    raise KeyboardInterrupt
