import array
import mmap
import threading
import time

import archipelago
import pytest


def test_any_contiguous_buffer_is_read_and_written(volume: archipelago.Volume) -> None:
    content = bytes(range(256)) * 16
    anonymous = mmap.mmap(-1, 4096)
    for offset, buffer in enumerate(
        [content, bytearray(content), memoryview(content), array.array("B", content), memoryview(bytearray(content))]
    ):
        volume.write(buffer, offset * 5000)
        assert volume.read(4096, offset * 5000) == content
    volume.write(memoryview(content)[100:200], 7)
    assert volume.read(100, 7) == content[100:200]
    volume.readinto(anonymous, 7)
    assert anonymous[:100] == content[100:200]
    volume.write(anonymous, 100_000)
    assert volume.read(4096, 100_000) == anonymous[:]
    anonymous.close()
    numbers = array.array("I", [0, 0])
    volume.write(array.array("I", [1, 2]), 0)
    volume.readinto(numbers, 0)
    assert numbers.tolist() == [1, 2]
    volume.readinto(bytearray(), 0)
    volume.write(b"", 0)


def test_a_buffer_that_cannot_be_one_is_refused(volume: archipelago.Volume) -> None:
    with pytest.raises(BufferError):
        volume.readinto(b"read-only", 0)  # type: ignore[arg-type]
    with pytest.raises(BufferError):
        volume.write(memoryview(b"abcdef")[::2], 0)
    with pytest.raises(TypeError):
        volume.write("text", 0)  # type: ignore[arg-type]
    with pytest.raises(archipelago.InvalidArgument):
        volume.readinto(bytearray(2), (1 << 20) - 1)


def test_many_buffers_are_one_request(volume: archipelago.Volume) -> None:
    parts = [bytearray(3), bytearray(5000), bytearray(0), bytearray(1)]
    volume.write_many([b"abc", b"d" * 5000, memoryview(b""), b"e"], 4000, fua=True)
    volume.readinto_many(parts, 4000)
    assert parts[0] == b"abc" and parts[1] == b"d" * 5000 and parts[3] == b"e"
    with pytest.raises(archipelago.InvalidArgument):
        volume.write_many([b"x"] * 1025, 0)
    parts[0].append(1)  # Nothing holds it any more.


def test_zeroed_and_discarded_ranges_read_zeros_and_extents_tell(volume: archipelago.Volume) -> None:
    volume.write(b"x" * 65536, 0)
    volume.write(b"x" * 65536, 500_000 // 4096 * 4096)
    volume.write_zeroes(10, 5000)
    volume.discard(8192, 8192)
    assert volume.read(5000, 10) == bytes(5000) and volume.read(8192, 8192) == bytes(8192)
    volume.write_zeroes(100_000, 10, allocate=True, fua=True)
    volume.flush()
    extents = list(volume.extents())
    assert sum(e.length for e in extents) == volume.size
    assert [e.offset for e in extents[1:]] == [e.offset + e.length for e in extents[:-1]]
    assert any(e.zero for e in extents) and not extents[0].zero
    assert list(volume.extents(0, 10)) == [archipelago.Extent(0, 10, False)]


def test_a_scattered_volume_has_more_extents_than_one_call_gives(store: archipelago.Store) -> None:
    store.create("scattered", 64 << 20)
    with store.open("scattered") as volume:
        for sector in range(0, 4000, 2):
            volume.write(b"x", sector * 4096)
        extents = list(volume.extents())
        assert len(extents) == 4000 and sum(e.length for e in extents) == 64 << 20


def test_threads_share_a_volume_and_closing_waits_for_them(store: archipelago.Store) -> None:
    store.create("shared", 8 << 20)
    volume = store.open("shared")
    failed: list[BaseException] = []
    stop = threading.Event()

    def work(number: int) -> None:
        try:
            own = bytes([number + 1]) * 4096
            for piece in range(100):
                volume.write(own, (number * 100 + piece) * 4096)
                assert volume.read(4096, (number * 100 + piece) * 4096) == own
            stop.wait()
            while True:
                volume.read(4096, 0)
        except archipelago.Closed:
            pass
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    stop.set()
    time.sleep(0.05)
    while any(e.zero for e in volume.extents(0, 400 * 4096)):
        assert not failed
        time.sleep(0.01)
    volume.close()
    for thread in threads:
        thread.join()
    assert not failed
