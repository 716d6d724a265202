"""The network: blocks, the five wirings, and the model that returns `LayerTerms`."""
