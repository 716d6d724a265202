from __future__ import annotations

import io
import re

from rich.console import Console

from hdvae_platform.running.live_display import LiveDisplay, printing
from hdvae_platform.running.progress import Progress, Rows


class Clock:
    now = 1.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_lines_are_plain_where_the_output_is_no_terminal():
    out = io.StringIO()
    with printing(out) as echo:
        assert not isinstance(echo, Rows)
        echo("[00:00] runs 0/2 · [red]first[/red]/0/0 done")
    assert out.getvalue() == "[00:00] runs 0/2 · [red]first[/red]/0/0 done\n"


def test_lines_are_plain_in_a_terminal_too_if_that_is_asked_for(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    with printing(out, plain=True) as echo:
        echo("a line")
    assert out.getvalue() == "a line\n"


def test_a_terminal_has_a_table_and_a_dumb_one_has_none(monkeypatch):
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    for terminal, has_rows in (("xterm", True), ("dumb", False)):
        monkeypatch.setenv("TERM", terminal)
        with printing(Terminal()) as echo:
            assert isinstance(echo, Rows) == has_rows


def test_a_table_shows_the_live_runs_and_the_study_and_text_is_no_markup():
    out, clock = Terminal(), Clock()
    console = Console(file=out, force_terminal=True, width=120, markup=False, emoji=False, highlight=False)
    with LiveDisplay(console) as display:
        progress = Progress("valid/elbo", steps=100, total=2, done=0, echo=display, clock=clock)
        progress.began("first/0/0", 0)
        progress.began("first/0/1", 0)
        progress.moved("first/0/0", 20, -130.0)
        clock.now += 15
        progress.moved("first/0/0", 50, -123.456)
        assert table(display) == [
            ["run", "step", "last report", "left"],
            ["first/0/0", "50/100", "valid/elbo -123.46", "25 s"],
            ["first/0/1", "0/100"],
            ["runs", "0/2", "1 min 15 s"],
        ]
        progress.ended("first/0/0", "failed: [bold]no[/bold] :smile:")
        assert [row[:2] for row in table(display)[1:]] == [["first/0/1", "0/100"], ["runs", "1/2"]]
    assert "runs 1/2 · first/0/0 failed: [bold]no[/bold] :smile:" in out.getvalue()
    assert "step 50/100" not in out.getvalue()


def table(display):
    """The cells of the table, row by row, without bars and empty cells."""
    console = Console(file=io.StringIO(), width=120, highlight=False)
    console.print(display._bars.get_renderable())
    lines = console.file.getvalue().replace("━", " ").replace("╸", " ").replace("╺", " ").splitlines()
    return [re.split(r" {2,}", line.strip()) for line in lines if line.strip()]
