"""Several real processes train what one trains: the same numbers, the same end, the same faults."""

import os
import pickle
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from hdvae.errors import BoundViolated, InputError, Interrupted, NonFinite, PeerLost
from hdvae.evaluation.evaluation import evaluate
from hdvae.experiment.experiment import EvaluationConfig
from hdvae.network.dropout import Dropout
from hdvae.randomness.shares import check_shares
from hdvae.training.loop import train
from hdvae.training.state import TrainState
from hdvae.training.step import train_step
from hdvae.workers import ALONE, Workers
from tests.hdvae.training.sessions import Memory, experiment_of, toy

CPU = torch.device("cpu")
SIZE = 2
BATCH = 22  # shares of 11 images
FREEBITS = 0.045
COMMON = {"dropout": 0.2, "batch_size": BATCH, "steps": 50, "temperature": ((0, 0.9), (50, 0.3))}
CHOICES = {
    "free bits": {"freebits": FREEBITS},
    "free bits of images": {"freebits": FREEBITS, "freebits_per": "image"},
    "rloo": {"estimator": "rloo", "freebits": FREEBITS, "estimator_samples": 2},
    "gumbel_rao": {"estimator": "gumbel_rao", "estimator_samples": 2, "gradient_clip": 0.5},
    # Not with a Lipschitz decoder: the gradient of its log_q is 0 at first, and Adamax makes steps of the rounding.
    "race": {"reads": "race", "race": {"draws": 8}, "gradient_clip": 0.5, "revive": True, "dead_after": 10},
    "shared race": {"reads": "race", "race": {"draws": 8, "arrivals": 4}, "shared_values": True, "ema": 0.9},
    "learned": {"temperature": "learned", "kappa": "local"},
    # The ELBO falls between the steps 8 and 24.
    "patience": {"ema": 0.8, "patience": 4, "learning_rate": 0.01, "steps": 60},
}


class Together(Memory):
    """A session of one worker among several."""

    def __init__(self, workers, latest=None, end_at=()):
        super().__init__(latest, end_at=end_at)
        self.workers = workers


def trained(workers, choice, dtype=torch.float64, latest=None, end_at=()):
    """A whole run: reports, per-image values and all that moves at its end."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        session = Together(workers, latest, end_at)
        changes = {**COMMON, **CHOICES[choice]}
        evaluation = {"every": 4 if choice == "patience" else 20, "images": 40, "draws": 1, "tau": (0.3,)}
        experiment = experiment_of(evaluation={**evaluation, "kappa": "local"}, **changes)
        state = train(experiment, dataset(), 3, session, CPU)
        return session.reports, session.per_image, session.snapshots, state.snapshot()
    finally:
        torch.set_default_dtype(before)


def dataset():
    """More validation images than a worker takes at once, and an odd number of training images."""
    return toy(100, valid=40)


def everything(workers):
    """All that the tests below look at."""
    found = {name: trained(workers, name) for name in CHOICES}
    found["float32"] = trained(workers, "free bits", torch.float32)
    whole = found["free bits"]
    found["resumed"] = trained(workers, "free bits", latest=whole[2][0] if workers.is_first else None)
    found["ended"] = ended(workers)
    found["faults"] = {fault.__name__: fault(workers) for fault in (broken, contradicted, uneven)}
    found["few images"] = few_images(workers)
    found["dropout"] = dropout(workers)
    return found


def ended(workers):
    """Only the last worker hears that it is to end, before the 31st step; what is saved, and what follows."""
    changes = {**COMMON, **CHOICES["free bits"]}
    evaluation = {"every": 20, "images": 40, "draws": 1, "tau": (0.3,), "kappa": "local"}
    session = Together(workers, end_at=[31] if workers.rank == workers.size - 1 else [])
    torch.set_default_dtype(torch.float64)
    with pytest.raises(Interrupted) as interruption:
        train(experiment_of(evaluation=evaluation, **changes), dataset(), 3, session, CPU)
    torch.set_default_dtype(torch.float32)
    latest = session.saved[0] if workers.is_first else None
    return interruption.value.step, len(session.saved), trained(workers, "free bits", latest=latest)


def broken(workers):
    """A number that is not finite, on the last worker alone; and what is left of the state."""
    state = TrainState.fresh(experiment_of(**COMMON), (4, 3), 3, CPU)
    batch = torch.from_numpy(dataset().images("train")[:BATCH]).float()[workers.share(BATCH)]
    if workers.rank == workers.size - 1:
        batch = batch.clone()
        batch[0, 0, 0] = float("nan")
    before = {name: tensor.clone() for name, tensor in state.snapshot().tensors.items()}
    with pytest.raises(NonFinite) as caught:
        train_step(state, batch, workers)
    assert all(torch.equal(tensor, before[name]) for name, tensor in state.snapshot().tensors.items())
    return str(caught.value)


def contradicted(workers):
    """A contradiction that only the last worker finds."""

    def act():
        if workers.rank == workers.size - 1:
            raise BoundViolated("image 16", 2.0, 1.0)

    with pytest.raises(BoundViolated) as caught:
        workers.gather(act)
    return str(caught.value)


def uneven(workers):
    with pytest.raises(InputError) as caught:
        train(experiment_of(batch_size=BATCH + 1), dataset(), 3, Together(workers), CPU)
    return str(caught.value)


def few_images(workers):
    """Fewer images than workers: one of them has nothing to do."""
    model = TrainState.fresh(experiment_of(), (4, 3), 3, CPU).model.double()
    images = torch.from_numpy(dataset().images("valid")[:1])
    config = EvaluationConfig(draws=2, samples=3, tau=(0.5,))
    return evaluate(model, images, config, 3, importance=True, workers=workers)


def dropout(workers):
    """What the first dropout of the network takes away in a step on images that are all the same."""
    state = TrainState.fresh(experiment_of(**{**COMMON, "dropout": 0.5}), (4, 3), 3, CPU)
    masks = []
    first = next(module for module in state.model.level(1).up.modules() if isinstance(module, Dropout))
    first.register_forward_hook(lambda module, inputs, output: masks.append(output == 0))
    train_step(state, torch.ones(BATCH, 4, 3)[workers.share(BATCH)], workers)
    return masks[0]


def work(rank, folder):
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), SIZE)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=SIZE, timeout=timedelta(seconds=60))
    workers = Workers.here()
    assert workers == Workers(rank, SIZE)
    found = everything(workers)
    (folder / f"{rank}.pickle").write_bytes(pickle.dumps(found))
    dist.barrier()
    if rank == 1:
        os._exit(1)  # as if killed
    with pytest.raises(PeerLost, match="does not answer"):
        workers.mean([torch.ones(1)])
    (folder / "lost").touch()
    os._exit(0)


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """What each of two workers found."""
    folder = tmp_path_factory.mktemp("workers")
    context = torch.multiprocessing.get_context("spawn")
    processes = [context.Process(target=work, args=(rank, folder)) for rank in range(SIZE)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(150)
        process.kill()
    assert (folder / "lost").exists(), "the worker that is left was not told that the other is lost"
    return [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in range(SIZE)]


@pytest.fixture(scope="module")
def alone():
    return {name: trained(ALONE, name) for name in CHOICES} | {"float32": trained(ALONE, "free bits", torch.float32)}


def furthest(one, other):
    """The largest difference of two snapshots, relative to each tensor's largest number."""
    assert one.tensors.keys() == other.tensors.keys()
    pairs = [(tensor.double(), other.tensors[name].double()) for name, tensor in one.tensors.items()]
    return max(((a - b).abs().max() / a.abs().max().clamp(min=1e-9)).item() for a, b in pairs)


@pytest.mark.parametrize("choice", CHOICES)
def test_two_workers_train_what_one_trains(alone, several, choice):
    reports, per_image, snapshots, end = alone[choice]
    for found in several:
        assert furthest(end, found[choice][3]) < 1e-9
        assert {**found[choice][3].values, "best": None} == {**end.values, "best": None}
        assert found[choice][3].values.get("best", {}) == pytest.approx(end.values.get("best", {}), rel=1e-9)
    first, second = several[0][choice], several[1][choice]
    assert [step for step, _ in first[0]] == [step for step, _ in reports]
    for (_, mine), (_, theirs) in zip(first[0], reports, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-8, abs=1e-8)
    for mine, theirs in zip(first[1], per_image, strict=True):
        assert mine.keys() == theirs.keys()
        assert torch.equal(mine["image"], theirs["image"])
        torch.testing.assert_close(mine["elbo"], theirs["elbo"], rtol=1e-8, atol=1e-8)
    assert (second[0], second[1]) == ([], []), "only the first worker reports"
    assert furthest(first[3], second[3]) == 0, "the workers hold different models"
    assert len(snapshots) == len(first[2])


def test_the_choices_are_about_something(alone):
    """Free bits bind in one layer and not in the other; patience runs out before the last step."""
    for choice in ("free bits", "rloo"):
        _, metrics = alone[choice][0][1]
        layers = [value for name, value in metrics.items() if name.startswith("train/kl/")]
        assert min(layers) < FREEBITS < max(layers)
    assert 8 < alone["patience"][3].values["step"] < 60


def test_in_float32_only_rounding_differs(alone, several):
    difference = furthest(alone["float32"][3], several[0]["float32"][3])
    assert 0 < difference < 1e-3, difference


def test_two_workers_resume_to_the_last_bit(several):
    """The first reads the snapshot for both."""
    for found in several:
        assert furthest(found["free bits"][3], found["resumed"][3]) == 0
    assert [step for step, _ in several[0]["resumed"][0]] == [40, 50]


def test_workers_end_after_the_same_step_and_go_on_to_the_last_bit(several):
    assert [found["ended"][:2] for found in several] == [(30, 1), (30, 0)]
    reports, _, _, end = several[0]["free bits"]
    again, _, _, resumed = several[0]["ended"][2]
    assert furthest(end, resumed) == 0
    assert again == reports[1:], "means of steps before the end are lost"


def test_one_worker_goes_on_where_two_stopped(several):
    _, _, snapshots, end = several[0]["free bits"]
    _, _, _, resumed = trained(ALONE, "free bits", latest=snapshots[0])
    assert furthest(end, resumed) < 1e-9


def test_a_fault_of_one_is_raised_on_all(several):
    for found in several:
        assert found["faults"]["broken"] == "non-finite log_px at step 0"
        assert "image 16 is 2 nats, above its certified bound 1" in found["faults"]["contradicted"]


def test_a_batch_that_cannot_be_shared(several):
    text = f"training.batch_size is {BATCH + 1}, but 2 workers need a multiple of 2: take {BATCH} or {BATCH + 2}"
    assert several[0]["faults"]["uneven"] == several[1]["faults"]["uneven"] == text
    with pytest.raises(InputError, match=r"take 3$"):
        check_shares(2, 3)
    check_shares(17, 1)


def test_evaluation_of_fewer_images_than_workers(several):
    expected = few_images(ALONE)
    for found in several:
        assert found["few images"].metrics == pytest.approx(expected.metrics, rel=1e-12, abs=1e-12)
        for name, column in expected.per_image.items():
            torch.testing.assert_close(found["few images"].per_image[name], column, rtol=1e-12, atol=1e-12)


def test_two_workers_drop_what_one_drops(several):
    assert torch.equal(torch.cat([found["dropout"] for found in several]), dropout(ALONE))


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [0, 5, 16, 40, 96, 1000])
def test_shares_are_all_images_in_order_and_equal_within_one(size, count):
    shares = [Workers(rank, size).share(count) for rank in range(size)]
    assert [i for share in shares for i in range(count)[share]] == list(range(count))
    sizes = [share.stop - share.start for share in shares]
    assert max(sizes) - min(sizes) <= 1


def test_one_worker_needs_no_process_group():
    tensor = torch.ones(2, requires_grad=True)
    assert ALONE.mean([tensor])[0].equal(tensor)
    assert not ALONE.mean([tensor])[0].requires_grad
    assert ALONE.gather(lambda: 3) == [3]
    assert ALONE.from_first(lambda: 3) == 3
    assert [ALONE.any(True), ALONE.any(False)] == [True, False]
    assert ALONE.is_first
