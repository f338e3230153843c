"""Tools run one after the other by the processes of one torchrun, so that they start once.

torchrun ... in_turn.py LIST.json, a list of command lines without `python`.
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path


def main() -> None:
    for command in json.loads(Path(sys.argv[1]).read_text()):
        sys.argv, sys.path[0] = command, str(Path(command[0]).parent)
        try:
            runpy.run_path(command[0], run_name="__main__")
        except SystemExit as stop:
            if stop.code:
                raise


if __name__ == "__main__":
    main()
