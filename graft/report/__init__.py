"""The page and the model card: a Result or a comparison in, words and pictures out. Measures nothing, trains nothing, opens no network."""

from graft.records import Mistake
from graft.report.card import model_card
from graft.report.comparison import write_comparison
from graft.report.page import write_report

__all__ = ["Mistake", "model_card", "write_comparison", "write_report"]
