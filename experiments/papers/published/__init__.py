"""What papers published, as data."""

from experiments.papers.published.forms import Han2016, Marino2021, Martinez2021, Wang2020, interval, load

__all__ = ["Han2016", "Marino2021", "Martinez2021", "Wang2020", "interval", "load"]
