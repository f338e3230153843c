"""The tools from any folder: `python -m prunet_det TOOL ...`, or `prunet TOOL ...`.

`prunet train CONFIG` is `python tools/train.py CONFIG` without a checkout.
"""

from __future__ import annotations

import runpy
import sys

from prunet_det.utils.package import package_file


def main() -> None:
    """Runs the tool that the first argument names, with the other arguments."""
    tools = {path.stem: path for path in sorted(package_file("tools").glob("[!_]*.py"))}
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name not in tools:
        asked = name in ("-h", "--help")
        usage = f"usage: prunet TOOL ...; the tools are {', '.join(tools)}.\n"
        (sys.stdout if asked else sys.stderr).write(usage)
        sys.exit(0 if asked else 2)
    sys.argv = [str(tools[name]), *sys.argv[2:]]
    sys.path.insert(0, str(tools[name].parent))  # as Python does for a script: tools share a module
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
