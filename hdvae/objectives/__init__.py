"""Training objectives and gradient estimators: from `Terms` to numbers, in nats per image."""
