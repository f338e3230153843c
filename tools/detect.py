"""Detect objects in images and videos: python tools/detect.py PATH... --out DIR."""

import argparse
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _flags import at_least

from prunet_det.inference.files import (
    RECORD,
    check_results,
    find_inputs,
    first_readable,
    is_video,
    name_results,
    record_of,
)
from prunet_det.utils.errors import InputError, UserError, run_tool

TILE, COLUMNS = 256, 4  # of a montage, in pixels and pictures


def detect_images(detector: Any, images: list[Path], pictures: list[Path], run: Any) -> None:
    """Detects in all images that can be read; each picture is written before the next."""
    from tqdm import tqdm

    from prunet_det.inference.images import as_pixels

    read: deque[int] = deque()
    with tqdm(total=len(images), unit="image", disable=not images) as bar:

        def readable() -> Iterator[Any]:
            for i, path in enumerate(images):
                try:
                    pixels = as_pixels(path)
                except UserError as e:
                    run.failed(e)
                    bar.update()
                    continue
                read.append(i)
                yield pixels

        for found in detector.stream(readable()):
            i = read.popleft()
            run.keep(found, pictures[i])
            run.record.add(found, images[i], picture=pictures[i].name)
            bar.update()


def detect_video(detector: Any, path: Path, result: Path, run: Any) -> None:
    """Detects in each frame of a video; after an interruption, what was done is kept."""
    from tqdm import tqdm

    from prunet_det.inference.record import CocoRecord, writing_record
    from prunet_det.inference.video import Video, writing_video

    video, record = Video(path), CocoRecord(detector.classes)
    frames = tqdm(video, path.name, video.count or None, unit="frame")
    interrupted = None
    with (
        writing_record(record_of(result), record) as write_entries,
        writing_video(result, video.rate, video.size) as write,
    ):
        try:
            for number, found in enumerate(detector.stream(frames)):
                write(found.draw())
                record.add(found, path, frame=number, seconds=round(number / video.rate, 3))
                write_entries()
        except KeyboardInterrupt as e:
            if not record.images:
                raise
            interrupted = e
    run.count(record)
    if interrupted is not None:
        raise interrupted
    if video.count - record.images > 1:  # some containers count one too many
        run.failed(
            InputError(
                f"{path} says that it has {video.count} frames, but only {record.images} can be "
                "read: it is damaged or cut short."
            )
        )


class Run:
    """What came of the inputs."""

    def __init__(self, record: Any, montage: bool) -> None:
        self.record, self.tiles = record, [] if montage else None
        self.images = self.detections = self.failures = 0

    def failed(self, error: UserError) -> None:
        from tqdm import tqdm

        self.failures += 1
        tqdm.write(f"error: {error}", sys.stderr)

    def keep(self, found: Any, picture: Path) -> None:
        import cv2

        from prunet_det.inference.detections import write_picture

        drawn = found.draw()
        write_picture(picture, drawn)
        if self.tiles is not None:
            self.tiles.append(cv2.resize(drawn, (TILE, TILE), interpolation=cv2.INTER_AREA))

    def count(self, record: Any) -> None:
        self.images += record.images
        self.detections += record.annotations


def build_parser() -> argparse.ArgumentParser:
    from prunet_det.inference.load import SHIPPED
    from prunet_det.runtime import PRECISIONS, RUNTIMES

    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("inputs", nargs="+", metavar="PATH", help="images, videos, folders, or 'patterns/*.jpg'")
    add("--out", default="detections", help="folder of the results [detections]")
    add("--overwrite", action="store_true", help="replace the results of an earlier run")
    add(
        "--model",
        "--checkpoint",
        dest="model",
        metavar="PATH",
        help=f"a training's folder, weights, or an .onnx of scope e2e [{Path(SHIPPED).name}]",
    )
    add("--config", help="config of the detector [the folder's, or as the card says]")
    add("--classes", nargs="+", help="class names [as train.json, card or config say]")
    add("--runtime", choices=["auto", *RUNTIMES], default="auto", help="[the fastest here]")
    add("--precision", choices=list(PRECISIONS), default="fp32", help="[fp32]")
    add("--device", help="torch device [cuda where there is one]")
    add("--batch", type=at_least(1), default=1, help="images at once [1]")
    add("--threads", type=at_least(1), help="of a CPU [all]")
    add(
        "--score-thr",
        type=float,
        default=0.3,
        help="least score [0.3, for looking; if the JSON is to be scored give 0: on the digits 0.3 "
        "lowers mAP from 0.601 to 0.574]",
    )
    add("--max-per-img", type=at_least(1), help="most detections in an image [the config's]")
    add("--ann-file", help="COCO annotations, whose ids of images and categories are to be used")
    add("--montage", metavar="FILE", help=f"also all pictures as one, scaled to {TILE} px")
    return parser


def main() -> int:
    args = build_parser().parse_args()
    if not 0 <= args.score_thr <= 1:
        raise UserError(f"--score-thr must lie in 0..1, got {args.score_thr}.")
    if args.montage and not args.montage.lower().endswith((".png", ".jpg", ".jpeg")):
        raise UserError(f"--montage must end in .png or .jpg, got {args.montage}.")
    inputs, out = find_inputs(args.inputs), Path(args.out)
    for flag in ("montage", "ann_file"):
        if getattr(args, flag) and all(map(is_video, inputs)):
            raise UserError(f"--{flag.replace('_', '-')} is for images, but all inputs are videos.")
    results = name_results(inputs, out, args.overwrite)
    if args.montage:
        check_montage(Path(args.montage), [out / RECORD, *results])
        check_results(inputs, [Path(args.montage)], args.overwrite)
    first_readable(inputs)

    import prunet_det
    from prunet_det.datasets.coco import read_coco
    from prunet_det.inference.record import CocoRecord
    from prunet_det.utils.io import make_folder, write_json

    options = ("config", "classes", "device", "precision", "batch", "threads")
    options += ("score_thr", "max_per_img")
    detector = prunet_det.load_detector(
        args.model, args.runtime, **{name: getattr(args, name) for name in options}
    )
    truth = read_coco(args.ann_file) if args.ann_file else None
    record = CocoRecord(detector.classes, truth)
    images = [(path, to) for path, to in zip(inputs, results, strict=True) if not is_video(path)]
    videos = [(path, to) for path, to in zip(inputs, results, strict=True) if is_video(path)]
    record.check_images([path for path, _ in images])
    make_folder(out)
    run, start = Run(record, bool(args.montage)), time.perf_counter()
    try:
        paths, pictures = ([pair[k] for pair in images] for k in (0, 1))
        detect_images(detector, paths, pictures, run)
    finally:  # also of what was done before an interruption
        if images:
            write_json(out / RECORD, record.content)
    run.count(record)
    for path, to in videos:
        try:
            detect_video(detector, path, to, run)
        except InputError as e:
            run.failed(e)
    seconds = time.perf_counter() - start
    if run.tiles:
        write_montage(Path(args.montage), run.tiles)
    lost = f", {run.failures} could not be read" if run.failures else ""
    what = "images and frames" if images and videos else "frames" if videos else "images"
    print(
        f"{run.detections} detections in {run.images} {what}{lost}, written to {out}/ "
        f"({run.images / seconds:.1f} a second, reading and drawing included; "
        f"{detector.runtime} on {detector.device})"
    )
    return int(run.failures > 0)


def check_montage(path: Path, results: list[Path]) -> None:
    if path.resolve() in {result.resolve() for result in results}:
        raise UserError(f"--montage {path} is the name of a result; give another one.")


def write_montage(path: Path, tiles: list[Any]) -> None:
    from prunet_det.datasets.drawing import join_tiles
    from prunet_det.inference.detections import write_picture

    write_picture(path, join_tiles(tiles, COLUMNS))


if __name__ == "__main__":
    run_tool(main)
