"""Provenance of a result: code, machine, versions, data."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import hdvae
from hdvae.data.dataset import Dataset
from hdvae.data.overlap import overlap_in_words
from hdvae_platform.tracking.names import Tag


@cache
def code() -> dict[str, str]:
    """The version, a hash of the sources, and in a git checkout the commit and whether it was changed since."""
    known = {"version": hdvae.__version__, "sources": _sources()}
    folder = Path(hdvae.__file__).parent.parent
    tracked = _git(folder, "ls-files", "--error-unmatch", "hdvae/__init__.py")
    commit = _git(folder, "rev-parse", "HEAD")
    if tracked is None or commit is None:
        return known
    changes = _git(folder, "status", "--porcelain", "--", "hdvae", "platform")
    return {**known, "commit": commit, "dirty": str(bool(changes)).lower()}


def _sources() -> str:
    """One hash over all Python files of both packages, which differs for any change, committed or not."""
    digest = hashlib.sha256()
    for package in (Path(hdvae.__file__).parent, Path(__file__).parents[1]):
        for file in sorted(package.rglob("*.py")):
            name = f"{package.name}/{file.relative_to(package).as_posix()}"
            digest.update(f"{name} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def described(known: Mapping[str, str]) -> str:
    """A value of `code` in words.

    >>> described({"version": "1.0", "sources": "0123456789abcdef", "commit": "fedcba9876543210", "dirty": "true"})
    'hdvae 1.0 (sources 01234567, commit fedcba98 and changes)'
    """
    parts = [f"sources {known['sources'][:8]}"]
    if "commit" in known:
        parts.append(f"commit {known['commit'][:8]}" + (" and changes" if known["dirty"] == "true" else ""))
    return f"hdvae {known['version']} ({', '.join(parts)})"


def processor() -> str:
    """The model name of the processor; only Linux has it in a file."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def tags() -> dict[str, str]:
    """The code and the machine as MLflow tags."""
    import torch  # imported here: commands that only read need no torch

    names = {
        "version": Tag.VERSION,
        "sources": Tag.SOURCES,
        "commit": Tag.COMMIT,
        "dirty": Tag.GIT_DIRTY,
    }
    machine = {
        Tag.PYTHON: platform.python_version(),
        Tag.TORCH: torch.__version__,
        Tag.SYSTEM: f"{platform.system()} {platform.machine()}",
        Tag.CPU: f"{processor()}, {os.cpu_count()} cores",
        Tag.GPU: torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }
    return machine | {names[key]: value for key, value in code().items()}


def data_tags(dataset: Dataset) -> dict[str, str]:
    """The content of a data set as MLflow tags: its checksum, and which images stand in two splits."""
    return {Tag.DATA_CHECKSUM: dataset.checksum, Tag.DATA_OVERLAP: overlap_in_words(dataset) or "none"}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
