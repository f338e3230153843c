"""Accuracy against latency: PruNet beside GPUNet and EfficientNet in one detector.

python tools/benchmark.py --suite configs/benchmark/digits.py --jobs 2 --out DIR
python tools/benchmark.py time --suite configs/benchmark/digits.py --out DIR [--repeat-timing]
python tools/benchmark.py lr --suite configs/benchmark/digits.py --out DIR
python tools/benchmark.py speed-up --suite configs/benchmark/digits.py --out DIR
python tools/benchmark.py report DIR
python tools/benchmark.py imagenet --device here|v100|a100 [--models 'resnet*' ...]

Without a verb the suite is run: what is done already is kept, so the same command goes on where an
earlier one stopped, and several short calls add up.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from _flags import above_zero, at_least, parse_verbs, settings_action

from prunet_det.utils.errors import UserError, run_tool
from prunet_det.utils.package import recorded_command

if TYPE_CHECKING:
    from prunet_det.benchmark.imagenet import Source
    from prunet_det.benchmark.suite import Suite
    from prunet_det.utils.jobs import Launch

DEFAULT_SUITE = "configs/benchmark/digits.py"


def add_common(parser: argparse.ArgumentParser) -> None:
    """What all verbs but report take."""
    add = parser.add_argument
    add("--suite", default=DEFAULT_SUITE, help=f"what is compared [{DEFAULT_SUITE}]")
    add("--out", metavar="DIR", help="folder of the records [work_dirs/benchmark/SUITE]")
    add("--data-root", help="folder of the data, in the place of the config's")
    add("--max-iters", type=at_least(1), help="iterations (or epochs) of a training [the suite's]")
    add("--options", nargs="+", metavar="KEY=VALUE", help="override settings of the recipe")


def add_models(parser: argparse.ArgumentParser) -> None:
    """Which networks."""
    parser.add_argument(
        "--models",
        nargs="+",
        metavar="MODEL",
        help="of the suite, by name or NAME@PIXELS; or others, by NAME@PIXELS [all of the suite]",
    )


def add_launcher(parser: argparse.ArgumentParser) -> None:
    """How jobs are handed out."""
    from prunet_det.utils.jobs import LAUNCHERS

    add = parser.add_argument
    add("--launcher", choices=LAUNCHERS, default="none", help="ray: on a Ray cluster [none]")
    add("--jobs", type=at_least(1), default=1, help="at once [1]")
    add("--max-minutes", type=above_zero, help="start no further job after so long")


def read_suite(args: argparse.Namespace) -> Suite:
    """The suite as the command line has it."""
    from prunet_det.benchmark.suite import load_suite

    suite = load_suite(args.suite)
    if args.max_iters is not None:
        suite = replace(suite, max_iters=args.max_iters)
    if args.data_root:
        suite = replace(suite, data_root=args.data_root)
    if args.options:
        parser = argparse.ArgumentParser()
        parser.add_argument("--options", nargs="+", action=settings_action())
        options = parser.parse_args(["--options", *args.options]).options
        suite = replace(suite, options={**suite.options, **options})
    return suite.choose(args.models) if getattr(args, "models", None) else suite


def folder_of(args: argparse.Namespace, suite: Suite) -> Path:
    """Folder of the records."""
    return Path(args.out or f"work_dirs/benchmark/{suite.name}")


def read_launch(args: argparse.Namespace, suite: Suite, out: Path) -> Launch:
    """Launcher as the command line has it, with what a run of the suite needs."""
    from prunet_det.benchmark.run import LOGS
    from prunet_det.utils.jobs import Launch

    return Launch(
        launcher=args.launcher,
        max_workers=args.jobs,
        minutes=args.max_minutes,
        cpus=suite.threads,
        gpus=int(suite.device != "cpu"),
        logs=out / LOGS,
    )


def this_command() -> str:
    return recorded_command([sys.executable, *sys.argv])


def add_run(parser: argparse.ArgumentParser) -> None:
    add_common(parser)
    add_models(parser)
    add_launcher(parser)
    parser.add_argument("--seeds", type=at_least(1), help="trainings of each network [the suite's]")
    parser.add_argument("--no-timing", action="store_true", help="leave the latencies for later")
    add_timing(parser)


def run_run(args: argparse.Namespace) -> int:
    """Trains and evaluates what is left, then times all networks at once."""
    from prunet_det.benchmark.campaign import run_suite

    suite = read_suite(args)
    out, seeds = folder_of(args, suite), args.seeds or suite.seeds
    left = run_suite(suite, seeds, read_launch(args, suite, out), out, this_command())
    if left:
        print(f"left: {', '.join(map(str, left))}; the same command goes on from here.")
        return 0
    total = seeds * len(suite.candidates)
    print(f"{total} of {total} runs are done.")
    if args.no_timing:
        return 0
    args.models = None  # whatever was trained now, all networks are timed against each other
    return time_plan(read_suite(args), out, args, again=False)


def add_timing(parser: argparse.ArgumentParser) -> None:
    """How latencies are measured."""
    add = parser.add_argument
    add("--seconds", type=above_zero, default=3.0, help="to spend on each network and scope [3]")
    add(
        "--repeat-timing",
        action="store_true",
        help="measure once more what is timed, for the report to compare",
    )


def add_time(parser: argparse.ArgumentParser) -> None:
    add_common(parser)
    add_timing(parser)


def run_time(args: argparse.Namespace) -> int:
    """Measures the latencies of all networks that are trained, interleaved; predicts the V100's."""
    suite = read_suite(args)
    return time_plan(suite, folder_of(args, suite), args, again=True)


def time_plan(suite: Suite, out: Path, args: argparse.Namespace, again: bool) -> int:
    """As run_time; what has been timed is timed again only where that is wanted."""
    from prunet_det.benchmark.timing import done_candidates, is_timed, time_suite

    candidates = done_candidates(suite, out)
    timed = is_timed(suite, candidates, out)
    if timed and not again and not args.repeat_timing:
        print("all networks are timed on this machine.")
        return 0
    files, failed = time_suite(
        suite, candidates, out, args.seconds, this_command(), repeat=timed and args.repeat_timing
    )
    for path in files:
        print(f"written: {path}")
    return int(bool(failed))


def add_lr(parser: argparse.ArgumentParser) -> None:
    add_common(parser)
    add_models(parser)
    add_launcher(parser)


def run_lr(args: argparse.Namespace) -> int:
    """Chooses the suite's one learning rate, on training data that is kept back for it."""
    from prunet_det.benchmark.campaign import RATE, choose_rate, one_a_family

    suite = read_suite(args)
    if not args.models:
        suite = replace(suite, candidates=one_a_family(suite))
    out = folder_of(args, suite)
    chosen = choose_rate(suite, read_launch(args, suite, out), out, this_command())
    if chosen is None:
        print("runs are left; the same command goes on from here.")
        return 1
    best = chosen["learning_rate"]
    print(f"mean mAP by learning rate: {chosen['mean_mAP']}; best: {best:g}")
    if chosen["config_hash"] != suite.config_hash():
        print(f"set it in {suite.path}: options = {{..., '{RATE}': {best:g}}}.")
    return 0


def add_speed_up(parser: argparse.ArgumentParser) -> None:
    add_common(parser)
    add_models(parser)
    parser.add_argument("--iterations", type=at_least(2), default=50, help="of a training [50]")


def run_speed_up(args: argparse.Namespace) -> None:
    """What a recorded and a compiled network gain in training, and whether losses stay equal."""
    from prunet_det.benchmark.training_speed import run_speed_ups

    suite = read_suite(args)
    out = folder_of(args, suite)
    print(run_speed_ups(suite, out, args.iterations, this_command()))


def add_imagenet(parser: argparse.ArgumentParser) -> None:
    from prunet_det.runtime import RUNTIMES

    add = parser.add_argument
    add(
        "--device",
        default="here",
        help="here, cpu or cuda:N to measure on; v100, a100, h100 or a device file to predict for "
        "[here]",
    )
    add(
        "--models",
        nargs="+",
        default=[],
        metavar="NAME",
        help="names, with or without the training's tag, or patterns such as 'resnet*', at all "
        "resolutions [all networks, each at the "
        "resolution of its best accuracy without extra data]",
    )
    add("--batch", type=at_least(1), default=1, help="images at once [1]")
    add(
        "--runtime",
        choices=list(RUNTIMES),
        help="to measure with; CUDA graph on a GPU, ONNX Runtime on a CPU by default",
    )
    add("--precision", choices=("fp16", "fp32"), help="fp16 on a GPU, fp32 on a CPU by default")
    add("--threads", type=at_least(1), help="of a CPU [all]")
    add("--seconds", type=above_zero, default=0.5, help="to measure each network for [0.5]")
    add("--out", metavar="DIR", default="work_dirs/benchmark/imagenet", help="[%(default)s]")


def run_imagenet(args: argparse.Namespace) -> int:
    """Sets published ImageNet top-1 against latency, predicted or measured here; trains nothing."""
    from prunet_det.benchmark import imagenet
    from prunet_det.benchmark import imagenet_report as report
    from prunet_det.benchmark.plot import draw_published
    from prunet_det.utils import plots

    chosen = imagenet.choose(args.models)
    path, entries = imagenet.collect(chosen, args.out, latency_source(args), this_command())
    if not any(e.latency for e in entries):
        print(report.failures(entries), end="")
        return 1
    print(report.text(entries))
    data = report.figure_data(entries)
    picture = path.with_suffix(".png")
    plots.save(draw_published(*data), picture, data)
    print(f"written: {path}, {picture}")
    return 0


def latency_source(args: argparse.Namespace) -> Source:
    """Whether latencies are predicted or measured, and for what."""
    from prunet_det.benchmark import imagenet
    from prunet_det.latency.device import device_names
    from prunet_det.latency.measure import local_conditions, local_device
    from prunet_det.utils.env import check_device

    if args.device in device_names() or args.device.endswith(".json"):
        given = [key for key in ("runtime", "precision", "threads") if getattr(args, key)]
        if given:
            raise UserError(
                f"--{given[0]} is for measurements; what {args.device} predicts has its own."
            )
        return imagenet.predicted(args.device, args.batch)
    device = local_device() if args.device == "here" else check_device(args.device)
    conditions = local_conditions(device, args.runtime, args.precision, args.batch, args.threads)
    return imagenet.measured(conditions, device, args.seconds, progress="timing")


def add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="of the benchmark, with its records")
    parser.add_argument("--out", help="folder to write to; DIR/report by default")


def run_report(args: argparse.Namespace) -> None:
    """Tables, plots and a page."""
    from prunet_det.benchmark.records import load_records
    from prunet_det.benchmark.report import verdicts, write_report

    out = Path(args.out) if args.out else Path(args.folder) / "report"
    records = load_records(args.folder)
    write_report(records, out, args.folder)
    print(verdicts(records))
    print(f"written to {out}: {', '.join(sorted(p.name for p in out.iterdir()))}")


VERBS = {
    "run": (add_run, run_run),
    "time": (add_time, run_time),
    "lr": (add_lr, run_lr),
    "speed-up": (add_speed_up, run_speed_up),
    "imagenet": (add_imagenet, run_imagenet),
    "report": (add_report, run_report),
}


def main() -> int | None:
    args = parse_verbs(__doc__, VERBS, "run", sys.argv[1:])
    return args.run(args)


if __name__ == "__main__":
    run_tool(main)
