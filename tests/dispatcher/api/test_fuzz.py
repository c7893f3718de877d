"""Requests made from the OpenAPI document, always the same ones: few. `make fuzz` makes many others."""

import json

from tests.dispatcher import contract
from tests.fuzz.__main__ import fuzz


async def test_no_request_gets_an_answer_that_is_not_documented(tmp_path):
    assert await fuzz(tmp_path, 1, "--max-examples", "2") == 0


async def test_an_answer_that_is_not_documented_is_found(tmp_path):
    document = json.loads(contract.DOCUMENT.read_text())
    document["paths"] = {path: document["paths"][path] for path in ("/sessions/{session_id}",)}
    del document["paths"]["/sessions/{session_id}"]["get"]["responses"]["404"]
    changed = tmp_path / "openapi.json"
    changed.write_text(json.dumps(document))
    assert await fuzz(tmp_path, 1, "--phases", "coverage", document=changed) == 1
