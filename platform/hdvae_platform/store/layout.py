"""The names of files and folders on the storage and in the home folder; no other platform module spells them.

Below the storage root (`HDVAE_STORAGE`, by default `HOME/studies`):

    NAME/study.json                                     which study database the folder belongs to, latest launch
    NAME/data/CHECKSUM.parquet                          images for machines without the home folder
    NAME/looks/COMPARED-0002-RUNS.json                  a look at a verdict: the runs that it rested on
    NAME/preflight/…                                    files by which machines show that they see this storage
    NAME/trial-0007/seed-0/                             a run
        attempts/0002.json  requests/0002-end           which attempt may write; requests to it
        journal/000000300-0001.json                     metrics of one report, by attempt 1
        checkpoints/000000300-0001.{safetensors,json}   the state of the run
        per_image/valid-000000300-0001.parquet          values of each image
        samples.png  slots.png  error.txt

In the home folder (`HDVAE_HOME`): `optuna.db`, `mlflow.db`, `studies/`, `artifacts/`, `data/`, `reports/NAME/`,
`ray.log`, and on the head of a cluster `submitted/NAME/`.

Among the artifacts of a run in MLflow: `samples.png`, `slots.png`, `per_image/SPLIT.parquet`; its other folders there
are named in `hdvae_platform.tracking.names`.

The library also reads a run's `attempts` and `checkpoints` (`hdvae.training.run_files`) and the home's `data`
(`hdvae.data.parquet.parquet_path`).
"""

from __future__ import annotations

import re
from pathlib import Path

from hdvae.training.run_files import ATTEMPTS

REQUESTS, JOURNAL, PER_IMAGE = "requests", "journal", "per_image"
"""Folders of a run, beside those that the library reads: `ATTEMPTS` and `CHECKPOINTS`."""
SAMPLES, SLOTS = "samples.png", "slots.png"
"""Pictures of a run that has ended: on the storage in its folder, in MLflow among its artifacts."""
STUDY_DATABASE, TRACKING_DATABASE = "optuna.db", "mlflow.db"
"""The databases in the home folder, where no server has them."""
REPORT_PAGE, REPORT_FIGURES = "report.html", "figures"
"""The page of a report, and the folder of its figures."""
MARKER = "study.json"
"""In the folder of a study on the storage: which study database it belongs to."""
RESULT = "result.json"
"""What `hdvae study run` printed of a finished study: beside the report's page."""
DATA, SUBMITTED = "data", "submitted"
"""Folders in the home folder of a cluster's head: data sets, and the studies that were submitted as jobs."""
_PREFLIGHT, _LOOKS = "preflight", "looks"
_PART_OF_STUDY = re.compile(rf"trial-\d+|{DATA}|{_PREFLIGHT}|{_LOOKS}")


def handle(study: str, trial: int, seed: int) -> str:
    """The name of a run of a study, wherever people read or write it.

    >>> handle("first", 2, 0)
    'first/2/0'
    """
    return f"{study}/{trial}/{seed}"


# Below the storage root


def run_folder(study: str, trial: int, seed: int) -> str:
    """The folder of a run; without time stamps, so that a restart finds it."""
    return f"{study}/trial-{trial:04d}/seed-{seed}"


def single_run_folder(name: str, fingerprint: str, data_checksum: str, seed: int) -> str:
    """The folder of a run of `hdvae train`: the same for the same experiment and data."""
    return f"{name}/train-{fingerprint}-{data_checksum[:8]}/seed-{seed}"


def study_of(folder: str) -> str:
    """The study that a run's folder belongs to."""
    return folder.partition("/")[0]


def is_part_of_study(name: str) -> bool:
    """Whether a folder in a study's folder is the study's own; single runs of the same name stand beside it."""
    return _PART_OF_STUDY.fullmatch(name) is not None


def study_marker(study: str) -> str:
    """The file that says which study database a study's folder belongs to."""
    return f"{study}/{MARKER}"


def shared_images(study: str, checksum: str) -> str:
    """The images of a study for machines that do not see the home folder."""
    return f"{study}/{DATA}/{checksum}.parquet"


def preflight_file(study: str, token: str) -> str:
    """A file by which a machine shows that it sees the storage that the driver sees."""
    return f"{study}/{_PREFLIGHT}/{token}"


def looks_folder(study: str) -> str:
    """The records of the looks at the verdicts of a study."""
    return f"{study}/{_LOOKS}"


def look_file(name: str) -> str:
    """The record of a look, in the folder of its study."""
    return f"{_LOOKS}/{name}"


# In the folder of a run


def attempt_file(attempt: int) -> str:
    """The record that an attempt has begun."""
    return f"{ATTEMPTS}/{attempt:04d}.json"


def end_request(run: str, attempt: int) -> str:
    """The file by which an attempt is asked to end soon."""
    return f"{run}/{REQUESTS}/{attempt:04d}-end"


def file_of_attempt(folder: str, stem: str, attempt: int, suffix: str) -> str:
    """A file under a name of its attempt's own.

    >>> file_of_attempt(JOURNAL, "000000300", 1, ".json")
    'journal/000000300-0001.json'
    """
    return f"{folder}/{stem}-{attempt:04d}{suffix}"


def error_file(run: str) -> str:
    """The full error of a run that failed."""
    return f"{run}/error.txt"


def samples_file(run: str) -> str:
    """The picture of a run's prior samples."""
    return f"{run}/{SAMPLES}"


def slots_file(run: str) -> str:
    """The picture of how a run used the slots of its memories."""
    return f"{run}/{SLOTS}"


# Among the artifacts of a run in MLflow


def per_image_artifact(split: str) -> str:
    """The values of each image of a split."""
    return f"{PER_IMAGE}/{split}.parquet"


# In the home folder


def studies_folder(home: Path) -> Path:
    """The storage root, where no other is given."""
    return home / "studies"


def artifacts_folder(home: Path) -> Path:
    """MLflow's artifacts, where the storage is local and no server keeps them."""
    return home / "artifacts"


def artifacts_beside(storage: str) -> str:
    """MLflow's artifacts, where the storage is on S3; no study can have this name."""
    return f"{storage.rstrip('/')}/_artifacts"


def report_folder(home: Path, study: str) -> Path:
    """The report of a study, where no other folder is given."""
    return home / "reports" / study


def ray_log(home: Path) -> Path:
    """What Ray prints while studies run."""
    return home / "ray.log"
