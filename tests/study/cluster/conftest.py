"""What tests of clusters share."""

import pytest


@pytest.fixture(autouse=True)
def no_remembered_token():
    """Ray reads a token once in a process. Tests in one process use several."""
    from ray._raylet import AuthenticationTokenLoader

    AuthenticationTokenLoader.instance().reset_cache()
    yield
    AuthenticationTokenLoader.instance().reset_cache()
