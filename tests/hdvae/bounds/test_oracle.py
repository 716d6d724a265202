"""Small models against exact enumeration: the bounds, the laws of the chains, and the measured bias."""

import functools
import math

import pytest
import torch

from hdvae.bounds.exact import configurations, enumerate_exactly, given
from hdvae.evaluation.chains import measure
from hdvae.evaluation.evaluation import evaluate
from hdvae.evaluation.importance import importance_weighted
from hdvae.experiment.experiment import EvaluationConfig, LayerConfig
from hdvae.network.samplers import hard, independent, relaxed
from hdvae.network.wiring import WIRINGS
from hdvae.objectives.objectives import expected_log_weight, log_weight, training_kl
from tests.hdvae.oracle import (
    CASES,
    assert_law,
    assert_mean,
    build,
    case,
    row_of,
    small_config,
    some_images,
    source,
)

DRAWS = 8192
every_case = pytest.mark.parametrize(("wiring", "levels"), CASES)
every_wiring = pytest.mark.parametrize("wiring", WIRINGS)


@functools.cache
def sampled(wiring, levels, chain, keys="factored"):
    """Terms of many samples of the hard chain for the image of a case."""
    model, x, _ = case(wiring, levels, keys)
    noise = {"hard": model.noise, "independent": model.hard_noise}[chain](source(DRAWS))
    with torch.no_grad():
        return model(x.expand(DRAWS, *x.shape), noise, {"hard": hard, "independent": independent}[chain])


# --- What enumeration itself says ------------------------------------------------------------------


@every_case
def test_prior_and_posterior_are_laws(wiring, levels):
    _, _, exact = case(wiring, levels)
    assert exact.prior.sum().item() == pytest.approx(1, abs=1e-12)
    assert exact.posterior.sum().item() == pytest.approx(1, abs=1e-12)
    assert exact.elbo < exact.evidence


@every_wiring
def test_prior_and_posterior_are_laws_with_plain_keys(wiring):
    _, _, exact = case(wiring, 2, "plain")
    assert exact.prior.sum().item() == pytest.approx(1, abs=1e-12)
    assert exact.posterior.sum().item() == pytest.approx(1, abs=1e-12)


@every_wiring
def test_the_probabilities_of_all_images_sum_to_one(wiring):
    model, _, _ = case(wiring, 1)
    bits = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 6).double().view(64, 2, 3)
    assert sum(math.exp(enumerate_exactly(model, x).evidence) for x in bits) == pytest.approx(1, abs=1e-10)


@every_case
def test_inference_and_scoring_agree(wiring, levels):
    """The priors and the likelihood of `terms` are those of `score` for the same latent variables."""
    model, x, exact = case(wiring, levels)
    values = configurations(model)
    terms = model(x.expand(len(exact.prior), *x.shape), values, given)
    for layer in terms.layers:
        torch.testing.assert_close(layer.p.log_prob(layer.draw.hard), exact.log_p[layer.node])
    torch.testing.assert_close(terms.log_px, exact.terms.log_px)


# --- The ELBO ---------------------------------------------------------------------------------------


@every_case
@pytest.mark.parametrize("chain", ["hard", "independent"])
def test_hard_chain_measures_the_elbo(wiring, levels, chain):
    """Both with the sampled terms and with the finite sums, and each layer's part of it."""
    _, _, exact = case(wiring, levels)
    terms = sampled(wiring, levels, chain)
    assert_mean(log_weight(terms), exact.elbo)
    assert_mean(expected_log_weight(terms), exact.elbo)
    for layer in terms.layers:
        assert_mean(layer.log_ratio(), exact.kl[layer.node])
        assert_mean(layer.expected_log_ratio(), exact.kl[layer.node])


@pytest.mark.parametrize(("wiring", "levels", "keys"), [(*one, "factored") for one in CASES] + [("biva", 2, "plain")])
def test_finite_sums_have_the_same_expectation(wiring, levels, keys):
    """Without sampling: the expectations of both forms over all configurations, and of the training value."""
    _, _, exact = case(wiring, levels, keys)
    assert exact.expectation(log_weight(exact.terms)) == pytest.approx(exact.elbo, abs=1e-10)
    assert exact.expectation(expected_log_weight(exact.terms)) == pytest.approx(exact.elbo, abs=1e-10)
    for layer in exact.terms.layers:
        assert exact.expectation(layer.expected_log_ratio()) == pytest.approx(exact.kl[layer.node], abs=1e-10)
        assert exact.expectation(training_kl(layer)) == pytest.approx(exact.kl[layer.node], abs=1e-10)


@every_case
def test_the_kl_is_the_finite_sum_exactly_where_it_says_so(wiring, levels):
    """Where p's context is sampled after z_i, KL(q‖p) has another expectation than log q/p."""
    _, _, exact = case(wiring, levels)
    for layer in exact.terms.layers:
        difference = exact.expectation(layer.q.kl(layer.p)) - exact.kl[layer.node]
        assert layer.finite_kl == (abs(difference) < 1e-10), difference


def test_finite_sums_for_all_terms_of_a_plain_vae_are_far_from_the_elbo():
    model = build(small_config("vae", 2), seed=11, contrast=2.0, memory=8.0)
    x = some_images(1, seed=3)[0]
    exact = enumerate_exactly(model, x)
    assert [layer.finite_kl for layer in exact.terms.layers] == [False, True]
    wrong = exact.terms.log_px - torch.stack([layer.q.kl(layer.p) for layer in exact.terms.layers]).sum(0)
    assert abs(exact.expectation(wrong) - exact.elbo) > 0.5
    measured = measure(model, x.expand(2048, *x.shape), {"tau=0.1": 0.1}, draws=1, seed=0)
    assert_mean(measured.hard["elbo"], exact.elbo)


# --- The laws of the chains ---------------------------------------------------------------------------


@every_case
@pytest.mark.parametrize("chain", ["hard", "independent"])
def test_hard_chain_follows_q(wiring, levels, chain):
    model, _, exact = case(wiring, levels)
    terms = sampled(wiring, levels, chain)
    assert_law(row_of(model, {layer.node: layer.draw.hard for layer in terms.layers}), exact.posterior)


@every_wiring
@pytest.mark.parametrize("chain", ["hard", "independent"])
def test_plain_keys_follow_q(wiring, chain):
    model, _, exact = case(wiring, 2, "plain")
    terms = sampled(wiring, 2, chain, "plain")
    assert_law(row_of(model, {layer.node: layer.draw.hard for layer in terms.layers}), exact.posterior)
    assert_mean(log_weight(terms), exact.elbo)


@every_case
@pytest.mark.parametrize("chain", ["hard", "independent"])
@torch.no_grad()
def test_generated_variables_follow_the_prior(wiring, levels, chain):
    model, _, exact = case(wiring, levels)
    noise = {"hard": model.noise, "independent": model.hard_noise}[chain](source(DRAWS))
    draws, logits = model.generate(noise, {"hard": hard, "independent": independent}[chain])
    assert_law(row_of(model, {node: draw.hard for node, draw in draws.items()}), exact.prior)
    torch.testing.assert_close(logits, model.score(draws)[1])


@every_wiring
@pytest.mark.parametrize("tau", [0.1, 1.0])
@torch.no_grad()
def test_one_relaxed_layer_hardens_to_q(wiring, tau):
    """For L = 1 the coupled and the hard chain are the same: H(z̃) follows q at every temperature."""
    model, x, exact = case(wiring, 1)
    (layer,) = model(x.expand(DRAWS, *x.shape), model.noise(source(DRAWS)), relaxed(tau)).layers
    assert_law(row_of(model, {layer.node: layer.draw.hard}), exact.posterior)
    assert_mean(layer.log_ratio(), exact.kl[layer.node])


# --- Importance weighting -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wiring", "levels"), [("vae", 2), ("skip_vae", 2), ("lvae", 3), ("skip_lvae", 2), ("biva", 2)]
)
def test_importance_weighting_rises_to_the_evidence(wiring, levels):
    """Within twice its known distance, Var(w/p(x))/2S for many samples, and never above."""
    model = build(small_config(wiring, levels), seed=2, memory=2.0)
    x = some_images(1, seed=3)[0]
    exact = enumerate_exactly(model, x)
    runs = {s: importance_weighted(model, x.expand(256, *x.shape), s, seed=s) for s in (1, 8, 64, 512)}
    assert all(run.dtype == torch.float64 for run in runs.values())
    assert_mean(runs[1], exact.elbo)
    means = [run.mean().item() for run in runs.values()]
    errors = [run.std().item() / math.sqrt(len(run)) for run in runs.values()]
    assert means == sorted(means)
    assert all(mean <= exact.evidence + 4 * error for mean, error in zip(means, errors, strict=True))
    squared = exact.expectation((2 * (log_weight(exact.terms) - exact.evidence)).exp())
    assert exact.evidence - exact.elbo > 0.4
    assert exact.evidence - means[-1] < (squared - 1) / 512 + 4 * errors[-1] < 0.2


@every_case
@torch.no_grad()
def test_importance_weights_of_normal_variables_average_to_the_evidence(wiring, levels):
    """No enumeration here: E_q[p(x, z)/q(z|x)] = p(x) = E_p[p(x|z)], two samplers that share little code."""
    config = small_config(wiring, levels, latent="normal")
    model, x = build(config, seed=levels, contrast=0.4), some_images(1)[0]
    terms = model(x.expand(DRAWS, *x.shape), model.hard_noise(source(DRAWS, seed=1)), independent)
    weights = log_weight(terms).exp()
    _, logits = model.generate(model.hard_noise(source(DRAWS, seed=2)), independent)
    likelihoods = torch.distributions.Bernoulli(logits=logits).log_prob(x.expand_as(logits)).sum((1, 2)).exp()
    error = math.sqrt((weights.var() / DRAWS + likelihoods.var() / DRAWS).item())
    assert error < 0.05 * likelihoods.mean()
    assert abs(weights.mean() - likelihoods.mean()) < 4 * error
    assert (log_weight(terms).exp() - likelihoods.mean()).abs().mean() > 0.05 * likelihoods.mean()


# --- The relaxation bias ------------------------------------------------------------------------------


def one_draw_each(model, x, tau, seed, rows=2048):
    """Independent measurements, one draw each: the ELBO and the surrogate on common random numbers."""
    measured = measure(model, x.expand(rows, *x.shape), {"tau": tau}, draws=1, seed=seed)
    return measured.hard["elbo"], measured.relaxed["tau"]["surrogate_elbo"]


@pytest.mark.parametrize(("wiring", "levels"), [("vae", 1), ("skip_lvae", 1), *((wiring, 2) for wiring in WIRINGS)])
@pytest.mark.parametrize("tau", [0.1, 0.5])
def test_bias_on_common_random_numbers_is_the_bias_on_independent_ones(wiring, levels, tau):
    model, x, exact = case(wiring, levels)
    elbo, surrogate = one_draw_each(model, x, tau, seed=1)
    assert_mean(elbo, exact.elbo)
    other = one_draw_each(model, x, tau, seed=2)[1]
    common, apart = surrogate - elbo, other - exact.elbo
    error = math.sqrt((common.var() / len(common) + apart.var() / len(apart)).item())
    assert abs(common.mean() - apart.mean()) < 4 * error


def test_common_random_numbers_make_the_bias_less_noisy():
    model, x, _ = case("skip_lvae", 2)
    elbo, surrogate = one_draw_each(model, x, 0.1, seed=1)
    assert (surrogate - elbo).var() < 0.3 * (one_draw_each(model, x, 0.1, seed=2)[1] - elbo).var()


def test_the_bias_is_seen_and_goes_with_the_temperature():
    model = build(small_config("vae", 1, layers=[LayerConfig(variables=1, classes=4)]), seed=1, contrast=3, memory=3)
    config = EvaluationConfig(tau=(1.0, 0.01), draws=2)
    metrics = evaluate(model, some_images(2).repeat(512, 1, 1), config, seed=0, importance=False).metrics
    assert metrics["relaxation_bias"] > 10 * metrics["relaxation_bias_se"]
    assert metrics["relaxation_bias@tau=0.01"] < 0.1 * metrics["relaxation_bias"]


@every_case
def test_reported_bias_is_the_difference_of_the_reported_bounds(wiring, levels):
    model, x, exact = case(wiring, levels)
    images = x.expand(512, *x.shape)
    metrics = evaluate(model, images, EvaluationConfig(tau=(0.4, 0.1), draws=2), seed=3, importance=False).metrics
    for suffix in ("", "@tau=0.4", "@tau=0.1"):
        signed = metrics[f"surrogate_elbo{suffix}"] - metrics["elbo"]
        assert metrics[f"relaxation_bias_signed{suffix}"] == pytest.approx(signed, abs=1e-12)
        assert metrics[f"relaxation_bias{suffix}"] == pytest.approx(abs(signed), abs=1e-12)
    assert metrics["kl"] == pytest.approx(sum(exact.kl.values()), abs=0.5)


@every_case
@torch.no_grad()
def test_surrogate_tends_to_the_elbo(wiring, levels):
    """On common random numbers the difference is 0 once τ is far below every gap of the perturbed logits."""
    model, x, _ = case(wiring, levels)
    images, noise = x.expand(512, *x.shape), model.noise(source(512))
    elbo = expected_log_weight(model(images, noise, hard))
    distances = [
        (expected_log_weight(model(images, noise, relaxed(tau))) - elbo).abs().mean().item()
        for tau in (1.0, 0.1, 0.01, 1e-6)
    ]
    assert distances == sorted(distances, reverse=True)
    assert distances[0] > 0.05
    assert distances[-1] < 1e-9
