"""Imported last where others are forked from: what was loaded until then is never garbage.

Each of the forked processes would look through it, and so copy all of its memory.
"""

from __future__ import annotations

import gc

gc.collect()
gc.freeze()
