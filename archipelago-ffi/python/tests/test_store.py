import errno
import gc
import os
import pathlib
import subprocess
import sys

import archipelago
import pytest


def test_what_is_made_is_listed_in_pages_and_described(store: archipelago.Store) -> None:
    names = [f"listed-{i}" for i in range(10)]
    for name in names:
        store.create(name, 1 << 20)
    store.create("other-one", 4096, block_size=1 << 20)
    for page in (1, 3, 256):
        assert [info.name for info in store.list("listed-", page=page)] == names
    assert [info.name for info in store.list(after="listed-8")] == ["listed-9", "other-one"]
    info = store.info("other-one")
    assert (info.size, info.block_size, info.kind) == (4096, 1 << 20, archipelago.Kind.VOLUME)
    assert len(info.id) == 16 and info.parent is None and info.open_by is None
    assert store.status()["volumes"] == 11


def test_clones_begin_as_their_snapshot_and_go_their_own_way(store: archipelago.Store) -> None:
    store.create("origin", 1 << 20)
    with store.open("origin") as origin:
        origin.write(b"before", 0)
        store.snapshot("origin", "origin-1")
        origin.write(b"after!", 0)
        assert store.info("origin").open_by[0] == os.getpid()
    store.clone("origin-1", "clone-1", size=2 << 20)
    store.clone_many("origin-1", (f"clone-{i}" for i in range(2, 5)))
    with store.open("clone-1") as clone, store.open("clone-4") as other:
        assert clone.read(6, 0) == b"before" and clone.size == 2 << 20
        clone.write(b"its own", 0)
        assert other.read(6, 0) == b"before"
        store.snapshot_group({"clone-1": "group-1", "clone-4": "group-4"})
    assert store.info("group-1").parent == "clone-1"
    store.rename("origin", "renamed")
    store.resize("renamed", 4096, shrink=True)
    store.remove("renamed")
    assert store.info("origin-1").kind == archipelago.Kind.SNAPSHOT


def test_errors_have_their_class_errno_and_message(store: archipelago.Store, tmp_path: pathlib.Path) -> None:
    with pytest.raises(archipelago.NotFound, match="missing") as caught:
        store.remove("missing")
    assert isinstance(caught.value, FileNotFoundError) and caught.value.errno == errno.ENOENT
    store.create("volume", 4096)
    with pytest.raises(archipelago.Exists):
        store.create("volume", 4096)
    with pytest.raises(ValueError):
        store.create("x", 4096)
    with store.open("volume"), pytest.raises(archipelago.Busy):
        store.remove("volume")
    with pytest.raises(archipelago.Error) as caught_other:
        store.clone("volume", "clone-of-it")
    assert caught_other.value.errno == errno.EPERM
    with pytest.raises(archipelago.NotFound):
        archipelago.Store(tmp_path / "nowhere")
    store.close()
    store.close()
    with pytest.raises(archipelago.Closed):
        store.info("volume")


def test_a_store_that_was_forgotten_is_closed_with_a_warning(place: pathlib.Path) -> None:
    store = archipelago.Store(place)
    with pytest.warns(ResourceWarning, match="was not closed"):
        del store
        gc.collect()


def test_long_work_says_how_far_it_is_and_can_be_ended(store: archipelago.Store, volume: archipelago.Volume) -> None:
    for block in range(16):
        volume.write(bytes([block + 1]) * 65536, block * 65536)
    store.snapshot("volume", "volume-1")
    seen: list[archipelago.Progress] = []
    digest = store.hash("volume-1", progress=seen.append)
    assert len(digest) == 64 and seen[-1].done == seen[-1].total == 16
    assert store.check(data=True)["findings"] == []
    assert store.collect(dry_run=True)["dry_run"] is True
    assert store.scrub()["altered"] == 0
    volume.compact(max_extents=0)
    with pytest.raises(archipelago.Cancelled):
        store.collect(progress=lambda _: False)

    def fails(_: archipelago.Progress) -> None:
        raise KeyError("of the callback")

    with pytest.raises(KeyError, match="of the callback"):
        store.check(progress=fails)


def test_snapshots_are_sent_and_received_as_differences(store: archipelago.Store, tmp_path: pathlib.Path) -> None:
    store.create("outgoing", 1 << 20)
    with store.open("outgoing") as volume:
        volume.write(b"first", 0)
        store.snapshot("outgoing", "sent-1")
        volume.write(b"second", 500_000)
        store.snapshot("outgoing", "sent-2")
    archipelago.Store.init(tmp_path / "other")
    with open(tmp_path / "stream", "w+b", buffering=0) as stream, archipelago.Store(tmp_path / "other") as other:
        store.send("sent-1", stream)
        store.send("sent-2", stream, base="sent-1")
        stream.seek(0)
        other.receive("received-1", stream)
        other.receive("received-2", stream)
        with other.open("received-2", read_only=True) as snapshot:
            assert snapshot.read(6, 500_000) == b"second" and snapshot.read(5, 0) == b"first"
            with pytest.raises(archipelago.ReadOnly):
                snapshot.write(b"x", 0)


EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"


def test_the_examples_copy_an_image_and_read_it_back(place: pathlib.Path, tmp_path: pathlib.Path) -> None:
    import hashlib

    image = tmp_path / "image"
    image.write_bytes(os.urandom(1 << 20) + bytes(20 << 20) + b"the end")
    run = lambda name, *arguments: subprocess.run(
        [sys.executable, EXAMPLES / name, place, *arguments], stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    assert "image-copy-v1: 22020103 bytes" in run("copy_image.py", image, "image-copy")
    assert run("asyncio_reads.py", "image-copy-v1").strip() == hashlib.sha256(image.read_bytes()).hexdigest()
