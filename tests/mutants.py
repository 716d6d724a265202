"""Break one line at a time, and see that the tests notice: `make mutants`.

Each mutant is a small plausible mistake. The packages and the tests are copied to a temporary folder, the line is
changed there, and the tests run. A mutant that survives means that a test is missing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Mutant:
    """One mistake.

    Attributes:
        mistake: what it is.
        file: below the root.
        line: text that stands there once.
        instead: what replaces it.
        tests: those that should notice.
    """

    mistake: str
    file: str
    line: str
    instead: str
    tests: str


MUTANTS = [
    Mutant(
        "a split of equal images passes unless they are of one colour",
        "hdvae/data/dataset.py",
        "elif len(images) > 1:",
        "elif len(images) > 10**9:",
        "tests/hdvae/data/test_dataset.py",
    ),
    Mutant(
        "test images that are in training are not looked for",
        "hdvae/data/overlap.py",
        '(("train", "valid"), ("train", "test"), ("valid", "test"))',
        '(("train", "valid"), ("valid", "test"))',
        "tests/hdvae/data/test_overlap.py",
    ),
    Mutant(
        "swapped p and q in the KL of categoricals",
        "hdvae/latents/distributions.py",
        "(q.exp() * (q - r)).sum((-2, -1))",
        "(r.exp() * (r - q)).sum((-2, -1))",
        "tests/hdvae/latents/test_distributions.py",
    ),
    Mutant(
        "wrong sign of the log-ratio",
        "hdvae/network/terms.py",
        "self.q.log_prob(self.draw.hard) - self.p.log_prob(self.draw.hard)",
        "self.p.log_prob(self.draw.hard) - self.q.log_prob(self.draw.hard)",
        "tests/hdvae/bounds/test_oracle.py",
    ),
    Mutant(
        "wrong axis: the two marginals of factored classes exchanged",
        "hdvae/latents/distributions.py",
        "return [square.sum(-1), square.sum(-2)]",
        "return [square.sum(-2), square.sum(-1)]",
        "tests/hdvae/latents/test_distributions.py",
    ),
    Mutant(
        "the finite sum is used although p's context is sampled later",
        "hdvae/network/wiring.py",
        'return node.direction == "down" or node.level == levels',
        "return True",
        "tests/hdvae/bounds/test_oracle.py",
    ),
    Mutant(
        "missing detach: log p(H) leaks its own gradient",
        "hdvae/objectives/objectives.py",
        "(p.log_prob(draw.hard) - soft).detach()",
        "(p.log_prob(draw.hard) - soft)",
        "tests/hdvae/objectives/test_gradients.py",
    ),
    Mutant(
        "missing context: the posterior does not see what lies above",
        "hdvae/network/model.py",
        "level.merge(torch.cat([h, d], 1))",
        "level.merge(torch.cat([h, torch.zeros_like(d)], 1))",
        "tests/hdvae/network/test_model.py",
    ),
    Mutant(
        "surplus context: a skip on the way down in every wiring",
        "hdvae/network/model.py",
        "level.down(read + d if self.wiring.skip_down else read)",
        "level.down(read + d)",
        "tests/hdvae/network/test_model.py",
    ),
    Mutant(
        "free bits: maximum for each image instead of the batch",
        "hdvae/objectives/objectives.py",
        "if per_image:",
        "if True:",
        "tests/hdvae/objectives/test_objectives.py",
    ),
    Mutant(
        "log-mean-exp without the mean",
        "hdvae/evaluation/importance.py",
        ".logsumexp(0) - math.log(end)",
        ".logsumexp(0)",
        "tests/hdvae/bounds/test_oracle.py",
    ),
    Mutant(
        "the temperature multiplies",
        "hdvae/latents/dense_reads.py",
        "perturbed(parts, noise).mul_(1 / tau)",
        "perturbed(parts, noise).mul_(tau)",
        "tests/hdvae/latents/test_layers.py",
    ),
    Mutant(
        "Gumbel noise of the wrong sign",
        "hdvae/randomness/noise.py",
        "log1p_().neg_().log_().neg_()",
        "log1p_().neg_().log_()",
        "tests/hdvae/randomness/test_noise.py",
    ),
    Mutant(
        "each chain draws noise of its own: no common random numbers",
        "hdvae/evaluation/chains.py",
        "model.terms(x, chunk.encoded, noise, relaxed(tau))",
        "model.terms(x, chunk.encoded, model.noise(source), relaxed(tau))",
        "tests/hdvae/evaluation/test_evaluation.py tests/hdvae/bounds/test_oracle.py",
    ),
    Mutant(
        "the Concrete density forgets a power of the temperature",
        "hdvae/latents/distributions.py",
        "(classes - 1) * log_tau",
        "classes * log_tau",
        "tests/hdvae/objectives/test_objectives.py",
    ),
    Mutant(
        "dropout repeats itself at every step",
        "hdvae/training/step.py",
        "with dropping(model.dropouts, inputs.noise)",
        "with dropping(model.dropouts, replace(inputs, step=0).noise)",
        "tests/hdvae/training/test_loop.py",
    ),
    Mutant(
        "a worker draws the noise of the first images of the batch",
        "hdvae/randomness/noise.py",
        "self.draws * DRAW + self.first * words",
        "self.draws * DRAW",
        "tests/hdvae/randomness/test_noise.py",
    ),
    Mutant(
        "Gumbel noise without its upper tail: 24 random bits instead of 31",
        "hdvae/randomness/noise.py",
        "bitwise_and_(2**bits - 1)",
        "bitwise_and_(2**bits - 1).bitwise_or_(2**7 - 1)",
        "tests/hdvae/randomness/test_noise.py",
    ),
    Mutant(
        "samples of one image share their dropout",
        "hdvae/network/dropout.py",
        "transpose(0, 1).reshape(x.shape)",
        "reshape(x.shape)",
        "tests/hdvae/network/test_dropout.py",
    ),
    Mutant(
        "a resumed run forgets its optimiser",
        "hdvae/training/state.py",
        'below(f"optimizer/{name}", snapshot.tensors)',
        'below(f"optimiser/{name}", snapshot.tensors)',
        "tests/hdvae/training/test_loop.py",
    ),
    Mutant(
        "the coupled chain gives p and the decoder the relaxed sample",
        "hdvae/network/model.py",
        "hardened = {layer.node: self.layer(layer.node).at(layer.draw.hard) for layer in terms.layers}",
        "hardened = {layer.node: layer.draw for layer in terms.layers}",
        "tests/hdvae/bounds/test_bounds.py",
    ),
    Mutant(
        "a gate's slope is not counted",
        "hdvae/bounds/regions.py",
        "_half_norm(module.outer, 0, s) + _half_norm(module.outer, 1, t)",
        "_half_norm(module.outer, 0, s)",
        "tests/hdvae/bounds/test_lipschitz.py tests/hdvae/bounds/test_regions.py",
    ),
    Mutant(
        "the skip on the way down is left out of the constants",
        "hdvae/bounds/lipschitz.py",
        "({**constants, **own} if skip else own)",
        "own",
        "tests/hdvae/bounds/test_lipschitz.py",
    ),
    Mutant(
        "the likelihood's slope is taken at the middle of the region",
        "hdvae/bounds/lipschitz.py",
        "white, black = self.logits.high.sigmoid(), (-self.logits.low).sigmoid()",
        "white, black = self.logits.centre.sigmoid(), (-self.logits.centre).sigmoid()",
        "tests/hdvae/bounds/test_lipschitz.py",
    ),
    Mutant(
        "the distance to a hard sample as a difference near 1",
        "hdvae/bounds/bounds.py",
        "squared = others.sum(-1).square() + others.square().sum(-1)",
        "squared = (1 - draw.soft.amax(-1)).square() + others.square().sum(-1)",
        "tests/hdvae/bounds/test_bounds.py",
    ),
    Mutant(
        "almost orthogonal maps are scaled by the squares alone",
        "hdvae/network/contractions.py",
        "return (weight @ weight.T).abs()",
        "return (weight @ weight.T).abs().diagonal().diag()",
        "tests/hdvae/network/test_contractions.py",
    ),
    Mutant(
        "the torus of a convolution is too small",
        "hdvae/bounds/norms.py",
        "math.ceil(max(size + before, after, reach + 1) / stride)",
        "math.ceil(size / stride)",
        "tests/hdvae/bounds/test_norms.py",
    ),
    Mutant(
        "a learned temperature maximises the surrogate",
        "hdvae/training/step.py",
        "torch.autograd.grad(-objective.relaxed_elbo, learned, retain_graph=True)",
        "torch.autograd.grad(-objective.model.value, learned, retain_graph=True)",
        "tests/hdvae/training/test_step.py",
    ),
    Mutant(
        "a baseline that depends on its own sample",
        "hdvae/objectives/score_function.py",
        "signal = (value_SB - value_SB.mean(0)).detach() * (samples / (samples - 1))",
        "signal = (value_SB - value_SB.mean(0)).detach()",
        "tests/hdvae/objectives/test_score_function.py",
    ),
    Mutant(
        "each worker follows its own gradient",
        "hdvae/workers.py",
        "dist.all_reduce(tensor)",
        "tensor.mul_(self.size)",
        "tests/hdvae/test_workers.py",
    ),
    Mutant(
        "free bits of a worker's share",
        "hdvae/objectives/objectives.py",
        "torch.where(k < least, freebits, mine)",
        "torch.where(mine < least, freebits, mine)",
        "tests/hdvae/test_workers.py",
    ),
    Mutant(
        "free bits of a worker's share in a score function",
        "hdvae/objectives/objectives.py",
        "workers.mean([k.mean() for k in shown])",
        "[k.detach().mean() for k in shown]",
        "tests/hdvae/test_workers.py",
    ),
    Mutant(
        "all workers draw the noise of the first images",
        "hdvae/objectives/estimators.py",
        "first = self.workers.rank * len(images)",
        "first = 0",
        "tests/hdvae/test_workers.py",
    ),
    Mutant(
        "all workers evaluate on the noise of the first images",
        "hdvae/evaluation/evaluation.py",
        "chunk_of.start, seed, certificate)",
        "0, seed, certificate)",
        "tests/hdvae/test_workers.py",
    ),
    Mutant(
        "a class counts at each of its arrivals",
        "hdvae/latents/top_m.py",
        "repeated, alpha=REPEATED_SCORE)",
        "repeated, alpha=0)",
        "tests/hdvae/latents/test_top_m.py",
    ),
    Mutant(
        "a tail draw is not weighed by how often it was drawn",
        "hdvae/latents/top_m.py",
        "weights + copies.to(weights.dtype).log()",
        "weights + 0 * copies.to(weights.dtype).log()",
        "tests/hdvae/latents/test_top_m.py",
    ),
    Mutant(
        "the gradient of a relaxed sample forgets the temperature",
        "hdvae/latents/dense_reads.py",
        "square.sum(-2).div_(ctx.tau)",
        "square.sum(-2)",
        "tests/hdvae/latents/test_dense_reads.py",
    ),
    Mutant(
        "the gradients of a group are collected once only",
        "hdvae/training/optimizer.py",
        "if any(gradient is not view for",
        "if self._steps == 0 and any(gradient is not view for",
        "tests/hdvae/training/test_optimizer.py",
    ),
    Mutant(
        "a restored optimiser begins its bias correction again",
        "hdvae/training/optimizer.py",
        "(self._steps,) = {int(state[p]",
        "self._steps, *_ = {1, int(state[p]",
        "tests/hdvae/training/test_optimizer.py",
    ),
    Mutant(
        "the gradient of a gate lacks its slope",
        "hdvae/network/blocks.py",
        "for_b.addcmul_(for_b, gate, value=-1)",
        "for_b.mul_(1)",
        "tests/hdvae/network/test_blocks.py",
    ),
    Mutant(
        "features leave a linear map channels first",
        "hdvae/network/blocks.py",
        "return x.contiguous(memory_format=torch.channels_last)",
        "return x.contiguous()",
        "tests/hdvae/network/test_model.py",
    ),
    Mutant(
        "all rows have the bias correction of the first",
        "hdvae/training/optimizer.py",
        "(1 - BETA ** steps.to(g.dtype))",
        "(1 - BETA ** steps.to(g.dtype)[0])",
        "tests/hdvae/training/test_optimizer.py",
    ),
    Mutant(
        "rows that several workers read are not averaged",
        "hdvae/workers.py",
        "for _, value, count in parts]) / self.size",
        "for _, value, count in parts])",
        "tests/hdvae/test_workers.py",
    ),
    Mutant(
        "an average without bias correction",
        "hdvae/training/step.py",
        "share = (1 - decay) / (1 - decay**state.step)",
        "share = 1 - decay",
        "tests/hdvae/training/test_state.py",
    ),
    Mutant(
        "slots reinitialised in the model, not in its average",
        "hdvae/training/loop.py",
        "for model in (state.model, state.average):",
        "for model in (state.model,):",
        "tests/hdvae/training/test_state.py",
    ),
    Mutant(
        "an evaluation that is not finite is the best",
        "hdvae/training/state.py",
        "if math.isfinite(elbo) and (self.best is None or elbo > self.best.elbo):",
        "if self.best is None or elbo > self.best.elbo:",
        "tests/hdvae/training/test_state.py",
    ),
    Mutant(
        "free bits of 0 clip negative estimates",
        "hdvae/objectives/objectives.py",
        "return freebits if freebits > 0 else -math.inf",
        "return freebits",
        "tests/hdvae/objectives/test_objectives.py",
    ),
    Mutant(
        "the lower limit of the slots in use takes a small count as its mean",
        "hdvae/evaluation/slot_use.py",
        "rest.at_least(once, surely_twice), rest.at_most(surely_once)",
        "rest.at_least(once, max(twice, 1.0)), rest.at_most(surely_once)",
        "tests/hdvae/evaluation/test_slot_use.py",
    ),
    Mutant(
        "the draws of one image count as if they were of different images",
        "hdvae/evaluation/slot_use.py",
        "effective = total**2 / np.bincount(place, weights**2)",
        "effective = total * draws",
        "tests/hdvae/evaluation/test_slot_use.py",
    ),
    Mutant(
        "slots that relaxed samples read are not used",
        "hdvae/evaluation/usage.py",
        "last[soft.amax(0) >= LEAST_WEIGHT] = step",
        "last[soft.amax(0) > 1] = step",
        "tests/hdvae/evaluation/test_usage.py",
    ),
    Mutant(
        "dead slots may be revived that uniform use would lose",
        "hdvae/experiment/experiment.py",
        "if slots * math.exp(-visits) >= 1:",
        "if slots * math.exp(-visits) >= slots:",
        "tests/hdvae/experiment/test_experiment.py",
    ),
    Mutant(
        "every look at a verdict has the level of the first",
        "platform/hdvae_platform/analysis/looks.py",
        "return self.number * (self.number + 1)",
        "return 2",
        "tests/study/analysis/test_looks.py",
    ),
    Mutant(
        "a size differs where the means are opposite",
        "platform/hdvae_platform/analysis/inference.py",
        "None if equal is None or opposite is None else max(equal, opposite)",
        "None if equal is None or opposite is None else min(equal, opposite)",
        "tests/study/analysis/test_verdicts.py",
    ),
    Mutant(
        "the confirmation is evaluated on images of the search",
        "hdvae/evaluation/evaluation.py",
        'shuffled[:middle] if config.part == "search" else shuffled[middle:]',
        'shuffled[:middle] if config.part == "search" else shuffled[middle - 1 :]',
        "tests/hdvae/evaluation/test_evaluation.py",
    ),
]


def survives(mutant: Mutant) -> bool:
    """Whether the tests pass although the line is broken."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("hdvae", "platform", "tests", "benchmarks"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        file = copy / mutant.file
        text = file.read_text()
        if text.count(mutant.line) != 1:
            raise SystemExit(f"{mutant.file}: {mutant.line!r} stands there {text.count(mutant.line)} times, not once")
        file.write_text(text.replace(mutant.line, mutant.instead))
        arguments = ["-x", "-q", "-p", "no:cacheprovider", *mutant.tests.split()]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *arguments],
            cwd=copy,
            env={**os.environ, "PYTHONPATH": f"{copy}{os.pathsep}{copy / 'platform'}"},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode not in (0, 1):
        raise SystemExit(f"{mutant.mistake}: the tests did not run:\n{done.stdout}{done.stderr}")
    return done.returncode == 0


def main() -> None:
    """Run all mutants; exit with 1 if one survives."""
    survivors = 0
    for mutant in MUTANTS:
        start = time.monotonic()
        alive = survives(mutant)
        survivors += alive
        print(
            f"{'SURVIVES' if alive else 'noticed':8}  {time.monotonic() - start:4.0f} s  {mutant.mistake}", flush=True
        )
    print(f"{len(MUTANTS) - survivors} of {len(MUTANTS)} mutants noticed")
    sys.exit(bool(survivors))


if __name__ == "__main__":
    main()
