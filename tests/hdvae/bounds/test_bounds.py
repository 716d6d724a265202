"""The coupled chain and the bounds of the bias, against enumeration; and what is wrong with appendix E of the paper."""

import functools
import itertools
import math

import pytest
import torch

from hdvae.bounds.bounds import Bound, certified_bound, check, distances, hardened, local_bound
from hdvae.bounds.exact import enumerate_exactly, given
from hdvae.bounds.lipschitz import certify
from hdvae.errors import BoundViolated
from hdvae.evaluation import chains as chains_module
from hdvae.evaluation.chains import measure
from hdvae.evaluation.evaluation import evaluate, summarise
from hdvae.experiment.experiment import EvaluationConfig, LayerConfig
from hdvae.network.samplers import hard, relaxed
from hdvae.network.wiring import WIRINGS
from hdvae.objectives.objectives import expected_log_weight, log_weight
from tests.hdvae.oracle import CASES, assert_mean, build, case, small_config, some_images, source

DRAWS = 8192
MODELS = 200
every_case = pytest.mark.parametrize(("wiring", "levels"), CASES)
every_tau = pytest.mark.parametrize("tau", [0.1, 0.5, 1.0])


@functools.cache
def chains(wiring, levels, tau):
    """Relaxed and coupled terms of many samples for the image of a case."""
    model, x, _ = case(wiring, levels)
    images = x.expand(DRAWS, *x.shape)
    with torch.no_grad():
        soft = model(images, model.noise(source(DRAWS, seed=levels)), relaxed(tau))
        return images, soft, model.coupled(images, soft)


def standard_error(values):
    return values.std().item() / math.sqrt(len(values))


# --- The coupled chain ----------------------------------------------------------------------------------


@every_case
@every_tau
def test_coupled_samples_average_to_the_evidence(wiring, levels, tau):
    """E[exp(coupled)] = p(x), for every wiring and temperature."""
    _, _, exact = case(wiring, levels)
    _, _, coupled = chains(wiring, levels, tau)
    assert_mean((log_weight(coupled) - exact.evidence).exp(), 1.0)


@every_case
@every_tau
def test_the_coupled_elbo_is_below_the_evidence(wiring, levels, tau):
    _, _, exact = case(wiring, levels)
    _, _, coupled = chains(wiring, levels, tau)
    for sample in (log_weight(coupled), expected_log_weight(coupled)):
        assert sample.mean().item() < exact.evidence + 4 * standard_error(sample)
    assert_mean(log_weight(coupled) - expected_log_weight(coupled), 0.0)


@pytest.mark.parametrize("wiring", WIRINGS)
@every_tau
def test_with_one_layer_the_coupled_chain_is_the_hard_chain(wiring, tau):
    model, _, exact = case(wiring, 1)
    images, _, coupled = chains(wiring, 1, tau)
    with torch.no_grad():
        terms = model(images, model.noise(source(DRAWS, seed=1)), hard)
    torch.testing.assert_close(log_weight(coupled), log_weight(terms), rtol=0, atol=1e-12)
    assert_mean(log_weight(coupled), exact.elbo)


@pytest.mark.parametrize("wiring", WIRINGS)
@every_tau
@torch.no_grad()
def test_equation_7_holds_with_one_layer(wiring, tau):
    """δ_τ, from the exact ELBO, is below κ E‖z̃ − H(z̃)‖₂."""
    model, _, exact = case(wiring, 1)
    images, soft, _ = chains(wiring, 1, tau)
    bound = certified_bound(certify(model), images, distances(soft, hardened(model, soft)))
    surrogate = expected_log_weight(soft)
    assert abs(surrogate.mean().item() - exact.elbo) < bound.soft.mean().item() + 4 * standard_error(surrogate)
    assert surrogate.mean().item() - bound.soft.mean().item() < exact.evidence  # eq. 8


# --- The chain of inequalities --------------------------------------------------------------------------


def random_model(seed):
    """A model of the real classes: any wiring, depth, blocks, decoder and scale."""
    random = torch.Generator().manual_seed(seed)

    def pick(*options):
        return options[int(torch.randint(len(options), (), generator=random))]

    levels = pick(1, 2, 3)
    sizes = [LayerConfig(variables=pick(1, 2, 3), classes=pick(4, 9)) for _ in range(levels)]
    config = small_config(
        pick(*WIRINGS),
        levels,
        layers=sizes,
        blocks=pick("dense", "dense", "conv"),
        width=pick(2, 5),
        decoder=pick("free", "lipschitz"),
        keys=pick("factored", "plain"),
        decoder_scale=pick(0.5, 3.0, "learned"),
    )
    model = build(config, (3, 4), seed=seed, contrast=pick(1.0, 2.0, 4.0), memory=pick(0.3, 1.0, 4.0))
    return model, some_images(4, (3, 4), seed), pick(0.05, 0.3, 1.0, 2.0)


def test_the_bounds_hold_for_every_one_of_many_random_models():
    """coupled_bias ≤ jensen_bound ≤ lipschitz_bound_reads ≤ lipschitz_bound and relaxed_elbo ≤ coupled_elbo."""
    biased = 0
    for seed in range(MODELS):
        model, x, tau = random_model(seed)
        config = EvaluationConfig(tau=(tau,), draws=8)
        metrics = evaluate(model, x.repeat(4, 1, 1), config, seed=seed, importance=False).metrics
        order = ["coupled_bias", "jensen_bound", "lipschitz_bound_reads", "lipschitz_bound"]
        values = [metrics[name] for name in order]
        assert all(low <= high + 1e-12 for low, high in itertools.pairwise(values)), (seed, values)
        assert metrics["relaxed_elbo"] <= metrics["relaxed_elbo_reads"] <= metrics["coupled_elbo"] + 1e-12, seed
        biased += metrics["coupled_bias"] > 0.01
    assert biased > MODELS / 2  # the inequalities were not between zeros


def test_the_relaxed_elbo_is_below_the_evidence():
    for wiring, levels in CASES:
        model, x, exact = case(wiring, levels)
        config = EvaluationConfig(tau=(1.0, 0.1), draws=2)
        metrics = evaluate(model, x.expand(256, *x.shape), config, seed=0, importance=False).metrics
        for suffix in ("@tau=1", "@tau=0.1"):
            assert metrics[f"relaxed_elbo{suffix}"] < metrics[f"coupled_elbo{suffix}"] < exact.evidence + 0.2


@torch.no_grad()
def test_finite_sums_and_sampled_terms_are_both_within_the_bounds_draw_by_draw():
    for wiring, levels in CASES:
        model, _, _ = case(wiring, levels)
        images, soft, coupled = chains(wiring, levels, 0.5)
        bound = certified_bound(certify(model), images, distances(soft, hardened(model, soft)))
        for form in (log_weight, expected_log_weight):
            assert ((form(soft) - form(coupled)).abs() <= bound.read).all()
        assert (bound.read <= bound.soft).all()


# --- Appendix E ---------------------------------------------------------------------------------------------


@torch.no_grad()
def appendix_e(model, x, tau, rows):
    """Surrogate samples, and those of the appendix's sum of absolute differences: q's term at H of its context, too."""
    images = x.expand(rows, *x.shape)
    soft = model(images, model.noise(source(rows)), relaxed(tau))
    at_hard = model(images, {layer.node: layer.draw.hard for layer in soft.layers}, given)
    parts = [soft.log_px - at_hard.log_px]
    for layer, other in zip(soft.layers, at_hard.layers, strict=True):
        for law, instead in ((layer.p, other.p), (layer.q, other.q)):
            parts.append(law.log_prob(layer.draw.hard) - instead.log_prob(layer.draw.hard))
    return soft, torch.stack(parts).abs().sum(0)


def test_the_sum_of_appendix_e_is_no_bound_of_the_bias():
    """A small ladder with δ_τ = 15.3 nats against the appendix's 5.7; the repaired inequalities hold for it."""
    sizes = [LayerConfig(variables=1, classes=3)] * 2
    config = small_config("lvae", 2, keys="plain", layers=sizes)
    model, x = build(config, seed=93, contrast=4, memory=6), some_images(1, seed=93)[0]
    exact = enumerate_exactly(model, x)
    soft, appendix = appendix_e(model, x, 1.0, 20_000)
    surrogate = log_weight(soft)
    bias, error = abs(surrogate.mean().item() - exact.elbo), standard_error(surrogate)
    assert bias - appendix.mean().item() > 6 * (error + standard_error(appendix))
    assert bias == pytest.approx(15.28, abs=0.5)
    assert appendix.mean().item() == pytest.approx(5.69, abs=0.3)
    config = EvaluationConfig(tau=(1.0,), draws=4)
    metrics = evaluate(model, x.expand(2048, *x.shape), config, seed=0, importance=False).metrics
    assert metrics["relaxation_bias"] > metrics["jensen_bound"]  # which bounds coupled_bias, not this one
    assert metrics["coupled_bias"] <= metrics["jensen_bound"] <= metrics["lipschitz_bound"]
    assert metrics["coupled_elbo"] < exact.evidence


def test_the_last_line_of_appendix_e_is_no_bound_either():
    """K = 2, L = 2, N = 1: with every κ of the appendix δ_1 is 500.1 nats against 112.1; by hand, on Gumbels."""
    noise = source(1_000_000, seed=3)
    top = (noise.gumbel(2)).softmax(-1)  # q(z_2) = p(z_2), uniform; τ = 1

    def logit(weight):
        return 40 * (0.25 - (weight - 0.5).abs())

    gumbel = noise.gumbel(2)

    def bottom(weight):
        """z̃_1 at τ = 1, with q's logits (logit, 0)."""
        scores = torch.stack([logit(weight), torch.zeros_like(weight)], -1).log_softmax(-1) + gumbel
        return scores.softmax(-1)

    hard_top = top.round()
    soft, hard_bottom = bottom(top[:, 0]), bottom(hard_top[:, 0]).round()
    # log p(x|z_1) = −1000 z_{1,2}; the KL terms: q(z_2) = p(z_2), and log q(z_1|·) − log ½, at the relaxed context.

    def log_ratio(classes, weight):
        log_q = torch.stack([logit(weight), torch.zeros_like(weight)], -1).log_softmax(-1)
        return (classes * log_q).sum(-1) + math.log(2)

    surrogate = -1000 * soft[:, 1] - log_ratio(soft.round(), top[:, 0])
    elbo = -1000 * hard_bottom[:, 1] - log_ratio(hard_bottom, hard_top[:, 0])
    bias = abs((surrogate - elbo).mean().item())
    far = [(soft - soft.round()).norm(dim=-1).mean().item(), (top - hard_top).norm(dim=-1).mean().item()]
    last_line = 1000 * far[0] + 40 * far[1]  # κ of −1000 z_{1,2} and of log q(z_1|·); p's is 0
    assert bias == pytest.approx(500.1, abs=2.5)  # 4 standard errors, or more
    assert last_line == pytest.approx(112.1, abs=0.5)
    coupled = -1000 * soft.round()[:, 1] - log_ratio(soft.round(), top[:, 0])
    apart = (surrogate - coupled).abs()
    assert abs((surrogate - coupled).mean().item()) <= apart.mean().item() <= 1000 * far[0]


def test_the_numbers_of_that_counterexample_by_quadrature():
    """At τ = 1, z̃_2 is uniform, and a relaxed z_1 is σ(logit + a logistic variable): sums over midpoints."""
    points = ((torch.arange(2000, dtype=torch.float64) + 0.5) / 2000)[:, None]
    logits = 40 * (0.25 - (points - 0.5).abs())  # of the first class of z_1 against the second, by z̃_2
    bad = torch.sigmoid(torch.logit(points.T) - logits)  # z̃_{1,2}, by z̃_2 and the noise of z_1
    far = math.sqrt(2) * torch.minimum(bad, 1 - bad).mean().item(), math.sqrt(2) / 4  # E‖z̃ − H(z̃)‖₂ of z_1 and z_2

    def kl(logit):
        """KL of Bernoulli(σ(logit)) against ½."""
        q = torch.sigmoid(logit)
        return math.log(2) + torch.xlogy(q, q) + torch.xlogy(1 - q, 1 - q)

    surrogate = -1000 * bad.mean() - kl(logits).mean()
    worst = torch.tensor(-10.0, dtype=torch.float64)  # the logit at both corners of z_2
    elbo = -1000 * torch.sigmoid(-worst) - kl(worst)
    assert (surrogate - elbo).item() == pytest.approx(500.1, abs=0.05)
    assert 1000 * far[0] + 40 * far[1] == pytest.approx(112.1, abs=0.05)


# --- Distances and the local κ ------------------------------------------------------------------------------


@torch.no_grad()
def test_distances_are_precise_at_low_temperatures_in_float32():
    """1 − max z̃ is far below float32's resolution at 1, and the distance still right."""
    precise = build(small_config("skip_lvae", 2), seed=1)
    noise = precise.noise(source(512))
    terms = precise(some_images(512), noise, relaxed(0.04))
    expected = distances(terms, hardened(precise, terms))
    model = build(small_config("skip_lvae", 2), seed=1).float()
    terms = model(some_images(512).float(), {node: n.float() for node, n in noise.items()}, relaxed(0.04))
    found = distances(terms, hardened(model, terms))
    for node, distance in expected.items():
        small = (distance.soft < 1e-9) & (distance.soft > 1e-14)
        assert small.sum() > 10
        torch.testing.assert_close(found[node].soft[small].double(), distance.soft[small], rtol=0.01, atol=0)


def test_distances_have_a_gradient_where_they_vanish():
    model = build(small_config("skip_lvae", 2), seed=1).float()
    noise = {node: n.float() for node, n in model.noise(source(8)).items()}
    terms = model(some_images(8).float(), noise, relaxed(1e-4))
    total = sum(d.soft.sum() + d.read.sum() for d in distances(terms, hardened(model, terms)).values())
    total.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("decoder", ["free", "lipschitz"])
@pytest.mark.parametrize("wiring", WIRINGS)
@torch.no_grad()
def test_the_local_bound_is_below_the_certified_one(wiring, decoder):
    model = build(small_config(wiring, 2, decoder=decoder), seed=4, contrast=2.0)
    x = some_images(64)
    terms = model(x, model.noise(source(64)), relaxed(0.7))
    local = local_bound(model, x, terms, hardened(model, terms))
    certified = certified_bound(certify(model), x, distances(terms, hardened(model, terms)))
    assert (local.soft <= certified.soft).all()
    assert (local.read <= certified.read).all()
    assert (local.read > 0).all()


def test_the_local_bound_by_hand():
    """One layer: the largest gradient of log p(x|·) at the ends and the middle of the segment, times its length."""
    model = build(small_config("skip_lvae", 1), seed=2, contrast=2.0)
    x = some_images(1)
    terms = model(x, model.noise(source(1)), relaxed(0.7))
    node, draw = model.nodes[0], terms.layers[0].draw
    values = model.layer(node).values_NKD.detach()
    hot = torch.nn.functional.one_hot(draw.hard, 4).double()
    norms = {"soft": [], "read": []}
    for place in (0.0, 0.5, 1.0):
        z = (hot + place * (draw.soft.detach() - hot)).requires_grad_()
        read = torch.einsum("bnk,nkd->bnd", z, values).flatten(1)
        read.retain_grad()
        level = model.level(1)
        logits = model.logits(level.down(model.top + level.expand_down(read)))
        torch.distributions.Bernoulli(logits=logits).log_prob(x).sum().backward()
        norms["soft"].append(z.grad.norm().item())
        norms["read"].append(read.grad.norm().item())
    bound = local_bound(model, x, terms, hardened(model, terms))
    read_hard = torch.einsum("bnk,nkd->bnd", hot, values).flatten(1)
    assert bound.soft.item() == pytest.approx(max(norms["soft"]) * (draw.soft - hot).norm().item())
    assert bound.read.item() == pytest.approx(max(norms["read"]) * (draw.read - read_hard).norm().item())


def test_the_local_grade_is_measured_without_complaint():
    model = build(small_config("biva", 2), seed=2, contrast=2.0)
    config = EvaluationConfig(tau=(0.7,), draws=2, kappa="local")
    local = evaluate(model, some_images(32), config, seed=0, importance=False).metrics
    proven = evaluate(model, some_images(32), EvaluationConfig(tau=(0.7,), draws=2), seed=0, importance=False).metrics
    assert 0 < local["lipschitz_bound"] < proven["lipschitz_bound"]
    assert {name for name in local if local[name] != proven[name]} == {
        f"{name}{suffix}"
        for name in ("lipschitz_bound", "lipschitz_bound_reads", "relaxed_elbo", "relaxed_elbo_reads")
        for suffix in ("", "@tau=0.7")
    }


def test_the_local_grade_of_averaged_weights_is_that_of_the_weights():
    """They are frozen, and log p(z_top) has no context either: there is nothing to differentiate it by."""
    model = build(small_config("biva", 2), seed=2, contrast=2.0)
    config = EvaluationConfig(tau=(0.7,), draws=2, kappa="local")
    free = evaluate(model, some_images(4), config, seed=0, importance=False).metrics
    assert evaluate(model.requires_grad_(False), some_images(4), config, seed=0, importance=False).metrics == free


# --- Contradictions -----------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_draw_above_its_certified_bound_is_an_error():
    _, soft, coupled = chains("skip_lvae", 2, 1.0)
    apart = (expected_log_weight(soft) - expected_log_weight(coupled)).abs()
    check(Bound(apart, apart), soft, coupled)
    low = apart.clone()
    low[77] *= 0.9
    with pytest.raises(BoundViolated, match=r"image 100077: .*a bug in hdvae"):
        check(Bound(apart, low), soft, coupled, first=100_000)


def test_a_measured_bias_above_a_certified_bound_is_an_error(monkeypatch):
    """With a κ that is made 1000 times too small, evaluation fails, whichever check sees it first."""
    model = build(small_config("skip_lvae", 2, decoder="lipschitz"), seed=2, contrast=2.0, memory=3.0)
    x = some_images(64)
    measured = measure(model, x, {"tau=1": 1.0}, 8, seed=0)
    columns = dict(measured.relaxed["tau=1"])
    columns["lipschitz_bound"] = columns["lipschitz_bound"] * 0
    forged = chains_module.Measured(measured.hard, {"tau=1": columns})
    with pytest.raises(BoundViolated, match=r"coupled_bias@tau=1 is .* nats, above its certified bound 0"):
        summarise(forged)
    summarise(forged, "local")
    real = certified_bound

    def too_small(*arguments):
        bound = real(*arguments)
        return Bound(bound.soft / 1000, bound.read / 1000)

    monkeypatch.setattr(chains_module, "certified_bound", too_small)
    with pytest.raises(BoundViolated):
        evaluate(model, x, EvaluationConfig(tau=(1.0,), draws=8), seed=0, importance=False)
