"""What a run leaves behind: its folder, its log, the versions it ran with. Fits and judges nothing."""

from graft.runs import folder
from graft.runs.log import Log
from graft.runs.versions import versions

__all__ = ["Log", "folder", "versions"]
