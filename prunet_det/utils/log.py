"""Logging: tools show the package's messages, and a Runner's log file keeps them.

Modules log to `logging.getLogger(__name__)`, below the logger `prunet_det`. Nothing is configured
on import: a program that uses the package decides by itself what it shows.
"""

from __future__ import annotations

import logging
import os
import sys

PACKAGE = "prunet_det"


class _Console(logging.Handler):
    """Writes bare messages to the current stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(f"{self.format(record)}\n")
        sys.stderr.flush()


def show_messages() -> None:
    """Shows the package's messages on stderr, as tools do; stdout is for results.

    In a distributed run, only the first process shows messages below errors.
    """
    # OpenCV would write lines of its own about a damaged image, beside our sentence.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    logger = logging.getLogger(PACKAGE)
    if not any(isinstance(handler, _Console) for handler in logger.handlers):
        logger.addHandler(_Console())
    logger.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR)
