"""The dispatcher's AWS SDK keeps what it needs to call ECS, and no more."""

from __future__ import annotations

import shutil
from pathlib import Path

import botocore
import pytest
from aiobotocore.session import get_session
from botocore.exceptions import UnknownServiceError
from botocore.loaders import Loader

from images.sdk import CALLED, prune
from tests.ecs.world import KEY

DATA = Path(botocore.__file__).parent / "data"


@pytest.fixture
def pruned(tmp_path: Path) -> Loader:
    models = tmp_path / "lib/python3.13/site-packages/botocore/data"
    models.mkdir(parents=True)
    for name in (*CALLED, "sqs", "organizations"):
        shutil.copytree(DATA / name, models / name)
    for path in DATA.glob("*.json*"):
        shutil.copy(path, models / path.name)
    prune(tmp_path)
    assert sorted(path.name for path in models.iterdir() if path.is_dir()) == sorted(CALLED)
    return Loader(extra_search_paths=[str(models)], include_default_search_paths=False)


async def test_clients_are_made_of_the_models_that_stay(pruned: Loader) -> None:
    session = get_session()
    session.register_component("data_loader", pruned)
    for service in CALLED:
        made = session.create_client(
            service,
            region_name="eu-central-1",
            aws_access_key_id=KEY.key_id,
            aws_secret_access_key=KEY.secret,
        )
        async with made as client:
            assert client.meta.service_model.service_name == service
    with pytest.raises(UnknownServiceError):
        await session.create_client("sqs", region_name="eu-central-1").__aenter__()


def test_an_image_without_the_sdk_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    prune(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["lib"]
