"""Stochastic layers: categorical variables with learned memories, and normal variables."""
