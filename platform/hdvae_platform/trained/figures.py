"""The figures of an evaluation: the relaxation bias against the temperature, and L_S against the samples S."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from hdvae.evaluation.metrics import at, at_samples, error_name, sample_counts, tau_label
from hdvae_platform.display.plotting import BLUE, GREEN, GREY, ORANGE, rendered


def bias_curve(metrics: Mapping[str, float], taus: Sequence[float], title: str, grade: str) -> dict[str, bytes]:
    """The relaxation bias against the temperature, above its bounds.

    Args:
        metrics: name → value of an evaluation, in nats per image.
        taus: the temperatures of the evaluation.
        title: the data set and split, for the title.
        grade: `certified` or `local`, of the Lipschitz bounds.

    Returns:
        Files by name: `bias.png` and `bias.svg`.
    """
    order = sorted(taus)

    def series(name: str) -> list[float]:
        return [metrics.get(at(name, tau_label(tau)), 0.0) for tau in order]

    figure = Figure(figsize=(7, 6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    top.axhline(0, color=GREY, linewidth=0.8)
    shown, errors = series("relaxation_bias_signed"), series("relaxation_bias_se")
    name = "bias, signed, ± one standard error over images"
    top.errorbar(order, shown, errors, color=BLUE, marker="o", capsize=3, label=name)
    coupled = [a - b for a, b in zip(series("surrogate_elbo"), series("coupled_elbo"), strict=True)]
    top.plot(order, coupled, color=ORANGE, marker="s", linestyle="--", label="surrogate − coupled")
    top.set_ylabel("nats per image")
    top.set_title(f"Relaxation bias ({title})", loc="left")
    top.legend(frameon=False)
    for name, colour, marker, text in (
        ("coupled_bias", ORANGE, "s", "coupled bias"),
        ("jensen_bound", GREEN, "^", "Jensen bound"),
        ("lipschitz_bound_reads", GREY, "v", f"Lipschitz bound behind the reads ({grade})"),
        ("lipschitz_bound", "black", "x", f"Lipschitz bound ({grade})"),
    ):
        bottom.plot(order, series(name), color=colour, marker=marker, label=text)
    bottom.set_yscale("log")
    bottom.set_ylabel("nats per image, log scale")
    bottom.set_xlabel("temperature τ" + (", log scale" if len(order) > 1 else ""))
    if len(order) > 1:
        bottom.set_xscale("log")
        bottom.set_xticks(order, [f"{tau:g}" for tau in order])
        bottom.set_xticks([], minor=True)
    bottom.legend(frameon=False)
    for axes in (top, bottom):
        axes.spines[["top", "right"]].set_visible(False)
    return {f"bias.{kind}": rendered(figure, kind) for kind in ("png", "svg")}


def convergence_curve(metrics: Mapping[str, float], samples: int, title: str) -> dict[str, bytes]:
    """The importance-weighted bound L_S against the number of samples.

    Args:
        metrics: name → value of an evaluation, in nats per image.
        samples: the largest S.
        title: the data set and split, for the title.

    Returns:
        Files by name: `convergence.png` and `convergence.svg`.
    """
    counts = sample_counts(samples)
    names = [at_samples("iw_elbo", count) for count in counts]
    errors = [metrics.get(error_name(name), 0.0) for name in names]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    label = "L_S ± one standard error over images"
    axes.errorbar(counts, [metrics[name] for name in names], errors, color=BLUE, marker="o", capsize=3, label=label)
    axes.set_title(f"Importance-weighted bound of log p(x) ({title})", loc="left")
    axes.set_ylabel("nats per image")
    axes.set_xlabel("samples S" + (", log scale" if len(counts) > 1 else ""))
    if len(counts) > 1:
        axes.set_xscale("log")
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.set_xticks([], minor=True)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return {f"convergence.{kind}": rendered(figure, kind) for kind in ("png", "svg")}
