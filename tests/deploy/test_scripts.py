"""The shell scripts: what bash and shellcheck say of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"
SCRIPTS = [DEPLOY / "slurm/study.sbatch", DEPLOY / "kubernetes/services/databases.sh"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda file: file.name)
def test_the_script_is_sound(script):
    subprocess.run(["bash", "-n", str(script)], check=True)
    shellcheck = str(Path(sys.executable).with_name("shellcheck"))
    command = [shellcheck, "--shell=bash", "--severity=warning", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
