"""Reading and writing runs in MLflow.

Everything that is sent can be sent again: runs are found by their tags, points carry the time stamps of the journal,
and MLflow's database ignores a point that it has already. The processes that train the runs of a study do not write.
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mlflow.entities import Metric, Param, RunTag, ViewType
from mlflow.exceptions import MlflowException

from hdvae_platform.store.journal import Entry
from hdvae_platform.store.layout import handle
from hdvae_platform.store.places import UI_HOST, UI_PORT, Places
from hdvae_platform.store.run_state import RunState
from hdvae_platform.tracking import database, saved_view
from hdvae_platform.tracking.faults import INVALID, NOT_FOUND, STORE_FAULTS, is_transient, unreachable
from hdvae_platform.tracking.names import MODEL_TRAINING, RunKind, Status, Tag, contract_name, stored_name

if TYPE_CHECKING:
    from hdvae.trained import TrainedModel

POINTS = 900
"""Points in one request; MLflow allows 1000."""
PARAMS = 100
"""Parameters in one request; MLflow allows no more."""
PAGE = 500
"""Runs in one answer to a search."""


@dataclass(frozen=True)
class TrackedRun:
    """A run in MLflow, with the last value of each metric under the name that the platform gives it."""

    run_id: str
    status: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    seconds: float | None = None
    """Seconds from its first start to its end; None while it runs."""

    @property
    def study(self) -> str:
        """The name of its study."""
        return self.tags[Tag.STUDY]

    @property
    def trial(self) -> int:
        """The number of its trial."""
        return int(self.tags[Tag.TRIAL])

    @property
    def seed(self) -> int:
        """Its seed."""
        return int(self.tags[Tag.SEED])

    @property
    def kind(self) -> RunKind:
        """Whether it is a run of a search, a confirmation, a single run or the run of a whole study."""
        return RunKind(self.tags[Tag.KIND])

    @property
    def state(self) -> RunState | None:
        """How its last attempt ended; None while the first one is running."""
        state = self.tags.get(Tag.STATE)
        return None if state is None else RunState(state)

    @property
    def handle(self) -> str:
        """`STUDY/TRIAL/SEED`; MLflow's id for a run outside a study."""
        in_study = all(tag in self.tags for tag in (Tag.STUDY, Tag.TRIAL, Tag.SEED))
        return handle(self.study, self.trial, self.seed) if in_study else self.run_id


class Client:
    """One tracking server or database of MLflow, and the few requests that the platform makes of it.

    Raises:
        Unreachable: the store cannot be reached.
    """

    def __init__(self, places: Places) -> None:
        self.address = places.tracking
        try:
            self._client, self._experiment = database.connect(places.tracking, places.artifacts)
        except STORE_FAULTS as fault:
            raise unreachable(places.tracking, fault) from None

    def find(self, tags: Mapping[str, str]) -> Iterator[TrackedRun]:
        """All runs with these tags, page by page, the oldest first.

        Raises:
            Unreachable: MLflow stops answering.
        """
        if any("'" in value for value in tags.values()):
            return  # no study and no run has a name with a quote
        clauses = " and ".join(f"tags.`{key}` = '{value!s}'" for key, value in tags.items())
        token: str | None = None
        while True:
            page = self._page(clauses, token)
            yield from map(_tracked, page)
            token = page.token
            if not token:
                return

    def _page(self, clauses: str, token: str | None) -> Any:
        try:
            return self._client.search_runs(
                [self._experiment],
                clauses,
                run_view_type=ViewType.ACTIVE_ONLY,
                max_results=PAGE,
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
        except STORE_FAULTS as fault:
            if not is_transient(fault):
                raise
            raise unreachable(self.address, fault) from None

    def get(self, run_id: str) -> TrackedRun | None:
        """A run by its id; None if there is none."""
        try:
            return _tracked(self._client.get_run(run_id))
        except MlflowException as fault:
            if fault.error_code in (NOT_FOUND, INVALID):
                return None
            raise unreachable(self.address, fault) from None

    def history(self, run_id: str) -> list[tuple[str, int, float]]:
        """Every stored point of a run: metric by its own name, step, value.

        Raises:
            Unreachable: MLflow stops answering.
        """
        try:
            metrics = self._client.get_run(run_id).data.metrics
            return [
                (contract_name(metric), point.step, _stored(point.value))
                for metric in metrics
                for point in self._client.get_metric_history(run_id, metric)
            ]
        except STORE_FAULTS as fault:
            raise unreachable(self.address, fault) from None

    def open_run(self, name: str, tags: Mapping[str, str], identity: Mapping[str, str], *, new: bool = False) -> str:
        """The id of the run with the tags `identity`, which is created if there is none; its status becomes RUNNING.

        Args:
            name: of the run, if it is created.
            tags: further tags of a created run.
            identity: the tags that no other run has.
            new: the run is known not to exist: the search is skipped, which takes longer the more runs there are.
        """
        found = None if new else next(self.find(identity), None)
        if found is not None:
            if found.status != Status.RUNNING:
                self._client.update_run(found.run_id, status=str(Status.RUNNING))
            return found.run_id
        run = self._client.create_run(self._experiment, tags=_plain({**tags, **identity}), run_name=name)
        return str(run.info.run_id)

    def mark(self, tag: str) -> None:
        """Write the current time into a tag of the experiment: a check that this user may write.

        Raises:
            Unreachable: MLflow refuses it or does not answer.
        """
        try:
            self._client.set_experiment_tag(self._experiment, tag, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
        except STORE_FAULTS as fault:
            raise unreachable(self.address, fault) from None

    def show_study(self, study: str, view: Mapping[str, Any]) -> None:
        """Let MLflow's page open with the runs of the experiment, and have a view of a study.

        What is there already stays: people may have changed it.
        """
        tags = self._client.get_experiment(self._experiment).tags
        if Tag.EXPERIMENT_KIND not in tags:
            self._client.set_experiment_tag(self._experiment, Tag.EXPERIMENT_KIND, MODEL_TRAINING)
        if saved_view.view_tag(study) not in tags:
            value = saved_view.written(study, view, int(1000 * time.time()))
            self._client.set_experiment_tag(self._experiment, saved_view.view_tag(study), value)

    def runs_page(self, study: str | None) -> str:
        """The part behind `#` of the address of MLflow's page with the runs of a study, or of all.

        Raises:
            Unreachable: MLflow does not answer.
        """
        with self.answering():
            tags = self._client.get_experiment(self._experiment).tags
        saved = study is not None and saved_view.view_tag(study) in tags
        return saved_view.address_of(self._experiment, study, saved=saved)

    def log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        """Log parameters; logging the same ones again has no effect."""
        written = [Param(key, str(value)) for key, value in params.items()]
        for first in range(0, len(written), PARAMS):
            self._client.log_batch(run_id, params=written[first : first + PARAMS])

    def log_entry(self, run_id: str, entry: Entry) -> None:
        """Log the metrics and costs of a report, with its step and time stamp."""
        values = {**entry.metrics, **entry.costs}
        points = [Metric(stored_name(k), value, entry.time, entry.step) for k, value in values.items()]
        for first in range(0, len(points), POINTS):
            self._client.log_batch(run_id, metrics=points[first : first + POINTS])

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
        """Delete all runs with these tags and return their number; `mlflow gc` later frees their space.

        Raises:
            Unreachable: MLflow stops answering.
        """
        try:
            found = [run.run_id for run in self.find(tags)]
            for run_id in found:
                self._client.delete_run(run_id)
        except STORE_FAULTS as fault:
            raise unreachable(self.address, fault) from None
        return len(found)

    def forget_view(self, study: str) -> None:
        """Delete the view of a study, if there is one.

        Raises:
            Unreachable: MLflow does not answer.
        """
        with self.answering():
            if saved_view.view_tag(study) in self._client.get_experiment(self._experiment).tags:
                self._client.delete_experiment_tag(self._experiment, saved_view.view_tag(study))

    def unregister(self, name: str) -> None:
        """Delete a registered model with all its versions, if there is one of this name.

        Raises:
            Unreachable: the store does not answer.
        """
        try:
            self._client.delete_registered_model(name)
        except MlflowException as fault:
            if fault.error_code != NOT_FOUND:
                raise unreachable(self.address, fault) from None

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Turns every fault of MLflow inside into `Unreachable`, for callers that do not try again later.

        Raises:
            Unreachable: MLflow does not answer, or refuses a request.
        """
        try:
            yield
        except STORE_FAULTS as fault:
            raise unreachable(self.address, fault) from None

    def log_files(self, run_id: str, files: Mapping[str, bytes]) -> None:
        """Store files as artifacts, by their names.

        Raises:
            Unreachable: the store of artifacts refuses them or does not answer.
        """
        try:
            for name, data in files.items():
                self.log_file(run_id, name, data)
        except Exception as fault:
            # Each kind of store for artifacts raises exceptions of its own.
            raise unreachable(self.address, fault) from fault

    def page(self, run_id: str) -> str:
        """The address of a run's page in MLflow; for a database, the page that `hdvae ui` usually serves."""
        path = f"#/experiments/{self._experiment}/runs/{run_id}"
        if not self.address.startswith("http"):
            return f"http://{UI_HOST}:{UI_PORT}/{path}"
        server = urlsplit(self.address)
        return f"{server.scheme}://{server.netloc.rpartition('@')[2]}{server.path.rstrip('/')}/{path}"

    def read_file(self, run_id: str, name: str) -> bytes | None:
        """The bytes of an artifact; None if the run has none of this name.

        Raises:
            Unreachable: the store of artifacts does not answer.
        """
        try:
            if all(file.path != name for file in self._client.list_artifacts(run_id, name.rpartition("/")[0])):
                return None
            with tempfile.TemporaryDirectory() as temporary:
                return Path(self._client.download_artifacts(run_id, name, temporary)).read_bytes()
        except STORE_FAULTS as fault:
            raise unreachable(self.address, fault) from None

    def register(
        self, name: str, run_id: str, identity: Mapping[str, str], load: Callable[[], TrainedModel], says: str
    ) -> None:
        """Register a model of a run, unless the newest version of this name has the tags `identity`."""
        from hdvae_platform.tracking import registry  # imported here: MLflow's models take a second

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
        except STORE_FAULTS as fault:
            raise unreachable(self.address, fault) from None

    def run_of_model(self, uri: str) -> str:
        """The id of the run that a registered model is of, by the model's address.

        Raises:
            InputError: there is no such model.
            Unreachable: MLflow does not answer.
        """
        from hdvae_platform.tracking import registry

        with self.answering():
            return str(registry.find_version(self._client, uri).run_id)

    def close_run(self, run_id: str, status: str) -> None:
        """End a run as FINISHED, FAILED or KILLED."""
        self._client.set_terminated(run_id, status=str(status))


def _plain(tags: Mapping[str, str]) -> dict[str, str]:
    """Tags as plain strings: database drivers refuse members of an enumeration."""
    return {key: str(value) for key, value in tags.items()}


def _tracked(run: Any) -> TrackedRun:
    metrics = {contract_name(name): _stored(value) for name, value in run.data.metrics.items()}
    ended, started = run.info.end_time, run.info.start_time
    seconds = (ended - started) / 1000 if ended else None
    return TrackedRun(run.info.run_id, run.info.status, run.data.tags, run.data.params, metrics, seconds)


def _stored(value: float) -> float:
    """A metric as it was sent: MLflow's databases store the largest float for an infinite value."""
    return math.copysign(math.inf, value) if abs(value) >= sys.float_info.max else value
