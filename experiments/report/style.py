"""How a method looks, in the picture and on the page: one colour and one marker each.

Colours: Okabe and Ito's set for colour-blind readers, without the yellow and the black that vanish on a white or a dark
page (M. Okabe, K. Ito: Color Universal Design, 2008). With 7 colours and 8 markers, 56 methods look different.
"""

from typing import NamedTuple

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c8c8c")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")  # matplotlib's names
SYMBOLS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x", "star")  # plotly's


class Look(NamedTuple):
    """Colour, and the same marker by matplotlib's and by plotly's name."""

    color: str
    marker: str
    symbol: str


def looks(methods: list[str]) -> dict[str, Look]:
    """Method -> look, by the method's place in the list."""
    return {
        method: Look(COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)], SYMBOLS[i % len(SYMBOLS)])
        for i, method in enumerate(methods)
    }
