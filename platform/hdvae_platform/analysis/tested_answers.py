"""The verdicts that belong to what a study answers."""

from __future__ import annotations

from dataclasses import replace

from hdvae_platform.analysis.answers import Answer
from hdvae_platform.analysis.arms_from_mlflow import read_arms
from hdvae_platform.analysis.looks import Looks
from hdvae_platform.analysis.metric_names import parts_of
from hdvae_platform.analysis.verdicts import verdicts
from hdvae_platform.store.places import Places
from hdvae_platform.store.storage import Storage
from hdvae_platform.tracking.client import Client


def with_verdicts(answer: Answer, client: Client, places: Places) -> Answer:
    """The same with the verdicts on the study's expectations, once it is finished.

    Each test is a look, and an interruption should cost none.

    Raises:
        Unreachable: MLflow does not answer.
        StorageAway: the storage, which knows the looks, does not answer.
    """
    study = answer.study
    if answer.so_far or not study.expect:
        return answer
    metrics = {metric for one in study.expect for metric in (one.metric, *(parts_of(one.metric) or ()))}
    arms = read_arms(client, [study.name], kept=metrics)
    return replace(answer, verdicts=verdicts(study.expect, arms, Looks(Storage(places.storage), study.name).look))
