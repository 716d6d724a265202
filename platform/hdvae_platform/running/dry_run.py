"""What `hdvae train --dry-run` shows: the layers of a network and the size of its parameters."""

from __future__ import annotations

from hdvae.experiment.experiment import Experiment
from hdvae.network.blocks import trunk
from hdvae.network.model import HDVAE


def describe_network(experiment: Experiment, image: tuple[int, int]) -> tuple[list[list[str]], dict[str, int]]:
    """A row for each layer, and totals.

    Args:
        experiment: the experiment.
        image: the height and width of its images, in pixels.

    Returns:
        Rows from the top layer down: name, latent variables, shape of the features, number of parameters. Totals:
        parameters, those that are values of memories, and the bytes of all.
    """
    config = experiment.model
    model, build = HDVAE(config, image), trunk(config, image)
    rows = []
    for i in range(len(config.layers), 0, -1):
        layer = config.layers[i - 1]
        latent = f"{layer.variables}"
        if config.latent == "categorical":
            latent += f" of {layer.classes}, {'sampled top-m' if config.top_m_reads else 'dense'}"
        count = sum(parameter.numel() for parameter in model.level(i).parameters())
        rows.append([f"z_{i}", latent, "×".join(map(str, build.feature_shape(i))), f"{count:,}"])
    parameters = sum(parameter.numel() for parameter in model.parameters())
    values = sum(parameter.numel() for parameter in model.memory_values())
    return rows, {"parameters": parameters, "memory_values": values, "bytes": 4 * parameters}
