"""The four treatments of the KL terms, free bits, and what is reported of them."""

import math

import pytest
import torch
from torch.distributions import RelaxedOneHotCategorical

from hdvae.experiment.experiment import LayerConfig
from hdvae.latents.distributions import Categorical, Draw
from hdvae.latents.layers import MemoryLayer
from hdvae.network.samplers import hard, relaxed
from hdvae.network.wiring import WIRINGS
from hdvae.objectives.objectives import score_objective, surrogate_objective, training_kl
from hdvae.objectives.score_function import rloo
from hdvae.randomness.noise import NoiseSource
from tests.hdvae.oracle import CASES, assert_mean, build, case, small_config, some_images, source

TREATMENTS = ("analytic", "hard", "relaxed", "concrete")
every_wiring = pytest.mark.parametrize("wiring", WIRINGS)
DRAWS = 4000


def law_of(*parts):
    return Categorical([torch.tensor(part, dtype=torch.float64).view(1, 1, -1) for part in parts])


def relaxed_draw(law, tau, count, seed=0):
    """Relaxed samples of one law of one variable, without a memory's values."""
    law = Categorical([part.expand(count, *part.shape[1:]) for part in law.parts])
    classes = law.joint().shape[-1]
    scores = (law.joint() + source(count, seed).gumbel(1, classes)) / tau
    return law, Draw(scores.argmax(-1), scores.new_zeros(count, 1), scores, scores.softmax(-1), tau)


def terms_of(wiring, levels, sampler, count=DRAWS):
    model, x, exact = case(wiring, levels)
    noise = model.noise(source(count))
    with torch.no_grad():
        return model(x.expand(count, *x.shape), noise, sampler), exact


# --- The treatments in expectation ----------------------------------------------------------------------


@pytest.mark.parametrize(("wiring", "levels"), CASES)
def test_on_the_hard_chain_analytic_and_hard_are_the_exact_kl(wiring, levels):
    terms, exact = terms_of(wiring, levels, hard)
    for layer in terms.layers:
        for treatment in ("analytic", "hard"):
            assert_mean(training_kl(layer, treatment), exact.kl[layer.node])


@pytest.mark.parametrize(("wiring", "levels"), CASES)
@pytest.mark.parametrize("tau", [0.2, 0.8])
def test_on_the_relaxed_chain_analytic_and_hard_agree_in_expectation(wiring, levels, tau):
    terms, _ = terms_of(wiring, levels, relaxed(tau))
    for layer in terms.layers:
        assert_mean(training_kl(layer, "analytic") - training_kl(layer, "hard"), 0.0)


def test_analytic_has_no_noise_of_its_own_where_it_is_a_finite_sum():
    terms, _ = terms_of("skip_lvae", 1, relaxed(0.5))
    assert training_kl(terms.layers[0], "analytic").std() < 1e-12
    assert training_kl(terms.layers[0], "hard").std() > 0.1


def test_relaxed_is_biased_and_converges_as_tau_falls():
    """Its value is below the KL, the more so the warmer; at τ → 0 it is the hard one."""
    q, p = law_of([2.0, 0, -1, 1], [1.0, -2, 0.5, 0]), law_of([0.0, 1, 0, 0], [0.0, 0, 1, 2])
    exact = q.kl(p).item()
    means = []
    for tau in (2.0, 0.8, 0.3, 0.02):
        law, draw = relaxed_draw(q, tau, 20_000)
        prior = Categorical([part.expand(20_000, 1, -1) for part in p.parts])
        value = law.expected_log_prob(draw) - prior.expected_log_prob(draw)
        means.append(value.mean().item())
    assert means[0] < means[1] < means[2] < exact - 0.01
    assert_mean(value, exact)


# --- The Concrete density -------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [0.3, 0.7, 1.0, 2.0])
@pytest.mark.parametrize("parts", [([0.3, -1.0, 2.0],), ([0.5, -0.5], [1.0, 0.0]), ([1.0, 2.0, 0.0], [0.1, 0.2, -3.0])])
def test_concrete_density_is_eq_16(parts, tau):
    """The ExpConcrete density with its Jacobian, against torch.distributions in float64, where that is finite."""
    law, draw = relaxed_draw(law_of(*parts), tau, 2000)
    ours = law.concrete_log_prob(draw) - draw.log_soft.sum((-2, -1))
    theirs = RelaxedOneHotCategorical(torch.tensor(tau, dtype=torch.float64), logits=law.joint()).log_prob(draw.soft)
    finite = theirs.isfinite().squeeze(1)
    assert finite.float().mean() > 0.5
    torch.testing.assert_close(ours[finite], theirs[finite].squeeze(1), rtol=1e-9, atol=1e-9)


def test_concrete_density_integrates_to_one():
    """Two classes: z̃ = (u, 1 − u), so a sum over u."""
    tau = 0.6
    u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    soft = torch.stack([u, 1 - u], -1).unsqueeze(1)
    law = Categorical([torch.tensor([0.3, 0.7], dtype=torch.float64).log().expand(len(u), 1, 2)])
    draw = Draw(soft.argmax(-1), u.unsqueeze(1), soft.log(), soft, tau)
    density = (law.concrete_log_prob(draw) - draw.log_soft.sum((-2, -1))).exp()
    assert density.mean().item() == pytest.approx(1.0, abs=1e-3)


def test_concrete_is_finite_where_the_textbook_form_is_not():
    """A million samples at K = 256, τ = 0.05, in float32."""
    config = small_config("lvae", 1, layers=[LayerConfig(variables=50, classes=256)], key_size=8)
    layer = MemoryLayer(config.layers[0], config)
    for step in range(20):
        noise_source = NoiseSource.at(torch.device("cpu"), torch.float32, 1000, seed=0, purpose="t", step=step)
        with torch.no_grad():
            q, p = (layer.distribution(3 * noise_source.normal(50 * 16)) for _ in range(2))
            draw = layer.relax(q, layer.noise(noise_source), 0.05)
            value = q.concrete_log_prob(draw) - p.concrete_log_prob(draw)
        assert value.isfinite().all()
    textbook = RelaxedOneHotCategorical(torch.tensor(0.05), logits=q.joint()[:100], validate_args=False)
    bad = (~textbook.log_prob(draw.soft[:100]).isfinite()).double().mean().item()
    assert bad > 0.1, "the textbook form is finite as well: this test shows nothing"


def test_concrete_ratio_is_accurate_in_float32():
    q, p = law_of([2.0, 0, -1, 1], [1.0, -2, 0.5, 0]), law_of([0.0, 1, 0, 0], [0.0, 0, 1, 2])
    law, draw = relaxed_draw(q, 0.1, 500)
    prior = Categorical([part.expand(500, 1, -1) for part in p.parts])
    exact = law.concrete_log_prob(draw) - prior.concrete_log_prob(draw)
    single = Draw(draw.hard, draw.read.float(), draw.scores.float(), draw.soft.float(), 0.1)
    low, low_prior = (Categorical([part.float() for part in one.parts]) for one in (law, prior))
    ours = low.concrete_log_prob(single) - low_prior.concrete_log_prob(single)
    torch.testing.assert_close(ours.double(), exact, rtol=1e-4, atol=1e-3)


# --- Gradients ------------------------------------------------------------------------------------------


@every_wiring
@pytest.mark.parametrize("latent", ["categorical", "normal"])
@pytest.mark.parametrize("treatment", TREATMENTS)
def test_autograd_is_the_finite_difference_of_the_same_objective_at_fixed_noise(wiring, latent, treatment):
    """For `analytic` off the finite sums value and gradient are of different expressions: those are tested apart."""
    model = build(small_config(wiring, 2, latent=latent, key_size=2), contrast=1.5)
    x, noise = some_images(3), model.noise(source(3))
    finite = {node: WIRINGS[wiring].prior_context_first(node, 2) for node in model.nodes}
    if treatment == "analytic" and latent == "categorical" and not all(finite.values()):
        treatment_of = {node: "analytic" if ok else None for node, ok in finite.items()}
    else:
        treatment_of = dict.fromkeys(model.nodes, treatment)

    def objective():
        terms = model(x, noise, relaxed(0.6))
        kl = [training_kl(layer, t) for layer in terms.layers if (t := treatment_of[layer.node]) is not None]
        return (terms.log_px - torch.stack(kl).sum(0)).mean()

    model.zero_grad()
    objective().backward()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        flat, gradient = parameter.data.view(-1), parameter.grad
        if gradient is None:
            continue
        for i in torch.randint(len(flat), (2,), generator=generator).tolist():
            kept = flat[i].item()
            step = 1e-6
            with torch.no_grad():
                flat[i] = kept + step
                above = objective().item()
                flat[i] = kept - step
                below = objective().item()
                flat[i] = kept
            expected = (above - below) / (2 * step)
            assert gradient.view(-1)[i].item() == pytest.approx(expected, rel=1e-4, abs=1e-6), name


def test_hard_does_not_train_the_encoder_through_its_own_kl():
    """The gradient of log q(H) − log p(H) in q's logits has mean 0, although the KL's has not."""
    logits = torch.tensor([[2.0, 0.0, -1.0]], dtype=torch.float64, requires_grad=True)
    count = 20_000
    q = Categorical([logits.expand(count, 1, 3)])
    p = Categorical([torch.zeros(count, 1, 3, dtype=torch.float64)])
    chosen = (q.joint() + source(count).gumbel(1, 3)).argmax(-1)
    each = torch.autograd.grad((q.log_prob(chosen) - p.log_prob(chosen)).sum(), q.parts[0])[0]
    per_logit = each - each.sum(-1, keepdim=True) * q.parts[0].exp()
    for k in range(3):
        assert_mean(per_logit[:, 0, k].detach(), 0.0)
    right = torch.autograd.grad(q.kl(p).mean(), logits)[0]
    assert right.abs().max() > 0.1


# --- Free bits ------------------------------------------------------------------------------------------


def test_free_bits_over_the_batch_and_over_images_differ():
    terms, _ = terms_of("skip_lvae", 2, relaxed(0.5), count=64)
    kl = [training_kl(layer) for layer in terms.layers]
    for freebits in (0.05, 0.5, 5.0):
        batch = surrogate_objective(terms, freebits)
        image = surrogate_objective(terms, freebits, per_image=True)
        assert [s.item() for s in batch.spent] == pytest.approx([max(freebits, k.mean().item()) for k in kl])
        assert [s.item() for s in image.spent] == pytest.approx([k.clamp(min=freebits).mean().item() for k in kl])
        assert image.value <= batch.value + 1e-12


SAMPLED = ["vae", "skip_vae", "biva"]
"""Wirings whose KL terms have an estimate from one sample, which may be negative."""


@pytest.mark.parametrize("wiring", SAMPLED)
def test_free_bits_of_zero_are_off_for_every_image(wiring):
    terms, _ = terms_of(wiring, 2, relaxed(0.5), count=64)
    kl = [training_kl(layer) for layer in terms.layers]
    assert any((k < 0).any() for k in kl)
    found = surrogate_objective(terms, 0.0, per_image=True)
    assert [s.item() for s in found.spent] == pytest.approx([k.mean().item() for k in kl])
    assert found.value.item() == pytest.approx(found.surrogate_elbo.item())


@pytest.mark.parametrize("wiring", WIRINGS)
def test_free_bits_of_zero_are_off_for_a_batch_whose_mean_is_negative(wiring):
    model, x, _ = case(wiring, 2)
    for seed in range(20):
        terms = model(x.unsqueeze(0), model.noise(source(1, seed)), relaxed(0.5))
        kl = [training_kl(layer, "hard").item() for layer in terms.layers]
        assert [s.item() for s in surrogate_objective(terms, 0.0, kl="hard").spent] == kl
        if min(kl) < 0:
            return
    raise AssertionError("no estimate was negative")


@pytest.mark.parametrize("wiring", SAMPLED)
@pytest.mark.parametrize("per_image", [False, True])
def test_free_bits_of_zero_are_off_for_score_estimators(wiring, per_image):
    """In pairs of samples of one image; of the batches of one image one has a negative mean."""
    model, x, _ = case(wiring, 2)
    found = []
    for seed in range(400):
        terms = model(x.expand(2, *x.shape), model.noise(source(2, seed)), hard)
        ratios = [layer.expected_log_ratio().mean().item() for layer in terms.layers]
        objective = score_objective(terms, 2, 0.0, bound=rloo, sampled_kl=False, per_image=per_image)
        assert [s.item() for s in objective.spent] == pytest.approx(ratios)
        assert objective.value.item() == pytest.approx(terms.log_px.mean().item() - math.fsum(ratios))
        found.append(min(ratios))
    assert min(found) < 0


@pytest.mark.parametrize("treatment", TREATMENTS)
def test_what_is_reported_is_eq_14_without_free_bits_whatever_trains(treatment):
    terms, _ = terms_of("vae", 2, relaxed(0.5), count=256)
    reported = surrogate_objective(terms, 3.0, kl=treatment)
    expected = [layer.expected_log_ratio().mean().item() for layer in terms.layers]
    assert [k.item() for k in reported.kl] == pytest.approx(expected)
    assert reported.surrogate_elbo.item() == pytest.approx(terms.log_px.mean().item() - math.fsum(expected))
    trained = [max(3.0, training_kl(layer, treatment).mean().item()) for layer in terms.layers]
    assert reported.value.item() == pytest.approx(terms.log_px.mean().item() - math.fsum(trained))
