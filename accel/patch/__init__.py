"""The only folder that modifies objects it does not own: reversible layers over methods of single instances, and
attributes that are put back exactly.

No class, module or global is ever modified. A layer sits in the instance's `__dict__`, keeps the signature of what it
covers, holds its owner weakly (so that deleting a pipeline frees its weights at once), survives `copy.deepcopy` of its
owner, and steps aside instead of tearing off what others have put on top of it. Whoever wraps the same method, before
or after, on the instance or on its class, finds and puts back what would be there without us.

`method.py` covers a method, `pipeline_class.py` the call of a pipeline, `attribute.py` replaces what is no method, and
`listening.py` hears what a module receives and returns, `compiled.py` says what can be heard where torch compiles, and
`copies.py` what a copy gets.
"""

from __future__ import annotations

from accel.patch.attribute import Replacement, exchange_memory, replace_attribute, undo_later
from accel.patch.compiled import forward_of, is_compiled_function, is_graph, reachable
from accel.patch.copies import plain_copies, without_layers
from accel.patch.listening import listening
from accel.patch.method import CHANGING, Around, Wrapper, other_method, unwrap_methods, wrap_methods
from accel.patch.pipeline_class import CallWrapper, session_of

__all__ = [
    "CHANGING",
    "Around",
    "CallWrapper",
    "Replacement",
    "Wrapper",
    "exchange_memory",
    "forward_of",
    "is_compiled_function",
    "is_graph",
    "listening",
    "other_method",
    "plain_copies",
    "reachable",
    "replace_attribute",
    "session_of",
    "undo_later",
    "unwrap_methods",
    "without_layers",
    "wrap_methods",
]
