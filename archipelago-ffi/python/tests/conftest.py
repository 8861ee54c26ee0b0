import pathlib
from collections.abc import Iterator

import archipelago
import pytest


@pytest.fixture
def place(tmp_path: pathlib.Path) -> pathlib.Path:
    """A new store."""
    archipelago.Store.init(tmp_path / "store", block_size=65536)
    return tmp_path / "store"


@pytest.fixture
def store(place: pathlib.Path) -> Iterator[archipelago.Store]:
    with archipelago.Store(place) as store:
        yield store


@pytest.fixture
def volume(store: archipelago.Store) -> Iterator[archipelago.Volume]:
    store.create("volume", 1 << 20)
    with store.open("volume") as volume:
        yield volume
