"""Bounds of the relaxation bias: Lipschitz constants, norms, and exact enumeration of small models."""
