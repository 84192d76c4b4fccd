"""Which axes of which arrays belong together, read off a network's own program."""

from quantree.graph.groups import Group, Member, Role, named
from quantree.graph.moves import reorder, shrink

__all__ = ["Group", "Member", "Role", "named", "reorder", "shrink"]
