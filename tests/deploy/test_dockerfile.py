"""The Dockerfile's own steps, done here: its COPY lines copy, its install lines run in new environments."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy/Dockerfile"


def instructions() -> list[list[tuple[str, str]]]:
    """The stages of the Dockerfile, each a list of (instruction, what follows)."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE)
    lines = [line.split(maxsplit=1) for line in re.sub(r"\\\n\s*", " ", text).splitlines() if line]
    stages: list[list[tuple[str, str]]] = []
    for name, rest in lines:
        if name == "FROM":
            stages.append([])
        elif stages:
            stages[-1].append((name, rest))
    return stages


def environment(folder: Path) -> Path:
    """A new environment, and its folder of programs.

    The packages that this one depends on are lent to it from the environment of the tests, all but the package itself:
    pip then finds them installed, and compares each with the pinned version. With HDVAE_TEST_FULL_INSTALL=1 nothing is
    lent, and pip installs all of it, which took 82 s here with torch at hand.
    """
    venv.create(folder, with_pip=True)
    if os.environ.get("HDVAE_TEST_FULL_INSTALL") != "1":
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        lent = folder / "lent"
        lent.mkdir()
        for entry in (Path(sys.prefix) / "lib" / version / "site-packages").iterdir():
            if "hdvae" not in entry.name and entry.suffix != ".pth" and entry.name not in ("pip", "__pycache__"):
                (lent / entry.name).symlink_to(entry)
        (folder / "lib" / version / "site-packages/lent.pth").write_text(f"{lent}\n")
    return folder / "bin"


def build(stage: list[tuple[str, str]], work: Path, dist: Path, programs: Path) -> None:
    """Do the COPY lines of a stage, and those RUN lines that install Python packages."""
    work.mkdir()
    for name, rest in stage:
        if name == "COPY" and "--from" not in rest:
            *sources, target = rest.split()
            for source in sources:
                assert (ROOT / source).exists(), source
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, work / target, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(ROOT / source, work / target)
        elif name == "RUN" and "pip " in rest:
            command = rest.replace("/dist", shlex.quote(str(dist)))
            done = subprocess.run(
                ["bash", "-ec", command],
                cwd=work,
                env={**clean(), "PATH": f"{programs}:{os.environ['PATH']}", "TORCH": "cuda"},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{rest}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def clean() -> dict[str, str]:
    """This environment, without what would lead to the sources."""
    return {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> tuple[Path, Path]:
    """What the Dockerfile makes: the folder of programs, and the wheel."""
    folder = tmp_path_factory.mktemp("image")
    first, second = instructions()
    dist = folder / "dist"
    programs = environment(folder / "wheel-environment")
    build(first, folder / "src", dist, programs)
    programs = environment(folder / "environment")
    build(second, folder / "opt", dist, programs)
    (wheel,) = dist.glob("*.whl")
    return programs, wheel


def test_the_wheel_has_both_packages_and_nothing_else(image):
    names = {Path(name).parts[0] for name in zipfile.ZipFile(image[1]).namelist()}
    assert {name for name in names if not name.endswith(".dist-info")} == {"hdvae", "hdvae_platform"}


def test_the_installed_command_runs_from_another_folder(image, tmp_path):
    programs = image[0]

    def run(*command: str) -> str:
        done = subprocess.run(
            [str(programs / command[0]), *command[1:]],
            cwd=tmp_path,
            env={**clean(), "HDVAE_HOME": str(tmp_path / "runs")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = "import hdvae, hdvae_platform.cli as cli; print(hdvae.__file__, cli.__file__)"
    assert all(path.startswith(str(programs.parent / "lib")) for path in run("python", "-c", where).split())
    assert run("hdvae", "--version").startswith("hdvae, version ")
    run("hdvae", "data", "fetch", "mnist5k")
    study = programs.parents[1] / "opt/studies/first.yaml"
    assert json.loads(run("hdvae", "study", "check", str(study), "--json"))["runs"] == 9


def test_the_image_does_not_run_as_root():
    users = [rest for name, rest in instructions()[-1] if name == "USER"]
    assert users[-1].isdecimal()
    assert int(users[-1]) >= 1000


def test_the_image_leaves_out_what_it_is_not_told_to_take():
    kept = set(re.findall(r"^!(\S+)", (ROOT / "deploy/Dockerfile.dockerignore").read_text(), re.MULTILINE))
    copied = {
        source
        for stage in instructions()
        for name, rest in stage
        if name == "COPY" and "--from" not in rest
        for source in rest.split()[:-1]
    }
    assert kept == copied


def test_the_dockerfile_is_well_made():
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([str(linter), str(DOCKERFILE)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
