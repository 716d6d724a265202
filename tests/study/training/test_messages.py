from __future__ import annotations

import json

import pytest

from hdvae.errors import BoundViolated, InputError, Interrupted, NonFinite
from hdvae_platform.store.attempts import Fenced
from hdvae_platform.store.storage import StorageAway
from hdvae_platform.training.messages import (
    Ended,
    EndKind,
    Reported,
    Resumed,
    Started,
    Warned,
    from_wire,
    to_wire,
)
from hdvae_platform.training.tune_trainable import message_in, result_of

MESSAGES = [
    Started(),
    Resumed(10),
    Reported(20, {"valid/elbo": -1.5, "valid/kl/layer_1": 0.25}),
    Warned("the storage is full"),
    Warned("skipped a damaged checkpoint", lasting=True),
    *(Ended(how, step=7, text="why") for how in EndKind),
]


@pytest.mark.parametrize("message", MESSAGES, ids=str)
def test_a_message_survives_the_wire(message):
    wire = json.loads(json.dumps(to_wire(message)))
    assert from_wire(wire) == message
    assert message_in({"training_iteration": 3, "done": False, **result_of(message)}) == message


@pytest.mark.parametrize(
    "wire",
    [
        {},
        {"message": "paused"},
        {"message": "resumed"},
        {"message": "resumed", "step": 1, "seed": 2},
        {"message": "ended", "how": "tired"},
        {"message": "ended"},
    ],
    ids=str,
)
def test_an_unknown_message_raises(wire):
    with pytest.raises(ValueError, match="unknown message of a run"):
        from_wire(wire)


@pytest.mark.parametrize("result", [None, {}, {"done": True}])
def test_a_result_of_tune_without_a_report_has_no_message(result):
    assert message_in(result) is None


@pytest.mark.parametrize(
    ("error", "how"),
    [
        (Fenced("taken over"), EndKind.FENCED),
        (StorageAway("full"), EndKind.STORAGE_AWAY),
        (NonFinite(3, "kl"), EndKind.FAILED),
        (BoundViolated("kl", 3.0, 2.0), EndKind.FAILED),
        (InputError("no such file"), EndKind.FAILED),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_that_a_user_understands_ends_a_run_with_its_text(error, how):
    assert Ended.by(error) == Ended(how, text=str(error))


def test_other_ends():
    assert Ended.by(Interrupted(12)) == Ended(EndKind.INTERRUPTED, step=12)
    try:
        raise ZeroDivisionError("a bug")
    except ZeroDivisionError as error:
        crash = Ended.by(error)
    assert crash.how is EndKind.CRASHED
    assert crash.text.startswith("Traceback")
    assert crash.text.endswith("ZeroDivisionError: a bug\n")
