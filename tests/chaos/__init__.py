"""The deterministic simulation: real dispatchers on a virtual clock, among faults that one seed decides.

`world` runs it, `incarnation` is one life of a dispatcher, `cloud`, `rooms`, `bots` and `clients` are what it
deals with, `invariants` says what must hold, `broken` shows that it would notice.
"""
