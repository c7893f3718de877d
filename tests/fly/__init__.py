"""A stateful fake of Fly's Machines API, for tests that have no account at Fly.

It is written from Fly's own description, `openapi.json` (of docs.machines.dev, 2026-05-07), and every request
and every answer is checked against it: what the description does not know cannot be sent, nor be answered.
Where Fly's documentation or its own client say otherwise than the description, `spec.py` says so.

    fake.py       `FakeFly`: accounts, tokens, rates, faults, and the way of a call through them
    spec.py       the description: which operation a call is, and whether it is well-formed
    wire.py       calls and answers; the fake behind httpx in the same process, or behind a port
    rates.py      Fly's published rate limits
    faults.py     faults to order
    machines.py   a machine: its states, events, process and lease
    machine_calls.py  the operations on machines; app_calls.py, secret_calls.py, address_calls.py and
                  volume_calls.py those on the rest
    processes.py  what runs in a machine: scripted, or a real process of this host

Another kind of resource is a module with handlers, as `machine_calls.py` has them: operation id → function.
Its name goes into `KINDS` in fake.py.
"""
