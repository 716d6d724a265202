"""Every file in deploy/ against the schema of what reads it, offline; and what the files promise about access."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import ray
import yaml
from mlflow.cli import server as mlflow_server
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import start as ray_start

DEPLOY = Path(__file__).parents[2] / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
OVERLAYS = ("services", "cluster", "study")
VERSION = "1.33"
KINDS = {"RayCluster": "ray.io_v1_rayclusters.json", "RayJob": "ray.io_v1_rayjobs.json"}
OBJECTS = sorted(
    file
    for file in KUBERNETES.glob("**/*.yaml")
    if file.name not in ("kustomization.yaml", "images.yaml")  # these are kustomize's own
)


def schema(name: str) -> Any:
    folder = os.environ.get("HDVAE_TEST_SCHEMAS")
    if folder is None or not (Path(folder) / name).exists():
        pytest.skip(f"HDVAE_TEST_SCHEMAS names no folder with {name}")
    return json.loads((Path(folder) / name).read_text())


def strict(node: Any) -> Any:
    """The schema, with fields that it does not name refused, as `kubectl apply --validate=strict` does."""
    if isinstance(node, list):
        return [strict(one) for one in node]
    if not isinstance(node, dict):
        return node
    closed = {key: strict(value) for key, value in node.items()}
    if "properties" in node and isinstance(node["properties"], dict) and node.get("type") == "object":
        closed.setdefault("additionalProperties", False)
    return closed


def documents(text: str) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(text) if one is not None]


def rendered(overlay: str) -> list[dict[str, Any]]:
    """An overlay as kustomize renders it: the program itself, or the one inside kubectl."""
    if shutil.which("kustomize"):
        command = ["kustomize", "build"]
    elif shutil.which("kubectl"):
        command = ["kubectl", "kustomize"]
    else:
        pytest.skip("neither kustomize nor kubectl is installed; the files are validated one by one")
    done = subprocess.run([*command, str(KUBERNETES / overlay)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return documents(done.stdout)


def check(thing: dict[str, Any]) -> None:
    if thing["kind"] not in KINDS:
        kubernetes_validate.validate(thing, VERSION, strict=True)
        return
    known = strict(schema(KINDS[thing["kind"]]))
    known["properties"]["metadata"] = {"type": "object"}
    jsonschema.validate(thing, known)


@pytest.mark.parametrize("file", OBJECTS, ids=lambda file: str(file.relative_to(KUBERNETES)))
def test_every_file_is_what_kubernetes_takes(file):
    things = documents(file.read_text())
    assert things
    for thing in things:
        check(thing)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_overlay_renders_to_what_kubernetes_takes(overlay):
    things = rendered(overlay)
    for thing in things:
        check(thing)
        assert thing["metadata"].get("namespace", "hdvae") == "hdvae"
    assert "image: hdvae\n" not in yaml.safe_dump(things), "an image that kustomize did not fill in"


def test_the_validation_sees_a_misspelt_field():
    for file, path in (("ray/raycluster.yaml", "headGroupSpec"), ("services/mlflow.yaml", "template")):
        thing = next(one for one in documents((KUBERNETES / file).read_text()) if one["kind"] != "Service")
        wrong = copy.deepcopy(thing)
        wrong["spec"][path]["tempalte"] = {}
        with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
            check(wrong)


def test_a_study_has_the_cluster_of_a_standing_one():
    job, cluster = rendered("study"), rendered("cluster")
    assert [thing["kind"] for thing in job] == ["RayJob"]
    standing = next(thing for thing in cluster if thing["kind"] == "RayCluster")
    spec = job[0]["spec"]
    assert spec["rayClusterSpec"] == standing["spec"]
    assert spec["backoffLimit"] > 0
    assert spec["shutdownAfterJobFinishes"]
    assert spec["ttlSecondsAfterFinished"] > 0


def test_the_ray_cluster_asks_for_a_token_and_keeps_its_head_free():
    spec = documents((KUBERNETES / "ray/raycluster.yaml").read_text())[0]["spec"]
    assert spec["authOptions"] == {"mode": "token", "secretName": "hdvae-ray"}
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    gpu = next(group for group in spec["workerGroupSpecs"] if group["groupName"] == "gpu")
    assert (gpu["replicas"], gpu["minReplicas"]) == (0, 0)
    assert spec["enableInTreeAutoscaling"]
    locked = (DEPLOY.parent / "requirements.lock").read_text().splitlines()
    assert f"ray=={spec['rayVersion']}" in locked


def pods(node: Any) -> list[dict[str, Any]]:
    """The pod specs anywhere in an object."""
    if isinstance(node, list):
        return [pod for one in node for pod in pods(one)]
    if not isinstance(node, dict):
        return []
    own = [node] if "containers" in node else []
    return own + [pod for value in node.values() for pod in pods(value)]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_pod_runs_as_root_or_names_a_secret_itself(overlay):
    things = rendered(overlay)
    found = pods(things)
    assert found
    for pod in found:
        assert pod["securityContext"]["runAsNonRoot"]
        for container in pod["containers"] + pod.get("initContainers", []):
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert re.fullmatch(r"\S+:\d[\w.-]*", container["image"]), "an image without a version"
            for variable in container.get("env", []):
                if re.search("PASSWORD|TOKEN|SECRET|_KEY", variable["name"]):
                    assert "secretKeyRef" in variable["valueFrom"], variable["name"]
    assert not [thing for thing in things if thing["kind"] == "Secret"]


def references(node: Any) -> set[str]:
    """Names of the secrets that an object reads."""
    if isinstance(node, list):
        return set().union(*map(references, node)) if node else set()
    if not isinstance(node, dict):
        return set()
    names = {node[key]["name"] for key in ("secretKeyRef", "secretRef") if key in node}
    names |= {node["secretName"]} if isinstance(node.get("secretName"), str) else set()
    return names.union(*(references(value) for value in node.values()))


def test_the_readme_makes_every_secret():
    readme = (DEPLOY / "README.md").read_text()
    names = references([rendered(overlay) for overlay in OVERLAYS])
    assert {"hdvae-ray", "hdvae-postgres", "hdvae-mlflow", "hdvae-s3", "mlflow-tls"} <= names
    for name in names:
        assert re.search(rf"create secret \w+ {name}\b", readme), name


def test_everything_is_denied_but_what_is_named():
    policies = documents((KUBERNETES / "services/network.yaml").read_text())
    assert policies[0]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress"]}
    for policy in policies[1:]:
        for rule in policy["spec"]["ingress"]:
            assert rule["from"], "an empty list lets everybody in"


def test_the_compose_file_is_what_compose_takes():
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    known = jsonschema.Draft7Validator(schema("compose-spec.json"))
    known.validate(compose)
    wrong = copy.deepcopy(compose)
    wrong["services"]["mlflow"]["imagee"] = "x"
    with pytest.raises(jsonschema.ValidationError):
        known.validate(wrong)


def test_compose_listens_on_the_loopback_alone_and_holds_no_secret():
    text = (DEPLOY / "compose.yaml").read_text()
    services = yaml.safe_load(text)["services"]
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    for name, service in services.items():
        assert re.fullmatch(r"\S+:v?\d[\w.-]*", service["image"]), f"{name}: an image without a version"
        for variable, value in service.get("environment", {}).items():
            if re.search("PASSWORD$|TOKEN$|SECRET|ACCESS_KEY", variable):
                assert re.fullmatch(r"\$\{\w+:[?-].*\}", value), f"{name}: {variable}"
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert not source.startswith(".") or (DEPLOY / source).is_file(), source
    wanted = set(re.findall(r"\$\{(\w+)", text))
    assert wanted == set(re.findall(r"^(\w+)=", (DEPLOY / "compose/env.example").read_text(), re.MULTILINE))


@pytest.mark.parametrize("file", sorted((DEPLOY / "ray").glob("*.yaml")), ids=lambda file: file.name)
def test_rays_launcher_takes_the_file(file):
    config = yaml.safe_load(file.read_text())
    known = json.loads((Path(ray.__file__).parent / "autoscaler/ray-schema.json").read_text())
    jsonschema.validate(config, known)
    validate_config(prepare_config(copy.deepcopy(config)))  # which first fills in Ray's defaults
    assert all("RAY_AUTH_MODE=token" in config[key][-1] for key in config if key.endswith("start_ray_commands"))
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**config, "max_wokers": 1}, known)


def commands(program: str) -> list[str]:
    """Every command line of a program in deploy/: `PROGRAM --option …`, up to the end of its string or line."""
    texts = []
    for file in [*DEPLOY.glob("*.yaml"), *DEPLOY.glob("ray/*.yaml")]:
        strings: list[Any] = [yaml.safe_load(file.read_text())]
        while strings:
            one = strings.pop()
            strings += one.values() if isinstance(one, dict) else one if isinstance(one, list) else []
            if isinstance(one, str) and f"{program} --" in one:
                texts.append(one.split(program, 1)[1])
    return texts


@pytest.mark.parametrize(("program", "number"), [("ray start", 8), ("mlflow server", 1)])
def test_every_option_of_a_command_exists(program, number):
    command = ray_start if program == "ray start" else mlflow_server
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    found = commands(program)
    assert len(found) == number
    for text in found:
        options = set(re.findall(r"(?:^|\s)(--[\w-]+)", text))
        assert options
        assert options <= known, options - known
