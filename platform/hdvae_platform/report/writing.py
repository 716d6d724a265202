"""Writes a report: the page and its figures, into a folder and to the study's run in MLflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hdvae.errors import InputError
from hdvae_platform.report.contents import Contents
from hdvae_platform.report.drawing import Drawn, NotDrawn
from hdvae_platform.report.figures.collection import all_figures
from hdvae_platform.report.page import html
from hdvae_platform.report.reading import read_contents
from hdvae_platform.store.layout import REPORT_FIGURES, REPORT_PAGE, report_folder
from hdvae_platform.store.places import Places
from hdvae_platform.store.storage import write_atomically
from hdvae_platform.study.study import Study
from hdvae_platform.tracking import provenance
from hdvae_platform.tracking.client import Client
from hdvae_platform.tracking.faults import Unreachable
from hdvae_platform.tracking.names import REPORT, Tag
from hdvae_platform.tracking.study_run import complete_runs, study_run


@dataclass(frozen=True)
class Written:
    """A report that was written.

    Attributes:
        page: path of the page.
        figures: paths of the figures.
        logged: whether MLflow has all of it.
        notes: messages for the user, one line each.
    """

    page: Path
    figures: Sequence[Path]
    logged: bool
    notes: Sequence[str]


def write_report(places: Places, name: str, folder: Path, plots: Sequence[str] = ()) -> Written:
    """Write the report of a study, and log it to the study's run in MLflow.

    Args:
        places: where the study is.
        name: of the study.
        folder: of the report.
        plots: further figures, each as `METRIC:SETTING`.

    Raises:
        InputError: the study is unknown, none of its runs is complete, a plot names an unknown metric or setting, or
            the folder cannot be written.
        Unreachable: MLflow, which has the numbers, does not answer.
    """
    damaged: list[str] = []
    contents = read_contents(places, name, damaged.append)
    figures = all_figures(contents, plots)
    drawn = [one for one in figures if isinstance(one, Drawn)]
    files = {f"{REPORT_FIGURES}/{one.name}.{kind}": getattr(one, kind) for one in drawn for kind in ("svg", "png")}
    files[REPORT_PAGE] = html(contents, figures).encode()
    _write(folder, files, [one.name for one in figures if isinstance(one, NotDrawn)])
    notes = _log(contents, files)
    return Written(
        folder / REPORT_PAGE, [folder / file for file in files if file != REPORT_PAGE], not notes, damaged + notes
    )


def is_reported(client: Client, places: Places, study: Study) -> bool:
    """Whether the report of a finished study is up to date, in its folder and in MLflow."""
    parent = study_run(client, study.name)
    sent = sum(1 for _ in complete_runs(client, study.name))
    same = parent is not None and parent.reported == _version(study, sent)
    return same and (report_folder(places.home, study.name) / REPORT_PAGE).exists()


def _version(study: Study, sent: int) -> str:
    """What a report depends on: the number of complete runs in MLflow, the study's claim, and the code."""
    return f"{sent} complete runs, claim {study.claim_digest}, by sources {provenance.code()['sources'][:8]}"


def _write(folder: Path, files: Mapping[str, bytes], not_drawn: Sequence[str]) -> None:
    """Write the figures, then the page; delete figures of an earlier report that no longer apply."""
    try:
        (folder / REPORT_FIGURES).mkdir(parents=True, exist_ok=True)
        for file, data in files.items():
            write_atomically(folder / file, data)
        for name in not_drawn:
            for kind in ("svg", "png"):
                (folder / REPORT_FIGURES / f"{name}.{kind}").unlink(missing_ok=True)
    except OSError as fault:
        raise InputError(f"{folder}: the report cannot be written: {fault.strerror}") from None


def _log(contents: Contents, files: Mapping[str, bytes]) -> list[str]:
    """Log the report to the study's run in MLflow; return messages about what could not be logged."""
    if contents.parent is None:
        return [f"MLflow has no run for study {contents.study.name} itself, so the report is not logged"]
    try:
        client = Client(contents.places)
        client.log_files(contents.parent, {f"{REPORT}/{name}": data for name, data in files.items()})
        with client.answering():
            client.set_tags(contents.parent, {Tag.REPORTED: _version(contents.study, contents.sent)})
    except Unreachable as fault:
        return [f"{fault}; the report is written, but not logged; the same command logs it later"]
    return []
