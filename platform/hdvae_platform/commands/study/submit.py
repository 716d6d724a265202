"""`hdvae study submit`: run a study as a job of a remote Ray cluster."""

from __future__ import annotations

from pathlib import Path

import click

from hdvae_platform.commands.options import home_option, set_option
from hdvae_platform.commands.study.options import accept_option, file_argument, insecure_option, retry_option
from hdvae_platform.study.file import load_study


@click.command()
@file_argument
@set_option
@click.option(
    "--address",
    required=True,
    envvar="RAY_API_SERVER_ADDRESS",
    metavar="http://HEAD:8265",
    help="The job server of the cluster.",
)
@insecure_option
@retry_option
@accept_option
@home_option
def submit(
    file: Path,
    overrides: tuple[str, ...],
    address: str,
    insecure: bool,
    retry_failed: bool,
    accept_code_change: bool,
    home: Path,
) -> int:
    """Run a study, or continue it, as a job of a Ray cluster that this machine is not part of; print its output.

    The code, the study and its images are uploaded; databases and storage are those of the cluster's environment.
    """
    study = load_study(file, overrides)
    from hdvae_platform.cluster.jobs import Jobs  # imports Ray: a faulty file is reported before

    given = {"--retry-failed": retry_failed, "--accept-code-change": accept_code_change, "--insecure": insecure}
    jobs = Jobs(address, insecure=insecure)
    job = jobs.submit(study, home, [option for option, on in given.items() if on])
    click.echo(f"submitted as job {job}; Ctrl-C leaves it running")
    try:
        return jobs.follow(job, lambda part: click.echo(part, nl=False))
    except KeyboardInterrupt:
        words = f"{study.name} --address {address}"
        click.echo(f"job {job} goes on: `hdvae study status {words}` and `hdvae study stop {words}`", err=True)
        return 130
