"""Training and evaluation on mmengine's Runner; importing this registers hooks and optimizers."""

from prunet_det.utils.errors import MissingPackageError
from prunet_det.utils.extras import importing

try:
    with importing():
        import mmengine.runner  # noqa: F401
        from mmengine.config.utils import MODULE2PACKAGE
except ImportError as e:
    raise MissingPackageError(
        f"training needs mmengine, which does not import ({e}). Install it with `make env` or "
        "`pip install 'prunet_det[det]'`; `python tools/doctor.py` names what is wrong."
    ) from e

from prunet_det.training import optimizer, repeatable  # noqa: F401
from prunet_det.training.hooks import ClassCheckHook, DeferredInfoHook, RecordHook

# So `mmengine.hub` finds `prunet_det::/CONFIG.py`, and configs a base `prunet_det::FOLDER/FILE.py`.
MODULE2PACKAGE.setdefault("prunet_det", "prunet_det")

__all__ = ["ClassCheckHook", "DeferredInfoHook", "RecordHook"]
