"""What has to be so before any test's file is read."""

import os

os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray reads it once, when the first file imports Ray
