"""ICC profiles made of their definition: three primaries, adapted to D50, and one gamma."""

import struct

import numpy as np

# Columns: X, Y, Z of red, green and blue, adapted to D50 (ICC.1:2022, annex E; Adobe RGB (1998)).
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))
ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
DISPLAY_P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.7841))
D50 = (0.9642, 1.0, 0.8249)


def rgb_profile(primaries: tuple, gamma: float) -> bytes:
    tags = {
        **{name: _xyz(value) for name, value in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries)},  # noqa: B905
        **{name: _curve(gamma) for name in (b"rTRC", b"gTRC", b"bTRC")},
    }
    return _profile(b"RGB ", tags)


def grey_profile(gamma: float) -> bytes:
    return _profile(b"GRAY", {b"kTRC": _curve(gamma)})


def shown_on_screen(pixels: np.ndarray, primaries: tuple, gamma: float) -> np.ndarray:
    """What a profile's colours are in sRGB, by the definitions alone; uint8 to float."""
    linear = (pixels / 255.0) ** gamma
    xyz = linear @ np.array(primaries)
    srgb = np.clip(xyz @ np.linalg.inv(np.array(SRGB)), 0, 1)
    encoded = np.where(srgb <= 0.0031308, 12.92 * srgb, 1.055 * srgb ** (1 / 2.4) - 0.055)
    return encoded * 255


def _profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    tags = {b"desc": _text(b"made by a test"), b"cprt": _text(b"none"), b"wtpt": _xyz(D50), **tags}
    table, data, begin = b"", b"", 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        padded = value + bytes(-len(value) % 4)
        table += name + struct.pack(">II", begin + len(data), len(value))
        data += padded
    body = struct.pack(">I", len(tags)) + table + data
    header = struct.pack(
        ">I4sI4s4s4s12s4s4sI4s4sQI3i4s44x",
        *(128 + len(body), b"lcms", 0x02100000, b"mntr", space, b"XYZ "),
        *(struct.pack(">6H", 2026, 1, 1, 0, 0, 0), b"acsp", b"APPL", 0, b"none", b"none", 0, 0),
        *(round(value * 65536) for value in D50),
        b"lcms",
    )
    return header + body


def _xyz(value: tuple[float, float, float]) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(v * 65536) for v in value))


def _curve(gamma: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))


def _text(text: bytes) -> bytes:
    kind = b"desc" + bytes(4) + struct.pack(">I", len(text) + 1) + text + b"\0"
    return kind + struct.pack(">IIHB", 0, 0, 0, 0) + bytes(67)
