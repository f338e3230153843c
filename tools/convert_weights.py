"""Convert weights to safetensors under our names.

python tools/convert_weights.py release CONFIG work_dirs/X/weights.safetensors X.safetensors
python tools/convert_weights.py gpunet gpunet_0 0.65ms.pth.tar gpunet_0.safetensors
python tools/convert_weights.py effdet tf_efficientdet_d0 tf_efficientdet_d0.pth d0.safetensors
"""

import argparse
from pathlib import Path

import _flags  # noqa: F401 (Ctrl-C may come while the next line imports)
from _flags import output_file

from prunet_det.utils.config import read_config
from prunet_det.utils.errors import UserError, run_tool


def release(args: argparse.Namespace) -> None:
    """FP16 weights, with a card that states what they reach."""
    from prunet_det.training.evaluate import release

    card = release(args.config, args.checkpoint, args.out)
    print(f"{args.out}: {card['metrics']}")


def gpunet(args: argparse.Namespace) -> None:
    """A checkpoint that was released for GPUNet."""
    import prunet_det
    from prunet_det.zoo.weights import convert_released, save_safetensors

    spec = prunet_det.load_spec(args.name)
    state = convert_released(spec, args.checkpoint)
    save_safetensors(state, args.out)
    print(f"{len(state)}/{len(state)} tensors from {args.checkpoint} to {args.out}")


def effdet(args: argparse.Namespace) -> None:
    """A checkpoint of effdet's, with the detector's config and its classes beside it."""
    from prunet_det.detection.effdet_weights import coco_classes, convert_checkpoint
    from prunet_det.utils.io import atomic_path, write_json
    from prunet_det.zoo.weights import read_state_dict, save_safetensors

    state = read_state_dict(args.checkpoint)
    model, converted, letterbox = convert_checkpoint(args.name, state, coco80=not args.all_classes)
    cfg = read_config("prunet_effdet_coco.py")
    cfg.model = {**model, "channels_last": True}
    size, fill = letterbox["scale"], letterbox["pad_val"]
    for step in cfg.train_pipeline:
        if step.type == "RandomScaleCrop":
            step.update(scale=size, crop_size=size, pad_val=fill)
    for step in cfg.test_pipeline:
        if step.type == "Letterbox":
            step.update(letterbox)
    cfg.train_dataloader.dataset.pipeline = cfg.train_pipeline
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.pipeline = cfg.test_pipeline
    out = Path(args.out).with_suffix(".py")
    save_safetensors(converted, args.out)
    with atomic_path(out) as temporary:
        temporary.write_text(cfg.pretty_text, encoding="utf-8")
    classes = model["bbox_head"]["num_classes"]
    anchors = len(converted["bbox_head.class_tower.predict.conv_pw.bias"]) // classes
    card = {"config": out.name, "source": f"effdet's {args.name}"}
    if len(state["class_net.predict.conv_pw.bias"]) == 90 * anchors:  # as only COCO's have
        card["classes"] = coco_classes(classes)
    write_json(out.with_suffix(".json"), card)
    print(f"{len(converted)}/{len(converted)} tensors, {classes} classes: {args.out}, {out}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = parser.add_subparsers(required=True, metavar="release|gpunet|effdet")
    for function, what in (
        (release, ("config", "config that the weights were trained with")),
        (gpunet, ("name", "network, such as gpunet_0 or prunet_p0")),
        (effdet, ("name", "effdet's name of the model, such as tf_efficientdet_d0")),
    ):
        kind = kinds.add_parser(function.__name__, help=function.__doc__)
        kind.add_argument(what[0], help=what[1])
        kind.add_argument("checkpoint", help="file to read")
        kind.add_argument("out", type=output_file, help="file to write, *.safetensors")
        kind.set_defaults(run=function)
        if function is effdet:
            kind.add_argument(
                "--all-classes",
                action="store_true",
                help="keep all 90 outputs instead of the 80 that COCO uses",
            )
    args = parser.parse_args()
    if not Path(args.checkpoint).is_file():
        raise UserError(f"there is no checkpoint {args.checkpoint}.")
    if not args.out.endswith(".safetensors"):
        raise UserError(f"the file to write must end in .safetensors, got {args.out}.")
    args.run(args)


if __name__ == "__main__":
    run_tool(main)
