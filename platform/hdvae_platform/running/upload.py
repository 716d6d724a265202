"""What a study sends to MLflow while it runs: an MLflow run for each run, and a parent run for the study.

Every job that is queued here can be repeated without harm.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from hdvae.experiment.experiment import Experiment
from hdvae.trained import TrainedModel
from hdvae_platform.running.descriptions import (
    best_run,
    escaped,
    run_description,
    run_name,
    study_summary,
)
from hdvae_platform.running.main_numbers import main_metrics, main_numbers
from hdvae_platform.search.search import Assignment
from hdvae_platform.store.checkpoints import Checkpoints
from hdvae_platform.store.feasibility import feasible_trials
from hdvae_platform.store.journal import ELBO, Entry, Goal, Journal
from hdvae_platform.store.layout import SAMPLES, SLOTS, handle, per_image_artifact, run_folder
from hdvae_platform.store.per_image import find_per_image
from hdvae_platform.store.records import Records, Run
from hdvae_platform.store.run_state import RunState
from hdvae_platform.store.sources import Source
from hdvae_platform.store.storage import Storage
from hdvae_platform.study.constraints import in_words
from hdvae_platform.study.study import Study
from hdvae_platform.tracking import provenance
from hdvae_platform.tracking.client import Client
from hdvae_platform.tracking.names import KIND_OF, STATUS_OF, Param, Status, StudyMetric, Tag, flattened
from hdvae_platform.tracking.saved_view import view_of
from hdvae_platform.tracking.study_run import run_identity, study_identity, study_run
from hdvae_platform.tracking.tracker import Tracker


@dataclass
class RunUpload:
    """One training on its way to MLflow.

    Attributes:
        name: the run's name in MLflow.
        identity: the tags by which the run is found again, now and after a crash.
        tags: the other tags.
        params: the settings.
        storage: the study's storage.
        folder: the run's folder on the storage.
        goal: what the best checkpoint is chosen by.
        parent: finds the id of the parent run.
        new: whether MLflow cannot have the run yet; false once something was sent.
        run_id: MLflow's id, once it is known.
        sent: the steps whose report MLflow has.
    """

    name: str
    identity: Mapping[str, str]
    tags: Mapping[str, str]
    params: Mapping[str, Any]
    storage: Storage
    folder: str
    goal: Goal = ELBO
    parent: Callable[[Client], str] | None = None
    new: bool = False
    run_id: str | None = None
    sent: set[int] = field(default_factory=set)

    def open(self, client: Client) -> str:
        """Create the run in MLflow or find it, set it to RUNNING and send its journal; returns its id."""
        above = {Tag.PARENT: self.parent(client)} if self.parent else {}
        new, self.new = self.new, False  # if the answer is lost, it may be there all the same
        self.run_id = client.open_run(self.name, {**self.tags, **above}, self.identity, new=new)
        client.log_params(self.run_id, self.params)
        self.send(client)
        return self.run_id

    def send(self, client: Client) -> None:
        """Send the entries of the journal that were not sent yet."""
        run_id = self.run_id or self.open(client)
        journal = Journal(self.storage, self.folder)
        for step in journal.steps():
            for entry in journal.readable({step} - self.sent).values():
                client.log_entry(run_id, entry)
                self.sent.add(step)

    def close(self, client: Client, state: RunState) -> None:
        """End the run: send its reports, state, addresses of checkpoints, pictures and values per image."""
        self.send(client)
        assert self.run_id is not None
        checkpoints = Checkpoints(self.storage, self.folder)
        steps = checkpoints.steps()
        newest = checkpoints.address(steps[-1]) if steps else ""
        best = Journal(self.storage, self.folder).best(self.goal, steps)
        addresses = {
            Tag.CHECKPOINT: newest,
            Tag.BEST_CHECKPOINT: newest if best is None else checkpoints.address(best),
        }
        client.set_tags(self.run_id, {Tag.STATE: state, **addresses})
        for picture in (SAMPLES, SLOTS):
            if self.storage.exists(f"{self.folder}/{picture}"):
                client.log_file(self.run_id, picture, self.storage.read(f"{self.folder}/{picture}"))
        values = find_per_image(self.storage, self.folder, "valid")
        if values is not None:
            client.log_file(self.run_id, per_image_artifact("valid"), values)
        client.close_run(self.run_id, STATUS_OF[state])


def settings(experiment: Experiment, seed: int) -> dict[str, Any]:
    """The parameters of a run in MLflow: dotted path → value, and the seed.

    MLflow refuses parameters that change. The place of your own images may, and a tag has their checksum.
    """
    plain = experiment.plain()
    del plain["data"]["path"]
    return {**flattened(plain), Param.SEED: seed}


class StudyTracking:
    """Queues what happens to a study for MLflow.

    Args:
        study: the study.
        tracker: sends jobs to MLflow, in order.
        records: keeps the run ids, and which runs MLflow holds in full.
        storage: holds the journals.
        data_tags: the tags of the data set (`provenance.data_tags`).
        sources: seed → the checkpoint that its runs go on from; empty if they start with initial weights.
    """

    def __init__(
        self,
        study: Study,
        tracker: Tracker,
        records: Records,
        storage: Storage,
        data_tags: Mapping[str, str],
        sources: Mapping[int, Source] = MappingProxyType({}),
    ) -> None:
        self._study, self._tracker, self._records, self._storage = study, tracker, records, storage
        self.sources = sources
        self.data_checksum = data_tags[Tag.DATA_CHECKSUM]
        self._tags = {**provenance.tags(), **data_tags}
        self._parent: str | None = None
        self._uploads: dict[tuple[int, int], RunUpload] = {}

    def begin_study(self) -> None:
        """The driver starts: MLflow's page is to show the study."""
        study = self._study
        settings = [*study.space, Param.SEED]
        view = view_of(study.name, main_metrics(study), settings, maximise=study.search.direction == "maximize")
        self._tracker.send(lambda client: client.show_study(study.name, view))

    def begin(self, assignment: Assignment, experiment: Experiment, *, new: bool = False) -> None:
        """A run starts or is resumed.

        Args:
            assignment: the run.
            experiment: the experiment with the parameters of its trial.
            new: whether it is started for the first time.
        """
        name, trial, seed = self._study.name, assignment.trial, assignment.seed
        kind, source = KIND_OF[assignment.kind], self.sources.get(seed)
        started = {} if source is None else {Tag.STARTED_FROM: source.handle, Tag.SOURCE_CHECKSUM: source.sha256}
        upload = RunUpload(
            name=run_name(name, assignment),
            identity=run_identity(name, kind, trial, seed),
            tags={
                **self._tags,
                Tag.ARM: json.dumps(assignment.params),
                Tag.FINGERPRINT: experiment.fingerprint if source is None else source.fingerprint(experiment),
                **started,
                Tag.DESCRIPTION: run_description(self._study, assignment),
            },
            params=settings(experiment, seed),
            storage=self._storage,
            folder=run_folder(name, trial, seed),
            goal=Goal(self._study.search.metric, self._study.search.direction),
            parent=self._parent_run,
            new=new,
        )
        self._uploads[trial, seed] = upload

        def job(client: Client) -> None:
            self._records.check(name)  # a driver that was replaced makes no run: its successor may have made it
            self._records.set_run(name, trial, seed, run_id=upload.open(client))

        self._tracker.send(job)

    def forward(self, assignment: Assignment) -> None:
        """A new report is in the journal."""
        self._tracker.send(self._uploads[assignment.trial, assignment.seed].send)

    def end(self, assignment: Assignment, state: RunState) -> None:
        """A run ended, or was interrupted and waits."""
        upload = self._uploads.pop((assignment.trial, assignment.seed))

        def job(client: Client) -> None:
            upload.close(client, state)
            tracked = state != RunState.WAITING
            self._records.set_run(
                self._study.name, assignment.trial, assignment.seed, run_id=upload.run_id, tracked=tracked
            )

        self._tracker.send(job)

    def end_study(self, runs: Sequence[Run], *, done: bool) -> None:
        """The driver stops: give the parent run the status that follows from its runs.

        Args:
            runs: the runs that are known.
            done: whether no further run is to come, which `runs` cannot say.
        """
        failed = any(run.state == RunState.FAIL for run in runs)
        status = Status.KILLED if not done else Status.FAILED if failed else Status.FINISHED

        def close(client: Client) -> None:
            found = study_run(client, self._study.name)
            if found is None or found.status != status:
                client.close_run(self._parent_run(client), status)

        now = int(1000 * time.time())

        def count(client: Client) -> None:
            known, parent = self._records.runs(self._study.name), self._parent_run(client)
            numbers = main_numbers(client, self._study, known)
            found = client.get(parent)
            if found is None or found.metrics != numbers:
                client.log_entry(parent, Entry(int(numbers[StudyMetric.COMPLETE]), now, numbers))

        def summarise(client: Client) -> None:
            parent = study_run(client, self._study.name)
            assert parent is not None  # `close` made it
            known = self._records.runs(self._study.name)
            best = best_run(self._study, known)
            complete = sum(run.state == RunState.COMPLETE for run in runs)
            of = f"{complete} complete runs, claim {self._study.claim_digest}"
            if complete and parent.summarised != of:
                self._tell_feasibility(client, parent.run_id, known)
                client.set_tags(parent.run_id, study_summary(client, self._study, self._storage, runs))
                if best is not None:
                    self._register(client, best)
                client.set_tags(parent.run_id, {Tag.SUMMARISED: of})

        self._tracker.send(close)  # a job of its own: what follows may be refused, by a server without a registry say
        self._tracker.send(count)
        if done:
            self._tracker.send(summarise)

    def _tell_feasibility(self, client: Client, parent: str, runs: Sequence[Run]) -> None:
        """Tag each run with whether its trial is feasible, and the study's run with how many trials are."""
        if not self._study.search.constraints:
            return
        judged = feasible_trials(self._study, runs)
        for run in runs:
            if run.run_id is not None and run.trial in judged:
                client.set_tags(run.run_id, {Tag.FEASIBLE: str(judged[run.trial]).lower()})
        counted = f"{sum(judged.values())} of {len(judged)} trials"
        constraints = in_words(self._study.search.constraints)
        client.set_tags(parent, {Tag.FEASIBLE: counted, Tag.CONSTRAINTS: constraints})

    def _register(self, client: Client, best: Run) -> None:
        """Put the model of the best run into the registry, if its checkpoint is there."""
        folder = run_folder(self._study.name, best.trial, best.seed)
        steps = Checkpoints(self._storage, folder).steps()
        if not steps or best.run_id is None:
            return
        step = steps[-1]
        kind = "its confirmation" if best.kind == "confirmation" else "the search"
        client.register(
            self._study.name,
            best.run_id,
            {Tag.RUN_ID: best.run_id, Tag.STEP: str(step)},
            lambda: TrainedModel.of(Checkpoints(self._storage, folder).load(step)),
            f"The best run of study {self._study.name} by {self._study.search.metric}: "
            f"{handle(self._study.name, best.trial, best.seed)}, {best.value:.2f} in {kind}. "
            f"{escaped(self._study.claim)}",
        )

    def _parent_run(self, client: Client) -> str:
        if self._parent is None:
            tags = {**self._tags, Tag.DESCRIPTION: escaped(self._study.claim)}
            self._parent = client.open_run(self._study.name, tags, study_identity(self._study.name))
            client.log_params(self._parent, flattened(self._study.definition()))
        return self._parent
