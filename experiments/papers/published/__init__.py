"""What papers published, as data."""

from experiments.papers.published.forms import Han2016, Marino2021, interval, load

__all__ = ["Han2016", "Marino2021", "interval", "load"]
