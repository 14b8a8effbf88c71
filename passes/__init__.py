"""Passes from a canonical float graph to an integer graph, each usable alone; `pipeline.py` has their order.

Import it as `intvit.passes`.
"""

if not __name__.startswith("intvit."):
    raise ImportError("import intvit.passes, not passes: the bare name is too general to own")
