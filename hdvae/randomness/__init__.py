"""Random numbers as functions of seed, purpose, step and block of images."""
