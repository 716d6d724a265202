"""Training objectives and gradient estimators: from `LayerTerms` to numbers, in nats per image."""
