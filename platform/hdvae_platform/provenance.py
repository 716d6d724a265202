"""Where a result comes from: code, machine, versions."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from pathlib import Path

import torch

import hdvae


@cache
def code() -> dict[str, str]:
    """The version, and in a git checkout the commit and whether the packages were changed since."""
    folder = Path(hdvae.__file__).parent.parent
    tracked = _git(folder, "ls-files", "--error-unmatch", "hdvae/__init__.py")
    commit = _git(folder, "rev-parse", "HEAD")
    if tracked is None or commit is None:
        return {"version": hdvae.__version__}
    changes = _git(folder, "status", "--porcelain", "--", "hdvae", "platform")
    return {"version": hdvae.__version__, "commit": commit, "dirty": str(bool(changes)).lower()}


def tags() -> dict[str, str]:
    """The code and the machine as MLflow tags."""
    names = {"version": "hdvae.version", "commit": "mlflow.source.git.commit", "dirty": "hdvae.git_dirty"}
    machine = {
        "hdvae.python": platform.python_version(),
        "hdvae.torch": torch.__version__,
        "hdvae.system": f"{platform.system()} {platform.machine()}",
        "hdvae.gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }
    return machine | {names[key]: value for key, value in code().items()}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
