"""Exceptions that quantree raises on purpose; each is also the built-in error that a caller would expect."""


class QuantreeError(Exception):
    """Base of every error that quantree raises on purpose."""


class ConfigError(QuantreeError, ValueError):
    """A config or a recipe is wrong. The message names file, line, key and the nearest valid name where known.

    value: the part of the config that is at fault, by which whoever has the file can find the line.
    """

    def __init__(self, message: str, value: object = None) -> None:
        super().__init__(message)
        self.value = value


class LeafError(QuantreeError, ValueError):
    """An array of the model can't be treated as asked (NaN, too few values, wrong dtype). The message names the
    leaf.
    """


class FormatError(QuantreeError, ValueError):
    """A file is damaged, truncated, or not a file that this version can read."""


class PluginError(QuantreeError, ValueError):
    """A plug-in is registered twice, unknown, of no known family, can't be loaded, or breaks its contract."""


class DataError(QuantreeError, ValueError):
    """A stage needs data that it was not given, or a data set is missing or in the wrong form."""


def nearest(name: str, known: "list[str] | tuple[str, ...]") -> str:
    """Half a sentence that names the closest of `known` to `name`, or lists them all when none is close."""
    import difflib

    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(sorted(known))}" if known else "none is known"
