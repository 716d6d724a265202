from __future__ import annotations

import json

import numpy as np
import pytest

from hdvae_platform.cli import COMMANDS, run
from hdvae_platform.commands.study import COMMANDS as STUDY_COMMANDS

FILE = "small.yaml"


def fails(capsys, *arguments) -> str:
    assert run([str(a) for a in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1, captured.err
    assert captured.out == ""
    return captured.err


def test_version_and_help(capsys):
    assert run(["--version"]) == 0
    assert run(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in COMMANDS)
    for name in COMMANDS:
        assert run([name, "--help"]) == 0
    for name in STUDY_COMMANDS:
        assert run(["study", name, "--help"]) == 0


def test_unknown_commands_and_options(capsys):
    assert fails(capsys, "stduy") == "hdvae: unknown command 'stduy'; did you mean 'study'?\n"
    assert fails(capsys, "study", "chekc", "x.yaml") == "hdvae: unknown command 'chekc'; did you mean 'check'?\n"
    assert fails(capsys, "data", "fecth") == "hdvae: unknown command 'fecth'; did you mean 'fetch'?\n"
    assert "--hme" in fails(capsys, "study", "list", "--hme", "x")
    assert "FILE.yaml" in fails(capsys, "study", "run")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_get_a_script_that_completes_commands(capfd, monkeypatch, shell):
    monkeypatch.setenv("_HDVAE_COMPLETE", f"{shell}_source")
    assert run([]) == 0
    script = capfd.readouterr().out
    assert "hdvae" in script
    assert f"_HDVAE_COMPLETE={shell}_complete" in script


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("hdvae stu", ["study"]),
        ("hdvae study s", ["submit", "status", "stop"]),
        ("hdvae data f", ["fetch"]),
        ("hdvae study export small --o", ["--out"]),
    ],
)
def test_what_is_typed_is_completed(capsys, monkeypatch, typed, completed):
    monkeypatch.setenv("_HDVAE_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(len(typed.split()) - 1))
    assert run([]) == 0
    assert capsys.readouterr().out.split() == [f"plain,{word}" for word in completed]


@pytest.mark.parametrize("arguments", [["study", "check"], ["study", "run"], ["train"]])
def test_bad_files_are_one_line_and_exit_code_2(capsys, places, edit, arguments):
    file = edit({"experiment/training/freebit": 1.0})
    assert "did you mean 'freebits'" in fails(capsys, *arguments, file, "--home", places.home)


def test_a_file_that_does_not_exist_is_answered_with_the_nearest_study_file(capsys, study_file):
    (study_file.parent / ".pre-commit-config.yaml").write_text("")
    assert (
        fails(capsys, "study", "check", "smal.yaml") == "hdvae: smal.yaml: no such file; did you mean 'small.yaml'?\n"
    )
    assert fails(capsys, "study", "check", "other") == "hdvae: other: no such file; known: small.yaml\n"


@pytest.mark.parametrize("arguments", [["study", "check"], ["study", "run"], ["train"]])
def test_data_that_are_not_there(capsys, places, edit, arguments):
    file = edit({"experiment/data": {"name": "mnist5k"}})
    assert "hdvae data fetch mnist5k" in fails(capsys, *arguments, file, "--home", places.home)
    file = edit({"experiment/data": {"name": "mnist"}})
    assert "did you mean 'mnist5k'" in fails(capsys, *arguments, file, "--home", places.home)
    file = edit({"experiment/data": {"path": "nowhere.npz"}})
    assert "nowhere.npz" in fails(capsys, *arguments, file, "--home", places.home)


def test_a_batch_larger_than_the_data(capsys, places, edit):
    file = edit({"experiment/training/batch_size": 1000})
    assert "64 training images" in fails(capsys, "study", "run", file, "--home", places.home)


@pytest.mark.parametrize("arguments", [["study", "check"], ["study", "run"], ["train"], ["train", "--dry-run"]])
def test_data_that_are_constant_after_binarisation(capsys, tmp_path, places, edit, arguments):
    gray = np.random.default_rng(0).integers(0, 17, (64, 6, 5), dtype=np.uint8)
    np.savez(tmp_path / "gray.npz", train=gray, valid=gray, test=gray)
    file = edit({"experiment/data": {"path": str(tmp_path / "gray.npz"), "binarization": "threshold"}})
    assert fails(capsys, *arguments, file, "--home", places.home) == (
        f"hdvae: {tmp_path}/gray.npz: after binarization 'threshold' of gray values 0 to 16: all pixels of split "
        "'train' are 0, so there is nothing to learn from it: scale gray values to 0 … 255, and give images that differ"
        "\n"
    )


def test_check_tells_images_in_two_splits(capsys, tmp_path, places, edit):
    images = np.random.default_rng(0).integers(0, 2, (3, 64, 6, 5), dtype=np.uint8)
    np.savez(tmp_path / "mine.npz", train=images[0], valid=images[1], test=images[0, ::-1][:60])
    check = ["study", "check", str(edit({"experiment/data": {"path": str(tmp_path / "mine.npz")}}))]
    assert run([*check, "--home", str(places.home)]) == 0
    expected = "! images in two splits: 60 of 60 test images are also in train (test 0 = train 63)"
    assert capsys.readouterr().out.splitlines()[-1] == expected
    assert run([*check, "--json", "--home", str(places.home)]) == 0
    assert json.loads(capsys.readouterr().out)["overlaps"] == [
        {"split": "test", "also_in": "train", "count": 60, "size": 60, "example": [0, 63]}
    ]


def test_check_starts_nothing(capsys, places, study_file):
    before = {file.name: file.read_bytes() for file in places.home.iterdir()}
    assert run(["study", "check", str(study_file), "--home", str(places.home)]) == 0
    shown = capsys.readouterr().out
    assert "6 runs (3 trials × 2 seeds) of 20 steps, 2 at a time" in shown
    assert {file.name: file.read_bytes() for file in places.home.iterdir()} == before
    assert run(["study", "check", str(study_file), "--home", str(places.home), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["trials"], document["runs"], len(document["arms"])) == (3, 6, 3)


def test_check_says_that_an_average_is_longer_than_training(capsys, places, study_file, edit):
    edit({"experiment/training/ema": 0.9999})
    assert run(["study", "check", str(study_file), "--home", str(places.home)]) == 0
    caveat = "ema: training.ema 0.9999 averages over about 10,000 steps, but training has 20: the evaluated weights"
    assert f"\n! {caveat}" in capsys.readouterr().out
    assert run(["study", "check", str(study_file), "--home", str(places.home), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["caveats"]
    assert found.startswith(caveat)


def test_check_counts_confirmations_and_hours(capsys, places, study_file, edit):
    edit({"confirm": {"top": 2, "seeds": 4}, "search": {"hours": 1.5}})
    assert run(["study", "check", str(study_file), "--home", str(places.home)]) == 0
    shown = capsys.readouterr().out
    assert "14 runs (3 trials × 2 seeds, and 8 to confirm the best) of 20 steps" in shown
    assert "later than 1.5 hours after the first launch" in shown
    edit({"search": {"method": "random", "hours": 1}, "space/training.freebits": {"low": 0.5, "high": 2.0}})
    assert run(["study", "check", str(study_file), "--home", str(places.home)]) == 0
    assert "as many runs as the hours allow of 20 steps" in capsys.readouterr().out


def test_check_says_how_few_sets_there_are(capsys, places, edit):
    check = ["study", "check", "small.yaml", "--home", str(places.home)]
    edit({"search": {"method": "random", "trials": 6}, "confirm": {"top": 4, "seeds": 1}})
    assert run(check) == 0
    shown = capsys.readouterr().out
    assert "6 trials were asked for, but the space has only 3 distinct trials: each is trained once" in shown
    assert "9 runs (3 trials × 2 seeds, and 3 to confirm the best)" in shown
    assert "are timed" not in shown


def test_check_says_which_sets_it_timed(capsys, places, edit):
    edit({"space": {"training.freebits": {"choices": [0.5, 1.0, 1.5, 2.0, 2.5, 3.0]}}})
    assert run(["study", "check", "small.yaml", "--home", str(places.home)]) == 0
    shown = capsys.readouterr().out
    assert "only the first 4 of 6 trials are timed" in shown
    assert "distinct trials" not in shown


def test_lists_of_an_empty_home(capsys, places):
    assert run(["study", "list", "--home", str(places.home)]) == 0
    assert "no studies" in capsys.readouterr().out
    assert "it has no studies yet" in fails(capsys, "study", "status", "x", "--home", places.home)


READS = [
    *(["study", *words] for words in (["list"], ["status", "x"], ["stop", "x"], ["delete", "x"])),
    ["study", "export", "x", "--out", "out"],
    *(["compare", "x"], ["report", "x"], ["evaluate", "x"], ["sample", "x", "--out", "x.png"], ["ui"]),
]


@pytest.mark.parametrize("arguments", READS, ids=" ".join)
def test_what_only_reads_makes_no_home(capsys, places, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    said = fails(capsys, *arguments, "--home", "run")
    assert said == "hdvae: no studies in run: no such folder; did you mean 'runs'?\n"
    (tmp_path / "new").mkdir()
    assert "no studies in new: it has no " in fails(capsys, *arguments, "--home", "new")
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "new", places.home, *sorted(places.home.iterdir())]


def test_a_home_is_not_asked_for_where_the_stores_are_elsewhere(capsys, places, tmp_path, monkeypatch):
    monkeypatch.setenv("HDVAE_STUDY_DB", places.database)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", places.tracking)
    assert run(["study", "list", "--home", str(tmp_path / "new")]) == 0
    assert "no studies in" in capsys.readouterr().out
    assert "no study x in MLflow" in fails(capsys, "compare", "x", "--home", tmp_path / "newer")


def test_home_in_the_way(capsys, tmp_path, study_file):
    (tmp_path / "file").write_text("")
    assert "cannot be made" in fails(capsys, "study", "check", study_file, "--home", tmp_path / "file/runs")
    assert "no such folder" in fails(capsys, "study", "list", "--home", tmp_path / "file/runs")


def test_dry_run(capsys, places, study_file):
    assert run(["train", str(study_file), "--dry-run", "--home", str(places.home)]) == 0
    shown = capsys.readouterr().out
    assert "z_1" in shown
    assert "MiB" in shown
    assert run(["train", str(study_file), "--dry-run", "--home", str(places.home), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["bytes"] == 4 * document["parameters"]
    assert not (places.home / "studies").exists()


def test_train_once_and_again(capsys, places, study_file):
    arguments = ["train", str(study_file), "--home", str(places.home), "--json"]
    assert run(arguments) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["step"] == 20
    assert first["metrics"]["valid/iw_elbo"] < 0
    assert run(arguments) == 0
    assert json.loads(capsys.readouterr().out) == first


def test_train_reports_a_failure(capsys, places, study_file):
    arguments = ["train", str(study_file), "--home", str(places.home), "--set", "training.learning_rate=1e30"]
    assert run(arguments) == 1
    assert "non-finite" in capsys.readouterr().err


def test_a_preset_instead_of_a_file(capsys, places):
    assert run(["train", "--preset", "table2-L1", "--dry-run", "--home", str(places.home), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["memory_values"] == 16 * 256 * 8
    assert "did you mean 'table2-L1'" in fails(capsys, "train", "--preset", "table2-1", "--home", places.home)
    assert "--preset" in fails(capsys, "train", "--home", places.home)


@pytest.fixture
def trained(capsys, places, study_file):
    assert run(["train", str(study_file), "--home", str(places.home), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def size_of(file):
    from PIL import Image

    with Image.open(file) as picture:
        assert len(set(picture.tobytes())) > 2, "an empty picture"
        return picture.size


def test_samples_of_a_run(capsys, places, trained, tmp_path):
    """Images of 6 × 5 pixels, 16 in a row, each pixel 2 × 2, with a line between them."""
    width = 2 * (16 * 6 + 1)
    folder = trained["checkpoint"].rsplit("/", 1)[0]
    for source in (trained["run"], trained["checkpoint"], folder, folder.rsplit("/", 1)[0]):
        assert run(["sample", source, "--out", str(tmp_path / "prior.png"), "--home", str(places.home)]) == 0
        assert "64 samples of the prior" in capsys.readouterr().out
        assert size_of(tmp_path / "prior.png") == (width, 2 * (4 * 7 + 1))
    for mode, rows in (("reconstruct", 4), ("layers", 8)):
        file = tmp_path / f"{mode}.png"
        arguments = ["sample", trained["run"], "--out", str(file), "--mode", mode, "--home", str(places.home)]
        assert run(arguments) == 0
        assert size_of(file) == (width, 2 * (rows * 7 + 1))
        first = file.read_bytes()
        assert run(arguments) == 0
        assert file.read_bytes() == first, "the same seed draws the same picture"
        assert run([*arguments, "--seed", "1"]) == 0
        assert file.read_bytes() != first


def test_samples_of_nothing(capsys, places, trained, tmp_path):
    out = ["--out", tmp_path / "x.png", "--home", places.home]
    assert "no such MLflow run" in fails(capsys, "sample", "deadbeef", *out)
    assert "no checkpoint there" in fails(capsys, "sample", tmp_path / "nowhere/run", *out)
    assert "write --out s.png" in fails(capsys, "sample", trained["run"], "--out", "s.txt", "--home", places.home)
    assert "cannot be written" in fails(capsys, "sample", trained["run"], "--out", "/no/x.png", "--home", places.home)
    assert not (tmp_path / "x.png").exists()
