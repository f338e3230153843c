"""How a command line tool fails: one sentence and an exit code, no traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

DEBUG_VARIABLE = "PRUNET_DEBUG"


class UserError(Exception):
    """Something that the user can mend; the sentence says what was wrong and what to do."""


def run_tool(main: Callable[[], int | None]) -> None:
    """Runs a tool's main function and exits with its code.

    Errors become one line on stderr and exit code 2, Ctrl-C exit code 130. Set PRUNET_DEBUG=1 to
    see the traceback.
    """
    try:
        code = main() or 0
    except KeyboardInterrupt:
        print("interrupted.", file=sys.stderr)
        code = 130
    except Exception as e:
        if os.environ.get(DEBUG_VARIABLE):
            raise
        sentence = str(e.args[0]) if isinstance(e, KeyError) and e.args else str(e)
        if not isinstance(e, (UserError, ValueError, KeyError, OSError, ImportError)):
            sentence = f"{type(e).__name__}: {sentence}"
        if "Original Traceback" in sentence:  # of a data loader's worker process
            sentence = sentence.strip().splitlines()[-1].partition(": ")[2] or sentence
        sentence = " ".join(sentence.split())
        print(f"error: {sentence} (set {DEBUG_VARIABLE}=1 for the traceback)", file=sys.stderr)
        code = 2
    sys.stdout.flush()
    sys.exit(code)
