"""The documentation has everything that exists."""

import re
from pathlib import Path

import pytest

from dispatcher.domain import errors
from dispatcher.domain.timeline import KINDS
from dispatcher.fields import allowed, description
from stacks import docs
from stacks.config import StackConfig
from stacks.daily import FROM_ENVIRONMENT, KEY_OF_SETTING
from stacks.daily_config import DailyConfig
from stacks.refusals import sections
from stacks.secret_keys import SECRET_KEYS, VARIABLES
from tests.reasons import reasons_in_code

ROOT = Path(__file__).resolve().parents[1]
API = (ROOT / "docs" / "api.md").read_text()


def test_the_generated_files_are_those_of_the_settings_models():
    """`make docs` writes them."""
    project = (ROOT / "Pulumi.yaml").read_text()
    assert project == docs.project_file(project)
    assert (ROOT / "docs" / "settings.md").read_text() == docs.settings_page()


@pytest.mark.parametrize("model", docs.MODELS)
def test_every_setting_has_a_description(model):
    missing = [name for name, field in model.model_fields.items() if not description(field)]
    assert not missing


@pytest.mark.parametrize("cloud", sorted(sections(StackConfig)))
def test_every_key_of_a_cloud_is_explained_when_refused(cloud):
    fields = sections(StackConfig)[cloud].model_fields.values()
    assert [field.alias for field in fields if not allowed(field)] == []


def test_every_key_for_daily_is_in_the_docs_and_is_explained_when_refused():
    page = (ROOT / "docs" / "daily.md").read_text()
    assert all(allowed(field) for field in DailyConfig.model_fields.values())
    for place in KEY_OF_SETTING.values():
        assert f"`{place.rpartition('.')[2]}`" in page, place
    for variable in FROM_ENVIRONMENT.values():
        assert f"`{variable}`" in page


def test_every_reason_of_an_end_is_in_the_docs():
    reasons = reasons_in_code()
    assert {"machine_killed", "no_capacity", "bot_error"} <= reasons
    for reason in reasons:
        assert f"`{reason}`" in API


def test_every_event_of_a_timeline_is_in_the_docs():
    for kind in KINDS:
        assert f"`{kind}`" in API, kind


def test_every_error_is_in_the_docs():
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and kind.__module__ == errors.__name__
    ]
    for kind in kinds:
        if kind is not errors.SessionError:
            assert re.search(rf"\| {kind.status} \|.*`{kind.code}`", API), kind


def test_the_links_of_the_pages_lead_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_targets_that_the_pages_name_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        named = set(re.findall(r"make ([a-z-]+)(?=[`\s])", page.read_text()))
        assert named <= targets | {"up"}, page.name


def test_every_secret_key_is_in_the_page_about_environments():
    page = (ROOT / "docs" / "environments.md").read_text()
    for key in SECRET_KEYS:
        assert f"`{key}`" in page, key
    for variable in VARIABLES.values():
        assert f"`{variable}`" in page, variable
