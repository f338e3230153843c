"""Detect objects: python tools/detect.py IMAGE... --out DIR."""

import argparse
from pathlib import Path

import _flags  # noqa: F401 (Ctrl-C may come while the next line imports)

from prunet_det.utils.errors import UserError, run_tool
from prunet_det.utils.package import package_file

DEFAULT = package_file("checkpoints/prunet_demo_digits.safetensors")
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


def find_images(names: list[str]) -> list[Path]:
    """The image files named, and those in the folders named."""
    found: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
            if not inside:
                raise UserError(
                    f"the folder {path} holds no image ({', '.join(sorted(SUFFIXES))})."
                )
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise UserError(f"there is no image or folder {path}.")
    return found


def name_pictures(images: list[Path], out: Path) -> list[Path]:
    """A picture file in `out` for each image, none twice and none over an input."""
    pictures: list[Path] = []
    for i, path in enumerate(images):
        picture = out / f"{path.stem}.png"
        pictures.append(out / f"{path.stem}_{i}.png" if picture in pictures else picture)
    inputs = {path.resolve() for path in images}
    if any(picture.resolve() in inputs for picture in pictures):
        raise UserError(f"writing to {out} would overwrite an input; give another --out.")
    return pictures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files or folders")
    parser.add_argument("--out", default="detections", help="folder [detections]")
    parser.add_argument("--checkpoint", default=DEFAULT, help=f"weights [{DEFAULT.name}]")
    parser.add_argument("--config", help="config of the checkpoint [as its card says]")
    parser.add_argument("--classes", nargs="+", help="class names [as the card or train.json says]")
    parser.add_argument("--score-thr", type=float, default=0.3, help="least score [0.3]")
    parser.add_argument("--montage", help="also write all pictures as one, scaled to 256 px")
    parser.add_argument("--device", default="cpu", help="torch device [cpu]")
    args = parser.parse_args()
    if not 0 <= args.score_thr <= 1:
        raise UserError(f"--score-thr must lie in 0..1, got {args.score_thr}.")
    if args.montage and not args.montage.lower().endswith((".png", ".jpg", ".jpeg")):
        raise UserError(f"--montage must end in .png or .jpg, got {args.montage}.")
    images = find_images(args.images)
    if not Path(args.checkpoint).is_file():
        raise UserError(f"there is no checkpoint {args.checkpoint}.")

    import cv2
    from tqdm import tqdm

    from prunet_det.datasets.drawing import join_tiles
    from prunet_det.detection import inference
    from prunet_det.detection.build import build_detector
    from prunet_det.training.evaluate import read_training
    from prunet_det.utils.images import read_image
    from prunet_det.utils.io import write_json

    config, classes = args.config, args.classes
    if config is not None:  # of one's own training, which noted its classes in their order
        classes = classes or read_training(args.checkpoint).get("classes")
    if config is None or not classes:
        card = inference.read_card(args.checkpoint)
        config = config or card["config"]
        classes = classes or card["classes"]
    out = Path(args.out)
    pictures = name_pictures(images, out)
    for path in images:  # all of them before anything is written
        read_image(path)
    model = build_detector(config, args.checkpoint, classes=classes, device=args.device)
    out.mkdir(parents=True, exist_ok=True)
    tiles = []
    coco = {
        "images": [],
        "annotations": [],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(classes)],
    }
    results = inference.detect(model, tqdm(images, unit="image"), args.score_thr)
    for i, (path, picture, (image, detections)) in enumerate(
        zip(images, pictures, results, strict=True)
    ):
        drawing = inference.draw(image, detections, len(classes))
        if not cv2.imwrite(str(picture), drawing):
            raise UserError(f"{picture} cannot be written.")
        if args.montage:
            tiles.append(cv2.resize(drawing, (256, 256), interpolation=cv2.INTER_AREA))
        height, width = image.shape[:2]
        coco["images"].append({"id": i, "file_name": str(path), "width": width, "height": height})
        for d in detections:
            coco["annotations"].append(
                {
                    "id": len(coco["annotations"]) + 1,
                    "image_id": i,
                    "category_id": d["label"] + 1,
                    "bbox": d["bbox"],
                    "score": d["score"],
                }
            )
    write_json(out / "detections.json", coco)
    if args.montage and not cv2.imwrite(args.montage, join_tiles(tiles, columns=4)):
        raise UserError(f"{args.montage} cannot be written.")
    print(f"{len(coco['annotations'])} detections in {len(images)} images, written to {out}/")


if __name__ == "__main__":
    run_tool(main)
