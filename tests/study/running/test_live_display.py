from __future__ import annotations

import io

from rich.console import Console

from hdvae_platform.running.live_display import LiveDisplay, printing
from hdvae_platform.running.progress import Bars, Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_lines_are_plain_where_the_output_is_no_terminal():
    out = io.StringIO()
    with printing(out) as echo:
        assert not isinstance(echo, Bars)
        echo("[00:00] runs 0/2 · [red]first[/red]/0/0 done")
    assert out.getvalue() == "[00:00] runs 0/2 · [red]first[/red]/0/0 done\n"


def test_lines_are_plain_in_a_terminal_too_if_that_is_asked_for(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    with printing(out, plain=True) as echo:
        echo("a line")
    assert out.getvalue() == "a line\n"


def test_a_terminal_has_bars_and_a_dumb_one_has_none(monkeypatch):
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    for terminal, has_bars in (("xterm", True), ("dumb", False)):
        monkeypatch.setenv("TERM", terminal)
        with printing(Terminal()) as echo:
            assert isinstance(echo, Bars) == has_bars


def test_bars_show_the_study_and_its_live_runs_and_text_is_no_markup():
    out = Terminal()
    console = Console(file=out, force_terminal=True, width=120, markup=False, emoji=False, highlight=False)
    with LiveDisplay(console) as display:
        progress = Progress("valid/elbo", steps=100, total=2, done=0, echo=display)
        progress.began("first/0/0", 0)
        progress.moved("first/0/0", 50, -123.456)
        shown = [(task.description, task.completed, task.total) for task in display._bars.tasks]
        assert shown == [("first/0/0", 50, 100), ("runs", 0, 2)]
        assert display._bars.tasks[0].fields["note"] == "valid/elbo -123.46"
        progress.ended("first/0/0", "failed: [bold]no[/bold] :smile:")
        assert [(task.description, task.completed) for task in display._bars.tasks] == [("runs", 1)]
    assert "runs 1/2 · first/0/0 failed: [bold]no[/bold] :smile:" in out.getvalue()
    assert "step 50/100" not in out.getvalue()
