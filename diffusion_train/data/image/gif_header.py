"""Read the header of a GIF (https://www.w3.org/Graphics/GIF/spec-gif89a.txt)."""

from __future__ import annotations

import struct

from diffusion_train.data.image.header import Header, ImageError, unless_whole


def gif_header(data: bytes) -> Header:
    width, height = struct.unpack_from("<HH", data, 6)
    offset = 13 + _colour_table(data[10])
    box, alpha, animated = None, False, False
    try:
        while data[offset] != 0x3B and not animated:
            if data[offset] == 0x2C and box:
                animated = True
            elif data[offset] == 0x2C:
                left, top, across, down, flags = struct.unpack_from("<HHHHB", data, offset + 1)
                box = (left, top, left + across, top + down)
                offset = _after_blocks(data, offset + 11 + _colour_table(flags))
            elif data[offset] == 0x21:
                alpha = alpha or (not box and data[offset + 1] == 0xF9 and bool(data[offset + 3] & 1))
                offset = _after_blocks(data, offset + 2)
            else:
                offset += 1
    except IndexError:
        pass  # truncated; use what has been read
    if box is None:
        raise ImageError("a GIF without an image")
    width, height = max(width, box[2]), max(height, box[3])  # a frame outside the screen enlarges it
    frame = unless_whole(box, width, height)
    return Header("GIF", width, height, "P", alpha=alpha or frame is not None, animated=animated, frame=frame)


def _colour_table(flags: int) -> int:
    """Return the size of the colour table in bytes."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _after_blocks(data: bytes, offset: int) -> int:
    while size := data[offset]:
        offset += size + 1
    return offset + 1
