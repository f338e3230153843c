"""Errors that a user can mend, and how a command line ends with them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from prunet_det.utils.log import show_messages

DEBUG_VARIABLE = "PRUNET_DEBUG"


class UserError(Exception):
    """Something that the user can mend: the sentence says what is wrong and what to do."""


class InputError(UserError, ValueError):
    """An argument, a setting or a file's content that cannot be used."""


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that is not there."""


class MissingPackageError(UserError, ImportError):
    """A package of one of the extras that is not installed."""


def run_tool(main: Callable[[], int | None]) -> None:
    """Runs a tool's main function and exits with its code.

    The package's messages go to stderr. An error becomes one line there and exit code 2, Ctrl-C
    exit code 130. All show their traceback where the environment sets PRUNET_DEBUG=1.
    """
    show_messages()
    try:
        code = main() or 0
    except KeyboardInterrupt:
        sys.stderr.write("interrupted.\n")
        code = 130
    except (UserError, ValueError, KeyError, OSError, ImportError) as e:
        if os.environ.get(DEBUG_VARIABLE):
            raise
        sentence = " ".join(_sentence(e).split())
        sys.stderr.write(f"error: {sentence} (set {DEBUG_VARIABLE}=1 for the traceback)\n")
        code = 2
    sys.stdout.flush()
    sys.exit(code)


def _sentence(error: BaseException) -> str:
    """Returns an exception's message, without the traceback of a data loader's worker."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if "Original Traceback" in text:
        text = text.strip().splitlines()[-1].partition(": ")[2] or text
    return text
