#!/usr/bin/env python3
"""Reads a volume from end to end with many requests in flight, in an event loop: the queue's descriptor wakes it.

    asyncio_reads.py STORE VOLUME       prints the SHA-256 of its bytes
"""

import asyncio
import hashlib
import sys

import archipelago

PIECE = 256 << 10
IN_FLIGHT = 16


class Requests:
    """Requests of one event loop as awaitables."""

    def __init__(self, queue: archipelago.Queue) -> None:
        self._queue = queue
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(queue.fileno(), self._collect)

    def close(self) -> None:
        self._loop.remove_reader(self._queue.fileno())

    def _collect(self) -> None:
        for end in self._queue.poll():
            if end.error is None:
                end.tag.set_result(None)
            else:
                end.tag.set_exception(end.error)

    async def read(self, volume: archipelago.Volume, buffer: bytearray, offset: int) -> None:
        end: asyncio.Future[None] = self._loop.create_future()
        self._queue.read(volume, buffer, offset, tag=end)
        await asyncio.shield(end)


async def digest(volume: archipelago.Volume) -> str:
    size = volume.size
    offsets = list(range(0, size, PIECE))
    total = hashlib.sha256()
    with archipelago.Queue(IN_FLIGHT) as queue:
        requests = Requests(queue)

        async def piece(offset: int) -> bytearray:
            buffer = bytearray(min(PIECE, size - offset))
            await requests.read(volume, buffer, offset)
            return buffer

        for first in range(0, len(offsets), IN_FLIGHT):
            for buffer in await asyncio.gather(*map(piece, offsets[first : first + IN_FLIGHT])):
                total.update(buffer)
        requests.close()
    return total.hexdigest()


def main(store_path: str, name: str) -> None:
    with archipelago.Store(store_path) as store, store.open(name, read_only=True) as volume:
        print(asyncio.run(digest(volume)))


if __name__ == "__main__":
    main(*sys.argv[1:])
