"""The formulas, number by number."""

from math import nextafter, tanh

import pytest

from signals.model import Part, Temperature
from signals.scores import after_cross, band, combine, cross_side, per_atr, temperature


@pytest.mark.parametrize(
    ("rsi", "score"),
    [(0, 1.0), (15, 0.75), (30, 0.5), (40, 0.25), (50, 0.0), (60, -0.25), (70, -0.5), (85, -0.75), (100, -1.0)],
)
def test_an_oscillator_is_scored_by_its_zones(rsi: float, score: float) -> None:
    assert band(rsi, 0, 30, 70, 100) == pytest.approx(score)


def test_a_band_is_clipped_beyond_floor_and_ceiling() -> None:
    assert band(-500, -200, -100, 100, 200) == 1.0
    assert band(500, -200, -100, 100, 200) == -1.0


def test_differences_count_in_units_of_the_atr() -> None:
    assert per_atr(0.6, 2.0, 0.30) == tanh(1.0)
    assert per_atr(-3.0, 2.0, 1.5) == tanh(-1.0)


def test_a_fresh_cross_has_a_least_score_that_fades() -> None:
    assert [after_cross(0.1, 1, age, 5, 0.8) for age in range(6)] == pytest.approx([0.8, 0.64, 0.48, 0.32, 0.16, 0.1])
    assert after_cross(0.1, -1, 0, 5, 0.8) == pytest.approx(-0.8)
    assert after_cross(0.95, 1, 0, 5, 0.8) == 0.95
    assert after_cross(0.1, 0, 0, 5, 0.8) == 0.1


def test_a_difference_within_the_epsilon_is_a_tie() -> None:
    assert cross_side(0.9e-7, 100) == 0
    assert cross_side(1.1e-7, 100) == 1
    assert cross_side(-1.1e-7, 100) == -1


def test_the_score_is_the_weighted_mean_of_those_who_vote() -> None:
    parts = (Part("a", 1.0, 0.4), Part("b", None, 0.3), Part("c", -0.5, 0.3))
    assert combine(parts) == pytest.approx((0.4 - 0.15) / 0.7)


def test_a_true_zero_votes() -> None:
    assert combine((Part("a", 1.0, 1.0), Part("b", 0.0, 1.0))) == 0.5


@pytest.mark.parametrize("weight", [0.49, 0.0])
def test_without_half_of_the_weight_there_is_no_score(weight: float) -> None:
    assert combine((Part("a", 1.0, weight), Part("b", None, 1 - weight))) is None


def test_half_of_the_weight_is_enough() -> None:
    assert combine((Part("a", 1.0, 0.5), Part("b", None, 0.5))) == 1.0


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (0.30, Temperature.HOT),
        (-0.9, Temperature.HOT),
        (0.29, Temperature.WARM),
        (-0.15, Temperature.WARM),
        (0.05, Temperature.COOL),
        (0.04, Temperature.COLD),
        (0.0, Temperature.COLD),
        (None, Temperature.FROZEN),
    ],
)
def test_temperature_is_cut_on_the_size_of_the_score(score: float | None, expected: Temperature) -> None:
    assert temperature(score, 0.30, 0.15, 0.05) is expected


@pytest.mark.parametrize(
    ("weights", "score"),
    [
        ((0.5, 0.5), 0.5),  # exactly half
        ((0.5, 0.500001), None),  # a little less
        ((0.500001, 0.5), 0.5),
        ((3.0, 3.0), 0.5),  # weights need not add up to 1
        ((0.0, 0.0), None),
    ],
)
def test_the_voters_need_half_of_the_weight_to_the_last_bit(
    weights: tuple[float, float], score: float | None
) -> None:
    voting, silent = weights
    assert combine((Part("a", 0.5, voting), Part("b", None, silent))) == score


def test_a_score_of_voters_without_weight_is_none() -> None:
    assert combine((Part("a", 1.0, 0.0), Part("b", 1.0, 0.0))) is None
    assert combine(()) is None


@pytest.mark.parametrize(
    ("cut", "at", "below"),
    [
        (0.30, Temperature.HOT, Temperature.WARM),
        (0.15, Temperature.WARM, Temperature.COOL),
        (0.05, Temperature.COOL, Temperature.COLD),
    ],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_a_cut_belongs_to_the_warmer_side(cut: float, at: Temperature, below: Temperature, sign: int) -> None:
    assert temperature(sign * cut, 0.30, 0.15, 0.05) is at
    assert temperature(sign * nextafter(cut, 0), 0.30, 0.15, 0.05) is below
    assert temperature(sign * nextafter(cut, 1), 0.30, 0.15, 0.05) is at
