"""Ray as a place to run: connecting to it, inspecting its machines, submitting jobs."""
