"""Errors that a user can mend, and how a command line ends with them."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

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
    and exit code 2. Ctrl-C ends with exit code 130 and SIGTERM with 143, whatever a library makes
    of them on the way. Any other exception is a bug and shows its traceback, as everything does
    where the environment sets PRUNET_DEBUG=1.
    """
    show_messages()
    with _noting_signals() as received:
        try:
            code = main() or 0
            sys.stdout.flush()  # here, for whoever reads it may have gone
        except BaseException as e:
            if not received and not isinstance(e, KeyboardInterrupt):
                code = _exit_code(e)
            else:
                sys.stderr.write("interrupted.\n")
                code = 128 + (received or [signal.SIGINT])[0]  # as a shell reports it
    sys.exit(code)


def _exit_code(error: BaseException) -> int:
    """Says what ended a tool, if the user can mend it; raises it again if not."""
    if isinstance(error, BrokenPipeError):  # whoever read the output, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    if isinstance(error, (UserError, OSError, ModuleNotFoundError)):
        sentence = _sentence(error)
        if sentence is not None and not os.environ.get(DEBUG_VARIABLE):
            sys.stderr.write(f"error: {sentence} (set {DEBUG_VARIABLE}=1 for the traceback)\n")
            return 2
    raise error


@contextlib.contextmanager
def _noting_signals() -> Iterator[list[int]]:
    """Raises KeyboardInterrupt at SIGTERM too, and notes both, for libraries raise other things.

    Yields:
        The signals that came, in their order.
    """
    process, received = os.getpid(), list[int]()

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process and number == signal.SIGTERM:  # a child ends as any process does
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        received.append(number)
        raise KeyboardInterrupt

    def handle_ignored(ignored: Any) -> None:
        if not received or ignored.exc_type is not KeyboardInterrupt:
            show_ignored(ignored)
            return
        # It came in a `__del__` or a callback, where Python drops exceptions: once more, after it.
        main_thread = threading.main_thread().ident or 0
        again = threading.Timer(0.05, signal.pthread_kill, (main_thread, received[0]))
        again.daemon = True
        again.start()

    show_ignored, sys.unraisablehook = sys.unraisablehook, handle_ignored
    before = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # of nohup and background jobs
            before[number] = signal.signal(number, handle)
    try:
        yield received
    finally:
        sys.unraisablehook = show_ignored
        for number, handler in before.items():
            signal.signal(number, handler)


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
