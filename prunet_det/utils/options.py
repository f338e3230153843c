"""Options of a config, `--cfg-options KEY=VALUE`: a misspelt one is refused, not ignored."""

from __future__ import annotations

import difflib
import inspect
import logging
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from prunet_det.utils.errors import InputError

if TYPE_CHECKING:
    from mmengine.config import Config

logger = logging.getLogger(__name__)

# Keys that whatever builds a dict takes off it first.
_ANYWHERE = {"type", "_delete_", "_scope_", "priority", "convert_to_iter_based", "init_cfg"}
# Keys of a config that are read beside mmengine's own: by mmdet, and by this package.
_TOP = {"speed_up", "custom_imports", "model_wrapper_cfg", "compile", "activation_checkpointing"}
_TOP |= {"efficient_conv_bn_eval", "tta_model", "tta_pipeline", "backend_args"}
_TOP |= {"find_unused_parameters", "sync_bn"}
# Keys of a search's config, which has a `space`.
_SEARCH = {"space", "data", "search", "tiers", "rule", "evolution", "finalists", "recipe"}
_REGISTRIES: tuple[str, ...] = (
    "MODELS",
    "DATASETS",
    "TRANSFORMS",
    "HOOKS",
    "OPTIMIZERS",
    "OPTIM_WRAPPERS",
)
_REGISTRIES += ("PARAM_SCHEDULERS", "METRICS", "LOOPS", "DATA_SAMPLERS", "VISUALIZERS")
_REGISTRIES += ("VISBACKENDS", "TASK_UTILS", "LOG_PROCESSORS")
# Configs of which mmcv takes keys such as `requires_grad` before it builds the layer.
_LAYERS = ("norm_cfg", "act_cfg", "conv_cfg", "upsample_cfg")
# Dicts that name no type: what they may hold, beside what they do.
_UNTYPED = {
    "auto_scale_lr": {"enable", "base_batch_size"},
    "randomness": {"seed", "diff_rank_seed", "deterministic"},
    "env_cfg": {"cudnn_benchmark", "mp_cfg", "dist_cfg", "resource_limit"},
    "optim_wrapper.clip_grad": {"max_norm", "norm_type", "error_if_nonfinite", "foreach"}
    | {"clip_value"},
    "optim_wrapper.paramwise_cfg": {"custom_keys", "bypass_duplicate", "bias_lr_mult"}
    | {"bias_decay_mult", "norm_decay_mult", "flat_decay_mult", "dwconv_decay_mult"}
    | {"dcn_offset_lr_mult"},
}


def check_options(cfg: Config, options: Mapping[str, Any]) -> None:
    """Refuses options that nothing would read.

    A key is good if the config has it, or if the class that its dict names as `type` takes it;
    that may be among the options. In doubt it is good.

    Args:
        cfg: The config, without the options.
        options: Values by dotted key.

    Raises:
        InputError: If a key is unknown; the sentence says which one may be meant.
    """
    for option in options:
        _check_top(cfg, option)
        node: Any = cfg._cfg_dict
        parts = option.split(".")
        for i, part in enumerate(parts):
            if i and ".".join(parts[:i]) in options:
                break  # what is above it is new
            if isinstance(node, (list, tuple)) and part.isdigit() and int(part) < len(node):
                node = node[int(part)]
            elif isinstance(node, Mapping) and part in node:
                node = node[part]
            else:
                if isinstance(node, Mapping):
                    _check_new(cfg, node, parts[:i], part, options)
                break  # below something new there is nothing to compare with


def _check_top(cfg: Config, option: str) -> None:
    """Refuses to set a variable of the config file, which is read before the option is.

    A variable that nothing seems to be made of may be read by a user's own code.
    """
    name, dot, rest = option.partition(".")
    live = {key: value for key, value in cfg._cfg_dict.items() if key in _top_names(cfg)}
    if name in live or name not in cfg._cfg_dict:
        return
    if name == "test_pipeline" and "test_dataloader" not in live:  # read for want of one
        return
    value = cfg._cfg_dict[name]
    named = list(_places(live, name))
    plain = not isinstance(value, (Mapping, list))
    alike = [place for place, other in _walk(live) if _holds(other, value)]
    if not _is_read(cfg, name) or value is None or isinstance(value, bool):
        alike = []
    places = (named or alike) if plain else (alike or named)
    if not places:
        return
    flag = "give --data-root, or " if name == "data_root" else ""
    among = "" if named or not plain else f", among what is {value!r} too"
    raise InputError(
        f"the option {option} is of a variable of the config file, and would change nothing; "
        f"{flag}set what is made of it{among}: {', '.join(p + dot + rest for p in places)}."
    )


def _is_read(cfg: Config, name: str) -> bool:
    """Says whether the config file, or a base of it, seems to read a variable."""
    code = "\n".join(line.partition("#")[0] for line in cfg.text.splitlines())
    return bool(re.search(rf"(?<![\w.'\"])(_base_\.)?{re.escape(name)}\b(?!\s*=[^=])", code))


def _holds(found: Any, value: Any) -> bool:
    """Says whether a part of a config is a variable's value, a dict with further keys too."""
    if isinstance(value, Mapping):
        keys = value.keys() - {"_delete_"}
        return (
            isinstance(found, Mapping)
            and bool(keys)
            and all(key in found and _holds(found[key], value[key]) for key in keys)
        )
    if isinstance(value, (list, tuple)):
        return (
            isinstance(found, (list, tuple))
            and 0 < len(value) == len(found)
            and all(map(_holds, found, value))
        )
    return type(found) is type(value) and bool(found == value)


def _check_new(
    cfg: Config, node: Mapping[str, Any], above: list[str], part: str, options: Mapping[str, Any]
) -> None:
    """Refuses a key that its dict does not have, unless something is known to read it.

    Args:
        cfg: The config.
        node: The dict.
        above: Keys that lead to it.
        part: The new key.
        options: All options.
    """
    path = ".".join(above)
    full = f"{path}.{part}" if path else part
    if part in _ANYWHERE:
        return
    if path == "default_hooks":  # a hook of one's own under any name
        value = options.get(full)
        if full in options and (value is None or isinstance(value, Mapping)):
            return
        if f"{full}.type" in options:
            return
        known, complete = set[str](), True
    else:
        known, complete = _known(cfg, node, path, options)
    if part in known:
        return
    names = sorted({*map(str, node), *known} - _ANYWHERE)
    near = difflib.get_close_matches(part, names, n=1, cutoff=0.6 if complete else 0.85)
    if not complete and not near:
        return
    elsewhere = [] if path else list(_places(cfg._cfg_dict, part))
    meant = [*elsewhere, *(f"{path}.{name}" if path else name for name in near), ""][0]
    hint = f" Did you mean {meant}?" if meant else f" It takes {', '.join(names)}."
    where = f"{path} of the config" if path else "the config"
    if not complete and node.get("type"):  # its class takes any keyword
        logger.warning("the option %s is new to the config.%s", full, hint)
        return
    raise InputError(f"unknown option {full}: {where} has no {part!r}.{hint}")


def _known(
    cfg: Config, node: Mapping[str, Any], path: str, options: Mapping[str, Any]
) -> tuple[set[str], bool]:
    """Returns the keys that are read of a dict, and whether there are no others."""
    if not path:
        return _top_names(cfg), True
    wrapper = cfg._cfg_dict.get("optim_wrapper", {})
    if path == "optim_wrapper.paramwise_cfg" and (
        "constructor" in wrapper or "optim_wrapper.constructor" in options
    ):
        return set(), False  # it has keys of its own
    if path in _UNTYPED:
        return _UNTYPED[path], True
    if path.endswith("_dataloader"):
        from torch.utils.data import DataLoader

        extra = {"dataset", "sampler", "num_batch_per_epoch", "classes"}
        return _parameters(DataLoader)[0] | extra, True
    kind = options.get(f"{path}.type", node.get("type"))
    if path == "optim_wrapper":
        kind = kind or "OptimWrapper"
    if path == "train_cfg" and kind is None:
        kind = "IterBasedTrainLoop" if "max_iters" in node else "EpochBasedTrainLoop"
    built = _class(cfg, kind) if isinstance(kind, str) else kind
    if built is None:
        return set(), False
    names, complete = _parameters(built)
    if path.endswith(_LAYERS):
        complete = False
    if path == "train_cfg":
        names |= {"by_epoch", "max_iters", "max_epochs"}
    if path == "optim_wrapper":
        names |= {"constructor", "paramwise_cfg", "dtype", "loss_scale"}  # of --amp too
    return names, complete


def _class(cfg: Config, name: str) -> Any:
    """Finds a registered class, whatever it is a part of."""
    import mmengine.registry as registries

    for title in _REGISTRIES:
        registry = getattr(registries, title)
        with registry.switch_scope_and_registry(cfg.get("default_scope")) as own:
            found = own.get(name)
        if found is not None:
            return found
    return None


def _parameters(built: Any) -> tuple[set[str], bool]:
    """Returns the keywords of a class or function, and whether it takes no others."""
    names: set[str] = set()
    functions = (
        [c.__dict__["__init__"] for c in built.__mro__ if "__init__" in c.__dict__]
        if (inspect.isclass(built))
        else [built]
    )
    for function in functions:
        if function is object.__init__:
            break
        parameters = inspect.signature(function).parameters.values()
        names |= {p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return names - {"self"}, True
    return names - {"self"}, False


def _top_names(cfg: Config) -> set[str]:
    from mmengine.runner import Runner

    own = _SEARCH if "space" in cfg._cfg_dict else set()
    return _parameters(Runner)[0] | _TOP | own


def _places(node: Any, key: str) -> Iterator[str]:
    """Yields the dotted keys of a config that end with a key."""
    return (place for place, _ in _walk(node) if place.rpartition(".")[2] == key)


def _walk(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields all dotted keys of a config with their values."""
    items: Any = ()
    if isinstance(node, Mapping):
        items = node.items()
    elif isinstance(node, (list, tuple)):
        items = enumerate(node)
    for name, value in items:
        place = f"{path}.{name}" if path else str(name)
        yield place, value
        yield from _walk(value, place)
