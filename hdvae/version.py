"""The version of both packages, `hdvae` and `hdvae_platform`."""

__version__ = "0.1.0"
