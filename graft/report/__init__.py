"""The page and the model card: a Result, a comparison, a ranking or an Adaptation in, a page out. Measures nothing, trains nothing."""

from graft.records import Mistake
from graft.report.adaptation import write_adaptation
from graft.report.card import adaptation_card, model_card
from graft.report.comparison import write_comparison
from graft.report.page import write_report
from graft.report.ranking import write_ranking

__all__ = ["Mistake", "adaptation_card", "model_card", "write_adaptation", "write_comparison", "write_ranking", "write_report"]
