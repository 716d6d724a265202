"""The layout of a study on the storage and in the home folder: the only place that spells its paths.

Below the storage root:

    NAME/study.json                                     which study database the folder belongs to
    NAME/data/CHECKSUM.parquet                          images for machines without the home folder
    NAME/trial-0007/seed-0/                             a run
        attempts/0002.json  requests/0002-end           which attempt may write; requests to it
        journal/000000300-0001.json                     metrics of one report, by attempt 1
        checkpoints/000000300-0001.{safetensors,json}   its state
        per_image/valid-000000300-0001.parquet          values of each image
        samples.png  slots.png  error.txt

The folders and files inside a run that the library reads too are named by `hdvae.training.run_files`.
"""

from __future__ import annotations

from pathlib import Path

SAMPLES, SLOTS = "samples.png", "slots.png"
"""Pictures of a run that has ended: on the storage in its folder, in MLflow among its artifacts."""
REPORT_PAGE = "report.html"
RESULT = "result.json"
"""What `hdvae study run` printed of a finished study: beside the report's page."""
JOURNAL, CHECKPOINTS, PER_IMAGE = "journal", "checkpoints", "per_image"


def handle(study: str, trial: int, seed: int) -> str:
    """How a run of a study is named wherever people name it.

    >>> handle("first", 2, 0)
    'first/2/0'
    """
    return f"{study}/{trial}/{seed}"


def run_folder(study: str, trial: int, seed: int) -> str:
    """The folder of one run below the storage root; without time stamps, so that a restart finds it."""
    return f"{study}/trial-{trial:04d}/seed-{seed}"


def single_run_folder(name: str, fingerprint: str, data_checksum: str, seed: int) -> str:
    """The folder of a run of `hdvae train` below the storage root: the same experiment and data have the same one."""
    return f"{name}/train-{fingerprint}-{data_checksum[:8]}/seed-{seed}"


def study_of(folder: str) -> str:
    """The study that a run's folder belongs to."""
    return folder.partition("/")[0]


def study_marker(study: str) -> str:
    """The file that says which study database a study's folder belongs to."""
    return f"{study}/study.json"


def shared_images(study: str, checksum: str) -> str:
    """The images of a study for machines that do not see the home folder."""
    return f"{study}/data/{checksum}.parquet"


def error_file(run: str) -> str:
    """Why a run failed, in full: in its folder."""
    return f"{run}/error.txt"


def samples_file(run: str) -> str:
    """The picture of a run's prior samples."""
    return f"{run}/{SAMPLES}"


def slots_file(run: str) -> str:
    """The picture of how a run used its memories."""
    return f"{run}/{SLOTS}"


def report_folder(home: Path, study: str) -> Path:
    """Where the report of a study is written by default."""
    return home / "reports" / study


def ray_log(home: Path) -> Path:
    """What Ray prints while studies run."""
    return home / "ray.log"
