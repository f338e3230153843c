"""Flags that several tools share; importing this lets Ctrl-C end a tool that still imports."""

import argparse
import difflib
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def _end_start_up(*_: object) -> None:
    """Ends a tool in order before `run_tool` does: importing torch takes seconds."""
    sys.stderr.write("interrupted.\n")
    sys.stderr.flush()
    os._exit(130)


if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _end_start_up)

Verb = tuple[Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int | None]]


def parse_verbs(
    description: str | None, verbs: Mapping[str, Verb], usual: str, argv: Sequence[str]
) -> argparse.Namespace:
    """Parses a command line whose first word is a verb.

    Args:
        description: The tool's docstring.
        verbs: For each verb, what adds its flags to a parser, and the function that runs it.
        usual: Verb of a command line without one.
        argv: The command line, without the program.

    Returns:
        The verb's flags, with its function as `run`.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parsers = parser.add_subparsers(required=True, metavar="|".join(verbs))
    for verb, (add_flags, run) in verbs.items():
        own = parsers.add_parser(verb, help=run.__doc__, description=run.__doc__)
        add_flags(own)
        own.set_defaults(run=run)
    named = argv and (argv[0] in verbs or argv[0] in ("-h", "--help"))
    if argv and not named and argv[0].isalpha():  # no path, no flag
        meant = difflib.get_close_matches(argv[0], verbs, n=1, cutoff=0.75)
        if meant:
            parser.error(f"there is no verb {argv[0]!r}. Did you mean {meant[0]!r}?")
    return parser.parse_args(argv if named else [usual, *argv])


def at_least(minimum: int) -> Callable[[str], int]:
    """The type of a flag whose value is an integer from a minimum upwards."""

    def parse(text: str) -> int:
        if not text.removeprefix("-").isdigit() or int(text) < minimum:
            raise argparse.ArgumentTypeError(f"must be at least {minimum}, got {text}")
        return int(text)

    return parse


def above_zero(text: str) -> float:
    """The type of a flag whose value is a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0, got {text}")
    return value


def add_budgets(parser: argparse.ArgumentParser, what: str) -> None:
    """The flags of a search that say what its budgets are.

    Args:
        parser: Takes them.
        what: What the budgets are for, for --help.
    """
    add = parser.add_argument
    add("--budget-ms", type=above_zero, nargs="+", required=True, metavar="MS", help=what)
    add("--device", help="v100, a100, h100, here, a table or a device file [v100]")
    add("--batch", type=at_least(1), help="images at once, of the budgets [1]")
    add("--input-size", type=at_least(1), help="pixels, of the budgets [512]")


def output_file(text: str) -> str:
    """The type of a flag that names a file to write: refused now if it cannot be written."""
    from prunet_det.utils.errors import UserError
    from prunet_det.utils.io import check_output

    try:
        check_output(text)
    except UserError as e:
        raise argparse.ArgumentTypeError(str(e)) from e
    return text


def settings_action() -> type[argparse.Action]:
    """The action of a flag that takes KEY=VALUE, as MMEngine's, which needs the `=`."""
    from mmengine.config import DictAction

    class Settings(DictAction):
        def __call__(self, parser, namespace, values, option_string=None):
            for text in values:
                if "=" not in text:
                    parser.error(f"argument {option_string}: expected KEY=VALUE, got {text}")
            super().__call__(parser, namespace, values, option_string)

    return Settings


def add_config_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of MMDetection's own tools."""
    add = parser.add_argument
    add("config", help="config file")
    add("--work-dir", help="folder of logs and checkpoints [work_dirs/CONFIG]")
    add("--data-root", help="folder of the data, in the place of the config's")
    add(
        "--cfg-options",
        nargs="+",
        action=settings_action(),
        metavar="KEY=VALUE",
        help="override settings of the config",
    )
    add(
        "--launcher",
        choices=["none", "pytorch", "slurm", "mpi"],
        default="none",
        help="job launcher",
    )
    add("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)


def load_config(args: argparse.Namespace) -> Any:
    """The config that `add_config_flags` describe."""
    from prunet_det.training import launch

    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    return launch.load_config(
        args.config,
        work_dir=args.work_dir,
        data_root=args.data_root,
        options=args.cfg_options,
        launcher=args.launcher,
    )
