"""Evaluation: what is averaged over what, independence of the way it is cut up, and its metrics."""

import math

import numpy as np
import pytest
import torch
from oracle import build, small_config, some_images

from hdvae import evaluation
from hdvae.evaluation import PerImage, choose_images, evaluate, importance_weighted, measure, summarise
from hdvae.experiment import EvaluationConfig
from hdvae.metrics import DESCRIPTIONS
from hdvae.model import hard, independent, relaxed
from hdvae.objectives import expected_log_weight, log_weight
from hdvae.randomness import BLOCK, NoiseSource
from hdvae.wiring import WIRINGS

CPU = torch.device("cpu")
IMAGES = 3 * BLOCK + 5
every_wiring = pytest.mark.parametrize("wiring", WIRINGS)
every_latent = pytest.mark.parametrize("latent", ["categorical", "normal"])


def make(wiring="biva", latent="categorical"):
    return build(small_config(wiring, 2, latent=latent), seed=1, contrast=1.5)


def images(count=IMAGES):
    return some_images(count).to(torch.uint8)


def noise_at(count, draw, purpose):
    return NoiseSource.at(CPU, torch.float64, count, seed=5, purpose=purpose, step=draw)


# --- Measures by hand ---------------------------------------------------------------------------------


@every_wiring
@every_latent
@torch.no_grad()
def test_measure_by_hand(wiring, latent):
    """Means over draws of the hard and the relaxed chains on the same noise."""
    model, x, draws = make(wiring, latent), images().double(), 3
    measured = measure(model, images(), [0.5, 0.1], draws, seed=5)
    noises = [model.noise(noise_at(IMAGES, draw, "evaluation")) for draw in range(draws)]
    chains = [model(x, noise, hard) for noise in noises]
    torch.testing.assert_close(measured.log_px, sum(terms.log_px for terms in chains) / draws)
    torch.testing.assert_close(measured.elbo, sum(expected_log_weight(terms) for terms in chains) / draws)
    for i, node in enumerate(model.nodes):
        expected = sum(terms.layers[i].expected_log_ratio() for terms in chains) / draws
        torch.testing.assert_close(measured.kl[model.name(node)], expected)
    assert list(measured.surrogate) == [0.5, 0.1]
    for tau, value in measured.surrogate.items():
        torch.testing.assert_close(value, sum(expected_log_weight(model(x, n, relaxed(tau))) for n in noises) / draws)


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
@pytest.mark.parametrize("rows", [BLOCK, 2 * BLOCK, 64 * BLOCK])
def test_results_do_not_depend_on_how_many_rows_go_at_once(monkeypatch, wiring, rows):
    model = make(wiring)
    whole = measure(model, images(), [0.2], 2, seed=5)
    weighted = importance_weighted(model, images(), 9, seed=5)
    monkeypatch.setattr(evaluation, "ROWS", rows)
    cut = measure(model, images(), [0.2], 2, seed=5)
    for name, value in (("log_px", cut.log_px), ("elbo", cut.elbo)):
        torch.testing.assert_close(value, getattr(whole, name))
    torch.testing.assert_close(cut.surrogate[0.2], whole.surrogate[0.2])
    torch.testing.assert_close(importance_weighted(model, images(), 9, seed=5), weighted)


def test_an_image_keeps_its_noise_when_others_are_added():
    model = make()
    few, many = (measure(model, images()[:count], [0.2], 2, seed=5) for count in (BLOCK, IMAGES))
    torch.testing.assert_close(few.elbo, many.elbo[:BLOCK])
    torch.testing.assert_close(
        importance_weighted(model, images()[:BLOCK], 4, seed=5), importance_weighted(model, images(), 4, seed=5)[:BLOCK]
    )


def test_the_encoder_runs_once_for_all_samples_of_an_image():
    model, calls = make("skip_lvae"), []
    model.level(1).up.register_forward_hook(lambda *_: calls.append(1))
    importance_weighted(model, images(), 50, seed=0)
    measure(model, images(), [0.5, 0.1], 10, seed=0)
    assert len(calls) == 2


# --- Numbers ------------------------------------------------------------------------------------------


def test_averages_are_in_float64():
    model = make().float()
    measured = measure(model, images(), [0.2], 2, seed=5)
    found = [measured.log_px, measured.elbo, *measured.kl.values(), *measured.surrogate.values()]
    assert all(value.dtype == torch.float64 for value in (*found, importance_weighted(model, images(), 3, seed=5)))
    precise = measure(model.double(), images(), [0.2], 2, seed=5)
    assert (measured.log_px - precise.log_px).abs().max() > 0


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
    assert not torch.equal(measure(model, images(), [0.2], 1, 0).elbo, measure(model, images(), [0.2], 1, 1).elbo)


@every_wiring
def test_normal_variables_have_no_bias(wiring):
    config = EvaluationConfig(draws=2, tau=(0.9, 0.1), samples=3)
    metrics = evaluate(make(wiring, "normal"), images(), config, seed=0, importance=False)
    assert metrics["relaxation_bias"] < 1e-12
    assert metrics["relaxation_bias_se"] < 1e-12
    assert metrics["surrogate_elbo@tau=0.9"] == pytest.approx(metrics["elbo"], abs=1e-12)


# --- Metrics ------------------------------------------------------------------------------------------


@every_wiring
def test_metrics_are_complete_and_consistent(wiring):
    model = make(wiring)
    config = EvaluationConfig(draws=2, tau=(0.5, 0.1), samples=6)
    metrics = evaluate(model, images(), config, seed=5, importance=True)
    layers = {f"kl/{model.name(node)}" for node in model.nodes}
    at_each = {name for name in DESCRIPTIONS if name.startswith(("surrogate", "relaxation"))}
    expected = {*DESCRIPTIONS, *layers, "iw_elbo@S=6"} | {f"{n}@tau={t}" for n in at_each for t in ("0.5", "0.1")}
    assert set(metrics) == expected
    assert all(isinstance(value, float) and math.isfinite(value) for value in metrics.values())
    assert metrics["elbo"] == pytest.approx(metrics["log_px"] - metrics["kl"], abs=1e-12)
    assert metrics["kl"] == pytest.approx(sum(metrics[name] for name in layers), abs=1e-12)
    assert metrics["iw_elbo"] == metrics["iw_elbo@S=6"]
    assert metrics["iw_elbo"] == importance_weighted(model, images(), 6, seed=5).mean().item()
    for name in at_each:
        assert metrics[name] == metrics[f"{name}@tau=0.5"] != metrics[f"{name}@tau=0.1"]
    without = evaluate(model, images(), config, seed=5, importance=False)
    assert without == {name: value for name, value in metrics.items() if not name.startswith("iw_elbo")}


def test_summary_by_hand():
    measured = PerImage(
        log_px=torch.tensor([-5.0, -7.0, -9.0]).double(),
        kl={"layer_1": torch.tensor([1.0, 1.0, 4.0]).double(), "layer_2": torch.tensor([0.5, 0.5, 0.5]).double()},
        surrogate={0.3: torch.tensor([-6.0, -9.5, -16.5]).double()},
    )
    metrics = summarise(measured)
    difference = np.array([0.5, -1.0, -3.0])
    assert metrics["elbo"] == pytest.approx(-9.5)
    assert metrics["kl"] == pytest.approx(2.5)
    assert metrics["kl/layer_1"] == pytest.approx(2.0)
    assert metrics["surrogate_elbo@tau=0.3"] == pytest.approx(-32 / 3)
    assert metrics["relaxation_bias_signed"] == pytest.approx(difference.mean())
    assert metrics["relaxation_bias"] == pytest.approx(-difference.mean())
    assert metrics["relaxation_bias_se"] == pytest.approx(difference.std(ddof=1) / math.sqrt(3))


def test_one_image_has_no_standard_error():
    metrics = evaluate(make(), images(1), EvaluationConfig(draws=1), seed=0, importance=False)
    assert "relaxation_bias_se" not in metrics
    assert math.isfinite(metrics["relaxation_bias"])


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_left_as_it_was_and_dropout_is_off(training):
    model, config = make(), EvaluationConfig(draws=2, samples=3)
    expected = evaluate(model, images(), config, seed=0, importance=True)
    model.train(training)
    assert evaluate(model, images(), config, seed=0, importance=True) == expected
    assert model.training == training


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
