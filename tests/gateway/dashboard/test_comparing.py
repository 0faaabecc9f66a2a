"""Whether one variant is ahead by more than chance."""

from __future__ import annotations

import pytest

from blossom_async.gateway.dashboard.comparing import chance


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (0, 0, 1.0),
        (7, 7, 1.0),
        (1, 0, 1.0),
        (6, 0, 2 / 64),
        (8, 2, 112 / 1024),  # a table of the sign test
        (60, 40, 0.05689),
        (5300, 5000, 0.0032),
    ],
)
def test_chance_is_that_of_tossing_a_coin(one: int, other: int, expected: float) -> None:
    """The exact test, either way round."""
    assert chance(one, other) == chance(other, one) == pytest.approx(expected, rel=0.01)


def test_the_approximation_goes_on_where_the_exact_test_ends() -> None:
    """Around a thousand viewers the two agree, and a lead counts for more the larger it is."""
    assert chance(530, 470) == pytest.approx(chance(531, 470), rel=0.1)
    assert chance(600, 500) < chance(580, 520) < chance(551, 550) <= 1.0
