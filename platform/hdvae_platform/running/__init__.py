"""The life of a study: launched, driven, sent to MLflow, resumed, exported, deleted."""
