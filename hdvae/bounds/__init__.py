"""Bounds of the relaxation bias: spectral norms, Lipschitz constants, and exact enumeration of small models."""
