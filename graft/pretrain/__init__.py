"""From items without labels to a backbone: a start, a pretext, the one loop, a folder that `checkpoint:` loads. Heavy: torch."""

import sys
from types import ModuleType
from typing import Any

from graft.pretrain.methods import DEFAULTS, METHODS, SUPERVISED, Method
from graft.pretrain.run import Pretrained, pretrain

__all__ = ["DEFAULTS", "METHODS", "SUPERVISED", "Method", "Pretrained", "pretrain"]


class _Room(ModuleType):
    """The room and the function share a name: importing the room must not hide `graft.pretrain(...)`."""

    def __call__(self, *arguments: Any, **settings: Any) -> Pretrained:
        return pretrain(*arguments, **settings)


sys.modules[__name__].__class__ = _Room
