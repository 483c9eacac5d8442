"""Running a function over many units of work: in this process, in local processes, or on a Ray cluster.

A unit of work is `function(folder, number, beat) -> JSON`, named as "module:function". All that it needs
lies in `folder`, all that it makes goes there whole or not at all, and a unit that is done says so at once
when it is asked again. So who runs it, how many there are, and how often it was interrupted changes nothing.
"""

from modelwright.data.execution.holding import alone_in
from modelwright.data.execution.run import Execution, Performer

__all__ = ["Execution", "Performer", "alone_in"]
