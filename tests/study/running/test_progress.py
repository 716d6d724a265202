from __future__ import annotations

import pytest

from hdvae_platform.running.progress import LINE_EVERY, Progress


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_lines_tell_runs_steps_metric_and_time_left():
    clock, lines = Clock(), []
    progress = Progress("valid/elbo", steps=100, total=4, done=1, echo=lines.append, clock=clock)
    progress.began("first/1/0", 0)
    assert lines == []
    clock.now = LINE_EVERY
    progress.moved("first/1/0", 50, -123.456)
    assert lines == ["[00:10] runs 1/4 · first/1/0 step 50/100 valid/elbo -123.46"]
    clock.now = 20
    progress.moved("first/1/0", 100, -120.0)
    progress.ended("first/1/0", "done")
    assert lines[1] == "[00:20] runs 2/4 · first/1/0 done · about 40 s left"


def test_lines_are_not_more_than_one_in_ten_seconds_while_nothing_ends():
    clock, lines = Clock(), []
    progress = Progress("valid/elbo", steps=100, total=1, done=0, echo=lines.append, clock=clock)
    progress.began("r", 0)
    for step in range(1, 100):
        clock.now += 1
        progress.moved("r", step, None)
    assert len(lines) == 9


def test_a_resumed_run_counts_from_where_it_stood():
    clock, lines = Clock(), []
    progress = Progress("valid/elbo", steps=100, total=1, done=0, echo=lines.append, clock=clock)
    progress.began("r", 90)
    assert "goes on from step 90" in lines[0]
    clock.now = 20
    progress.moved("r", 92, None)
    assert progress.time_left() is None, "start-up is no pace"
    clock.now = 22
    progress.moved("r", 96, None)
    assert progress.time_left() == 2


def test_an_interrupted_run_is_left_out():
    clock = Clock()
    progress = Progress("valid/elbo", steps=10, total=2, done=0, echo=lambda line: None, clock=clock)
    progress.began("r", 0)
    progress.moved("r", 2, None)
    clock.now = 1
    progress.moved("r", 5, None)
    progress.interrupted("r")
    assert progress.time_left() == pytest.approx(20 / 3)
