"""Tables of accuracies: the shipped one, tables of one's own, and what is refused."""

from __future__ import annotations

import csv
import pathlib

import numpy as np
import pytest

from dance_tf.config import SpaceConfig
from dance_tf.errors import UserError
from dance_tf.search.accuracy.table import AccuracyTable, TableAccuracy, shipped_table_path
from dance_tf.supernet.space_files import make_space

SPACE = make_space(SpaceConfig("nas_bench_macro"))
TINY = make_space(SpaceConfig("tiny_mbconv"))
PUBLISHED = pathlib.Path("../shared/nas_bench_macro/nas_bench_macro_cifar10.csv")


def _table(tmp_path, text):
    path = tmp_path / "mine.csv"
    path.write_text(text)
    return AccuracyTable.read(TINY, path)


def test_the_shipped_table_has_every_network_of_its_space():
    table = AccuracyTable.read(SPACE, shipped_table_path("nas_bench_macro"))
    assert len(table) == SPACE.num_architectures and table.num_trainings == 2
    assert shipped_table_path("cifar_mbconv") is None
    if not PUBLISHED.exists():
        pytest.skip(f"{PUBLISHED} is not there")
    with PUBLISHED.open() as file:
        for row in csv.DictReader(file):
            ops = [int(digit) for digit in row["architecture"]]
            for training in (0, 1):
                error = table.errors([ops], training)[0]
                assert 100 * (1 - error) == pytest.approx(
                    float(row[f"test_accuracy_{training + 1}"])
                )


def test_a_table_of_names_or_digits_gives_one_training_or_the_mean(tmp_path):
    table = _table(
        tmp_path,
        "architecture,accuracy_percent_1,accuracy_percent_2\nmbconv3_e3 zero,90,92\n51,80.5,81.5\n",
    )
    networks = [[5, 1], [0, 6]]
    np.testing.assert_allclose(table.errors(networks, 1), [0.185, 0.08])
    np.testing.assert_allclose(table.errors(networks), [0.19, 0.09])
    source = TableAccuracy(table, training=0)
    np.testing.assert_allclose(source.errors(np.array(networks)), [0.195, 0.1])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("architecture,accuracy_percent_1\n", "is no table of accuracies"),
        ("network,accuracy_percent_1\n00,90\n", "is no table of accuracies"),
        ("architecture,accuracy_percent_1\n00,101\n", "not between 0 and 100 %"),
        ("architecture,accuracy_percent_1\n00,nan\n", "not between 0 and 100 %"),
        ("architecture,accuracy_percent_1\n00,good\n", "an accuracy is not a number"),
        ("architecture,accuracy_percent_1\n00,90\n00,91\n", "is there twice"),
        ("architecture,accuracy_percent_1\n08,90\n", "row 1: 08 names an op beyond the 7"),
        ("architecture,accuracy_percent_1\n60,90\n", "op 'zero' is not allowed at block 0"),
        ("architecture,accuracy_percent_1\nmbconv3_e3,90\n", "has 1 ops"),
        ("architecture,accuracy_percent_1\nmbconv3_e3 zro,90\n", "did you mean 'zero'"),
    ],
)
def test_a_mistake_in_a_table_is_one_clear_line(tmp_path, text, message):
    with pytest.raises(UserError, match=r"mine\.csv") as error:
        _table(tmp_path, text)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_network_or_a_training_that_a_table_lacks_is_named(tmp_path):
    table = _table(tmp_path, "architecture,accuracy_percent_1\n00,90\n")
    with pytest.raises(UserError, match="has no network mbconv3_e3 zero"):
        table.errors([[0, 6]])
    with pytest.raises(UserError, match="has 1 trainings, no 2"):
        TableAccuracy(table, training=1)
    with pytest.raises(UserError, match="cannot be read"):
        AccuracyTable.read(TINY, tmp_path / "nowhere.csv")
