"""The versions that numbers hang on. Standard library only."""

import importlib.metadata
import platform

from graft import __version__

_LIBRARIES = ("numpy", "scikit-learn", "torch", "timm", "transformers", "pandas", "pyarrow", "pillow")


def versions() -> dict[str, str]:
    """Of graft, Python and the libraries that decide numbers; "not installed" for one that is not."""
    found = {"graft": __version__, "python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            found[library] = "not installed"
    return found
