"""The command line: gathers the commands, and turns errors into one line and an exit code.

A command's module is imported when the command is called: `hdvae --help` must not wait for torch, Ray and MLflow.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click
from click.shell_completion import shell_complete

from hdvae.errors import BoundViolated, InputError, NonFinite, PeerLost
from hdvae.version import __version__
from hdvae_platform.cluster import environment as ray_environment
from hdvae_platform.commands.groups import LazyGroup
from hdvae_platform.store.storage import StorageAway
from hdvae_platform.tracking import environment as mlflow_environment

COMPLETION = "_HDVAE_COMPLETE"
"""The variable by which a shell asks for completions; Click's own name for it."""
COMMANDS = {
    "data": "Fetch and list data sets.",
    "train": "Train one experiment.",
    "evaluate": "Evaluate a trained run: ELBOs, relaxation bias and its bounds.",
    "sample": "Draw samples, reconstructions and resampled layers of a trained run.",
    "study": "Check, run, monitor, stop, delete and export studies.",
    "compare": "Compare the arms of studies.",
    "report": "Write a study as one HTML page: claim, tables, figures, provenance.",
    "reproduce": "Run the paper's tables and figures again, and show both results.",
    "doctor": "Check this machine, its cluster, servers and storage, and say what to fix.",
    "ui": "Open a live page of a study, and the web pages of MLflow and Optuna.",
}


@click.group(
    cls=LazyGroup,
    package="hdvae_platform.commands",
    summaries=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="hdvae")
def hdvae() -> None:
    """Studies of hierarchical discrete VAEs and their relaxation bias."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit: 0 done, 1 the work failed, 2 bad input, 130 interrupted."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command, or answer a shell that asks for completions; returns the exit code."""
    if instruction := os.environ.get(COMPLETION):
        return shell_complete(hdvae, {}, "hdvae", COMPLETION, instruction)
    ray_environment.configure()
    mlflow_environment.configure()
    try:
        with hdvae.make_context("hdvae", list(sys.argv[1:] if arguments is None else arguments)) as context:
            code = hdvae.invoke(context)
    except click.exceptions.Exit as ended:  # --help, --version
        return ended.exit_code
    except click.exceptions.NoArgsIsHelpError as asked:
        click.echo(asked.format_message(), err=True)
        return 2
    except click.ClickException as error:
        return _fail(" ".join(error.format_message().split()), 2)
    except InputError as error:
        return _fail(str(error), 2)
    except (NonFinite, BoundViolated) as error:
        return _fail(str(error), 1)
    except (StorageAway, PeerLost) as error:
        return _fail(f"{error}; run the same command again to continue once this is fixed", 1)
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (KeyboardInterrupt, click.Abort):
        return _fail("interrupted; run the same command again to continue", 130)
    return code if isinstance(code, int) else 0


def _fail(message: str, code: int) -> int:
    for line in message.splitlines():
        click.echo(f"hdvae: {line}", err=True)
    return code


if __name__ == "__main__":
    main()
