"""The network: its blocks, the five wirings, the samplers, and the model that returns `Terms`."""
