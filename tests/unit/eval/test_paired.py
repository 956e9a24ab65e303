from __future__ import annotations

import math

import numpy as np
import pytest

from alphagrpo.errors import ConfigError
from alphagrpo.eval.paired import mean, paired_difference, share_interval

Z = 1.959963984540054


def pairs(gained: int, lost: int, n: int) -> tuple[list[float], list[float]]:
    """Outcomes before and after: some prompts gained, some lost, the others right on both sides."""
    same = n - gained - lost
    return [0.0] * gained + [1.0] * (lost + same), [1.0] * gained + [0.0] * lost + [1.0] * same


def likelihood_interval(gained: int, lost: int, n: int) -> tuple[float, float]:
    """Tango's interval the long way: the trinomial likelihood is maximised numerically."""
    counts = np.array([gained, lost, n - gained - lost], float)

    def score(difference: float) -> float:
        low, high = max(0.0, -difference), (1 - difference) / 2
        for _ in range(60):  # each time a tenth of the range is left, around the best point
            losses = np.linspace(low, high, 41)
            cells = np.stack([losses + difference, losses, 1 - 2 * losses - difference])
            logs = np.log(np.maximum(cells, 1e-300))
            best = int(np.argmax(counts @ logs))
            low, high = losses[max(best - 2, 0)], losses[min(best + 2, 40)]
        variance = (low + high + difference - difference**2) / n
        return ((gained - lost) / n - difference) / math.sqrt(max(variance, 1e-15))

    def crossing(level: float, low: float, high: float) -> float:
        for _ in range(45):
            middle = (low + high) / 2
            low, high = (middle, high) if score(middle) > level else (low, middle)
        return low

    estimate = (gained - lost) / n
    return crossing(Z, -1.0, estimate), crossing(-Z, estimate, 1.0)


@pytest.mark.parametrize(
    ("gained", "lost", "n", "low", "high", "digits"),
    [(1, 7, 21, -0.517, -0.026, 3), (6, 16, 161, -0.1240, -0.0054, 4)],
    ids=["Bentur et al. 2009", "Cavo et al. 2012"],
)
def test_binary_pairs_have_the_published_intervals(
    gained: int, lost: int, n: int, low: float, high: float, digits: int
) -> None:
    """Worked examples of Fagerland, Lydersen and Laake (2014; 2017), to the digits they print."""
    difference = paired_difference(*pairs(gained, lost, n))
    assert (round(difference.low, digits), round(difference.high, digits)) == (low, high)
    assert difference.mean == pytest.approx((gained - lost) / n)
    assert difference.n == n


@pytest.mark.parametrize(
    ("gained", "lost", "n"),
    [(30, 10, 100), (12, 2, 50), (0, 1, 44), (5, 0, 5), (0, 3, 3), (1, 1, 2), (40, 40, 256)],
)
def test_binary_pairs_agree_with_a_likelihood_that_is_maximised_numerically(
    gained: int, lost: int, n: int
) -> None:
    difference = paired_difference(*pairs(gained, lost, n))
    expected = likelihood_interval(gained, lost, n)
    assert (difference.low, difference.high) == pytest.approx(expected, abs=1e-6)


def test_with_many_changes_the_interval_is_nearly_the_normal_one() -> None:
    n, gained, lost = 2000, 500, 300
    difference = paired_difference(*pairs(gained, lost, n))
    half = Z * math.sqrt(((gained + lost) - (gained - lost) ** 2 / n) / (n - 1) / n)
    assert (difference.low, difference.high) == pytest.approx((0.1 - half, 0.1 + half), abs=2e-4)


def test_pairs_without_a_change_are_no_proof_that_nothing_changes() -> None:
    for n in (1, 8, 256):
        difference = paired_difference([1, 0] * n, [1, 0] * n)
        bound = Z**2 / (2 * n + Z**2)
        assert (difference.low, difference.high) == pytest.approx((-bound, bound))


def test_every_interval_of_few_pairs_holds_its_mean_and_has_a_width() -> None:
    for n in range(1, 9):
        for gained in range(n + 1):
            for lost in range(n + 1 - gained):
                one = paired_difference(*pairs(gained, lost, n))
                other = paired_difference(*pairs(lost, gained, n))
                assert -1 <= one.low <= one.mean <= one.high <= 1, (gained, lost, n)
                assert one.high - one.low > 0.2
                assert (other.low, other.high) == pytest.approx((-one.high, -one.low), abs=1e-9)


def test_pairing_is_narrower_than_two_independent_samples() -> None:
    rng = np.random.default_rng(0)
    hardness = rng.random(300)
    gains = rng.normal(0.05, 0.01, 300)
    difference = paired_difference(list(hardness), list(hardness + gains))
    half = Z * gains.std(ddof=1) / math.sqrt(300)
    assert (difference.low, difference.high) == pytest.approx(
        (gains.mean() - half, gains.mean() + half)
    )
    assert half < 0.002, "the prompts' hardness is 0.29 wide"


def test_differences_that_are_all_alike_leave_room_for_prompts_not_seen() -> None:
    # 0.1 + 0.2 is not 0.3: what is alike up to rounding is alike.
    alike = paired_difference([0.3, 0.25] * 50, [0.1 + 0.2, 0.25] * 50)
    bound = Z**2 / (100 + Z**2)
    assert (alike.low, alike.high) == pytest.approx((-bound, bound))
    moved = paired_difference([0.25] * 100, [0.75] * 100)
    assert (moved.low, moved.high) == pytest.approx((0.5 - 1.5 * bound, 0.5 + 0.5 * bound))


def test_the_interval_covers_the_truth_about_95_times_in_100() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(400):
        before = rng.random(256) < 0.4
        after = before ^ (rng.random(256) < 0.3)
        truth = 0.3 * (0.6 - 0.4)
        difference = paired_difference(before.tolist(), after.tolist())
        hits += difference.low <= truth <= difference.high
    assert 0.92 <= hits / 400 <= 0.98


def test_one_prompt_says_little_and_none_is_refused() -> None:
    for before, after in (([0], [1]), ([0.2], [0.9])):
        difference = paired_difference(before, after)
        assert difference.low < 0 < difference.high
        assert difference.high - difference.low > 1.5
    with pytest.raises(ConfigError, match="same prompts"):
        paired_difference([], [])
    with pytest.raises(ConfigError, match="got 2 before and 1 after"):
        paired_difference([0, 1], [1])


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)],
)
def test_a_share_has_the_published_wilson_interval(
    right: int, n: int, low: float, high: float
) -> None:
    """The examples of Newcombe (1998), to four digits."""
    values = [1.0] * right + [0.0] * (n - right)
    assert share_interval(values) == pytest.approx((low, high), abs=5e-5)


def test_a_share_of_all_or_none_has_an_interval_too() -> None:
    assert share_interval([]) == (0.0, 1.0)
    low, high = share_interval([1.0] * 256)
    assert (low, high) == pytest.approx((256 / (256 + Z**2), 1.0))
    assert share_interval([0.0] * 256) == pytest.approx((0.0, 1 - low))


def test_the_mean_of_nothing_is_absent_and_not_zero() -> None:
    assert mean([]) is None
    assert mean([0.25, 0.75]) == 0.5
