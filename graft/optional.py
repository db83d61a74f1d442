"""Optional libraries: imported when first needed, with the extra to install where one is missing."""

import importlib
from types import ModuleType

from graft.errors import GraftError


def require(module: str, extra: str) -> ModuleType:
    """The imported module, e.g. `require("timm", "image")`.

    module: dotted name. extra: graft's extra that installs it.
    Raises GraftError naming the install command when the package itself is absent. An error inside an installed
    package is not caught: it is another fault and must be seen.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name != package:
            raise
        raise GraftError(f"the package {package!r} is not installed, and this needs it. Run: pip install 'graft[{extra}]'") from error
