"""What exists is documented."""

import re
from pathlib import Path

import pytest

from dispatcher.sessions import errors
from dispatcher.sessions.timeline import KINDS
from dispatcher.settings import AgentSettings
from stacks.config import StackConfig
from tests.reasons import reasons_in_code

ROOT = Path(__file__).resolve().parents[1]
LOCAL = (ROOT / "docs" / "local.md").read_text()


@pytest.mark.parametrize("model", [AgentSettings, StackConfig])
def test_every_key_of_the_config_is_in_the_docs(model):
    for field in model.model_fields.values():
        assert f"| `{field.alias}` |" in LOCAL


def test_every_reason_of_an_end_is_in_the_docs():
    reasons = reasons_in_code()
    assert {"machine_killed", "no_capacity", "bot_error"} <= reasons
    for reason in reasons:
        assert f"`{reason}`" in LOCAL


def test_every_event_of_a_timeline_is_in_the_docs():
    for kind in KINDS:
        assert f"`{kind}`" in LOCAL, kind


def test_every_error_is_in_the_docs():
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and kind.__module__ == errors.__name__
    ]
    for kind in kinds:
        if kind is not errors.SessionError:
            assert re.search(rf"\| {kind.status} \|.*`{kind.code}`", LOCAL), kind


def test_the_links_of_the_pages_lead_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_targets_that_the_pages_name_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        named = set(re.findall(r"make ([a-z-]+)(?=[`\s])", page.read_text()))
        assert named <= targets | {"up"}, page.name
