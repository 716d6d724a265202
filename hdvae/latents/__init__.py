"""The stochastic layers: categorical variables with learned memories, and normal ones."""
