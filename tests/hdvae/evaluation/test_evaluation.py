"""Evaluation: what is averaged over what, independence of the way it is cut up, and its metrics."""

import io
import math

import numpy as np
import pytest
import torch

from hdvae.errors import InputError
from hdvae.evaluation import chains, evaluation, importance
from hdvae.evaluation.chains import Measured, measure
from hdvae.evaluation.evaluation import choose_images, evaluate, evaluated_images, summarise
from hdvae.evaluation.importance import importance_weighted
from hdvae.evaluation.metrics import AT_ZERO, DESCRIPTIONS, SLOT_USE, tau_label
from hdvae.evaluation.slot_use import SlotUse, slot_metrics
from hdvae.experiment.experiment import EvaluationConfig
from hdvae.network.samplers import hard, independent, relaxed
from hdvae.network.terms import LayerTerms, Terms
from hdvae.network.wiring import WIRINGS
from hdvae.objectives.objectives import expected_log_weight, log_weight
from hdvae.randomness.noise import NoiseSource
from tests.hdvae.oracle import build, small_config, some_images

CPU = torch.device("cpu")
IMAGES = 53
every_wiring = pytest.mark.parametrize("wiring", WIRINGS)
every_latent = pytest.mark.parametrize("latent", ["categorical", "normal"])


def make(wiring="biva", latent="categorical"):
    return build(small_config(wiring, 2, latent=latent), seed=1, contrast=1.5)


def images(count=IMAGES):
    return some_images(count).to(torch.uint8)


def at_each(*taus):
    return {tau_label(tau): tau for tau in taus}


def coupled_by_hand(model, x, terms):
    """The same q; p and the decoder given H(z̃)."""
    hardened = {layer.node: model.layer(layer.node).at(layer.draw.hard) for layer in terms.layers}
    priors, logits = model.score(hardened)
    layers = [
        LayerTerms(layer.node, layer.q, priors[layer.node], hardened[layer.node], layer.finite_kl)
        for layer in terms.layers
    ]
    return Terms(torch.distributions.Bernoulli(logits=logits).log_prob(x).sum((1, 2)), layers)


def distance_by_hand(draw):
    hot = torch.nn.functional.one_hot(draw.hard, draw.soft.shape[-1])
    return (draw.soft - hot).flatten(1).norm(dim=1)


def noise_at(count, draw, purpose):
    return NoiseSource.at(CPU, torch.float64, count, seed=5, purpose=purpose, step=draw)


# --- Measures by hand ---------------------------------------------------------------------------------


@every_wiring
@every_latent
@torch.no_grad()
def test_measure_by_hand(wiring, latent):
    """Means over draws of the hard and the relaxed chains on the same noise."""
    model, x, draws = make(wiring, latent), images().double(), 3
    measured = measure(model, images(), at_each(0.5, 0.1), draws, seed=5)
    noises = [model.noise(noise_at(IMAGES, draw, "evaluation")) for draw in range(draws)]
    chains = [model(x, noise, hard) for noise in noises]
    torch.testing.assert_close(measured.hard["log_px"], sum(terms.log_px for terms in chains) / draws)
    torch.testing.assert_close(measured.hard["elbo"], sum(expected_log_weight(terms) for terms in chains) / draws)
    for i, node in enumerate(model.nodes):
        expected = sum(terms.layers[i].expected_log_ratio() for terms in chains) / draws
        torch.testing.assert_close(measured.hard[f"kl/{model.name(node)}"], expected)
    assert list(measured.relaxed) == ["tau=0.5", "tau=0.1"]
    for tau, columns in zip((0.5, 0.1), measured.relaxed.values(), strict=True):
        chains = [model(x, n, relaxed(tau)) for n in noises]
        surrogate = [expected_log_weight(terms) for terms in chains]
        coupled = [expected_log_weight(coupled_by_hand(model, x, terms)) for terms in chains]
        apart = [(a - b).abs() for a, b in zip(surrogate, coupled, strict=True)]
        torch.testing.assert_close(columns["surrogate_elbo"], sum(surrogate) / draws)
        torch.testing.assert_close(columns["coupled_elbo"], sum(coupled) / draws)
        torch.testing.assert_close(columns["jensen_bound"], sum(apart) / draws)
        if latent == "categorical":
            assert (columns["lipschitz_bound"] >= columns["lipschitz_bound_reads"]).all()
            for i, node in enumerate(model.nodes):
                far = [distance_by_hand(terms.layers[i].draw) for terms in chains]
                torch.testing.assert_close(columns[f"distance/{model.name(node)}"], sum(far) / draws)


@every_wiring
@every_latent
@torch.no_grad()
def test_importance_weighting_by_hand(wiring, latent):
    model, samples = make(wiring, latent), 7
    weights = torch.stack(
        [
            log_weight(model(images().double(), model.hard_noise(noise_at(IMAGES, s, "importance")), independent))
            for s in range(samples)
        ]
    )
    expected = weights.exp().mean(0).log()
    torch.testing.assert_close(importance_weighted(model, images(), samples, seed=5), expected)


# --- Cutting up ---------------------------------------------------------------------------------------


@every_wiring
@pytest.mark.parametrize("rows", [7, 16, 1024])
def test_results_do_not_depend_on_how_many_rows_go_at_once(monkeypatch, wiring, rows):
    model = make(wiring)
    whole = measure(model, images(), at_each(0.2), 2, seed=5)
    weighted = importance_weighted(model, images(), 9, seed=5)
    for module in (chains, importance, evaluation):
        monkeypatch.setattr(module, "rows_at_once", lambda model: rows)
    cut = measure(model, images(), at_each(0.2), 2, seed=5)
    assert cut.columns().keys() == whole.columns().keys()
    for name, value in cut.columns().items():
        torch.testing.assert_close(value, whole.columns()[name])
    torch.testing.assert_close(importance_weighted(model, images(), 9, seed=5), weighted)


@pytest.mark.parametrize("rows", [7, 53, 1024])
def test_the_bound_for_fewer_samples_is_that_of_the_first_ones(monkeypatch, rows):
    """S = 1, 10, 100 and 120 from one pass; pieces of 120 samples of 53 images, of 9 and of 1."""
    model, found = make(), {}
    monkeypatch.setattr(evaluation, "rows_at_once", lambda model: rows)
    config = EvaluationConfig(draws=1, samples=120)
    columns = evaluate(model, images(), config, seed=5, importance=True).per_image
    for count in (1, 10, 100, 120):
        found[count] = importance_weighted(model, images(), count, seed=5)
        torch.testing.assert_close(columns[f"iw_elbo@S={count}"], found[count])
    assert found[1].mean() < found[10].mean() < found[100].mean()


class Kept:
    """A `Keep` that remembers, and dies before some chunk."""

    def __init__(self):
        self.results, self.computed, self.dies_at = {}, [], None

    def __call__(self, images, compute):
        if images not in self.results:
            if len(self.results) == self.dies_at:
                raise KeyboardInterrupt
            self.computed.append(images)
            file = io.BytesIO()
            torch.save(compute(), file)
            self.results[images] = file
        self.results[images].seek(0)
        return torch.load(self.results[images], weights_only=True)


@pytest.mark.parametrize("latent", ["categorical", "normal"])
def test_an_evaluation_that_was_cut_off_repeats_no_chunk(monkeypatch, latent):
    model, config, seen = make(latent=latent), EvaluationConfig(draws=2, samples=3, tau=(0.5, 0.1)), []
    monkeypatch.setattr(evaluation, "rows_at_once", lambda model: 20)
    expected = evaluate(model, images(), config, seed=5, importance=True)
    kept = Kept()
    kept.dies_at = 2
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, images(), config, seed=5, importance=True, keep=kept)
    kept.dies_at = None
    again = evaluate(model, images(), config, seed=5, importance=True, keep=kept, progress=lambda *n: seen.append(n))
    assert kept.computed == [range(20), range(20, 40), range(40, 53)]
    assert again.metrics == expected.metrics
    assert list(again.metrics) == list(expected.metrics)
    for name, values in expected.per_image.items():
        assert torch.equal(again.per_image[name], values)
    assert seen == [(20, 53), (40, 53), (53, 53)]


def test_the_encoder_runs_once_for_each_image(monkeypatch):
    model, calls = make("skip_lvae"), []
    monkeypatch.setattr(evaluation, "rows_at_once", lambda model: 20)
    model.level(1).up.register_forward_hook(lambda module, given, out: calls.append(len(out)))
    evaluate(model, images(), EvaluationConfig(draws=10, samples=50), seed=0, importance=True)
    assert calls == [20, 20, 13]


def test_an_image_keeps_its_noise_when_others_are_added():
    model = make()
    few, many = (measure(model, images()[:count], at_each(0.2), 2, seed=5) for count in (5, IMAGES))
    torch.testing.assert_close(few.hard["elbo"], many.hard["elbo"][:5])
    torch.testing.assert_close(
        importance_weighted(model, images()[:5], 4, seed=5), importance_weighted(model, images(), 4, seed=5)[:5]
    )


# --- Numbers ------------------------------------------------------------------------------------------


def test_averages_are_in_float64():
    model = make().float()
    measured = measure(model, images(), at_each(0.2), 2, seed=5)
    found = measured.columns().values()
    assert all(value.dtype == torch.float64 for value in [*found, importance_weighted(model, images(), 3, seed=5)])
    precise = measure(model.double(), images(), at_each(0.2), 2, seed=5)
    assert (measured.hard["log_px"] - precise.hard["log_px"]).abs().max() > 0


def test_importance_weights_of_unlikely_images_stay_in_log_space():
    """28 × 28 random pixels are at −540 nats or less: exp of it is 0 in float32."""
    image = (28, 28)
    model = build(small_config("skip_lvae", 2), image).float()
    value = importance_weighted(model, some_images(4, image), 20, seed=0)
    assert torch.isfinite(value).all()
    assert (value < -400).all()


def test_more_samples_and_seeds():
    model = make()
    one, many = (importance_weighted(model, images(), samples, seed=0).mean() for samples in (1, 200))
    assert many > one + 0.1
    first, second = (measure(model, images(), at_each(0.2), 1, seed).hard["elbo"] for seed in (0, 1))
    assert not torch.equal(first, second)


@every_wiring
def test_normal_variables_have_no_bias(wiring):
    config = EvaluationConfig(draws=2, tau=(0.9, 0.1), samples=3)
    metrics = evaluate(make(wiring, "normal"), images(), config, seed=0, importance=False).metrics
    for name in ("relaxation_bias", "relaxation_bias_se", "coupled_bias", "jensen_bound", "lipschitz_bound"):
        assert metrics[name] < 1e-12
    assert metrics["surrogate_elbo@tau=0.9"] == pytest.approx(metrics["elbo"], abs=1e-12)


# --- Metrics ------------------------------------------------------------------------------------------


@every_wiring
def test_metrics_are_complete_and_consistent(wiring):
    model = make(wiring)
    config = EvaluationConfig(draws=2, tau=(0.5, 0.1), samples=6)
    metrics = evaluate(model, images(), config, seed=5, importance=True).metrics
    layers = {f"kl/{model.name(node)}" for node in model.nodes}
    relaxed_names = {name for name in DESCRIPTIONS if name not in AT_ZERO}
    relaxed_names |= {f"distance/{model.name(node)}" for node in model.nodes}
    at_both = {f"{n}@tau={t}" for n in relaxed_names for t in ("0.5", "0.1")}
    at_samples = {f"{name}@S={count}" for name in ("iw_elbo", "iw_elbo_se") for count in (1, 6)}
    used = {f"{metric}/{model.name(node)}" for metric in SLOT_USE for node in model.nodes}
    assert set(metrics) == {*DESCRIPTIONS, *layers, *used, *relaxed_names} | at_both | at_samples
    assert all(isinstance(value, float) and math.isfinite(value) for value in metrics.values())
    assert metrics["elbo"] == pytest.approx(metrics["log_px"] - metrics["kl"], abs=1e-12)
    assert metrics["kl"] == pytest.approx(sum(metrics[name] for name in layers), abs=1e-12)
    assert metrics["iw_elbo"] == metrics["iw_elbo@S=6"]
    assert metrics["iw_elbo"] == importance_weighted(model, images(), 6, seed=5).mean().item()
    for name in relaxed_names:
        assert metrics[name] == metrics[f"{name}@tau=0.5"] != metrics[f"{name}@tau=0.1"]
    without = evaluate(model, images(), config, seed=5, importance=False).metrics
    assert without == {name: value for name, value in metrics.items() if not name.startswith("iw_elbo")}


def test_summary_by_hand():
    zero = torch.zeros(3).double()
    measured = Measured(
        hard={
            "elbo": torch.tensor([-6.5, -8.5, -13.5]).double(),
            "log_px": torch.tensor([-5.0, -7.0, -9.0]).double(),
            "kl/layer_1": torch.tensor([1.0, 1.0, 4.0]).double(),
            "kl/layer_2": torch.tensor([0.5, 0.5, 0.5]).double(),
        },
        relaxed={
            "tau=0.3": {
                "surrogate_elbo": torch.tensor([-6.0, -9.5, -16.5]).double(),
                "coupled_elbo": torch.tensor([-6.25, -9.0, -15.5]).double(),
                "jensen_bound": zero + 1,
                "lipschitz_bound": zero + 3,
                "lipschitz_bound_reads": zero + 2,
            }
        },
    )
    metrics = summarise(measured)
    difference = np.array([0.5, -1.0, -3.0])
    assert metrics["elbo"] == pytest.approx(-9.5)
    assert metrics["kl"] == pytest.approx(2.5)
    assert metrics["elbo_se"] == pytest.approx(np.std([-6.5, -8.5, -13.5], ddof=1) / math.sqrt(3))
    assert metrics["kl_se"] == pytest.approx(np.std([1.5, 1.5, 4.5], ddof=1) / math.sqrt(3))
    surrogate = np.std([-6.0, -9.5, -16.5], ddof=1) / math.sqrt(3)
    assert metrics["surrogate_elbo_se"] == metrics["surrogate_elbo_se@tau=0.3"] == pytest.approx(surrogate)
    assert metrics["kl/layer_1"] == pytest.approx(2.0)
    assert metrics["surrogate_elbo@tau=0.3"] == pytest.approx(-32 / 3)
    assert metrics["relaxation_bias_signed"] == pytest.approx(difference.mean())
    assert metrics["relaxation_bias"] == pytest.approx(-difference.mean())
    assert metrics["relaxation_bias_se"] == pytest.approx(difference.std(ddof=1) / math.sqrt(3))
    coupled = np.array([0.25, -0.5, -1.0])
    assert metrics["coupled_bias@tau=0.3"] == pytest.approx(-coupled.mean())
    assert metrics["coupled_bias_se"] == pytest.approx(coupled.std(ddof=1) / math.sqrt(3))
    assert metrics["relaxed_elbo"] == pytest.approx(-32 / 3 - 3)
    assert metrics["relaxed_elbo_reads"] == pytest.approx(-32 / 3 - 2)


@every_wiring
@pytest.mark.parametrize("reads", ["dense", "race"])
def test_the_use_of_slots_is_that_of_the_hard_chain(wiring, reads):
    """By q itself if reads are dense, else by its draws; however the images are cut up. Only a race drops something."""
    model = build(small_config(wiring, 2, reads=reads, race={"draws": 3, "arrivals": 2}), seed=1, contrast=1.5)
    config = EvaluationConfig(draws=3, tau=(0.5,))
    metrics = evaluate(model, images(), config, seed=5, importance=False).metrics
    with torch.no_grad():
        chains = [model(images().double(), model.noise(noise_at(IMAGES, d, "evaluation")), hard) for d in range(3)]
        soft = [
            model(images().double(), model.noise(noise_at(IMAGES, d, "evaluation")), relaxed(0.5)) for d in range(3)
        ]
    for i, node in enumerate(model.nodes):
        codes = torch.stack([terms.layers[i].draw.hard for terms in chains], 1).numpy()
        q = torch.stack([terms.layers[i].q.joint().exp() for terms in chains]).mean(0).numpy()
        if reads == "dense":
            use = [SlotUse.of_posteriors(q[:, n]) for n in range(q.shape[1])]
        else:
            use = [SlotUse.of_draws(codes[:, :, n], q.shape[-1]) for n in range(q.shape[1])]
        for name, expected in slot_metrics(use).items():
            assert metrics[f"{name}/{model.name(node)}"] == pytest.approx(expected)
        name = f"dropped_mass/{model.name(node)}@tau=0.5"
        assert (name in metrics) == (reads == "race")
        if reads == "race":
            expected = np.mean([terms.layers[i].draw.dropped.mean().item() for terms in soft])
            assert metrics[name] == pytest.approx(expected)
            assert 0 < metrics[name] < 1


def test_one_image_has_no_standard_error():
    config = EvaluationConfig(draws=1, samples=2)
    metrics = evaluate(make(), images(1), config, seed=0, importance=True).metrics
    assert not [name for name in metrics if "_se" in name]
    assert math.isfinite(metrics["relaxation_bias"])


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_left_as_it_was_and_dropout_is_off(training):
    model, config = make(), EvaluationConfig(draws=2, samples=3)
    expected = evaluate(model, images(), config, seed=0, importance=True).metrics
    model.train(training)
    assert evaluate(model, images(), config, seed=0, importance=True).metrics == expected
    assert model.training == training


@pytest.mark.parametrize("benchmark", [False, True])
def test_only_the_precision_of_convolutions_is_changed(monkeypatch, benchmark):
    """CuDNN stays on, as quick as it was, and has its precision back afterwards."""
    cudnn, during = torch.backends.cudnn, []
    monkeypatch.setattr(cudnn, "benchmark", benchmark)
    assert cudnn.conv.fp32_precision == "tf32", "this is the default"

    def look(*arguments):
        during.append((cudnn.enabled, cudnn.benchmark, cudnn.conv.fp32_precision))
        return chains.measure_chunk(*arguments)

    monkeypatch.setattr("hdvae.evaluation.evaluation.measure_chunk", look)
    evaluate(make(), images(), EvaluationConfig(draws=1, samples=1), seed=0, importance=False)
    assert during == [(True, benchmark, "ieee")]
    assert (cudnn.enabled, cudnn.benchmark, cudnn.conv.fp32_precision) == (True, benchmark, "tf32")


def test_the_mode_is_left_as_it_was_after_an_error():
    model = make().train()
    with pytest.raises(RuntimeError):
        evaluate(model, some_images(3, (9, 9)), EvaluationConfig(draws=1), seed=0, importance=False)
    assert model.training


def test_evaluation_leaves_weights_and_gradients_alone():
    model = make()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate(model, images(), EvaluationConfig(draws=1, samples=2), seed=0, importance=True)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


# --- Which images -------------------------------------------------------------------------------------


def test_chosen_images_are_a_fixed_random_subset():
    chosen = choose_images(100, 1000)
    assert np.array_equal(chosen, choose_images(100, 1000))
    assert np.array_equal(chosen, np.unique(chosen))
    assert len(chosen) == 100
    assert chosen.min() >= 0
    assert chosen.max() < 1000
    assert 35 < np.sum(chosen < 500) < 65
    assert not np.array_equal(chosen, np.arange(100))


@pytest.mark.parametrize(("count", "available"), [(5, 5), (6, 5), (1000, 1)])
def test_all_images_if_there_are_too_few(count, available):
    assert np.array_equal(choose_images(count, available), np.arange(available))


@pytest.mark.parametrize("available", [2, 9, 500])
def test_the_halves_of_the_split_have_no_image_in_common(available):
    parts = [
        evaluated_images(EvaluationConfig(images=10_000, part=part), available)
        for part in ("all", "search", "held_out")
    ]
    assert np.array_equal(parts[0], np.arange(available))
    assert np.array_equal(np.sort(np.concatenate(parts[1:])), parts[0])
    assert len(parts[1]) - len(parts[2]) == available % 2
    assert all(np.array_equal(part, np.unique(part)) for part in parts)
    for whole, name in zip(parts, ("all", "search", "held_out"), strict=True):
        some = evaluated_images(EvaluationConfig(images=max(1, len(whole) // 2), part=name), available)
        assert np.array_equal(some, whole[choose_images(len(some), len(whole))])
        assert np.array_equal(some, evaluated_images(EvaluationConfig(images=len(some), part=name), available))


def test_the_halves_are_random():
    half = evaluated_images(EvaluationConfig(images=500, part="search"), 1000)
    assert 200 < np.sum(half < 500) < 300, "some published data are sorted by class"


def test_one_image_has_no_halves():
    with pytest.raises(InputError, match=r"evaluation.part: held_out has no images: there are 1 validation images"):
        evaluated_images(EvaluationConfig(part="held_out"), 1)
