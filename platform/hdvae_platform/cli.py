"""The command line: gathers the commands, and turns faults into one line and an exit code.

Commands are loaded when they are called: `hdvae --help` must not wait for torch, Ray and MLflow.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

import click

from hdvae.errors import BoundViolated, InputError, NonFinite
from hdvae.version import __version__
from hdvae_platform.store.storage import StorageAway
from hdvae_platform.tracking import environment as mlflow_environment

COMMANDS = {
    "data": "Fetch data sets and list them.",
    "train": "Train one experiment.",
    "evaluate": "Measure a trained run: ELBOs, relaxation bias and its bounds.",
    "sample": "Draw samples, reconstructions and resampled layers of a trained run.",
    "study": "Check, run, follow, stop, delete and export studies.",
    "compare": "Compare the arms of studies.",
    "report": "Write a study as one page: claim, tables, figures, provenance.",
    "reproduce": "Run the paper's tables and figures again, beside its numbers.",
    "doctor": "Check this machine, its cluster, servers and storage; say what to fix.",
    "ui": "Open MLflow's and Optuna's web pages on the study store.",
}


class _Commands(click.Group):
    """The commands of `COMMANDS`, each in the module of its name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"hdvae_platform.commands.{cmd_name}")
        command = getattr(module, cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hdvae")
def hdvae() -> None:
    """Studies of hierarchical discrete VAEs and their relaxation bias."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit: 0 done, 1 the work failed, 2 bad input, 130 interrupted."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    mlflow_environment.configure()
    try:
        with hdvae.make_context("hdvae", list(sys.argv[1:] if arguments is None else arguments)) as context:
            code = hdvae.invoke(context)
    except click.exceptions.Exit as ended:  # --help, --version
        return ended.exit_code
    except click.exceptions.NoArgsIsHelpError as asked:
        click.echo(asked.format_message(), err=True)
        return 2
    except click.ClickException as fault:
        return _fail(" ".join(fault.format_message().split()), 2)
    except InputError as fault:
        return _fail(str(fault), 2)
    except (NonFinite, BoundViolated) as fault:
        return _fail(str(fault), 1)
    except StorageAway as away:
        return _fail(f"{away}; once it is mended the same command goes on from here", 1)
    except BrokenPipeError:  # the reader, `head` perhaps, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (KeyboardInterrupt, click.Abort):
        return _fail("interrupted; the same command goes on from here", 130)
    return code if isinstance(code, int) else 0


def _fail(line: str, code: int) -> int:
    click.echo(f"hdvae: {line}", err=True)
    return code


if __name__ == "__main__":
    main()
