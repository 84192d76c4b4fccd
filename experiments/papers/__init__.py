"""Papers beside ours: how they count size, what they published, and tables of both."""

from experiments.papers.accounting import PaperRule

__all__ = ["PaperRule"]
