"""Which axes of which arrays belong together, read off a network's own program."""

from quantree.graph.couple import Graph, couple, coupled
from quantree.graph.groups import Group, Member, Role, allowed, named
from quantree.graph.moves import reorder, shrink

__all__ = ["Graph", "Group", "Member", "Role", "allowed", "couple", "coupled", "named", "reorder", "shrink"]
