"""Hierarchical discrete variational autoencoders: model, objectives, evaluation and training in PyTorch.

Data flows through five nouns: a study (see `hdvae_platform`) yields an `Experiment`; training moves a
`TrainState`; the model returns `LayerTerms`; objectives and evaluation turn them into metrics.
"""

from hdvae.version import __version__ as __version__
