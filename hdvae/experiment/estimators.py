"""The names of the gradient estimators, and the settings that each of them allows. Nothing here needs torch.

The estimators themselves are in `hdvae.objectives.estimators`; each carries its rules. To add one, write its rules
here (with its name in `EstimatorName` and `RULES`) and its class there (with an object of it in `ESTIMATORS`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from hdvae.experiment.experiment import ModelConfig, TrainingConfig

EstimatorName = Literal["concrete", "straight_through", "gumbel_rao", "reinmax", "rloo", "vimco"]
KlTreatment = Literal["analytic", "hard", "relaxed", "concrete"]


@dataclass(frozen=True)
class EstimatorRules:
    """What an estimator allows in an experiment.

    Attributes:
        name: the value of `training.estimator`.
        kl: the treatments of the KL terms (`training.kl`) that it works with.
        relaxed: whether it draws relaxed samples z̃ instead of hard ones. Lipschitz bounds, and therefore relaxed
            ELBOs and learned temperatures, need relaxed samples.
        all_classes: whether its gradient needs a weight for every class, which sampled top-m reads do not have.
        many_samples: whether it draws `training.estimator_samples` hard samples of each image, and not one.
    """

    name: EstimatorName
    kl: tuple[KlTreatment, ...]
    relaxed: bool = False
    all_classes: bool = False
    many_samples: bool = False

    def check_training(self, training: TrainingConfig) -> None:
        """Check the other settings of the training.

        Raises:
            ValueError: one of them does not go with this estimator.
        """
        setting = training.bound_setting
        if setting is not None and not self.relaxed:
            raise ValueError(f"{setting} needs relaxed samples: use estimator: concrete, since {self.name} is hard")
        if training.kl not in self.kl:
            *others, last = self.kl
            allowed = f"{', '.join(others)} or {last}" if others else last
            raise ValueError(f"kl: {training.kl} does not go with estimator: {self.name}; use kl: {allowed}")

    def check_model(self, model: ModelConfig) -> None:
        """Check the network.

        Raises:
            ValueError: the estimator does not go with its latent variables, or with the reads of its memories.
        """
        if model.latent == "normal" and not self.relaxed:
            raise ValueError(
                f"training.estimator: {self.name} is for model.latent: categorical; normal variables are not relaxed"
            )
        if self.all_classes and model.top_m_reads:
            raise ValueError(
                f"training.estimator: {self.name} needs relaxed samples of all classes: set model.reads: dense"
            )


CONCRETE = EstimatorRules("concrete", kl=("analytic", "hard", "relaxed", "concrete"), relaxed=True)
STRAIGHT_THROUGH = EstimatorRules("straight_through", kl=("analytic", "hard", "relaxed"), all_classes=True)
GUMBEL_RAO = EstimatorRules("gumbel_rao", kl=("analytic", "hard", "relaxed"), all_classes=True)
REINMAX = EstimatorRules("reinmax", kl=("analytic", "hard", "relaxed"), all_classes=True)
RLOO = EstimatorRules("rloo", kl=("analytic",), many_samples=True)
VIMCO = EstimatorRules("vimco", kl=("analytic",), many_samples=True)

RULES = {rules.name: rules for rules in (CONCRETE, STRAIGHT_THROUGH, GUMBEL_RAO, REINMAX, RLOO, VIMCO)}
"""The rules of every estimator by its name."""
