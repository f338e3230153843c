"""Train a detector or a classifier: python tools/train.py CONFIG [--from WEIGHTS] [--resume]."""

import argparse

from _flags import add_config_flags, at_least, load_config

from prunet_det.utils.errors import UserError, run_tool


def main() -> None:
    import torch
    from mmengine.dist import get_world_size, is_main_process

    from prunet_det.training import launch, loading
    from prunet_det.training.batch import effective_batch
    from prunet_det.training.graphs import SPEED_UPS
    from prunet_det.training.lock import work_dir_lock

    parser = argparse.ArgumentParser(description=__doc__)
    add_config_flags(parser)
    parser.add_argument("--amp", action="store_true", help="automatic mixed precision")
    parser.add_argument(
        "--amp-dtype",
        choices=["float16", "bfloat16"],
        help="of --amp; bfloat16 needs no loss scale, for which the host waits [float16]",
    )
    parser.add_argument(
        "--speed-up",
        choices=SPEED_UPS,
        help="record the network as a CUDA graph, or compile it [the config's, or none]",
    )
    parser.add_argument(
        "--cache", action="store_true", help="keep the training images in memory, decoded"
    )
    parser.add_argument(
        "--auto-scale-lr",
        action="store_true",
        help="scale the learning rate with the batch: SGD's linearly, others' by the square root",
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        help="go on from this checkpoint, or from the newest one in the work dir; reads pickled "
        "state, so name your own checkpoints only",
    )
    parser.add_argument(
        "--from",
        dest="start",
        metavar="WEIGHTS",
        help="start from a detector of other classes, or from a classifier: what fits comes along, "
        "and the log says what does not; with --resume, only where there is nothing to resume",
    )
    parser.add_argument(
        "--max-iters", type=at_least(1), help="train for another number of iterations"
    )
    parser.add_argument(
        "--teacher", metavar="NAME", help="a classifier's: distil from this timm model"
    )
    parser.add_argument(
        "--teacher-checkpoint", metavar="FILE", help="weights of the teacher [timm's own]"
    )
    args = parser.parse_args()
    cfg = load_config(args)
    if args.max_iters is not None:
        launch.set_max_iters(cfg, args.max_iters, args.cfg_options)
    if args.teacher or args.teacher_checkpoint:
        launch.set_teacher(cfg, args.teacher, args.teacher_checkpoint)
    if args.amp and not torch.cuda.is_available():
        raise UserError("--amp needs a CUDA device, and there is none here; leave it out.")
    if args.amp_dtype and not args.amp:
        raise UserError("--amp-dtype needs --amp.")
    if args.amp:
        launch.set_amp(cfg, args.amp_dtype or "float16")
    if args.speed_up:
        cfg.speed_up = args.speed_up
    if args.cache:
        loading.set_cache(cfg)
    if args.auto_scale_lr:
        if not cfg.get("auto_scale_lr", {}).get("base_batch_size"):
            raise UserError(f"{args.config} has no auto_scale_lr.base_batch_size to scale from.")
        cfg.auto_scale_lr.enable = True
    launch.set_resume(cfg, args.resume, args.start)
    with work_dir_lock(cfg):
        runner = launch.build_runner(cfg)
        if is_main_process():
            print(effective_batch(cfg, get_world_size()))
        launch.train(runner)


if __name__ == "__main__":
    run_tool(main)
