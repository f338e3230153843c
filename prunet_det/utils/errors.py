"""Errors that a user can mend, and how a command line ends with them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from prunet_det.utils.log import show_messages

DEBUG_VARIABLE = "PRUNET_DEBUG"
# The packages that prunet_det's extras install, by the name that is imported.
EXTRAS = {
    **dict.fromkeys(("mmengine", "mmcv", "mmdet", "cv2", "pycocotools", "tensorboard"), "det"),
    **dict.fromkeys(("matplotlib", "scipy", "skimage", "sklearn"), "det"),
    **dict.fromkeys(("onnx", "onnxscript", "onnxruntime"), "onnx"),
    "plotly": "benchmark",
    "ray": "ray",
}
_IN_A_WORKER = "Original Traceback (most recent call last)"


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

    The package's messages go to stderr. What the user can mend, a UserError, a file that the
    operating system refuses or a package of an extra that is not installed, becomes one line there
    and exit code 2, Ctrl-C exit code 130. Any other exception is a bug and shows its traceback, as
    everything does where the environment sets PRUNET_DEBUG=1.
    """
    show_messages()
    try:
        code = main() or 0
        sys.stdout.flush()  # here, for whoever reads it may have gone
    except KeyboardInterrupt:
        sys.stderr.write("interrupted.\n")
        code = 130
    except BrokenPipeError:  # whoever read the output, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141  # as a shell reports SIGPIPE
    except (UserError, OSError, ModuleNotFoundError) as e:
        sentence = _sentence(e)
        if sentence is None or os.environ.get(DEBUG_VARIABLE):
            raise
        sys.stderr.write(f"error: {sentence} (set {DEBUG_VARIABLE}=1 for the traceback)\n")
        code = 2
    sys.exit(code)


def _sentence(error: UserError | OSError | ModuleNotFoundError) -> str | None:
    """Returns an error's message in one line, or None if it does not say what the user can mend."""
    text = str(error)
    if _IN_A_WORKER in text:  # what a data loader's worker raised comes back with its traceback
        text = text.strip().splitlines()[-1].partition(": ")[2]
        names_a_file = text.startswith("[Errno ")
    else:
        names_a_file = isinstance(error, OSError) and error.filename is not None
    if isinstance(error, ModuleNotFoundError) and not isinstance(error, UserError):
        extra = EXTRAS.get((error.name or "").partition(".")[0])
        return f"{text}: pip install 'prunet_det[{extra}]'." if extra else None
    if isinstance(error, UserError) or names_a_file:
        return " ".join(text.split())
    return None
