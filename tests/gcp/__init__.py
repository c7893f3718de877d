"""Fakes of Compute Engine and Cloud Run jobs, held to Google's own discovery documents.

`compute.v1.json` (revision 20261106) and `run.v2.json` (20261031) are trimmed from those that
google-api-python-client 2.202.0 packs; `trim.py` does it. Each request and each answer is checked against
them: method, path, parameters, members, types and enums. Behaviour is from Google's documentation: "VM
instance lifecycle", "Limit the run time of a VM", "Create a VM from an instance template" (overrides merge as
RFC 7396 says), "Compute Engine rate quotas", "Troubleshooting resource availability errors"; "Execute jobs",
"Cloud Run quotas". An operation's error is as users report it (CCExtractor/sample-platform#901).

    discovery.py   the documents: which method a call is, and whether it is well-formed
    faults.py      errors in Google's shapes
    server.py      a call's way through token, faults, quotas and checks
    engine.py      Compute Engine; instances.py: a VM's life
    run.py         Cloud Run jobs; executions.py: an execution's life
    world.py       a deployment at each, on a clock that runs by itself
"""
