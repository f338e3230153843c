"""One training at a time in a work dir."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config

from prunet_det.utils.env import process_rank
from prunet_det.utils.io import folder_lock

# The workers of a loader hold the lock of a killed training until they see that it is gone: they
# look every 5 seconds (torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL).
_GRACE = 8.0


@contextlib.contextmanager
def work_dir_lock(cfg: Config) -> Iterator[None]:
    """Keeps other trainings out of a work dir: they would write over each other's checkpoints.

    The processes of a distributed training share the first one's lock.

    Args:
        cfg: Config with `work_dir` and `launcher`.

    Raises:
        UserError: If another training works there, or the folder cannot be written.
    """
    if cfg.get("launcher", "none") != "none" and process_rank() > 0:
        yield
        return
    refusal = (
        f"another training works in {Path(cfg.work_dir)}; wait for its end, or give this one "
        "another --work-dir."
    )
    with folder_lock(cfg.work_dir, refusal, _GRACE):
        yield
