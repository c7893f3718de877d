"""`dataDir` is refused at plan time when a store could not be kept there, or something else is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from stacks.errors import ConfigError
from stacks.local import data_dir
from tests.stacks.checkouts import AGENTS, CheckoutCopy

ALLOWED = "allowed: a directory of its own: one that is not there yet, an empty one, or that of an earlier up"


def refusal(place: Path, checkout: Path = Path("/srv/checkout")) -> str:
    with pytest.raises(ConfigError) as refused:
        data_dir.check(place, checkout)
    return str(refused.value)


def test_a_plan_refuses_a_file_before_anything_is_made(checkout: CheckoutCopy) -> None:
    for given, said in (
        ("/etc/passwd", f"'/etc/passwd' is refused: it is no directory; {ALLOWED}"),
        ("/etc/passwd/below", f"'/etc/passwd/below' is refused: /etc/passwd is no directory; {ALLOWED}"),
        (5, "5 has the wrong type; allowed: the path of a directory, absolute or from the checkout"),
        ("/etc", f"'/etc' is refused: it is a directory of the system's; {ALLOWED}"),
    ):
        checkout.write_config(port=checkout.port, agents=AGENTS, dataDir=given)
        with pytest.raises(ConfigError) as refused:
            checkout.driver().preview()
        assert str(refused.value).startswith(f"switchboard:dataDir: {said}")
    assert not (checkout.state_dir / "stacks").exists()


def test_a_directory_is_refused_when_it_holds_what_is_not_a_stacks(tmp_path: Path) -> None:
    (tmp_path / "thesis.odt").touch()
    assert f"it holds what is not a stack's (thesis.odt); {ALLOWED}" in refusal(tmp_path)
    (tmp_path / "dispatcher").mkdir()
    data_dir.check(tmp_path, Path("/srv/checkout"))


@pytest.mark.parametrize("names", [[], ["lost+found"], ["dispatcher", "dispatcher.log"]])
def test_a_directory_is_taken_when_it_is_empty_or_of_an_earlier_up(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).mkdir()
    data_dir.check(tmp_path, Path("/srv/checkout"))
    data_dir.check(tmp_path / "not" / "there" / "yet", Path("/srv/checkout"))


def test_home_and_checkout_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "is your home directory, or above it" in refusal(tmp_path)
    assert "is the checkout, or above it" in refusal(Path("/srv/checkout"))
    assert "is the checkout, or above it" in refusal(Path("/srv/checkout/x/.."))


def test_a_dangling_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert "it is no directory" in refusal(tmp_path / "link")


def test_a_directory_that_may_not_be_written_in_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda place, mode: Path(place) != tmp_path)  # root may write anywhere
    assert f"you may not write in {tmp_path}; {ALLOWED}" in refusal(tmp_path / "data")
