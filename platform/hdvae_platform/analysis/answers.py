"""What a study answers: its best trial, or its Pareto front, with settings, values and handles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hdvae.errors import InputError
from hdvae_platform.analysis.inference import Interval, interval
from hdvae_platform.analysis.labels import distinct_labels, expectation_in_words
from hdvae_platform.display.text import counted, rounded, table
from hdvae_platform.store import layout
from hdvae_platform.store.best import BestTrial, best_trials, complete_trial, feasible_of_complete, why_none
from hdvae_platform.store.records import Run
from hdvae_platform.study.constraints import in_words
from hdvae_platform.study.study import Study

if TYPE_CHECKING:
    from hdvae_platform.analysis.verdicts import Verdict  # imports MLflow


@dataclass(frozen=True)
class Best:
    """A best trial with its settings.

    Attributes:
        trial: what its runs measured.
        handle: of its complete run with the lowest seed.
        settings: the varied settings: dotted path → value.
        label: these settings in words.
    """

    trial: BestTrial
    handle: str
    settings: Mapping[str, Any]
    label: str

    def search(self, metric: str) -> Interval:
        """The mean over the seeds of the search, with its 95% interval."""
        return interval(self.trial.search[metric])

    def confirmed(self, metric: str) -> Interval | None:
        """The mean over the fresh seeds of the confirmation, with its 95% interval; None without any."""
        fresh = self.trial.fresh.get(metric)
        return interval(fresh) if fresh else None


@dataclass(frozen=True)
class Answer:
    """The best trials of a study: one, or those of the Pareto front of a search for several metrics.

    Attributes:
        study: the study.
        best: the best trials, the best in the study's metric first; empty before a trial is complete.
        so_far: whether runs have not ended.
        none: why there is no best trial, as the end of a sentence about the study; empty if there is one.
        feasible: how many complete trials keep the constraints of the search, and how many are complete.
        verdicts: one for each expectation of the study file; empty unless they were asked for.
        untested: the expectations, in words, whose test waits for the end of the study.
    """

    study: Study
    best: Sequence[Best]
    so_far: bool
    none: str = ""
    feasible: tuple[int, int] = (0, 0)
    verdicts: Sequence[Verdict] = ()
    untested: Sequence[str] = ()

    @property
    def is_front(self) -> bool:
        """Whether the study searches for several metrics."""
        return bool(self.study.search.also)

    def single(self) -> Best:
        """The best trial.

        Raises:
            InputError: no trial is complete, or the study has a front.
        """
        if not self.best:
            raise InputError(f"study {self.study.name} {self.none}")
        if self.is_front:
            front = ", ".join(str(one.trial.number) for one in self.best)
            raise InputError(f"study {self.study.name} has several best trials: choose one by --trial, of {front}")
        return self.best[0]

    def plain(self) -> dict[str, Any]:
        """JSON-like values."""
        return {
            "study": self.study.name,
            "objectives": dict(self.study.search.objectives),
            "held_out": self.study.holds_out,
            "so_far": self.so_far,
            "constraints": in_words(self.study.search.constraints),
            "feasible": dict(zip(("trials", "of"), self.feasible, strict=True)),
            "best": [self._plain(one) for one in self.best],
            "verdicts": [one.plain() for one in self.verdicts],
        }

    def _plain(self, one: Best) -> dict[str, Any]:
        measured = {
            metric: {
                "search": {**vars(one.search(metric)), "values": list(one.trial.search[metric])},
                "confirmed": None
                if (confirmed := one.confirmed(metric)) is None
                else {**vars(confirmed), "values": list(one.trial.fresh[metric])},
            }
            for metric in self.study.search.measured
        }
        return {
            "trial": one.trial.number,
            "handle": one.handle,
            "settings": dict(one.settings),
            "metrics": measured,
        }


def answer_of(study: Study, runs: Sequence[tuple[Run, Mapping[str, Any]]], *, finished: bool) -> Answer:
    """What a study answers.

    Args:
        study: the study.
        runs: its runs, each with the parameters of its trial.
        finished: whether no further run is to come.
    """
    recorded = [run for run, _ in runs]
    best = _described(study, best_trials(study, recorded), runs)
    untested = [] if finished else [expectation_in_words(one) for one in study.expect]
    none = "" if best else why_none(study, recorded)
    feasible = feasible_of_complete(study, recorded)
    return Answer(study, best, so_far=not finished, none=none, feasible=feasible, untested=untested)


def complete_of(study: Study, runs: Sequence[tuple[Run, Mapping[str, Any]]], number: int) -> Best:
    """A complete trial of a study, the best or not.

    Raises:
        InputError: it is not complete.
    """
    found = complete_trial(study, [run for run, _ in runs], number)
    if found is None:
        raise InputError(f"study {study.name} has no complete trial {number}")
    return _described(study, [found], runs)[0]


def _described(study: Study, trials: Sequence[BestTrial], runs: Sequence[tuple[Run, Mapping[str, Any]]]) -> list[Best]:
    params = {run.trial: settings for run, settings in runs}
    settings = [params[one.number] for one in trials]
    handles = [layout.handle(study.name, one.number, one.seed) for one in trials]
    return [Best(*each) for each in zip(trials, handles, settings, distinct_labels(settings), strict=True)]


def answer_in_words(answer: Answer) -> str:
    """The best trials and the verdicts for a terminal; of a study without a best trial, why none is feasible.

    Of a single experiment there is no best trial.
    """
    none = [f"no best trial: study {answer.study.name} {answer.none}"] if answer.study.search.constraints else []
    best = none if not answer.best else [best_in_words(answer)] if answer.study.space else []
    kept = [kept_in_words(answer)] if answer.best and answer.study.search.constraints else []
    verdicts = [f"expected: {one.expected}\n{one.answer}: {one.numbers}" for one in answer.verdicts]
    untested = [f"expected: {one}\nnot tested before the study is finished" for one in answer.untested]
    return "\n\n".join([*best, *kept, *verdicts, *untested])


def kept_in_words(answer: Answer) -> str:
    """How many complete trials keep the constraints, such as `7 of 8 complete trials keep valid/kl at most 9`."""
    kept, complete = answer.feasible
    one = complete == 1
    limits = in_words(answer.study.search.constraints)
    return f"{kept} of {complete} complete {'trial keeps' if one else 'trials keep'} {limits}"


def best_in_words(answer: Answer) -> str:
    """The best trial, or the Pareto front, for a terminal."""
    return _front(answer) if answer.is_front else _single(answer)


def _single(answer: Answer) -> str:
    (best,) = answer.best
    title = "best so far" if answer.so_far else "best"
    return "\n".join(
        [f"{title}: trial {best.trial.number}, {best.label}", *best_values(answer, best), f"run: {best.handle}"]
    )


def best_values(answer: Answer, best: Best) -> list[str]:
    """The values of a best trial, a line for each metric."""
    lines = {metric: _value(answer, best, metric) for metric in answer.study.search.measured}
    limits = {
        metric: f"; feasible, {limit_in_words(answer.study, metric)}" for metric in answer.study.search.constraints
    }
    return [f"{metric}: {line}{limits.get(metric, '')}" for metric, line in lines.items()]


def limit_in_words(study: Study, metric: str) -> str:
    """The limits that the search sets to a metric, such as `at most 0.5`; empty for none."""
    limits = study.search.constraints.get(metric)
    return "" if limits is None else limits.words


def _value(answer: Answer, best: Best, metric: str) -> str:
    search, confirmed = best.search(metric), best.confirmed(metric)
    seeds = counted(len(best.trial.search[metric]), "seed")
    if confirmed is None:
        return f"{mean_in_words(search)} in the search, {seeds}; not confirmed"
    fresh = counted(len(best.trial.fresh[metric]), "fresh seed")
    images = " and held-out images" if answer.study.holds_out else ""
    return f"{mean_in_words(confirmed)} confirmed by {fresh}{images}; {mean_in_words(search)} in the search, {seeds}"


def _front(answer: Answer) -> str:
    wanted = ", ".join(f"{way} {metric}" for metric, way in answer.study.search.objectives.items())
    wanted += f", with {in_words(answer.study.search.constraints)}" if answer.study.search.constraints else ""
    header = ["run", *(name for metric in answer.study.search.measured for name in (metric, "confirmed")), "settings"]
    rows = [[best.handle, *front_cells(answer, best), best.label] for best in answer.best]
    title = "Pareto front so far" if answer.so_far else "Pareto front"
    return f"{title}, {wanted}: {counted(len(answer.best), 'trial')}\n{table(header, rows)}"


def front_cells(answer: Answer, best: Best) -> list[str]:
    """For each metric, the means of a trial in the search and with fresh seeds."""
    values = ((best.search(metric), best.confirmed(metric)) for metric in answer.study.search.measured)
    return ["—" if value is None else mean_in_words(value) for pair in values for value in pair]


def mean_in_words(value: Interval) -> str:
    """A mean ± half of its 95% interval.

    >>> mean_in_words(Interval(-90.123, -92.0, -88.246)), mean_in_words(Interval(-90.123, None, None))
    ('-90.1 ± 1.9', '-90.12')
    """
    return rounded(value.mean, None if value.high is None else value.high - value.mean)
