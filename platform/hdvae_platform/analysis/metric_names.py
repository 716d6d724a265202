"""Names of metrics: the usual ones, their splits, and the parts of which a bias is the distance."""

from __future__ import annotations

import re

ELBO = "valid/elbo"
BIAS = "valid/relaxation_bias"
KL = "valid/kl"
USUAL = ("elbo", "iw_elbo", "surrogate_elbo", "relaxation_bias", "kl")
"""The metrics that tables show by default, under `valid/`."""


def full_name(metric: str) -> str:
    """A metric with its split; `valid/` where none is given.

    >>> full_name("elbo"), full_name("kl/layer_1"), full_name("test/elbo")
    ('valid/elbo', 'valid/kl/layer_1', 'test/elbo')
    """
    return metric if metric.startswith(("valid/", "test/", "train/", "system/")) else f"valid/{metric}"


def is_test(metric: str) -> bool:
    """Whether a metric, by its full name, was measured on test images."""
    return metric.startswith("test/")


def parts_of(metric: str) -> tuple[str, str] | None:
    """The two metrics of which a bias is the distance |first − second|; None for any other metric.

    >>> parts_of("valid/relaxation_bias@tau=0.1"), parts_of("valid/elbo")
    (('valid/surrogate_elbo@tau=0.1', 'valid/elbo'), None)
    """
    match = re.fullmatch(r"(.*/)(relaxation|coupled)_bias(@.*)?", metric)
    if match is None:
        return None
    split, kind, at = match[1], match[2], match[3] or ""
    return f"{split}surrogate_elbo{at}", f"{split}elbo" if kind == "relaxation" else f"{split}coupled_elbo{at}"


def signed_name(metric: str) -> str:
    """The name of a bias with its sign; any other metric keeps its name.

    >>> signed_name("valid/relaxation_bias@tau=0.1"), signed_name("valid/elbo")
    ('valid/relaxation_bias_signed@tau=0.1', 'valid/elbo')
    """
    return metric if parts_of(metric) is None else re.sub(r"_bias(?=@|$)", "_bias_signed", metric)


def limits_of(metric: str) -> tuple[str, str] | None:
    """The names of the limits of the 95% interval over images of a memory's use; None for other metrics.

    >>> limits_of("valid/coverage/layer_2"), limits_of("valid/kl/layer_2")
    (('valid/coverage_low/layer_2', 'valid/coverage_high/layer_2'), None)
    """
    path, _, layer = metric.rpartition("/")
    known = path.rpartition("/")[2] in ("perplexity", "coverage")
    return (f"{path}_low/{layer}", f"{path}_high/{layer}") if known else None
