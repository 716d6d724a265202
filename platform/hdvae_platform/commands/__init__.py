"""The commands of `hdvae`, one module each; `hdvae_platform.cli` gathers them."""
