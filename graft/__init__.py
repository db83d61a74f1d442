"""graft puts a pretrained model to work on a small data set of your own, and says whether it helped.

The doors below open when they are touched: `import graft` alone loads no torch, no pandas, nothing heavy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graft.adapt import Adapt
    from graft.data import check, load
    from graft.evaluate import verdict
    from graft.pretraining import pretrain
    from graft.study import compare, rank, run
    from graft.transfer import Transfer

__version__ = "0.1.0"
__all__ = ["Adapt", "Transfer", "check", "compare", "load", "pretrain", "rank", "run", "verdict"]

_ROOMS = {
    "Adapt": "graft.adapt",
    "Transfer": "graft.transfer",
    "check": "graft.data",
    "compare": "graft.study",
    "load": "graft.data",
    "pretrain": "graft.pretraining",
    "rank": "graft.study",
    "run": "graft.study",
    "verdict": "graft.evaluate",
}


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module 'graft' has no attribute {name!r}, expected one of {', '.join(__all__)}")
    return getattr(import_module(_ROOMS[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
