import errno
import select
from typing import Any

import archipelago
import pytest


@pytest.mark.parametrize("inline", [False, True])
def test_every_request_completes_once_with_its_tag(volume: archipelago.Volume, inline: bool) -> None:
    with archipelago.Queue(8, inline=inline) as queue:
        tags: list[Any] = []
        for piece in range(100):
            buffer = bytes([piece]) * 4096
            while True:
                try:
                    if piece % 2:
                        queue.write(volume, buffer, piece * 4096, tag=("piece", piece))
                    else:
                        queue.write_many(volume, [buffer[:1], buffer[1:]], piece * 4096, tag=("piece", piece))
                    break
                except archipelago.QueueFull:
                    tags += [end.tag for end in queue.wait()]
        tags += [end.tag for end in queue.wait(len(queue))]
        assert sorted(tags) == [("piece", piece) for piece in range(100)]
        queue.flush(volume)
        assert queue.wait()[0].error is None
        parts = [bytearray(4096), bytearray(1), bytearray(4095)]
        queue.read(volume, parts[0], 4096, tag=1)
        queue.read_many(volume, parts[1:], 2 * 4096, tag=2)
        queue.wait(2)
        assert parts == [bytes([1]) * 4096, bytes([2]), bytes([2]) * 4095]
        queue.write_zeroes(volume, 4096, 4096, fua=True)
        queue.discard(volume, 8192, 4096)
        assert [end.error for end in queue.wait(2)] == [None, None]
        assert volume.read(8192, 4096) == bytes(8192)
        assert len(queue) == 0 and queue.poll() == []


def test_the_descriptor_is_readable_as_long_as_something_is_there(volume: archipelago.Volume) -> None:
    with archipelago.Queue(8, threads=1) as queue:
        assert not select.select([queue], [], [], 0)[0]
        queue.write(volume, b"x", 0)
        assert select.select([queue], [], [], 60)[0]
        assert len(queue.poll()) == 1
        assert not select.select([queue], [], [], 0)[0]
        assert queue.wait(1, 0.01) == []


def test_a_buffer_in_flight_keeps_its_size(volume: archipelago.Volume) -> None:
    buffer = bytearray(4096)
    with archipelago.Queue(8) as queue:
        queue.read(volume, buffer, 0)
        with pytest.raises(BufferError):
            buffer.clear()
        queue.wait()
        buffer.clear()
        other = bytearray(4096)
        queue.read(volume, other, 0)
    other.clear()  # The queue was closed.


def test_what_fails_is_the_error_of_its_completion_and_what_is_wrong_is_raised(volume: archipelago.Volume) -> None:
    with archipelago.Queue(8) as queue:
        queue.read(volume, bytearray(2), (1 << 20) - 1, tag="past the end")
        [end] = queue.wait()
        assert end.tag == "past the end" and isinstance(end.error, archipelago.InvalidArgument)
        volume.close()
        buffer = bytearray(1)
        with pytest.raises(archipelago.Closed) as caught:
            queue.read(volume, buffer, 0)
        assert caught.value.errno == errno.EBADF and len(queue) == 0
        buffer.clear()
    with pytest.raises(archipelago.Closed):
        queue.poll()
    with pytest.raises(archipelago.InvalidArgument):
        archipelago.Queue(1 << 17)
