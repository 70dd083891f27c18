"""Fronts, ranks and crowding, against what they mean in plain Python."""

from __future__ import annotations

import numpy as np
import pytest

from dance_tf.search.sweep.fronts import crowding_distances, front_ranks, front_rows


def _beats(a, b) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True)) and tuple(a) != tuple(b)


def _plain_ranks(points) -> list[int]:
    ranks, left = {}, set(range(len(points)))
    while left:
        front = {i for i in left if not any(_beats(points[j], points[i]) for j in left)}
        ranks |= dict.fromkeys(front, max(ranks.values(), default=-1) + 1)
        left -= front
    return [ranks[i] for i in range(len(points))]


@pytest.mark.parametrize("num_coordinates", [2, 3, 4])
def test_ranks_and_front_are_those_of_plain_python(num_coordinates):
    """Small whole numbers: many are equal in a coordinate, and some in all."""
    points = np.random.RandomState(num_coordinates).randint(0, 6, (60, num_coordinates))
    assert front_ranks(points).tolist() == _plain_ranks(points)
    rows = front_rows(points)
    first_of = [i for i in range(60) if points[i].tolist() not in points[:i].tolist()]
    assert set(rows) == {i for i in first_of if _plain_ranks(points)[i] == 0}
    assert points[rows].tolist() == sorted(points[rows].tolist())


def test_crowding_is_the_gap_between_neighbours_of_one_rank():
    points = np.array([[0.0, 4.0], [1.0, 2.0], [3.0, 1.0], [4.0, 0.0], [5.0, 5.0], [9.0, 9.0]])
    ranks = front_ranks(points)
    assert ranks.tolist() == [0, 0, 0, 0, 1, 2]
    found = crowding_distances(points, ranks)
    assert found.tolist() == [np.inf, 3 / 4 + 3 / 4, 3 / 4 + 2 / 4, np.inf, np.inf, np.inf]
    scaled = crowding_distances(points * [1e6, 1e-6], ranks)
    np.testing.assert_allclose(scaled, found)


def test_equal_points_are_crowded_and_nothing_has_no_front():
    found = crowding_distances([[1.0, 2.0]] * 4, [0] * 4)
    assert sorted(found.tolist()) == [0.0, 0.0, np.inf, np.inf]
    assert len(front_rows(np.zeros((0, 2)))) == len(front_ranks(np.zeros((0, 2)))) == 0
    with pytest.raises(ValueError, match="finite"):
        front_rows([[np.inf, 0.0]])
