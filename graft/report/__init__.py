"""The page and the card: a Result, a comparison, a ranking, an Adaptation or a Pretraining in. Measures nothing, trains nothing."""

from graft.records import Mistake
from graft.report.adaptation import write_adaptation
from graft.report.card import adaptation_card, model_card, pretraining_card
from graft.report.comparison import write_comparison
from graft.report.page import write_report
from graft.report.pretraining import write_pretraining
from graft.report.ranking import write_ranking

__all__ = [
    "Mistake",
    "adaptation_card",
    "model_card",
    "pretraining_card",
    "write_adaptation",
    "write_comparison",
    "write_pretraining",
    "write_ranking",
    "write_report",
]
