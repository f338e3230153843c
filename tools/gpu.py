"""Everything that only a GPU can show, in nine minutes, into one folder.

python tools/gpu.py --out DIR               # make gpu OUT=DIR
python tools/gpu.py --out DIR --rehearsal   # all of it in small, on a CPU

The same command goes on where an earlier one stopped; what is done is kept. Exit code 1: a part
failed, or ran out of its time.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from _flags import above_zero, settings_action

from prunet_det.utils.errors import UserError, run_tool
from prunet_det.utils.package import recorded_command


def main() -> int:
    import torch

    from prunet_det.benchmark.gpu.parts import PARTS, plan_of
    from prunet_det.benchmark.gpu.run import MINUTES, Place, run_plan
    from prunet_det.benchmark.gpu.scale import REHEARSAL, Scale
    from prunet_det.utils.env import COMMIT_VARIABLE

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", metavar="DIR", required=True, help="folder of the records")
    add("--work", metavar="DIR", help="logs, checkpoints and the like [work_dirs/gpu]")
    add("--data", metavar="DIR", default="data", help="folder of the data sets [data]")
    add("--minutes", type=above_zero, default=MINUTES, help=f"for everything [{MINUTES:g}]")
    names = [part.name for part in PARTS]
    add("--parts", nargs="+", metavar="PART", default=[], help=f"of {', '.join(names)} [all]")
    add("--commit", help="of this copy of the code, where git does not know it")
    add("--rehearsal", action="store_true", help="on a CPU, tiny networks, a few iterations")
    add(
        "--set",
        nargs="+",
        action=settings_action(),
        default={},
        metavar="KEY=VALUE",
        help="what is measured, and how much of it: the fields of benchmark.gpu.scale.Scale",
    )
    args = parser.parse_args()
    if args.commit:
        os.environ[COMMIT_VARIABLE] = args.commit
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: with a summary
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # asks without a start of CUDA
    if not args.rehearsal and not torch.cuda.is_available():
        raise UserError("there is no CUDA device here; --rehearsal runs all in small on a CPU.")
    scale = (REHEARSAL if args.rehearsal else Scale()).changed(args.set)
    place = Place(
        out=Path(args.out),
        work=Path(args.work or f"work_dirs/gpu{'_rehearsal' * args.rehearsal}"),
        data=Path(args.data),
        command=recorded_command([sys.executable, *sys.argv]),
        scale=scale,
    )
    return run_plan(plan_of(scale), place, args.minutes, args.parts)


if __name__ == "__main__":
    run_tool(main)
