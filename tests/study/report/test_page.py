"""The page of a report with known numbers."""

from __future__ import annotations

import math
import re
from dataclasses import replace

from hdvae_platform.analysis.metric_names import BIAS, ELBO
from hdvae_platform.report.figures.collection import all_figures
from hdvae_platform.report.page import html
from hdvae_platform.report.tables import confirmed_table
from hdvae_platform.study.constraints import Limits
from tests.study.helpers.report_contents import WINNER, biased, contents, expecting, unfinished, widths


def test_one_seed_with_confirmed_winners_says_that_they_have_intervals():
    page = html(replace(widths(3, seeds=1), confirmed=[WINNER]), [])
    assert "one seed" in page
    assert "confirmed trials have several fresh seeds, and intervals over them" in page
    assert "confirmed trials have" not in html(widths(3, seeds=1), [])


def test_an_unfinished_study_is_counted_as_by_its_status():
    page = html(unfinished(), [])
    assert "4 arms, 12 runs: 5 complete, 7 waiting." in page
    assert "7 of 12 runs have not ended and are not in the means; 2 arms have no complete run yet" in page
    assert "hdvae study status made shows the progress" in page


def test_values_that_are_not_finite_are_in_no_mean():
    found = contents(
        {"model.width": {"choices": [1, 2]}},
        [{"model.width": 1}, {"model.width": 2}],
        [[{ELBO: -1.0}, {ELBO: math.nan}], [{ELBO: -2.0}, {ELBO: -3.0}]],
    )
    assert found.arms[0].values(ELBO) == [-1.0]
    page = html(found, all_figures(found))
    assert "<strong>not finite</strong>: valid/elbo in 1 of 4 runs; its means leave these runs out" in page
    assert ">nan" not in page


def test_a_page_has_a_bounded_number_of_arms(monkeypatch):
    monkeypatch.setattr("hdvae_platform.report.arm_report.MAX_ARMS", 5)
    found = widths(8)
    assert [arm.name for arm in found.arms] == ["3", "4", "5", "6", "7"]
    page = html(found, all_figures(found))
    assert "the study has 8 arms; this page shows the 5 best by valid/elbo" in page


def test_links_lead_to_the_server_and_hold_no_secret():
    page = html(widths(2), [])
    assert '<a href="http://host:5000/#/experiments/1/runs/run-0-1" title="run-0-1">run-0-1</a>' in page
    assert "secret" not in page


def test_differences_of_two_pairs_of_seeds_have_one_caveat():
    assert html(widths(3), []).count("rest on one degree of freedom") == 1
    assert "degree of freedom" not in html(widths(3, seeds=3), [])


def test_confirmed_trials_name_their_metrics_only_where_there_are_several():
    limited = replace(WINNER, constraints={BIAS: Limits(at_most=0.5)})
    bias = replace(limited, metric=BIAS, sign=0, search=0.4, runs=[run_with(run, 0.25) for run in WINNER.runs])
    one, both = (confirmed_table(replace(widths(2), confirmed=some)) for some in ([limited], [limited, bias]))
    assert (one.label, one.rows[0][1][0].note) == ("The best trials with fresh seeds: valid/elbo", "")
    assert [cells[0].note for _, cells in both.rows] == ["valid/elbo", "valid/relaxation_bias, at most 0.5"]
    assert [cell.text for cell in both.rows[1][1][1:]] == ["0.25", "[0.25, 0.25]", "0.40", "—", "2"]


def run_with(run, bias):
    """A run that has this bias too."""
    return replace(run, metrics={**run.metrics, BIAS: bias})


def test_confirmed_winners_stand_beside_the_value_of_the_search():
    page = html(replace(widths(2), confirmed=[replace(WINNER, lost=1)]), [])
    assert "The best trials with fresh seeds" in page
    assert '<a href="#runs-of-1">1. width 2</a>' in page
    for text in ("-90.00", "-92.00", "+2.00"):
        assert f">{text}</td>" in page
    assert "2<small>1 without a finite value</small>" in page
    assert "1 run with fresh seeds ended without a finite value and is left out" in page


def test_confirmations_are_among_the_runs_that_are_held_against_each_other():
    """Of other code than the search, and of other data: shrinkage is then also that of code and data."""
    other = [replace(run, tags={**run.tags, "hdvae.data_checksum": "e" * 64}) for run in WINNER.runs]
    found = replace(widths(2), confirmed=[replace(WINNER, runs=other)])
    row = {"number": 1, "kind": "confirmation", "state": "COMPLETE", "error": None, "params": {}}
    found.status.trials.extend({**row, "seed": int(run.tags["hdvae.seed"]), "run_id": run.run_id} for run in other)
    page = html(replace(found, tracked={**found.tracked, **{run.run_id: run for run in other}}), [])
    assert "<strong>mixed code</strong>: " in page
    assert "<strong>mixed data</strong>: 4 runs with checksum unknown; 2 runs with checksum eeeeeeee" in page
    assert "<td>checksum eeeeeeee</td>" in page, "the table of runs shows which is which"
    assert '<td data-key="4">made/1/7</td>' in page, "their handles are shown"
    assert "6 min 0 s in total" in page, "their time counts"


def test_images_in_two_splits_are_a_caveat():
    shared = "60 of 60 test images are also in train (test 0 = train 0)"
    found = widths(2)
    assert "images in two splits" not in html(found, [])
    for arm in found.arms:
        for run in arm.arm.runs:
            run.tags["hdvae.data_overlap"] = shared
    assert f"<strong>images in two splits</strong>: {shared}" in html(found, [])


def test_complete_runs_that_mlflow_lacks_are_not_silently_left_out():
    found = widths(2)
    page = html(replace(found, unsent=1), [])
    assert "<strong>not in MLflow</strong>: the final numbers of 1 complete run is missing from the means" in page
    assert "not in MLflow" not in html(found, [])


def test_a_winner_whose_confirmations_were_all_lost_stands_there_without_them():
    page = html(replace(widths(2), confirmed=[replace(WINNER, runs=[], lost=2, unfinished=1)]), [])
    assert "2 without a finite value, 1 not ended" in page
    assert "confirmations</strong>: 2 runs with fresh seeds ended without a finite value" in page
    assert "confirmations</strong>: 1 run with fresh seeds had not ended" in page


def test_arms_that_were_measured_differently_have_the_caveat_of_compare():
    found = widths(2)
    for arm, samples in zip(found.arms, ("10", "1000"), strict=True):
        arm.arm.runs[:] = [replace(run, params={"evaluation.samples": samples}) for run in arm.arm.runs]
    page = html(found, [])
    assert "<strong>measured differently</strong>: runs differ in evaluation.samples: 10, 1000" in page


def test_a_search_for_a_metric_of_training_is_said_to_be_one():
    search = {"method": "grid", "metric": "train/gradient_norm", "direction": "minimize"}
    sets, numbers = [{"model.width": 1}, {"model.width": 2}], [[{"train/gradient_norm": 1.0}]] * 2
    page = html(contents({"model.width": {"choices": [1, 2]}}, sets, numbers, search=search), [])
    assert "Metrics are measured on validation images, except those under <code>train/</code>." in page
    assert "All metrics are measured on validation images." in html(widths(2), [])


def test_every_metric_of_a_search_is_a_column_and_tested():
    search = {"method": "grid", "also": {"valid/perplexity/layer_1": "maximize"}}
    numbers = [
        [{ELBO: -90.0 - i - seed / 9, "valid/perplexity/layer_1": 3.0 + i + seed / 7} for seed in range(3)]
        for i in (0, 1)
    ]
    found = contents(
        {"model.width": {"choices": [2, 4]}}, [{"model.width": 2}, {"model.width": 4}], numbers, search=search
    )
    page = html(found, [])
    assert "maximize valid/elbo, maximize valid/perplexity/layer_1" in page
    assert re.search(r"<th[^>]*>(<[^>]+>)*\s*elbo.*<th[^>]*>(<[^>]+>)*\s*perplexity/layer_1", page, re.S)
    assert [one.significant for one in found.differences("valid/perplexity/layer_1")] == [True]
    assert found.metrics == [ELBO, "valid/perplexity/layer_1", BIAS]


def test_the_page_says_whether_the_data_support_the_claim():
    numbers = [[biased(-100.0 + i + s / 9 + (i * s) / 50, 0.1) for s in range(4)] for i in range(2)]
    wider = {"metric": ELBO, "higher": {"model.width": 2}, "than": {"model.width": 1}}
    narrower = {"metric": ELBO, "higher": {"model.width": 1}, "than": {"model.width": 2}}
    same = {"metric": BIAS, "higher": {"model.width": 2}, "than": {"model.width": 1}}
    page = html(expecting(wider, numbers=numbers), [])
    assert '<strong class="supported">The data support the claim</strong>' in page
    assert 'valid/elbo is higher with width 2 than with width 1: <strong class="supported">supported</strong>' in page
    assert "The expectations were stated before the study began." in page
    assert "The data contradict the claim" in html(expecting(wider, narrower, numbers=numbers), [])
    found = expecting(wider, same, numbers=numbers)
    page = html(replace(found, restated=1.6e9), [])
    assert "The data are inconclusive" in page
    assert "The expectations were last changed on 2020-09-13 12:26 UTC, after the study began" in page
    assert "The study file states no expectations" in html(widths(2), [])


def test_many_differences_that_are_not_significant_are_folded():
    """Six arms make fifteen pairs, of which those with the last one are clear."""
    space = {"model.width": {"choices": list(range(1, 7))}}
    noise = [[0.3, -0.1, 0.2, -0.4], [-0.2, 0.4, 0.1, -0.1], [0.0, 0.2, -0.3, 0.3], [0.1, -0.3, 0.3, 0.2]]
    noise += [[-0.1, 0.1, -0.2, 0.4], [50.2, 50.0, 49.9, 50.3]]
    found = contents(space, [{"model.width": i} for i in range(1, 7)], [[{ELBO: one} for one in row] for row in noise])
    page = html(found, [])
    section = page[page.index('id="differences"') : page.index('id="figures"')]
    shown, folded = section.split("<summary>10 of 15 differences are inconclusive</summary>")
    assert [len(re.findall(r">\d − \d<", part)) for part in (shown, folded)] == [5, 10]
    few = html(widths(3), [])
    assert "inconclusive</summary>" not in few


def test_the_best_arm_and_the_front_are_marked_and_in_the_contents():
    page = html(widths(3), [])
    assert re.search(r'<b class="mark">best</b> <a href="#runs-of-2">2\. width 3</a>', page)
    assert '<li><a href="#best">The best trial</a></li>' in page
    assert "hdvae study best made --out FILE.yaml" in page
    search = {"method": "grid", "also": {BIAS: "minimize"}}
    numbers = [[biased(-100.0, 1.0)], [biased(-90.0, 2.0)], [biased(-95.0, 3.0)]]
    sets = [{"model.width": i} for i in (1, 2, 3)]
    found = contents({"model.width": {"choices": [1, 2, 3]}}, sets, numbers, search=search)
    page = html(found, [])
    assert found.best == ["1", "0"]
    table = page[page.index('id="arms"') : page.index("</table>", page.index('id="arms"'))]
    assert re.findall(r'<b class="mark">front</b> <a[^>]*>(\d)', table) == ["0", "1"]


def test_arms_without_a_complete_run_are_folded():
    page = html(unfinished(), [])
    assert "<summary>1 arm without a complete run</summary>" in page
    assert page.index('id="arm-1"') < page.index("<summary>1 arm without") < page.index('id="arm-2"')
