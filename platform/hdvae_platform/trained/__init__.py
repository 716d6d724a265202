"""A trained run: finding it by its name, loading its weights, evaluating it."""
