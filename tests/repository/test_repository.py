"""What the repository promises about itself."""

from __future__ import annotations

import ast
import itertools
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from hdvae_platform.analysis.verdicts import FEWEST_SEEDS
from hdvae_platform.study.file import load_study

ROOT = Path(__file__).parents[2]


def locked() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_lock_file_can_be_served_by_public_indexes():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    for pin in pins:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", pin), f"no plain pin: {pin}"
    assert locked()["torch"] == "2.13.0"


def test_every_dependency_is_locked():
    wanted = [*project()["dependencies"], *itertools.chain(*project()["optional-dependencies"].values())]
    names = {name.lower().replace("_", "-") for name in locked()}
    for requirement in wanted:
        name = re.match(r"[A-Za-z0-9._-]+", requirement)[0]
        assert name.lower().replace("_", "-") in names, requirement


IMPORTED_AS = {
    "grpcio": "grpc",
    "nvidia-ml-py": "pynvml",
    "optuna-dashboard": "optuna_dashboard",
    "pillow": "PIL",
    "pyyaml": "yaml",
}
NAMED_ONLY = {"greenlet": "optuna", "psycopg": "postgresql"}
"""Dependencies that are used without an import in the sources, and what the sources or documents say of them."""


def test_dependencies_are_what_the_sources_import():
    """Each dependency is imported, and each import of another package is a dependency."""
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.match(r"[A-Za-z0-9._-]+", requirement)[0].lower() for requirement in wanted}
    sources = [file.read_text() for folder in ("hdvae", "platform") for file in (ROOT / folder).rglob("*.py")]
    imported = {name for source in sources for name in imports(ast.parse(source))}
    foreign = imported - set(sys.stdlib_module_names) - {"hdvae", "hdvae_platform"}
    assert {IMPORTED_AS.get(name, name) for name in names - NAMED_ONLY.keys()} == foreign
    assert all(any(word in source for source in sources) for word in NAMED_ONLY.values())


def imports(tree: ast.AST) -> set[str]:
    """The top-level packages that a module imports."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


def test_minimum_versions_close_known_holes():
    wanted = project()["dependencies"]
    for name, least in (("ray", (2, 56)), ("mlflow", (3, 11))):
        assert tuple(map(int, locked()[name].split(".")[:2])) >= least
        assert any(re.match(rf"{name}(\[.*\])?>={least[0]}\.{least[1]}(,|$)", one) for one in wanted), name


def test_versions_beyond_the_locked_ones_of_what_is_used_privately_are_refused():
    wanted = [Requirement(one) for one in project()["dependencies"]]
    for name in ("ray", "mlflow", "optuna"):
        (requirement,) = (one for one in wanted if one.name == name)
        major, minor = map(int, locked()[name].split(".")[:2])
        assert requirement.specifier.contains(locked()[name])
        assert not requirement.specifier.contains(f"{major}.{minor + 1}.0"), name


UNSAFE = {"pickle", "cloudpickle", "joblib", "shelve", "marshal", "dill"}


def test_nothing_that_is_read_can_run_code():
    """What a storage or a user gives is data: no pickle, no `torch.load`, no YAML but the safe loader's."""
    sources = [*ROOT.glob("hdvae/**/*.py"), *ROOT.glob("platform/**/*.py")]
    assert len(sources) > 50
    for source in sources:
        for node in ast.walk(ast.parse(source.read_text())):
            where = f"{source.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Import):
                assert not UNSAFE & {alias.name.split(".")[0] for alias in node.names}, where
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in UNSAFE, where
            elif isinstance(node, ast.Call):
                call = ast.unparse(node.func)
                assert call not in ("torch.load", "eval", "exec", "pd.read_pickle", "torch.hub.load"), where
                assert call != "np.load" or "allow_pickle=False" in ast.unparse(node), where
                assert not call.startswith("yaml.") or call == "yaml.safe_dump", where
            elif isinstance(node, ast.ClassDef):
                bases = [ast.unparse(base) for base in node.bases]
                assert all(base == "yaml.SafeLoader" for base in bases if "Loader" in base), where


def test_the_linter_refuses_what_can_run_code():
    """Ruff's rules for pickle (S301), eval (S307), YAML (S506) and shells (S602) are on."""
    code = "import pickle, yaml, subprocess\npickle.loads(b'')\neval(input())\nyaml.load('', yaml.Loader)\n"
    code += "subprocess.run(input(), shell=True)\n"
    ruff = [str(Path(sys.executable).with_name("ruff")), "check", "--output-format=concise", "--no-cache"]
    name = ["--stdin-filename", "hdvae/some.py", "-"]
    done = subprocess.run([*ruff, *name], input=code, cwd=ROOT, capture_output=True, text=True, check=False)
    for rule in ("S301", "S307", "S506", "S602"):
        assert f" {rule} " in done.stdout, rule


def test_nothing_shadows_the_module_platform():
    assert not (ROOT / "platform/__init__.py").exists()
    assert not (ROOT / "tests/platform").exists()
    code = "import platform, uuid; print(platform.python_version())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip().startswith("3.")


@pytest.mark.parametrize("file", sorted((ROOT / "studies").glob("*.yaml")), ids=lambda file: file.name)
def test_every_study_file_is_valid_and_named_after_its_file(file):
    assert load_study(file).name == file.stem


def test_the_first_study_is_what_the_readme_says():
    study = load_study(ROOT / "studies/first.yaml")
    assert study.parameter_sets() == 3
    assert len(study.seeds) >= FEWEST_SEEDS, "else its expectations get no verdict"
    assert [layer.variables for layer in study.experiment.model.layers] == [16, 8]
    assert study.experiment.training.steps >= 1000
    assert yaml.safe_load((ROOT / "studies/first.yaml").read_text())["experiment"]["data"] == {"name": "mnist5k"}


def test_the_page_on_study_files_shows_the_first_study_as_it_is():
    file = (ROOT / "studies/first.yaml").read_text()
    shown = re.search(r"```yaml\n(.*?)```", (ROOT / "docs/study_files.md").read_text(), re.S)[1]
    assert shown == file[file.index("name: ") :]


def test_readme_names_the_two_commands():
    text = (ROOT / "README.md").read_text()
    assert "make study" in text
    assert "make test" in text


def test_links_in_the_documents_lead_somewhere():
    for document in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "deploy/README.md"]:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", document.read_text()):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name}: {target}"
