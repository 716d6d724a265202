"""`hdvae compare` and `hdvae_platform.results` on a study with known numbers in a real MLflow database."""

from __future__ import annotations

import io
import itertools
import json
import math
import re
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pyarrow import parquet
from scipy import stats

import hdvae_platform
from hdvae.errors import InputError
from hdvae_platform.analysis.image_pairs import CLEAR_SIGN, _sign, derived
from hdvae_platform.cli import run as hdvae
from hdvae_platform.display.text import rounded
from hdvae_platform.store.journal import Entry
from hdvae_platform.store.layout import per_image_artifact
from hdvae_platform.store.per_image import as_parquet
from hdvae_platform.store.places import Places
from hdvae_platform.tracking.client import Client
from hdvae_platform.tracking.names import flattened

SEEDS, WIDTHS, IMAGES = 6, (2, 4, 8), 40
DOCS = Path(__file__).parents[3] / "docs/comparison.md"


def effect(width: int) -> float:
    return 3.0 * np.log2(width)


@pytest.fixture(scope="module")
def home(tmp_path_factory, made_databases):
    """A study of two latents × three widths × six seeds: the bias grows with the width, the ELBO too.

    Images and seeds have effects of their own, which pairs are free of.
    """
    home = tmp_path_factory.mktemp("compared") / "runs"
    home.mkdir()
    (home / "mlflow.db").write_bytes((made_databases / "mlflow.db").read_bytes())
    client, random = Client(Places.under(home)), np.random.RandomState(0)
    client.open_run("known", {}, {"hdvae.study": "known", "hdvae.kind": "study"}, new=True)
    image_effect, seed_effect = 10 * random.normal(size=IMAGES), 5 * random.normal(size=SEEDS)
    arms = [(latent, width) for latent in ("normal", "categorical") for width in WIDTHS]
    for trial, (latent, width) in enumerate(arms):
        for seed in range(SEEDS):
            bias = 0.0 if latent == "normal" else effect(width) / 10
            elbo = -100 + effect(width) + seed_effect[seed] + image_effect + random.normal(size=IMAGES)
            noise = 0.01 * random.normal(size=IMAGES) if bias else np.zeros(IMAGES)
            columns = {"elbo": elbo, "surrogate_elbo@tau=0.1": elbo + bias + noise}
            add(client, trial, seed, {"model.latent": latent, "model.width": width}, columns)
    add(client, 0, 99, {"model.latent": "normal", "model.width": 2}, None, state="PRUNED")
    return home


def add(client, trial, seed, arm, columns, state="COMPLETE", study="known", settings=None, **tags):
    """A run with the values of each image, and the metrics that these have as means; `settings` were not varied."""
    identity = {"hdvae.study": study, "hdvae.kind": "run", "hdvae.trial": str(trial), "hdvae.seed": str(seed)}
    more = {"hdvae.arm": json.dumps(arm), "hdvae.state": state, "hdvae.data_checksum": "d", **tags}
    run_id = client.open_run(f"trial {trial}", more, identity, new=True)
    client.log_params(run_id, {"evaluation.draws": 5, **arm, **(settings or {}), "seed": seed})
    if columns is not None:
        elbo, surrogate = columns["elbo"], columns["surrogate_elbo@tau=0.1"]
        metrics = {"valid/elbo": elbo.mean(), "valid/surrogate_elbo": surrogate.mean()}
        metrics["valid/relaxation_bias"] = abs(metrics["valid/surrogate_elbo"] - metrics["valid/elbo"])
        client.log_entry(run_id, Entry(10, int(1000 * time.time()), metrics))
        tensors = {"image": torch.arange(len(elbo)), **{name: torch.tensor(value) for name, value in columns.items()}}
        client.log_file(run_id, per_image_artifact("valid"), as_parquet(tensors, {"step": 10}))
    client.close_run(run_id, "FINISHED")
    return run_id


@pytest.fixture
def compare(home, capsys):
    """The command in this process: its code, and what it prints."""

    def run(*arguments):
        code = hdvae(["compare", "known", *map(str, arguments), "--home", str(home)])
        return code, *capsys.readouterr()

    return run


def test_a_difference_over_seeds_and_one_of_these_models(compare):
    """The interval of the models is that of the paired values of each image, averaged over seeds."""
    code, out, _ = compare("--json", "--metric", "elbo", "--where", "model.latent=normal", "--against", "model.width=2")
    document = json.loads(out)
    assert code == 0
    assert [one["a"]["model.width"] for one in document["differences"]] == [4, 8]
    for one, expected in zip(document["differences"], (3.0, 6.0), strict=True):
        assert (one["paired"], one["seeds"], one["models"]["images"]) == (True, SEEDS, IMAGES)
        assert one["low"] < expected < one["high"]
        assert one["models"]["mean"] == pytest.approx(one["mean"])
        width = one["models"]["high"] - one["models"]["low"]
        assert width == pytest.approx(2 * 2.02 * np.sqrt(2 / SEEDS / IMAGES), rel=0.5), "free of images and seeds"
        assert one["p_holm"] >= one["p"]
    arms = document["arms"]
    assert [len(arm["metrics"]["valid/elbo"]["values"]) for arm in arms] == [SEEDS] * 3
    assert (arms[0]["pruned"], arms[1]["pruned"]) == (1, 0)
    assert [arm["name"] for arm in arms] == ["0", "1", "2"]
    assert [one["a_name"] for one in document["differences"]] == ["1", "2"]
    assert arms[1]["handles"] == [f"known/1/{seed}" for seed in range(SEEDS)]


def test_arms_can_be_pooled(compare):
    code, out, _ = compare("--json", "--by", "model.latent", "--metric", "relaxation_bias")
    normal, categorical = json.loads(out)["arms"]
    assert code == 0
    assert (normal["runs"], normal["metrics"]["valid/relaxation_bias"]["mean"]) == (3 * SEEDS, 0.0)
    assert categorical["metrics"]["valid/relaxation_bias"]["mean"] == pytest.approx(0.6, abs=0.01)


def test_a_trend_and_its_picture(compare, tmp_path):
    """Six seeds, each of which has the bias in order: Page's test, and an isotonic fit that is the means."""
    where, picture = ["--where", "model.latent=categorical"], tmp_path / "trend.png"
    code, out, err = compare("--json", "--trend", "model.width", "--direction", "increasing", *where, "--out", picture)
    (found,) = json.loads(out)["trends"]
    assert code == 0
    assert (found["levels"], found["p"] < 1e-3) == ([2, 4, 8], True)
    assert found["fitted"] == pytest.approx([0.3, 0.6, 0.9], abs=0.01)
    expected = stats.page_trend_test([[1.0, 2.0, 3.0]] * SEEDS, method="exact").pvalue
    assert found["p"] == pytest.approx(expected)
    assert err.splitlines() == [f"written: {picture.with_suffix(kind)}" for kind in (".png", ".svg")]
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in picture.with_suffix(".svg").read_bytes()


def test_a_trend_of_a_bias_is_one_of_its_sign(home, capsys):
    """Noise that grows with the setting makes |δ| grow; δ does not."""
    client, random = Client(Places.under(home)), np.random.RandomState(3)
    for seed, width in itertools.product(range(8), (1, 2, 4, 8)):
        elbo = np.zeros(IMAGES)
        columns = {"elbo": elbo, "surrogate_elbo@tau=0.1": elbo + width * random.normal()}
        add(client, width, seed, {"model.width": width}, columns, study="noise")
    assert hdvae(["compare", "noise", "--json", "--trend", "model.width", "--home", str(home)]) == 0
    (found,) = json.loads(capsys.readouterr().out)["trends"]
    assert found["metric"] == "valid/relaxation_bias_signed"
    assert found["p"] > 0.05
    assert min(found["means"]) < 0


def biased(bias):
    """The values of each image of a run with this bias."""
    return {"elbo": np.full(IMAGES, -100.0), "surrogate_elbo@tau=0.1": np.full(IMAGES, -100.0 + bias)}


def test_a_preset_is_only_a_name_for_its_settings(home, capsys):
    """A study of presets asks for a trend in what they set; depths stay apart."""
    client = Client(Places.under(home))
    for trial, (depth, n, seed) in enumerate(itertools.product((1, 2), (12, 24, 48), range(3))):
        settings = {
            f"model.layers.{i}.{key}": value
            for i in range(depth)
            for key, value in (("variables", n // depth), ("classes", 256))
        }
        arm = {"preset": f"table4-L{depth}-N{n}"}
        add(client, trial, seed, arm, biased(n / 100 + depth), study="presets", settings=settings)
    asked = ["compare", "presets", "--trend", "model.layers.*.variables", "--json", "--home", str(home)]
    assert hdvae(asked) == 0
    (found,) = json.loads(capsys.readouterr().out)["trends"]
    assert (found["levels"], found["blocks"], found["seeds"]) == ([12, 24, 48], 6, 3)
    assert found["change"]["mean"] == pytest.approx(0.36)


@pytest.mark.parametrize("form", ["terminal", "json", "csv"])
def test_a_trend_in_a_setting_that_few_vary_is_the_same_in_every_format(home, capsys, form):
    """Free bits vary for discrete models only; another training setting varies for none."""
    client, study = Client(Places.under(home)), f"few-{form}"
    arms = [{"model.latent": "normal"}]
    arms += [{"model.latent": "categorical", "training.freebits": bits} for bits in (0.5, 1.0, 2.0)]
    for (trial, arm), seed in itertools.product(enumerate(arms), range(3)):
        settings = {"training.freebits": 1.0, "training.ema": 0.5, "training.steps": 500, **arm}
        add(client, trial, seed, arm, biased(trial / 8 + seed / 64), study=study, settings=settings)
    asked = ["compare", study, "--format", form, "--home", str(home)]
    assert hdvae([*asked, "--trend", "training.freebits"]) == 0
    p = stats.page_trend_test([[1.0, 2.0, 3.0]] * 3).pvalue
    assert f"{2 * p:.2g}"[:5] in capsys.readouterr().out
    assert hdvae([*asked, "--trend", "training.ema"]) == 2
    refused = "--trend training.ema: all runs have the value 0.5 there, so there is no trend to test"
    assert refused in capsys.readouterr().err


def test_runs_outside_a_trend_have_one_caveat(home, capsys):
    """One study varies the width; the other has other code, and only one width."""
    client = Client(Places.under(home))
    old, new = ({"hdvae.version": "1", "hdvae.sources": letter * 64} for letter in "ab")
    for seed, (trial, width) in itertools.product(range(2), enumerate((2, 4))):
        add(client, trial, seed, {"model.width": width}, biased(width / 10), study="wide", **new)
    add(client, 0, 0, {"model.width": 8}, biased(0.1), study="narrow", **old)
    asked = ["compare", "wide", "narrow", "--home", str(home), "--trend", "model.width"]
    assert hdvae([*asked, "--json"]) == 0
    caveat = "left out: 1 of 5 runs did not enter the trend (1 of narrow): no other run differs from them only in "
    caveat += "model.width, or they lack the metric"
    assert json.loads(capsys.readouterr().out)["caveats"] == [caveat]
    assert hdvae(asked) == 0
    assert f"! {caveat}" in capsys.readouterr().out


def test_a_file_is_what_its_ending_says(compare, tmp_path):
    for name, begin in (
        ("a.txt", b"arm  "),
        ("a.md", b"# known"),
        ("a.csv", b"what,name,arm"),
        ("a.parquet", b"PAR1"),
    ):
        code, out, _ = compare("--out", tmp_path / name)
        assert (code, out) == (0, f"{tmp_path / name}\n")
        assert (tmp_path / name).read_bytes().startswith(begin)


def test_every_format_says_the_same(compare, tmp_path):
    asked = ["--metric", "elbo", "--by", "model.latent"]
    csv = pd.read_csv(io.StringIO(compare(*asked, "--format", "csv")[1]))
    assert compare(*asked, "--format", "parquet", "--out", tmp_path / "t.parquet")[0] == 0
    parquet = pd.read_parquet(tmp_path / "t.parquet")
    document = json.loads(compare(*asked, "--format", "json")[1])
    means = [arm["metrics"]["valid/elbo"]["mean"] for arm in document["arms"]]
    for table in (csv, parquet):
        assert table[table["what"] == "arm"]["mean"].tolist() == pytest.approx(means)
        assert table[table["what"] == "difference"]["mean"].tolist() == pytest.approx([means[0] - means[1]])
    first = document["arms"][0]["metrics"]["valid/elbo"]
    for form in ("md", "terminal"):
        assert rounded(first["mean"], first["high"] - first["mean"]) in compare(*asked, "--format", form)[1]
    code, out, _ = compare("--json", "--out", tmp_path / "t.json")
    assert (code, json.loads(out)) == (0, {"out": str(tmp_path / "t.json")})


def test_caveats_say_what_makes_numbers_less_comparable(home, capsys):
    """Two versions of the code, a run without the metric, and one that has not ended."""
    client, zero = Client(Places.under(home)), np.zeros(IMAGES)
    columns = {"elbo": zero, "surrogate_elbo@tau=0.1": zero}
    old, new = ({"hdvae.version": "1", "hdvae.sources": letter * 64} for letter in "ab")
    add(client, 0, 50, {"model.latent": "x"}, columns, study="odd", **old)
    add(client, 1, 50, {"model.latent": "y"}, None, study="odd", **new)
    add(client, 1, 51, {"model.latent": "y"}, columns, study="odd", state="WAITING")
    assert hdvae(["compare", "odd", "--json", "--home", str(home)]) == 0
    assert json.loads(capsys.readouterr().out)["caveats"] == [
        "unfinished: 1 run had not ended and is left out",
        "not measured: 1 of 2 arms has no value of valid/elbo, valid/relaxation_bias, valid/surrogate_elbo",
        "mixed code: 1 run with hdvae 1 (sources aaaaaaaa); 1 run with hdvae 1 (sources bbbbbbbb)",
    ]
    assert hdvae(["compare", "known", "--json", "--home", str(home)]) == 0
    assert json.loads(capsys.readouterr().out)["caveats"] == []


def test_a_study_database_that_does_not_answer_costs_the_best_trials_alone(home, capsys, monkeypatch):
    monkeypatch.setenv("HDVAE_STUDY_DB", "sqlite:////nowhere/at/all.db")
    assert hdvae(["compare", "known", "--home", str(home)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("! no best trials and verdicts: ")
    assert "(5) latent categorical, width 8" in shown


def test_settings_in_which_studies_differ_are_named(home, capsys):
    """Only those that no label says; of many the first, with values where they are short."""
    client, long = Client(Places.under(home)), "[[0, 0.8], [200000, 0.3], [400000, 0.1]]"
    same = {"model.depth": 1, "data.name": "mnist5k"}
    one = {"training.steps": 100, "training.temperature": 0.3, "model.dropout": 0.0, "training.ema": None}
    two = {"training.steps": 500, "training.temperature": long, "model.dropout": 0.1, "training.ema": 0.9}
    two["model.width"] = 8
    for seed in (0, 1, 2):
        add(client, 0, seed, {"model.latent": "x"}, biased(0.1), study="one", settings={**same, **one})
        add(client, 0, seed, {"model.latent": "y"}, biased(0.1), study="two", settings={**same, **two})
    assert hdvae(["compare", "one", "two", "--json", "--home", str(home)]) == 0
    assert json.loads(capsys.readouterr().out)["caveats"] == [
        "studies differ also in settings that are not shown (one | two): training.steps 100 | 500; "
        "training.temperature; model.dropout 0.0 | 0.1; training.ema None | 0.9; and 1 more"
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--by", "model.latnt"], "--by model.latnt: no such setting; did you mean 'model.latent'?"),
        (["--where", "model.latent=conv"], 'no run has model.latent="conv" (runs have "normal", "categorical")'),
        (["--where", "model.latent"], "write --where path=value"),
        (["--where", "model.width<two"], '"two" is no number: compare it by ='),
        (["--where", "model.width>9"], "no run has model.width>9 (runs have "),
        (["--where", "model.wdth<9"], "no such setting; did you mean 'model.width'?"),
        (
            ["--against", "model.latent=normal"],
            "--against latent normal: 3 arms have this, and one is needed: latent normal, width 2",
        ),
        (["--metric", "elbow"], "no run has the metric valid/elbow; did you mean 'valid/elbo'?"),
        (["--trend", "model.widht"], "did you mean 'model.width'?"),
        (["--format", "parquet"], "--format parquet needs --out FILE"),
        (["--out", "a.png"], "a figure is drawn of a trend only: give --trend PATH"),
        (["--out", "a.jpg"], "unknown ending '.jpg'; known: .txt, .md, .csv, .json, .parquet, .png, .svg"),
        (["--out", "a"], "unknown ending ''; known: .txt"),
        (["--out", "a.csv", "--format", "md"], "'.csv' is not the ending of format md, which is '.md'"),
        (["--json", "--out", "a.md"], "'.md' is not the ending of format json, which is '.json'"),
        (["--json", "--format", "md"], "--json and --format md: give one of them"),
        (["--direction", "increasing"], "--direction increasing: this is the direction of a trend: give --trend PATH"),
        (["--direction", "two-sided"], "--direction two-sided: this is the direction of a trend: give --trend PATH"),
        (["--trend", "model.width", "--by", "model.latnt"], "--by and --trend: a trend compares runs that share"),
        (["--trend", "model.width", "--against", "a=b"], "--against and --trend: a trend is not compared with an arm"),
        (["--against", "model.latnt=normal"], "--against model.latnt: the arms do not differ in this setting; did you"),
        (
            ["--metric", "test/elbo"],
            "no run has the metric test/elbo: no run was evaluated on test images yet",
        ),
    ],
)
def test_bad_input_is_one_line(compare, arguments, words):
    code, out, err = compare(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert words in err


def test_nothing_is_chosen_by_a_metric_of_test_images(home, capsys):
    """It is shown with a caveat; differences in it are taken from the arm that was named, and from no other."""
    client, asked = Client(Places.under(home)), ["compare", "final", "--json", "--metric", "test/elbo"]
    for trial, seed in ((0, 0), (0, 1), (1, 0), (1, 1)):
        run_id = add(client, trial, seed, {"model.latent": "xy"[trial]}, None, study="final")
        client.log_entry(run_id, Entry(10, int(1000 * time.time()), {"test/elbo": -90.0 + trial + seed / 8}))
    assert hdvae([*asked, "--home", str(home)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [arm["metrics"]["test/elbo"]["mean"] for arm in document["arms"]] == [-89.9375, -88.9375]
    assert document["differences"] == []
    assert any(caveat.startswith("test images: use test/elbo for final numbers only") for caveat in document["caveats"])
    assert hdvae([*asked, "--against", "model.latent=x", "--home", str(home)]) == 0
    (one,) = json.loads(capsys.readouterr().out)["differences"]
    assert one["mean"] == 1.0


def test_a_bias_has_values_of_each_image_only_where_its_sign_is_clear():
    elbo, random = np.zeros(400), np.random.RandomState(0)
    clear = random.normal(-1, 1, size=400)
    assert abs(clear.mean()) > CLEAR_SIGN * clear.std() / 20
    values = derived("relaxation_bias", {"elbo": elbo, "surrogate_elbo@tau=0.1": clear})
    assert np.array_equal(values, clear)
    unclear = random.normal(0, 1, size=400)
    assert (_sign(clear), _sign(unclear), _sign(elbo), _sign(clear[:1])) == (-1, None, 0, None)
    signed = derived("relaxation_bias_signed@tau=0.1", {"elbo": elbo, "surrogate_elbo@tau=0.1": unclear})
    assert np.array_equal(signed, unclear)
    assert derived("kl", {"kl/layer_1": elbo + 1, "kl/layer_2": elbo + 2}).mean() == 3
    assert derived("accuracy", {"elbo": elbo}) is None


def test_a_trend_in_one_layer_does_not_mix_other_layers(home, capsys):
    """Layers vary as a list: an arm with another second layer says nothing of the first one's variables."""
    client = Client(Places.under(home))
    cells = [((16, 8), 1.0), ((32, 8), 2.0), ((16, 800), 50.0)]
    for (trial, (layers, bias)), seed in itertools.product(enumerate(cells), range(3)):
        varied = {"model.layers": [{"variables": variables, "classes": 4} for variables in layers]}
        add(client, trial, seed, varied, biased(bias), study="layers", settings=flattened(varied))
    asked = ["compare", "layers", "--json", "--home", str(home), "--trend"]
    assert hdvae([*asked, "model.layers.0.variables"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["trends"][0]["means"] == pytest.approx([1.0, 2.0])
    assert document["caveats"][0].startswith("left out: 3 of 9 runs did not enter the trend")


def test_a_sum_that_several_settings_have_is_a_caveat(home, capsys):
    client = Client(Places.under(home))
    cells = [((16, 8), 1.0), ((8, 16), 9.0), ((8, 8), 0.5)]
    for (trial, (layers, bias)), seed in itertools.product(enumerate(cells), range(3)):
        varied = {"model.layers": [{"variables": variables} for variables in layers]}
        add(client, trial, seed, varied, biased(bias), study="sums", settings=flattened(varied))
    asked = ["compare", "sums", "--json", "--home", str(home), "--trend", "model.layers.*.variables"]
    assert hdvae(asked) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["trends"][0]["levels"], document["trends"][0]["runs"]) == ([16, 24], [3, 6])
    assert document["caveats"] == [
        "pooled: at model.layers.*.variables = 24 a block averages runs with several settings"
    ]


def test_a_bias_below_zero_is_said_to_be(home, capsys):
    client = Client(Places.under(home))
    for (trial, (width, bias)), seed in itertools.product(enumerate([(2, -0.1), (4, -2.0)]), range(3)):
        add(client, trial, seed, {"model.width": width}, biased(bias), study="below")
    assert hdvae(["compare", "below", "--json", "--trend", "model.width", "--home", str(home)]) == 0
    (caveat,) = json.loads(capsys.readouterr().out)["caveats"]
    assert caveat == "sign: the bias is below 0 at every level, so a decreasing trend means that its size |δ| grows"


def test_both_intervals_of_a_difference_are_of_the_same_seeds_and_size(home, capsys):
    """Of arms that share one seed of four there is none of the models; of a bias of either sign, |mean δ| is meant."""
    client = Client(Places.under(home))
    for trial, first in ((0, 0), (1, 3)):
        for seed in range(first, first + 4):
            add(client, trial, seed, {"model.width": trial}, biased(0.2 + trial + seed / 50), study="apart")
    for trial, biases in enumerate([(1.0, -1.0, 1.0, -1.0), (0.5, 0.5, 0.6, 0.6)]):
        for seed, bias in enumerate(biases):
            add(client, trial, seed, {"model.width": trial}, biased(bias), study="signs")
    asked = ["--json", "--metric", "relaxation_bias", "--home", str(home)]
    assert hdvae(["compare", "apart", *asked]) == 0
    (apart,) = json.loads(capsys.readouterr().out)["differences"]
    assert (apart["paired"], apart["models"]) == (False, None)
    assert hdvae(["compare", "signs", *asked]) == 0
    (signs,) = json.loads(capsys.readouterr().out)["differences"]
    assert (signs["paired"], signs["models"]["seeds"]) == (True, [0, 1, 2, 3])
    assert signs["mean"] == pytest.approx(signs["models"]["mean"]) == pytest.approx(-0.55)


def test_an_infinite_metric_comes_back_from_mlflow_as_it_was(home, capsys):
    """Its databases hold the largest float instead."""
    client = Client(Places.under(home))
    for seed in (0, 1):
        run_id = add(client, 0, seed, {"model.width": 2}, biased(0.1), study="infinite")
        client.log_entry(run_id, Entry(10, int(1000 * time.time()), {"valid/lipschitz_bound": math.inf}))
    assert client.get(run_id).metrics["valid/lipschitz_bound"] == math.inf
    assert hdvae(["compare", "infinite", "--json", "--home", str(home)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert "not finite: valid/lipschitz_bound in 2 of 2 runs; its means leave these runs out" in document["caveats"]
    assert hdvae_platform.results("infinite", home)["valid/lipschitz_bound"].tolist() == [math.inf, math.inf]


def test_formats_without_a_place_for_caveats_print_them_to_standard_error(home, capsys, tmp_path):
    client = Client(Places.under(home))
    for seed in (0, 1):
        add(client, 0, seed, {"model.width": seed}, biased(0.1), study="caveats")
    asked = ["compare", "caveats", "--home", str(home)]
    assert hdvae([*asked, "--format", "csv"]) == 0
    seeds = (
        "! seeds: the arms do not have the same seeds; a difference is paired where two arms share more than half of "
    )
    seeds += "each one's seeds\n"
    captured = capsys.readouterr()
    assert captured.err == seeds
    assert captured.out.startswith("what,name,arm")
    assert hdvae([*asked, "--out", str(tmp_path / "t.parquet")]) == 0
    assert capsys.readouterr().err == seeds
    noted = parquet.read_schema(tmp_path / "t.parquet").metadata[b"hdvae.caveats"]
    assert [f"! {caveat}\n" for caveat in json.loads(noted)] == [seeds]


def test_schedules_can_be_grouped_by(home):
    client = Client(Places.under(home))
    for trial, tau in enumerate((0.1, [[0, 0.8], [100, 0.1]])):
        add(client, trial, 0, {"training.temperature": tau}, biased(0.1), study="schedules")
    table = hdvae_platform.results("schedules", home)
    found = table.groupby("training.temperature")["valid/elbo"].mean()
    assert sorted(found.index) == ["0.1", "[[0, 0.8], [100, 0.1]]"]
    table.to_parquet(io.BytesIO())


def test_results_are_a_row_for_each_run(home):
    table = hdvae_platform.results("known", home)
    assert len(table) == 6 * SEEDS + 1
    assert table["state"].value_counts().to_dict() == {"COMPLETE": 6 * SEEDS, "PRUNED": 1}
    means = table[table["state"] == "COMPLETE"].groupby("model.width")["valid/elbo"].mean()
    assert means.diff().dropna().tolist() == pytest.approx([3.0, 3.0], abs=0.5)
    assert table["arm"].iloc[0] == "latent normal, width 2"
    assert table["handle"].iloc[0] == "known/0/0"
    with pytest.raises(InputError, match="did you mean 'known'"):
        hdvae_platform.results("knwon", home)


def test_the_example_of_the_docs_runs(home, monkeypatch):
    (example,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), flags=re.DOTALL)
    monkeypatch.setenv("HDVAE_HOME", str(home))
    names = {}
    exec(example.replace('"first"', '"known"'), names)
    assert list(names["means"].index) == ["categorical", "normal"]
