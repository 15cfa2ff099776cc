"""Label Studio's brush strokes: the run lengths of thi.ng/umbrella's rle-pack, written a second time.

A stream of bits, the highest of a byte first: 32 bits for the number of values, 5 for the bits of a value less one, four times
4 for the bits of a run's length less one; then runs: 1 and a value to be repeated, or 0 and as many values. Before the value
stand 2 bits, which of the four lengths follows, and the length less one. The values are the RGBA bytes of the image, row by
row.
"""

import numpy as np

SIZES = (3, 4, 8, 16)


class _Bits:
    def __init__(self, data):
        self.bits = ''.join(f'{byte:08b}' for byte in data)
        self.at = 0

    def take(self, count: int) -> int:
        value = int(self.bits[self.at : self.at + count], 2)
        self.at += count
        return value


def decode(rle, height: int, width: int) -> np.ndarray:
    """(H, W) uint8: the opacity of each pixel."""
    bits = _Bits(rle)
    total, word = bits.take(32), bits.take(5) + 1
    sizes = [bits.take(4) + 1 for _ in range(4)]
    values = []
    while len(values) < total:
        repeated = bits.take(1)
        length = bits.take(sizes[bits.take(2)]) + 1
        values += [bits.take(word)] * length if repeated else [bits.take(word) for _ in range(length)]
    assert total == height * width * 4 and len(values) == total
    return np.array(values, np.uint8).reshape(height, width, 4)[..., 3]


def encode(mask: np.ndarray, single: bool = False) -> list[int]:
    """(H, W) bool or uint8 opacity -> bytes. single: lone values as runs of values, in place of repeated ones."""
    opacity = mask.astype(np.uint8) * (255 if mask.dtype == bool else 1)
    values = np.repeat(opacity.ravel(), 4)
    text = f'{len(values):032b}' + f'{7:05b}' + ''.join(f'{size - 1:04b}' for size in SIZES)
    starts = np.flatnonzero(np.diff(values, prepend=values[0] ^ 1))
    pieces = []
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(values)]):
        length, value = end - start, f'{values[start]:08b}'
        while length:
            some = min(length, 1 << 16)
            kind = next(i for i, size in enumerate(SIZES) if some <= 1 << size)
            if single and some <= 8:
                pieces.append(f'0{kind:02b}{some - 1:0{SIZES[kind]}b}' + value * some)
            else:
                pieces.append(f'1{kind:02b}{some - 1:0{SIZES[kind]}b}{value}')
            length -= some
    text += ''.join(pieces)
    text += '0' * (-len(text) % 8)
    return [int(text[i : i + 8], 2) for i in range(0, len(text), 8)]
