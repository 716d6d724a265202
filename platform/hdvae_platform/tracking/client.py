"""MLflow, which is what people read; it is imported here alone, and written by the driver alone.

Everything that is sent can be sent again: runs are found by their tags, points carry the time stamps of the
journal, and MLflow's database ignores a point that it has. A `Tracker` sends from a thread of its own, so training
goes on while the server is slow or away; what it could not send is sent by the next `study run`.

MLflow allows no `@` and `=` in the names of metrics: `elbo@tau=0.1` is stored as `elbo at tau 0.1`. Everywhere
else the first form is used.
"""

from __future__ import annotations

import json
import logging
import math
import os
import queue
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# The tracker repeats on its own, after looking whether a lost answer was a success: a repeated request to make a run
# would make two.
os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
# MLflow prints the address of each run that ends, with the user and password in it.
os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")

import mlflow
from mlflow.entities import Metric, Param, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.entities import PagedList
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request
from requests.exceptions import RequestException
from sqlalchemy.exc import OperationalError

from hdvae.errors import InputError
from hdvae_platform.store.journal import Entry
from hdvae_platform.store.layout import handle
from hdvae_platform.store.places import UI_HOST, UI_PORT, Places, redacted
from hdvae_platform.store.run_state import RunState
from hdvae_platform.tracking.names import Status, Tag

if TYPE_CHECKING:
    from hdvae.trained import TrainedModel

EXPERIMENT = os.environ.get("MLFLOW_EXPERIMENT_NAME", "hdvae")
"""MLflow's experiment, in which all studies are parent runs."""
BATCH = 900
"""Points in one request; MLflow allows 1000."""
PATIENCE = 60.0
"""Seconds to wait at the end for a server that is away."""
RETRY = 2.0
"""Seconds between attempts to reach the server."""

_PASSING = {"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED"}
"""MLflow's codes for faults that pass; the others mean that the request itself is refused."""

for _name in ("alembic", "mlflow.store.db.utils", "mlflow.pyfunc"):
    logging.getLogger(_name).setLevel(logging.WARNING)


def stored_name(metric: str) -> str:
    """A metric's name as MLflow takes it.

    >>> stored_name("valid/iw_elbo@S=100")
    'valid/iw_elbo at S 100'
    """
    name, at, condition = metric.partition("@")
    return f"{name} at {condition.replace('=', ' ')}" if at else name


def contract_name(stored: str) -> str:
    """The inverse of `stored_name`.

    >>> contract_name("valid/iw_elbo at S 100")
    'valid/iw_elbo@S=100'
    """
    return re.sub(r" at (\w+) (\S+)$", r"@\1=\2", stored)


class Unreachable(InputError):
    """The tracking store does not answer."""


@dataclass(frozen=True)
class TrackedRun:
    """A run as MLflow holds it: the last value of each metric, under its own name."""

    run_id: str
    status: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    seconds: float | None = None
    """From its first start to its end; None while it runs."""

    @property
    def study(self) -> str:
        """The study that it is part of."""
        return self.tags[Tag.STUDY]

    @property
    def trial(self) -> int:
        """Its trial."""
        return int(self.tags[Tag.TRIAL])

    @property
    def seed(self) -> int:
        """Its seed."""
        return int(self.tags[Tag.SEED])

    @property
    def state(self) -> RunState | None:
        """How its last attempt ended; None while the first one is running."""
        told = self.tags.get(Tag.STATE)
        return None if told is None else RunState(told)

    @property
    def handle(self) -> str:
        """How people name it: `STUDY/TRIAL/SEED`; MLflow's id, if it is no run of a study."""
        in_study = all(tag in self.tags for tag in (Tag.STUDY, Tag.TRIAL, Tag.SEED))
        return handle(self.study, self.trial, self.seed) if in_study else self.run_id


class Client:
    """The few things the platform asks of MLflow, on one tracking server or database.

    Raises:
        Unreachable: the store cannot be reached.
    """

    def __init__(self, places: Places) -> None:
        self.address = places.tracking
        self._client = mlflow.MlflowClient(tracking_uri=places.tracking)
        try:
            found = self._client.get_experiment_by_name(EXPERIMENT)
            self._experiment = (
                found.experiment_id
                if found is not None
                else self._client.create_experiment(EXPERIMENT, artifact_location=places.artifacts)
            )
        except (MlflowException, RequestException, OSError) as fault:
            raise _unreachable(places.tracking, fault) from None

    def find(self, tags: Mapping[str, str]) -> Iterator[TrackedRun]:
        """All runs with these tags, page by page, the oldest first.

        Raises:
            Unreachable: the store does not answer any more.
        """
        if any("'" in value for value in tags.values()):
            return  # no name of a study or a run has one
        clauses = " and ".join(f"tags.`{key}` = '{value!s}'" for key, value in tags.items())
        token: str | None = None
        while True:
            page = self._page(clauses, token)
            yield from map(_tracked, page)
            token = page.token
            if not token:
                return

    def _page(self, clauses: str, token: str | None) -> PagedList[mlflow.entities.Run]:
        try:
            return self._client.search_runs(
                [self._experiment],
                clauses,
                run_view_type=ViewType.ACTIVE_ONLY,
                max_results=500,
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
        except (MlflowException, RequestException, OperationalError, OSError) as fault:
            if not _passes(fault):
                raise
            raise _unreachable(self.address, fault) from None

    def get(self, run_id: str) -> TrackedRun | None:
        """A run by its id; None if there is none."""
        try:
            return _tracked(self._client.get_run(run_id))
        except MlflowException as fault:
            if fault.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise _unreachable(self.address, fault) from None

    def history(self, run_id: str) -> list[tuple[str, int, float]]:
        """Every stored point of a run: metric by its own name, step, value.

        Raises:
            Unreachable: the store does not answer any more.
        """
        try:
            metrics = self._client.get_run(run_id).data.metrics
            return [
                (contract_name(metric), point.step, _stored(point.value))
                for metric in metrics
                for point in self._client.get_metric_history(run_id, metric)
            ]
        except (MlflowException, RequestException, OperationalError, OSError) as fault:
            raise _unreachable(self.address, fault) from None

    def open_run(self, name: str, tags: Mapping[str, str], identity: Mapping[str, str], *, new: bool = False) -> str:
        """The id of the one run with the tags `identity`, made with all `tags` if there is none, and RUNNING.

        One that is known to be `new` is not searched for: that takes longer the more runs there are.
        """
        found = None if new else next(self.find(identity), None)
        if found is not None:
            if found.status != Status.RUNNING:
                self._client.update_run(found.run_id, status=str(Status.RUNNING))
            return found.run_id
        run = self._client.create_run(self._experiment, tags=_plain({**tags, **identity}), run_name=name)
        return str(run.info.run_id)

    def mark(self, tag: str) -> None:
        """Write the time into a tag of the experiment, to see that this user may write.

        Raises:
            Unreachable: the store does not take it.
        """
        try:
            self._client.set_experiment_tag(self._experiment, tag, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
        except (MlflowException, RequestException, OSError) as fault:
            raise _unreachable(self.address, fault) from None

    def log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        """Parameters; the same ones may be logged again."""
        written = [Param(key, str(value)) for key, value in params.items()]
        for first in range(0, len(written), 100):
            self._client.log_batch(run_id, params=written[first : first + 100])

    def log_entry(self, run_id: str, entry: Entry) -> None:
        """The metrics of a report, with its step and time stamp."""
        points = [Metric(stored_name(k), value, entry.time, entry.step) for k, value in entry.metrics.items()]
        for first in range(0, len(points), BATCH):
            self._client.log_batch(run_id, metrics=points[first : first + BATCH])

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags."""
        self._client.log_batch(run_id, tags=[RunTag(key, value) for key, value in _plain(tags).items()])

    def log_file(self, run_id: str, name: str, data: bytes) -> None:
        """Store a file as an artifact; the name may have a folder."""
        with tempfile.TemporaryDirectory() as temporary:
            folder, _, file = name.rpartition("/")
            path = Path(temporary) / file
            path.write_bytes(data)
            self._client.log_artifact(run_id, str(path), folder or None)

    def delete(self, tags: Mapping[str, str]) -> int:
        """Delete all runs with these tags, as MLflow does: its `mlflow gc` clears them away. Returns how many.

        Raises:
            Unreachable: the store does not answer any more.
        """
        try:
            found = [run.run_id for run in self.find(tags)]
            for run_id in found:
                self._client.delete_run(run_id)
        except (MlflowException, RequestException, OSError) as fault:
            raise _unreachable(self.address, fault) from None
        return len(found)

    def unregister(self, name: str) -> None:
        """Delete a registered model with all its versions; it is no error if there is none.

        Raises:
            Unreachable: the store does not answer.
        """
        try:
            self._client.delete_registered_model(name)
        except MlflowException as fault:
            if fault.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise _unreachable(self.address, fault) from None

    @contextmanager
    def answering(self) -> Iterator[None]:
        """What is done in here is done, or the store is out of reach; for who does not try again later.

        Raises:
            Unreachable: the store does not answer, or does not take it.
        """
        try:
            yield
        except (MlflowException, RequestException, OperationalError, OSError) as fault:
            raise _unreachable(self.address, fault) from None

    def log_files(self, run_id: str, files: Mapping[str, bytes]) -> None:
        """Store files as artifacts, by their names.

        Raises:
            Unreachable: the store does not take them.
        """
        try:
            for name, data in files.items():
                self.log_file(run_id, name, data)
        except Exception as fault:
            # Artifacts may be on any kind of store, each with faults of its own.
            raise _unreachable(self.address, fault) from fault

    def page(self, run_id: str) -> str:
        """The address at which MLflow's pages show a run; of a database, where `hdvae ui` usually serves it."""
        path = f"#/experiments/{self._experiment}/runs/{run_id}"
        if not self.address.startswith("http"):
            return f"http://{UI_HOST}:{UI_PORT}/{path}"
        server = urlsplit(self.address)
        return f"{server.scheme}://{server.netloc.rpartition('@')[2]}{server.path.rstrip('/')}/{path}"

    def read_file(self, run_id: str, name: str) -> bytes | None:
        """An artifact; None if the run has none of this name.

        Raises:
            Unreachable: the store of artifacts does not answer.
        """
        try:
            if all(file.path != name for file in self._client.list_artifacts(run_id, name.rpartition("/")[0])):
                return None
            with tempfile.TemporaryDirectory() as temporary:
                return Path(self._client.download_artifacts(run_id, name, temporary)).read_bytes()
        except (MlflowException, RequestException, OSError) as fault:
            raise _unreachable(self.address, fault) from None

    def register(
        self, name: str, run_id: str, identity: Mapping[str, str], load: Callable[[], TrainedModel], says: str
    ) -> None:
        """Register a model of a run, unless the newest version of this name has the tags `identity`."""
        from hdvae_platform.tracking import registry  # not before it is wanted: MLflow's models take a second

        registry.register(self._client, name, run_id, identity, load, says)

    def registered(self, uri: str) -> TrainedModel:
        """A registered model by its address `models:/NAME/VERSION`, or `models:/NAME/latest`.

        Raises:
            InputError: there is none.
            Unreachable: MLflow does not answer.
        """
        from hdvae_platform.tracking import registry

        try:
            return registry.load(self._client, uri)
        except (MlflowException, RequestException, OSError) as fault:
            raise _unreachable(self.address, fault) from None

    def close_run(self, run_id: str, status: str) -> None:
        """End a run as FINISHED, FAILED or KILLED."""
        self._client.set_terminated(run_id, status=str(status))


@dataclass(frozen=True)
class Server:
    """A tracking server: its MLflow's version, and its clock in whole seconds since 1970."""

    version: str
    clock: float


def server(address: str) -> Server | None:
    """Ask a tracking server for itself; None if the address is a database.

    Raises:
        Unreachable: it does not answer.
    """
    if not address.startswith("http"):
        return None
    try:
        host = get_default_host_creds(address)  # type: ignore[no-untyped-call]
        answer = http_request(host, "/version", "GET")  # type: ignore[no-untyped-call]
        answer.raise_for_status()
    except (MlflowException, RequestException, OSError) as fault:
        raise _unreachable(address, fault) from None
    return Server(answer.text.strip(), parsedate_to_datetime(answer.headers["Date"]).timestamp())


def _plain(tags: Mapping[str, str]) -> dict[str, str]:
    """Tags as databases take them: a member of an enumeration is not quite a text."""
    return {key: str(value) for key, value in tags.items()}


def _tracked(run: Any) -> TrackedRun:
    metrics = {contract_name(name): _stored(value) for name, value in run.data.metrics.items()}
    ended, started = run.info.end_time, run.info.start_time
    seconds = (ended - started) / 1000 if ended else None
    return TrackedRun(run.info.run_id, run.info.status, run.data.tags, run.data.params, metrics, seconds)


def _stored(value: float) -> float:
    """A metric as it was sent: MLflow's databases hold the largest float where it was infinite."""
    return math.copysign(math.inf, value) if abs(value) >= sys.float_info.max else value


class Tracker:
    """Sends to MLflow in order, from one thread, again and again until the server has it.

    Args:
        places: where MLflow is.
        warn: told once when the server goes away, and once when it is back.
    """

    def __init__(self, places: Places, warn: Callable[[str], None]) -> None:
        self._places, self._warn = places, warn
        self._jobs: queue.Queue[Callable[[Client], object] | None] = queue.Queue()
        self._give_up = threading.Event()
        self._client: Client | None = None
        self._complete = True
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def send(self, job: Callable[[Client], object]) -> None:
        """Queue a job. It may run more than once, so it must not mind."""
        self._jobs.put(job)

    def close(self, patience: float) -> bool:
        """Wait for what is queued, while it gets on within `patience` seconds; whether MLflow took all of it."""
        self._jobs.put(None)
        left, since = self._jobs.qsize(), time.monotonic()
        while self._thread.is_alive() and time.monotonic() - since < patience:
            self._thread.join(0.2)
            if self._jobs.qsize() != left:
                left, since = self._jobs.qsize(), time.monotonic()
        self._give_up.set()
        self._thread.join(RETRY + 1)
        return self.is_complete

    @property
    def is_complete(self) -> bool:
        """Whether MLflow took every job; known once the tracker is closed."""
        return self._complete and not self._thread.is_alive()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if not self._done(job):
                self._complete = False

    def _done(self, job: Callable[[Client], object]) -> bool:
        """Do a job, however long the server is away; whether it was done in the end."""
        away = False
        while not self._give_up.is_set():
            try:
                self._client = self._client or Client(self._places)
                job(self._client)
            except Exception as fault:  # noqa: BLE001 - said, counted, and the jobs after it must still be done
                if not _passes(fault):
                    self._warn(f"MLflow has not got a record: {_first_line(fault)}")
                    return False
                if not away:
                    self._warn(f"{_unreachable(self._places.tracking, fault)}; training does not wait for it")
                away = True
                self._give_up.wait(RETRY)
            else:
                if away:
                    self._warn("MLflow answers again")
                return True
        return False


def _passes(fault: Exception) -> bool:
    """Whether a fault is one of a server or database that is away, and not of the request."""
    if isinstance(fault, MlflowException):
        return fault.error_code in _PASSING
    return isinstance(fault, Unreachable | RequestException | ConnectionError | TimeoutError | OperationalError)


def _unreachable(address: str, fault: BaseException) -> Unreachable:
    """Says why a store cannot be reached: as the system puts it where there is no connection, else as MLflow does."""
    if isinstance(fault, Unreachable):
        return fault
    where, beneath = f"MLflow at {redacted(address)}", list(_beneath(fault))
    lost = [one for one in beneath if isinstance(one, OSError) and not isinstance(one, RequestException)]
    if lost and any(isinstance(one, RequestException) for one in beneath):
        return Unreachable(f"{where} does not answer: {(lost[0].strerror or str(lost[0])).lower()}")
    return Unreachable(f"{where}: {_first_line(fault)}")


def _beneath(fault: BaseException | None) -> Iterator[BaseException]:
    """A fault, and those that led to it."""
    while fault is not None:
        yield fault
        fault = fault.__cause__ or fault.__context__


def _first_line(fault: BaseException) -> str:
    """What a fault says, without the user and password of the address that MLflow repeats in it."""
    return redacted((str(fault).splitlines() or [type(fault).__name__])[0])


def flattened(plain: Any, path: str = "") -> dict[str, Any]:
    """Dotted paths → values of JSON-like values; lists of plain numbers (schedules, τ) stay whole.

    >>> flattened({"a": {"b": 1, "c": [{"d": 2}]}, "e": [[0, 0.5]]})
    {'a.b': 1, 'a.c.0.d': 2, 'e': '[[0, 0.5]]'}
    """
    if isinstance(plain, dict):
        items = [(str(key), value) for key, value in plain.items()]
    elif isinstance(plain, list) and any(isinstance(value, dict) for value in plain):
        items = [(str(i), value) for i, value in enumerate(plain)]
    else:
        return {path: json.dumps(plain) if isinstance(plain, list) else plain}
    flat: dict[str, Any] = {}
    for key, value in items:
        flat |= flattened(value, f"{path}.{key}" if path else key)
    return flat
