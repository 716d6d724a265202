"""What MLflow says of a study in words, and which run is its best."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from hdvae_platform.running.descriptions import (
    MAX_ARMS,
    MAX_DESCRIPTION,
    best_run,
    run_description,
    run_name,
    study_summary,
)
from hdvae_platform.search.search import Assignment
from hdvae_platform.store.records import Run
from hdvae_platform.store.storage import Storage
from hdvae_platform.study.file import load_study
from hdvae_platform.tracking.client import Client
from hdvae_platform.tracking.names import Tag


def run(trial, seed, value, state="COMPLETE", kind="search"):
    return Run(trial, seed, state, 1, value, None, f"id-{trial}-{seed}", True, kind)


def described(client, study, places, runs=()):
    """The description of a study in MLflow."""
    return study_summary(client, study, Storage(places.storage), runs)[Tag.DESCRIPTION]


SEARCH = [run(0, 0, -5.0), run(0, 1, -3.0), run(1, 0, -1.0), run(1, 1, -9.0), run(2, 0, -2.0), run(2, 1, None, "FAIL")]
CONFIRMED = [run(1, 7, -4.0, kind="confirmation"), run(1, 8, -2.0, kind="confirmation")]


@pytest.mark.parametrize(
    ("runs", "direction", "best"),
    [
        (SEARCH, "maximize", (0, 1)),  # the best mean, not the best run; and no trial that failed
        (SEARCH, "minimize", (1, 1)),
        ([*SEARCH, *CONFIRMED], "maximize", (1, 8)),
        ([*SEARCH, run(0, 7, None, "FAIL", "confirmation")], "maximize", (0, 1)),
        ([run(0, 0, -5.0, "PRUNED")], "maximize", None),
        ([], "maximize", None),
    ],
)
def test_the_best_run(edit, runs, direction, best):
    found = best_run(load_study(edit({"search/direction": direction})), runs)
    assert (None if found is None else (found.trial, found.seed)) == best


@pytest.mark.parametrize(("limit", "best"), [(3.0, (0, 1)), (2.0, (1, 0)), (0.5, None)])
def test_the_best_run_is_of_a_feasible_trial(edit, limit, best):
    study = load_study(edit({"search/constraints": {"valid/kl": {"at_most": limit}}}))
    kls = {0: 2.5, 1: 1.0}
    runs = [replace(one, also={"valid/kl": kls[one.trial]}) for one in SEARCH if one.trial in kls]
    found = best_run(study, runs)
    assert (None if found is None else (found.trial, found.seed)) == best


def test_names_and_descriptions_are_the_settings_in_words(study_file):
    study = load_study(study_file)
    params = {"model.latent": "categorical", "training.temperature": [[0, 0.8], [20, 0.1]]}
    assignment = Assignment(2, 1, params, attempt=1)
    assert run_name("small", assignment) == "small/2/1: latent categorical, temperature 0.8→0.1 at 20"
    said = run_description(study, assignment)
    assert said.startswith("Run small/2/1: study small, trial 2, seed 1. Small things run fast.")
    assert "- temperature 0.8→0.1 at 20" in said
    again = Assignment(2, 5, params, attempt=1, kind="confirmation")
    assert run_name("small", again).startswith("small/2/5 (confirmation): latent")
    assert "a confirmation with a fresh seed" in run_description(study, again)


def test_names_stay_short():
    params = {"model.layers": [{"variables": 16, "classes": 256}] * 100}
    assert len(run_name("small", Assignment(0, 0, params, attempt=1))) < 250


def test_the_description_of_a_study_counts_copies_of_a_seed_once(places, study_file):
    study, client = load_study(study_file), Client(places)
    for trial, seed, elbo in [(0, 0, -100.0), (0, 1, -110.0), (1, 0, -100.0), (1, 1, -110.0)]:
        tags = {
            "hdvae.study": "small",
            "hdvae.kind": "run",
            "hdvae.trial": str(trial),
            "hdvae.seed": str(seed),
            "hdvae.state": "COMPLETE",
            "hdvae.arm": json.dumps({"training.freebits": 1.0}),
        }
        run_id = client.open_run(f"{trial}-{seed}", tags, {}, new=True)
        client._client.log_metric(run_id, "valid/elbo", elbo)
    assert "| -105 ± 64 |" in described(client, study, places)


def test_arms_that_are_close_have_labels_of_their_own(places, study_file):
    study, client = load_study(study_file), Client(places)
    for trial in range(2):
        tags = {
            "hdvae.study": "small",
            "hdvae.kind": "run",
            "hdvae.trial": str(trial),
            "hdvae.seed": "0",
            "hdvae.state": "COMPLETE",
            "hdvae.arm": json.dumps({"training.freebits": (1.00001, 1.00002)[trial]}),
        }
        run_id = client.open_run("a", tags, {}, new=True)
        client._client.log_metric(run_id, "valid/elbo", -100.0)
    said = described(client, study, places)
    assert "| (0) training.freebits 1.00001 |" in said
    assert "| (1) training.freebits 1.00002 |" in said


def test_the_description_of_a_study_has_its_best_arms_first_and_fits(places, study_file):
    study, client = load_study(study_file), Client(places)
    for trial in range(MAX_ARMS + 5):
        tags = {
            "hdvae.study": "small",
            "hdvae.kind": "run",
            "hdvae.trial": str(trial),
            "hdvae.seed": "0",
            "hdvae.state": "COMPLETE",
            "hdvae.arm": json.dumps({"training.freebits": trial, "training.temperature": 0.1}),
        }
        run_id = client.open_run("a", tags, {"hdvae.trial": str(trial)}, new=True)
        client._client.log_metric(run_id, "valid/elbo", -100.0 + trial)
    said = described(client, study, places)
    rows = [line for line in said.splitlines() if re.match(r"\| \(\d+\) freebits", line)]
    assert len(rows) <= MAX_ARMS
    assert [row.split()[1] for row in rows[:3]] == ["(24)", "(23)", "(22)"]
    assert f"the best {len(rows)} of {MAX_ARMS + 5} arms" in said
    assert said.startswith(study.claim)
    assert len(said) <= MAX_DESCRIPTION


def test_the_description_of_a_study_has_its_confirmed_winners(places, study_file):
    """Their mean on the fresh seeds, beside what the search had promised; a name is not taken for HTML."""
    study, client = load_study(study_file), Client(places)
    parent = client.open_run("small", {}, {"hdvae.study": "small", "hdvae.kind": "study"}, new=True)
    client.log_params(parent, {"metric": "valid/elbo", "direction": "maximize"})
    for kind, values in (("run", {0: -90.0, 1: -92.0}), ("confirmation", {7: -95.0, 8: -97.0})):
        for seed, value in values.items():
            tags = {
                "hdvae.study": "small",
                "hdvae.kind": kind,
                "hdvae.trial": "3",
                "hdvae.seed": str(seed),
                "hdvae.state": "COMPLETE",
                "hdvae.arm": json.dumps({"data.name": "<b>"}),
            }
            run_id = client.open_run("a", tags, {"hdvae.seed": str(seed)}, new=True)
            client._client.log_metric(run_id, "valid/elbo", value)
    said = described(client, study, places)
    (row,) = [line for line in said.splitlines() if line.startswith("| trial 3: ")]
    assert "name &lt;b&gt; | valid/elbo | -91.00 | -96.00 | [" in row
    assert row.endswith("| 2 | +5.00 |")
    assert said.index("| best trials with fresh seeds |") < said.index("| -91 ± ")
