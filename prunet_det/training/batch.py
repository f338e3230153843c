"""Images of an optimizer step, and what they make of the learning rate."""

from __future__ import annotations

from mmengine.config import Config


def lr_factor(cfg: Config, world_size: int) -> float:
    """Returns what `--auto-scale-lr` multiplies the learning rate by.

    For SGD it is the ratio of the batches (Goyal et al. 2017). Adam, LAMB and Muon take steps of
    one length, whatever the gradient's; their noise, which the batch averages, sets the rate, and
    the rule is the ratio's square root (Malladi et al. 2022). mmengine scales all linearly, and by
    the images of an iteration; here those that are accumulated for a step count as well.

    Args:
        cfg: Config of the training, with `auto_scale_lr.base_batch_size`.
        world_size: Number of processes.
    """
    ratio = images_per_step(cfg, world_size) / cfg.auto_scale_lr.base_batch_size
    return float(ratio if _scales_linearly(cfg) else ratio**0.5)


def _scales_linearly(cfg: Config) -> bool:
    return bool(cfg.optim_wrapper.optimizer.type == "SGD")


def images_per_step(cfg: Config, world_size: int) -> int:
    """Returns the images of an optimizer step: of all processes, and of accumulated iterations."""
    accumulated = cfg.optim_wrapper.get("accumulative_counts", 1)
    return int(cfg.train_dataloader.batch_size * world_size * accumulated)


def effective_batch(cfg: Config, world_size: int) -> str:
    """Describes the images per optimizer step and the learning rate in one line.

    Args:
        cfg: Config of the training.
        world_size: Number of processes.
    """
    total, lr = images_per_step(cfg, world_size), cfg.optim_wrapper.optimizer.lr
    line = (
        f"effective batch {total} = {cfg.train_dataloader.batch_size} images x {world_size} "
        f"processes x {cfg.optim_wrapper.get('accumulative_counts', 1)} accumulated, "
        f"learning rate {lr:g}"
    )
    base = cfg.get("auto_scale_lr", {}).get("base_batch_size")
    if base and base != total:
        if cfg.auto_scale_lr.get("enable"):
            rule = "linearly" if _scales_linearly(cfg) else "by the square root"
            line += f", scaled {rule} from batch {base} to {lr * lr_factor(cfg, world_size):g}"
        else:
            line += f" (chosen for batch {base}; --auto-scale-lr scales it)"
    return line
