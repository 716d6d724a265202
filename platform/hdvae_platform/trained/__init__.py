"""One trained run: loaded and evaluated."""
