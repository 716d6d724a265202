"""Looks: their records on the storage, and what they do to the errors and the power of verdicts."""

from __future__ import annotations

import itertools
import json
import multiprocessing

import numpy as np
import pytest

from hdvae_platform.analysis.inference import LEVEL, two_sided_p
from hdvae_platform.analysis.looks import Look, Looks
from hdvae_platform.analysis.verdicts import FEWEST_SEEDS, levels_of, verdicts
from hdvae_platform.store.layout import looks_folder
from hdvae_platform.store.storage import Storage
from hdvae_platform.study.expectation import Expectation
from tests.study.analysis.test_verdicts import arm

HIGHER = Expectation(metric="valid/elbo", higher={"a": 1}, than={"a": 2})
LOWER = Expectation(metric="valid/elbo", lower={"a": 1}, than={"a": 2})
OTHER = Expectation(metric="valid/kl", higher={"a": 1}, than={"a": 2})
STUDIES, MOST_SEEDS = 10_000, 10


def runs(*seeds, trials=(0, 1)):
    return set(itertools.product(trials, seeds))


def test_a_look_is_counted_once_and_every_other_one_after_it(root):
    looks = Looks(Storage(root), "s")
    assert looks.look(HIGHER, runs(0, 1, 2)) == Look(1)
    assert looks.look(HIGHER, runs(0, 1, 2, 3)) == Look(2)
    assert [looks.look(HIGHER, runs(0, 1, 2)), looks.look(HIGHER, runs(3, 2, 1, 0))] == [Look(1), Look(2)]
    assert looks.look(HIGHER, runs(0, 1, 2, 3, trials=(0, 1, 2))) == Look(3), "more runs of the same seeds"
    assert looks.look(LOWER, runs(0, 1, 2)) == Look(1), "the same test, however the expectation is worded"
    assert looks.look(OTHER, runs(0, 1, 2, 3)) == Look(1)
    assert Looks(Storage(root), "t").look(HIGHER, runs(0, 1, 2, 3)) == Look(1)
    again = Looks(Storage(root), "s")
    assert again.look(HIGHER, runs(*range(9))) == Look(4), "another process counts on"
    told = [(one["number"], one["seeds"]) for one in again.records() if "elbo" in one["expected"]]
    assert told == [(1, [0, 1, 2]), (2, [0, 1, 2, 3]), (3, [0, 1, 2, 3]), (4, list(range(9)))]


def test_the_level_of_looks():
    assert [Look(number).price for number in (1, 2, 3)] == [2, 6, 12]
    assert sum(1 / Look(number).price for number in range(1, 10_000)) == pytest.approx(1, abs=2e-4)


def test_a_reader_without_the_right_to_write_is_told_the_next_number(tmp_path, monkeypatch):
    storage = Storage(str(tmp_path))
    assert Looks(storage, "s").look(HIGHER, runs(0, 1, 2)) == Look(1)
    monkeypatch.setattr(storage, "write", _refuse)
    assert Looks(storage, "s").look(HIGHER, runs(0, 1, 2)) == Look(1)
    assert Looks(storage, "s").look(HIGHER, runs(0, 1, 2, 3)) == Look(2, recorded=False)
    arms = [arm({"a": a}, [-a - 0.1 * seed * a for seed in range(4)]) for a in (1, 2)]
    (found,) = verdicts([HIGHER], arms, Looks(storage, "s").look)
    assert "look 2 (not recorded: the storage takes no files, so it will not count), at level 0.833%" in found.numbers


def _refuse(name, data):
    raise PermissionError(13, "Permission denied", name)


def _look(root, seeds):
    return Looks(Storage(root), "s").look(HIGHER, runs(*seeds)).number


def test_readers_at_the_same_time_count_alike(tmp_path):
    """Of the same runs they make one look; of different runs, afterwards all agree on the numbers."""
    with multiprocessing.get_context("fork").Pool(4) as pool:
        same = pool.starmap(_look, [(str(tmp_path), (0, 1, 2))] * 16)
        pool.starmap(_look, [(str(tmp_path), (0, 1, 2, extra)) for extra in range(3, 9)] * 3)
    assert same == [1] * 16
    numbers = [_look(str(tmp_path), (0, 1, 2, extra)) for extra in range(3, 9)]
    assert sorted(numbers) == [2, 3, 4, 5, 6, 7]
    assert len(Storage(str(tmp_path)).list(looks_folder("s"))) >= 7


def test_a_crash_before_the_record_or_between_record_and_print_costs_nothing_twice(tmp_path, monkeypatch):
    """The record is written before the verdict is shown; it is whole or absent, and the next print is the same look."""
    storage = Storage(str(tmp_path))
    whole, written = storage.write, []

    def killed_after(name, data):
        whole(name, data)
        written.append(json.loads(data))
        raise KeyboardInterrupt

    monkeypatch.setattr(storage, "write", killed_after)
    with pytest.raises(KeyboardInterrupt):
        Looks(storage, "s").look(HIGHER, runs(0, 1, 2))
    assert [one["seeds"] for one in written] == [[0, 1, 2]]
    assert Looks(Storage(str(tmp_path)), "s").look(HIGHER, runs(0, 1, 2)) == Look(1)


def answers(apart_SN, first_look):
    """Whether each of S studies is called significant at each number of seeds, with a look after each seed.

    The product's own p-value and levels, for all studies at once.

    Args:
        apart_SN: the difference of each pair of seeds.
        first_look: the number of seeds at the first look.
    """
    found = []
    for number, seeds in enumerate(range(first_look, apart_SN.shape[1] + 1), 1):
        part = apart_SN[:, :seeds]
        p_S = two_sided_p(part.mean(1), part.std(1, ddof=1) / np.sqrt(seeds), seeds - 1)
        (level,) = levels_of([0.0], [Look(number)])
        found.append(p_S < level)
    return np.array(found).T


def test_adding_seeds_until_there_is_a_verdict_makes_few_errors():
    """2 to 10 seeds with a look after each: at 2 there is no verdict. Without looks it is more than 13%."""
    apart = np.random.default_rng(0).normal(size=(STUDIES, MOST_SEEDS))
    assert FEWEST_SEEDS == 3
    wrong = answers(apart, FEWEST_SEEDS).any(1).mean()
    always = np.mean([_p(one) < LEVEL for seeds in range(2, 11) for one in [apart[:, :seeds]]], axis=0)
    print(f"\nof {STUDIES:,} null studies of 2 to 10 seeds, a look after each: {wrong:.2%} significant")
    assert wrong <= 0.055
    assert (always > 0).mean() > 0.13, "what the looks are for"


def _p(apart_SN):
    seeds = apart_SN.shape[1]
    return two_sided_p(apart_SN.mean(1), apart_SN.std(1, ddof=1) / np.sqrt(seeds), seeds - 1)


def test_the_simulated_answers_are_those_of_the_product(tmp_path):
    """Whole verdicts of some studies, with records on a storage, against the computation for all at once."""
    apart = np.random.default_rng(1).normal(1.2, 1, size=(25, 7))
    expected = answers(apart, FEWEST_SEEDS)
    assert 5 < expected.any(1).sum() < 25
    for study, (row, significant) in enumerate(zip(apart, expected, strict=True)):
        looks = Looks(Storage(str(tmp_path)), f"s{study}")
        found = []
        for seeds in range(2, 8):
            arms = [arm({"a": 1}, row[:seeds].tolist()), arm({"a": 2}, [0.0] * seeds)]
            found += verdicts([HIGHER], arms, looks.look)
        assert [one.answer for one in found] == ["inconclusive", *np.where(significant, "supported", "inconclusive")]
        assert [one.look and one.look.number for one in found] == [None, 1, 2, 3, 4, 5]


def test_the_power_under_an_effect_of_two_standard_deviations():
    """`docs/comparison.md` quotes what this prints."""
    apart = np.random.default_rng(2).normal(2, 1, size=(STUDIES, MOST_SEEDS))
    three = answers(apart[:, :3], 3)[:, 0].mean()
    five = answers(apart[:, :5], 5)[:, 0].mean()
    stepwise = answers(apart[:, :5], 3).any(1).mean()
    print(
        f"\npower under 2 standard deviations: 3 seeds {three:.0%}, 5 seeds {five:.0%}, looks at 3, 4, 5 {stepwise:.0%}"
    )
    assert 0.2 < three < 0.35
    assert 0.75 < five < 0.9
    assert three < stepwise < five
