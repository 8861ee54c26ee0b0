#!/usr/bin/env python3
"""Copies a raw image into a new volume without a copy in between, and takes a snapshot of it to clone from.

    copy_image.py STORE IMAGE NAME
"""

import mmap
import sys

import archipelago

PIECE = 4 << 20


def main(store_path: str, image_path: str, name: str) -> None:
    with archipelago.Store(store_path) as store, open(image_path, "rb") as image:
        with mmap.mmap(image.fileno(), 0, access=mmap.ACCESS_READ) as content, memoryview(content) as view:
            store.create(name, len(view))
            with store.open(name) as volume:
                for offset in range(0, len(view), PIECE):
                    piece = view[offset : offset + PIECE]
                    # What is zero takes no room.
                    if any(piece):
                        volume.write(piece, offset)
                    piece.release()
                volume.flush()
        store.snapshot(name, f"{name}-v1")
        info = store.info(f"{name}-v1")
        print(f"{info.name}: {info.size} bytes, {info.mapped} of them in use")


if __name__ == "__main__":
    main(*sys.argv[1:])
