"""Files that people take for images, or get in place of them, and what to do with each. Pure."""

import struct
from dataclasses import dataclass

RAW_EXTENSIONS = frozenset(
    {".nef", ".nrw", ".cr2", ".cr3", ".crw", ".arw", ".srf", ".sr2", ".dng", ".orf", ".raf"}
    | {".rw2", ".pef", ".srw", ".3fr", ".iiq", ".raw"}
)
OTHER_IMAGE_EXTENSIONS = RAW_EXTENSIONS | {
    *(".heic", ".heif", ".hif", ".heics", ".heifs", ".avif", ".avifs", ".avci", ".jxl", ".jp2"),
    *(".j2k", ".jpx", ".jpf", ".jxr", ".psd", ".psb", ".xcf", ".svg", ".svgz", ".ico", ".cur"),
    *(".tga", ".pcx", ".ppm", ".pgm", ".pbm", ".pnm", ".pam", ".qoi", ".exr", ".hdr", ".dds"),
}


@dataclass(frozen=True)
class OtherFormat:
    """A format that is not taken. advice: What to do, without a full stop."""

    name: str
    advice: str = "convert it to PNG or JPEG"


def _sequence(name: str) -> OtherFormat:
    return OtherFormat(f"{name} image sequence", "export the image that you want as PNG or JPEG")


def _video(name: str) -> OtherFormat:
    return OtherFormat(f"{name} video", "export the frames that you want as PNG or JPEG")


def _no_image(name: str, advice: str) -> OtherFormat:
    return OtherFormat(f"{name}, which is no image", advice)


RAW = OtherFormat("camera raw", "develop it, and export it as PNG or JPEG")
# Major brands of ISO base media files: ISO/IEC 23008-12 (HEIF), AV1 Image File Format, ISO 14496.
BRANDS: dict[bytes, OtherFormat] = {
    **dict.fromkeys((b"avif", b"avio"), OtherFormat("AVIF")),
    b"avis": _sequence("AVIF"),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis"), OtherFormat("HEIC")),
    **dict.fromkeys((b"hevc", b"hevx", b"hevm", b"hevs"), _sequence("HEIC")),
    **dict.fromkeys((b"mif1", b"mif2", b"miaf", b"avci", b"jpeg", b"vvic"), OtherFormat("HEIF")),
    **dict.fromkeys((b"msf1", b"avcs", b"jpgs", b"vvis"), _sequence("HEIF")),
    b"crx ": RAW,
    b"qt  ": _video("QuickTime"),
    **dict.fromkeys(
        (b"isom", b"iso2", b"iso4", b"iso5", b"iso6", b"mp41", b"mp42", b"mp71", b"avc1", b"M4V "),
        _video("MP4"),
    ),
    **dict.fromkeys((b"3gp4", b"3gp5", b"3gp6", b"3g2a"), _video("3GPP")),
    b"jp2 ": OtherFormat("JPEG 2000"),
    b"jxl ": OtherFormat("JPEG XL"),
}
# Brands that any HEIF file may have; a listed compatible brand says more.
GENERAL_BRANDS = (b"mif1", b"mif2", b"msf1", b"miaf")
STARTS: tuple[tuple[bytes, OtherFormat], ...] = (
    (b"\0\0\0\x0cjP  ", OtherFormat("JPEG 2000")),
    (b"\xffO\xffQ", OtherFormat("JPEG 2000")),
    (b"\0\0\0\x0cJXL ", OtherFormat("JPEG XL")),
    (b"\xff\x0a", OtherFormat("JPEG XL")),
    (b"II\xbc", OtherFormat("JPEG XR")),
    (b"8BPS", OtherFormat("Photoshop")),
    (b"gimp xcf", OtherFormat("GIMP")),
    (b"\0\0\1\0", OtherFormat("Windows icon")),
    (b"\0\0\2\0", OtherFormat("Windows cursor")),
    (b"icns", OtherFormat("Apple icon")),
    (b"%!PS", OtherFormat("PostScript")),
    (b"\xc5\xd0\xd3\xc6", OtherFormat("PostScript")),
    (b"%PDF", OtherFormat("PDF", "export its pages or images as PNG or JPEG")),
    (b"AT&TFORM", OtherFormat("DjVu")),
    (b"BPG\xfb", OtherFormat("BPG")),
    (b"FLIF", OtherFormat("FLIF")),
    (b"qoif", OtherFormat("QOI")),
    (b"DDS ", OtherFormat("DDS")),
    (b"v/1\x01", OtherFormat("OpenEXR")),
    (b"#?RADIANCE", OtherFormat("Radiance HDR")),
    (b"FUJIFILMCCD-RAW", RAW),
    (b"IIRO", RAW),
    (b"IIRS", RAW),
    (b"IIU\0", RAW),
    (b"\x1aE\xdf\xa3", _video("Matroska or WebM")),
    (b"\0\0\1\xba", _video("MPEG")),
    (b"\0\0\1\xb3", _video("MPEG")),
    (b"FLV\1", _video("Flash")),
    (b"PK\3\4", _no_image("ZIP archive", "unpack it")),
    (b"\x1f\x8b", _no_image("gzip file", "unpack it")),
    (b"Rar!", _no_image("RAR archive", "unpack it")),
    (b"7z\xbc\xaf", _no_image("7-Zip archive", "unpack it")),
    (b"\x93NUMPY", _no_image("NumPy array", "save its images as PNG")),
    (b"\x89HDF", _no_image("HDF5 file", "save its images as PNG")),
    (
        b"version https://git-lfs",
        _no_image("Git LFS pointer", "run `git lfs pull` there"),
    ),
)


def other_format(content: bytes) -> OtherFormat | None:
    """What a file is that is no image of ours; None when it is nothing that people take for one."""
    if content[4:8] == b"ftyp":
        return _by_brand(content)
    if content[:4] == b"RIFF" and content[8:12] == b"AVI ":
        return _video("AVI")
    for start, found in STARTS:
        if content.startswith(start):
            return found
    if content[128:132] == b"DICM":
        return OtherFormat("DICOM", "export it as PNG with the window that you want")
    if len(content) > 2 and content[:1] == b"P" and content[1:2] in b"1234567":
        return OtherFormat("Netpbm") if content[2:3].isspace() else None
    return _by_markup(content[:4096])


def _by_brand(content: bytes) -> OtherFormat:
    """The kind of an ISO base media file: its major brand, or a more telling compatible one."""
    (num_bytes,) = struct.unpack_from(">I", content)
    box = content[: min(max(num_bytes, 16), 256)]
    brands = [box[8:12], *(box[begin : begin + 4] for begin in range(16, len(box) - 3, 4))]
    if brands[0] in GENERAL_BRANDS:
        is_sequence = brands[0] == b"msf1"
        for brand in brands[1:]:
            found = BRANDS.get(brand)
            if found and brand not in GENERAL_BRANDS and "video" not in found.name:
                kind = found.name.split()[0]
                return _sequence(kind) if is_sequence else found
    named = next((BRANDS[brand] for brand in brands[:1] if brand in BRANDS), None)
    text = brands[0].decode("ascii", "backslashreplace").strip()
    return named or OtherFormat(f"media file of brand '{text}'")


def _by_markup(head: bytes) -> OtherFormat | None:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if b"<svg" in text and text.startswith((b"<svg", b"<?xml", b"<!--", b"<!doctype svg")):
        return OtherFormat("SVG")
    if text.startswith((b"<!doctype html", b"<html")):
        return _no_image("HTML page", "download the image itself")
    return None
