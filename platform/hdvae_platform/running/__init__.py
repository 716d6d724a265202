"""The life of a study: launched, driven, tracked, resumed, exported, deleted."""
