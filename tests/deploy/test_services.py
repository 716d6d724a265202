"""PostgreSQL, MLflow and the dashboard as deploy/ sets them up, run for real on this machine's loopback."""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest
import requests
import sqlalchemy as sa
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from benchmarks.postgres import binaries, free_port, running
from hdvae_platform.cluster.doctor import Unfit, check_tracking
from hdvae_platform.store.places import Places
from hdvae_platform.store.records import Records

DEPLOY = Path(__file__).parents[2] / "deploy"
PASSWORDS = {
    "POSTGRES_HDVAE_PASSWORD": "of-hdvae",
    "POSTGRES_MLFLOW_PASSWORD": "of-mlflow",
    "POSTGRES_GRAFANA_PASSWORD": "of-grafana",
}


@pytest.fixture(scope="module")
def databases():
    """A PostgreSQL whose roles and databases the script of deploy/ made."""
    if binaries() is None:
        pytest.skip("PostgreSQL is not installed (no initdb)")
    with running() as server:
        connection = {"PGHOST": "127.0.0.1", "PGPORT": str(server.port), "POSTGRES_USER": "postgres"}
        environment = {**os.environ, **PASSWORDS, **connection}
        script = DEPLOY / "kubernetes/services/databases.sh"
        subprocess.run(["bash", str(script)], env=environment, check=True, capture_output=True)
        yield server


def test_each_role_has_its_databases_and_no_other(databases):
    def enter(role: str, database: str) -> None:
        psycopg.connect(f"postgresql://{role}@127.0.0.1:{databases.port}/{database}").close()

    for role, database in (("hdvae", "hdvae"), ("mlflow", "mlflow"), ("mlflow", "mlflow_auth"), ("grafana", "hdvae")):
        enter(role, database)
    for role, database in (("hdvae", "mlflow"), ("mlflow", "hdvae"), ("grafana", "mlflow_auth")):
        with pytest.raises(psycopg.OperationalError, match="permission denied"):
            enter(role, database)


def test_the_dashboards_queries_answer_and_its_role_cannot_write(databases):
    records = Records(f"postgresql+psycopg://hdvae@127.0.0.1:{databases.port}/hdvae")
    records.define("small", {"a": 1}, {"b": 2}, {"sources": "x"})
    reader = sa.create_engine(f"postgresql+psycopg://grafana@127.0.0.1:{databases.port}/hdvae")
    panels = json.loads((DEPLOY / "monitoring/studies.json").read_text())["panels"]
    queries = [target["rawSql"] for panel in panels for target in panel["targets"] if "rawSql" in target]
    assert len(queries) == 3
    with reader.connect() as db:
        answers = [db.execute(sa.text(query)).mappings().all() for query in queries]
    assert [row["study"] for row in answers[0]] == ["small"]
    with pytest.raises(sa.exc.ProgrammingError, match="permission denied"), reader.begin() as db:
        db.execute(sa.text("DELETE FROM hdvae_studies"))


def certificate(folder: Path) -> None:
    """`tls.crt`, `tls.key` and `ca.crt` of a server on the loopback."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    signed = made.add_extension(names, critical=False).sign(key, hashes.SHA256())
    pem = signed.public_bytes(serialization.Encoding.PEM)
    (folder / "tls.crt").write_bytes(pem)
    (folder / "ca.crt").write_bytes(pem)
    plain = serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    (folder / "tls.key").write_bytes(key.private_bytes(serialization.Encoding.PEM, form, plain))


@pytest.fixture(scope="module")
def mlflow(databases, tmp_path_factory):
    """The MLflow of the manifest: its arguments and its users' file, with this machine's port and folders."""
    folder = tmp_path_factory.mktemp("mlflow")
    certificate(folder)
    manifests = yaml.safe_load_all((DEPLOY / "kubernetes/services/mlflow.yaml").read_text())
    deployment = next(one for one in manifests if one["kind"] == "Deployment")
    arguments = deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    port = free_port()
    here = {
        "--host=0.0.0.0": "--host=127.0.0.1",
        "--port=5000": f"--port={port}",
        "--workers=2": "--workers=1",
        "mlflow:5000,": f"localhost:{port},",
        "s3://hdvae/mlflow": str(folder / "artifacts"),
        "/etc/mlflow-tls": str(folder),
    }
    command = "\0".join(arguments)
    for there, instead in here.items():
        assert there in command, there
        command = command.replace(there, instead)
    server = f"127.0.0.1:{databases.port}"
    users = (DEPLOY / "kubernetes/services/mlflow-auth.ini").read_text().replace("@postgres/", f"@{server}/")
    (folder / "mlflow-auth.ini").write_text(users)
    environment = {
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": f"postgresql+psycopg://mlflow@{server}/mlflow",
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "mlflow-auth.ini"),
        "MLFLOW_AUTH_ADMIN_PASSWORD": "a-long-password",
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "a-secret-key",
        "PGPASSWORD": "of-mlflow",
    }
    with (folder / "log").open("w") as log:
        program = [sys.executable, "-m", "mlflow", "server", *command.split("\0")]
        process = subprocess.Popen(
            program, env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=folder, start_new_session=True
        )
    address, limit = f"https://localhost:{port}", time.monotonic() + 180
    try:
        while True:
            assert process.poll() is None, (folder / "log").read_text()[-2000:]
            assert time.monotonic() < limit, (folder / "log").read_text()[-2000:]
            try:
                if requests.get(f"{address}/health", verify=folder / "ca.crt", timeout=5).ok:
                    break
            except requests.exceptions.ConnectionError:
                time.sleep(0.5)
        yield address, folder
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # its own end takes half a minute, and nothing of it is kept
        process.wait(30)


def test_mlflow_wants_a_password_a_certificate_and_its_own_name(mlflow, tmp_path, monkeypatch):
    address, folder = mlflow
    ask = f"{address}/api/2.0/mlflow/experiments/search?max_results=1"
    trust = folder / "ca.crt"
    assert requests.get(ask, verify=trust, timeout=30).status_code == 401
    assert requests.get(ask, verify=trust, auth=("admin", "password1234"), timeout=30).status_code == 401
    user = ("admin", "a-long-password")
    assert requests.get(ask, verify=trust, auth=user, timeout=30).status_code == 200
    assert requests.get(ask, verify=trust, auth=user, headers={"Host": "evil.example"}, timeout=30).status_code == 403
    with pytest.raises(requests.exceptions.ConnectionError):
        requests.get(re.sub("^https", "http", ask), timeout=30).raise_for_status()

    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(trust))
    places = Places.under(tmp_path)
    with pytest.raises(Unfit, match="MLFLOW_TRACKING_USERNAME"):
        check_tracking(places)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user[0])
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", user[1])
    assert "stores records, MLflow 3." in check_tracking(places)
