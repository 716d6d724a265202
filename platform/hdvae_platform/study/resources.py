"""The resources of a study: what one run uses, and how many runs train at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from hdvae.config import Config
from hdvae.errors import InputError
from hdvae.randomness.shares import can_share

Machines = Sequence[Mapping[str, float]]
"""The resources of each machine, by Ray's names for them (`CPU`, `GPU`)."""


def this_machine() -> dict[str, float]:
    """The resources of this machine as Ray counts them: cores, and GPUs by their device files."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = (
        [one for one in visible.split(",") if one] if visible is not None else list(Path("/dev").glob("nvidia[0-9]*"))
    )
    return {"CPU": os.cpu_count() or 1, "GPU": len(gpus)}


class ElasticConfig(Config):
    """As many workers for a run as there is room for when it starts or continues."""

    least: Annotated[int, Field(ge=1, le=10_000)] = 1
    most: Annotated[int, Field(ge=1, le=10_000)]

    @model_validator(mode="after")
    def _in_order(self) -> ElasticConfig:
        if self.most < self.least:
            raise ValueError(f"most is {self.most}, but least is {self.least}")
        return self


class ResourcesConfig(Config):
    """What one run uses, and how many runs train at a time."""

    workers: Annotated[int, Field(ge=1, le=10_000)] = 1
    cpus_per_worker: Annotated[int, Field(ge=1, le=10_000)] = 1
    gpus_per_worker: Annotated[float, Field(ge=0, le=1000)] = 0
    concurrent: Annotated[int, Field(ge=1, le=10_000)] = 2
    elastic: ElasticConfig | None = None
    """Instead of `workers`: the number of workers then depends on the room, and with it the rounding of sums."""

    @field_validator("workers", mode="before")
    @classmethod
    def _is_fixed(cls, workers: Any) -> Any:
        if isinstance(workers, list | dict | str):
            raise ValueError(
                f"{json.dumps(workers)} is not a number: the number of workers changes how sums are rounded, and a "
                "study compares runs that differ in nothing else; to allow it, write elastic: {least: 1, most: 4}"
            )
        return workers

    @model_validator(mode="after")
    def _either(self) -> ResourcesConfig:
        if self.elastic is not None and "workers" in self.model_fields_set and self.workers != 1:
            raise ValueError("give either workers or elastic")
        return self

    @property
    def uses_worker_group(self) -> bool:
        """Whether a run is trained by a group of worker processes, and not in the trial's own process."""
        return self.workers > 1 or self.elastic is not None

    @property
    def min_workers(self) -> int:
        """The number of workers that a run has at least."""
        return self.workers if self.elastic is None else self.elastic.least

    def per_worker(self) -> dict[str, float]:
        """The resources of one worker, by Ray's names for them."""
        return {"CPU": self.cpus_per_worker, "GPU": self.gpus_per_worker}

    def slots(self, machines: Machines) -> int:
        """The number of workers that fit on machines."""
        need = self._need().items()
        return sum(min(int(one.get(kind, 0) / amount + 1e-9) for kind, amount in need) for one in machines)

    def has_room(self, slots: int, live: int) -> bool:
        """Whether one more run may start beside `live` others where `slots` more workers fit."""
        return live < self.concurrent and slots >= self.min_workers

    def workers_in(self, slots: int, live: int, batch_size: int) -> int:
        """The number of workers for a run that starts now; an elastic run gets its share of the room.

        Args:
            slots: workers that still fit.
            live: number of other runs.
            batch_size: of the run; its workers must be able to share it.
        """
        if self.elastic is None:
            return self.workers
        share = max(self.elastic.least, min(self.elastic.most, slots // (self.concurrent - live)))
        return next(count for count in range(share, 0, -1) if count == self.min_workers or can_share(batch_size, count))

    def concurrent_runs(self, machines: Machines) -> int:
        """The largest number of runs that train at the same time on machines.

        Raises:
            InputError: not even one run fits; says what it needs and what there is.
        """
        runs, need = min(self.slots(machines) // self.min_workers, self.concurrent), self._need()
        if not runs:
            times = f"{self.min_workers} × " if self.min_workers > 1 else ""
            needed = " and ".join(f"{times}{amount:g} {kind}" for kind, amount in need.items())
            total = " and ".join(f"{sum(one.get(kind, 0) for one in machines):g} {kind}" for kind in need)
            where = f" on {len(machines)} machines" if len(machines) > 1 else ""
            raise InputError(f"resources: a run needs {needed}, but the cluster has {total}{where}")
        return runs

    def _need(self) -> dict[str, float]:
        return {kind: amount for kind, amount in self.per_worker().items() if amount}
