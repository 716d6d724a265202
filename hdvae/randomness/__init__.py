"""Random numbers as functions of the seed, their purpose, the step and the image."""
