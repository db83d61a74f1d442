"""torchvision beside a PyTorch it was not built for: its missing operators are declared. The only room that owns this."""

import importlib
import importlib.metadata
import importlib.util
import sys
import warnings
from typing import Any

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_OPERATORS = ("nms", "qnms")
# A torch Library takes its operators with it when it is collected.
_declared: list[Any] = []


def ensure() -> None:
    """Make `import torchvision` work, and with it timm and transformers' image side; call before importing either.

    A torchvision built for CUDA beside a CPU build of PyTorch, or of another release, cannot load its compiled operators, and its import
    ends in "operator torchvision::nms does not exist". The schemas of those operators are then declared: they cannot be
    called, which no classification network does. A UserWarning says what happened, once. Nothing is done where
    torchvision imports as it is, or is not installed.
    Raises RuntimeError when torchvision fails to import for any other reason.
    """
    if "torchvision" in sys.modules or importlib.util.find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
        _declare(str(error))
        importlib.import_module("torchvision")


def _declare(why: str) -> None:
    import torch

    # The failed import leaves half-run submodules behind; they must run again beside the declared operators.
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    for operator in _OPERATORS:
        library.define(operator + _SCHEMA)
    _declared.append(library)
    warnings.warn(
        f"torchvision {importlib.metadata.version('torchvision')} was built for another PyTorch than the installed {torch.__version__} "
        f"({why}). Its operators {' and '.join(_OPERATORS)} were declared so that it imports; they cannot be called. "
        "graft does not need them. To be rid of this warning, install the torchvision that belongs to your PyTorch: "
        "https://pytorch.org/get-started",
        stacklevel=3,
    )
