"""The names of metrics, and which of them a study may be tuned on."""

import doctest

import pytest

import hdvae.errors
import hdvae.evaluation.metrics
from hdvae.errors import InputError, NonFinite
from hdvae.evaluation.metrics import (
    DESCRIPTIONS,
    TRAINING_DESCRIPTIONS,
    at,
    at_samples,
    check_tunable,
    error_name,
    nested,
    tau_label,
)


def test_the_examples_of_the_documentation():
    for module in (hdvae.evaluation.metrics, hdvae.errors):
        assert doctest.testmod(module).failed == 0
        assert doctest.testmod(module).attempted > 1


@pytest.mark.parametrize(
    ("tau", "name"), [(0.1, "elbo@tau=0.1"), (1.0, "elbo@tau=1"), (0.25, "elbo@tau=0.25"), (1e-5, "elbo@tau=1e-05")]
)
def test_name_at_a_temperature(tau, name):
    assert at("elbo", tau_label(tau)) == name


def test_name_at_a_sample_count():
    assert at_samples("iw_elbo", 5000) == "iw_elbo@S=5000"


def test_names_of_standard_errors():
    assert error_name("test/iw_elbo@S=5") == "test/iw_elbo_se@S=5"
    assert {error_name(name) for name in ("elbo", "iw_elbo", "surrogate_elbo", "kl", "relaxation_bias")} <= {
        *DESCRIPTIONS
    }


def test_nested_names():
    assert nested("train", {"kl/layer_1": 1.0, "tau": 0.5}) == {"train/kl/layer_1": 1.0, "train/tau": 0.5}
    assert nested("valid", {}) == {}


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_all_of_valid_is_tunable(name):
    check_tunable(f"valid/{name}")
    check_tunable(f"valid/{name}@tau=0.5")


@pytest.mark.parametrize("name", [*TRAINING_DESCRIPTIONS, "kl/layer_2_up", "tau/layer_1"])
def test_all_of_train_is_tunable(name):
    check_tunable(f"train/{name}")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("test/elbo", "a study must not be tuned on the test split: use valid/elbo, not test/elbo"),
        ("test/nonsense", "must not be tuned on the test split"),
        ("valid/elb", "unknown metric valid/elb; did you mean 'valid/elbo'?"),
        ("valid/iw_elbow@S=100", "did you mean 'valid/iw_elbo'?"),
        ("elbo", "unknown metric elbo; did you mean 'valid/elbo'?"),
        ("valid/bias", "unknown metric valid/bias; did you mean 'valid/relaxation_bias'?"),
        ("train/elbo", "unknown metric train/elbo"),
        ("valid/objective", "unknown metric valid/objective"),
        ("", "unknown metric"),
    ],
)
def test_what_is_not_tunable(name, said):
    with pytest.raises(InputError) as caught:
        check_tunable(name)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_error_of_a_number_that_is_not_finite():
    error = NonFinite(12, "kl/layer_2")
    assert (error.step, error.quantity) == (12, "kl/layer_2")
    assert str(error) == "non-finite kl/layer_2 at step 12"
