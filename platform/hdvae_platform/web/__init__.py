"""The web pages of `hdvae ui`: a live page of a study, beside MLflow's and Optuna's own."""
