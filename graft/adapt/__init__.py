"""Another domain without its labels: candidates, what can be known of each, a guard -> a model. Heavy: torch."""

from graft.adapt.estimator import Adapt
from graft.adapt.run import Adapted, adapt_run
from graft.outputs import UNKNOWN

__all__ = ["UNKNOWN", "Adapt", "Adapted", "adapt_run"]
