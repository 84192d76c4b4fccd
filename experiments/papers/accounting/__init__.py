"""How papers count size: the rules behind the column `paper_ratio`."""

from experiments.papers.accounting.han import Han2016
from experiments.papers.accounting.marino import Marino2021, Marino2023
from experiments.papers.accounting.martinez import Martinez2021
from experiments.papers.accounting.rule import Count, PaperRule

__all__ = ["Count", "Han2016", "Marino2021", "Marino2023", "Martinez2021", "PaperRule"]
