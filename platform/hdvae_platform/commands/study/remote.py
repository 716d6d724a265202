"""Running a short command of `hdvae study` on a remote cluster."""

from __future__ import annotations

import click


def run_remotely(address: str, insecure: bool, *arguments: str) -> int:
    """Run `hdvae ARGUMENTS` as a job of a cluster, and print its output.

    Args:
        address: of the cluster's job server, `http://HEAD:8265`.
        insecure: whether to accept a cluster that asks for no token.
        arguments: of the command.

    Returns:
        The exit code of the job.
    """
    from hdvae_platform.cluster.jobs import Jobs  # imports Ray

    jobs = Jobs(address, insecure=insecure)
    job = jobs.run(arguments)
    code = jobs.follow(job, lambda part: click.echo(part, nl=False))
    jobs.forget(job)
    return code
