"""The search: backbones for latency budgets, by pruning a supernet in three tiers.

`SearchConfig` says what is asked for, `search(config)` gives a `SearchResult`. Of the files,
`space` says what may be chosen, `costs` and `pricing` what it takes and `shapes` which networks
meet a latency; `supernet` holds the weights, `tasks` says what they learn, `weights` trains and
asks them; `gains`, `schedule` and `architecture` are the tiers, `loop` and `hooks` their course;
`evolution`, `finalists` and `trainings` choose too; `detection`, `detection_data` and `detectors`
are for a detector's own loss; `config`, `api`, `result` and `report` are the two ends.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prunet_det.search.api import search
    from prunet_det.search.config import SearchConfig
    from prunet_det.search.costs import Budget
    from prunet_det.search.pricing import reachable
    from prunet_det.search.result import FoundNetwork, SearchResult

__all__ = ["Budget", "FoundNetwork", "SearchConfig", "SearchResult", "reachable", "search"]

_HOMES = {
    "Budget": "costs",
    "FoundNetwork": "result",
    "SearchConfig": "config",
    "SearchResult": "result",
    "reachable": "pricing",
    "search": "api",
}


def __getattr__(name: str) -> Any:
    """Imports what is asked for when it is first asked for: reading a result needs no mmengine."""
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
