"""The command ``reco``: for each command, a function that adds its options and returns its work.

``python scripts/train.py …`` and ``scripts/eval.py`` are ``reco train …`` and ``reco eval …``. What
a command needs is imported when it runs, so that ``reco --help`` answers at once.
"""

from __future__ import annotations

import io
import logging
import os
import re
import select
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from inspect import cleandoc

from reco.cli.data import prepare
from reco.cli.inference import evaluate, export, predict
from reco.cli.options import PathParser, Work
from reco.cli.pictures import plot, report
from reco.cli.studies import gradients, pseudo_labels, study
from reco.cli.training import train
from reco.openmp import let_threads_sleep_if_busy

_OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory", re.IGNORECASE)

_STDOUT = 1  # its number among open files

COMMANDS: dict[str, Callable[[ArgumentParser], Work]] = {
    "train": train,
    "eval": evaluate,
    "predict": predict,
    "export": export,
    "prepare": prepare,
    "study": study,
    "report": report,
    "plot": plot,
    "pseudo-labels": pseudo_labels,
    "gradients": gradients,
}


def main(words: Sequence[str] | None = None) -> int:
    """Run a command. Errors of the user or the machine are one line on stderr and exit code 1.

    Ctrl-C is exit code 130, and so is SIGTERM of a training, which leaves a checkpoint.

    Args:
        words: the command and its options; by default those of the command line.
    """
    arguments = command_parser().parse_args(words)
    let_threads_sleep_if_busy()
    log = logging.getLogger("reco")
    if not log.handlers:
        log.addHandler(_ToStderr())
        # Of several processes only the first one logs more than warnings.
        log.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING)
    if sys.stderr is None:  # closed, as for a program without a terminal
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Escape what the terminal cannot encode; stderr does so by default.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code: int = arguments.work(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError as error:
        if not _reader_is_gone():
            print(f"error: {error}", file=sys.stderr)
            return 1
        return 141  # as a program that SIGPIPE ends: `reco … | head` has read enough
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (MemoryError, RuntimeError) as error:
        # torch raises RuntimeError for mistakes in the code too: those need their traceback.
        if not isinstance(error, MemoryError) and not _OUT_OF_MEMORY.search(str(error)):
            raise
        reason = f"out of memory: {[*str(error).splitlines(), ''][0]}"
        print(f"error: {reason.removesuffix(': ')}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: stopped by Ctrl-C", file=sys.stderr)
        return 130
    return code


def _reader_is_gone() -> bool:
    """Whether stdout is a pipe that nobody reads. It leads nowhere from then on."""
    if not hasattr(select, "poll"):  # Windows, which raises another error then
        return False
    waiting = select.poll()
    waiting.register(_STDOUT, 0)
    gone = any(event & select.POLLERR for _, event in waiting.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), _STDOUT)
    return gone


class _ToStderr(logging.Handler):
    """What the package logs, such as which weights were loaded, as lines on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


def command_parser() -> ArgumentParser:
    """The parser of all commands; parsed arguments hold the command's function as ``work``."""
    parser = PathParser(
        prog="reco",
        description="Semantic segmentation from a handful of labelled images (ReCo, ICLR 2022).",
        epilog="`reco COMMAND --help` shows examples and all options of a command.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, describe in COMMANDS.items():
        text = cleandoc(describe.__doc__ or "")
        command = commands.add_parser(
            name,
            help=text.splitlines()[0],
            description=text,
            formatter_class=RawDescriptionHelpFormatter,
        )
        command.set_defaults(work=describe(command))
    return parser
