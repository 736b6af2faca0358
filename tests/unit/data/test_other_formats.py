"""Files that are no PNG, JPEG, WebP, GIF, BMP or TIFF are named, with what to do."""

import struct

import pytest

from tests.unit.data.pictures import encoded, picture
from vivero.data.image_files import Refusal, decode


def media(*brands: bytes) -> bytes:
    box = b"ftyp" + brands[0] + bytes(4) + b"".join(brands[1:])
    return struct.pack(">I", len(box) + 4) + box + bytes(64)


def refused(content: bytes, name: str | None = None) -> Refusal:
    outcome = decode(content, name)
    assert isinstance(outcome, Refusal)
    return outcome


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (media(b"heic", b"mif1"), "HEIC; convert it to PNG or JPEG"),
        (media(b"heix", b"mif1"), "HEIC; convert"),
        (media(b"hevc", b"msf1"), "HEIC image sequence; export the image"),
        (media(b"hevx"), "HEIC image sequence"),
        (media(b"msf1", b"msf1", b"hevc"), "HEIC image sequence"),
        (media(b"msf1"), "HEIF image sequence"),
        (media(b"mif1", b"mif1", b"heic"), "HEIC; convert"),
        (media(b"mif1", b"mif1", b"avif", b"miaf"), "AVIF; convert"),
        (media(b"mif1"), "HEIF; convert"),
        (media(b"avif"), "AVIF; convert"),
        (media(b"avis", b"avif", b"msf1"), "AVIF image sequence; export"),
        (media(b"msf1", b"avis"), "AVIF image sequence; export"),
        (media(b"isom", b"iso2", b"avc1"), "MP4 video; export the frames"),
        (media(b"mp42"), "MP4 video"),
        (media(b"qt  "), "QuickTime video"),
        (media(b"crx "), "camera raw; develop it"),
        (media(b"zzzz"), "media file of brand 'zzzz'"),
        (b"\x1aE\xdf\xa3" + bytes(9), "Matroska or WebM video"),
        (b"RIFF\0\0\0\0AVI LIST", "AVI video"),
        (b"\0\0\0\x0cjP  \r\n", "JPEG 2000"),
        (b"\xff\x0a\0\0", "JPEG XL"),
        (b"8BPS\0\1", "Photoshop"),
        (b"%PDF-1.7", "PDF; export its pages"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- x --><svg/>", "SVG"),
        (b"<!DOCTYPE html><html>404</html>", "HTML page, which is no image; download"),
        (b"PK\3\4" + bytes(20), "ZIP archive, which is no image; unpack it"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (bytes(128) + b"DICM" + bytes(9), "DICOM"),
    ],
)
def test_what_it_is_and_what_to_do_is_said(content: bytes, words: str):
    outcome = refused(content, "1.heic")
    assert outcome.reason == "unsupported_format"
    assert words in outcome.detail


def test_a_camera_raw_file_is_no_tiff_with_the_wrong_name():
    assert "camera raw" in refused(encoded(picture(1), "TIFF"), "1.NEF").detail
    assert "camera raw" in refused(b"II*\0\x10\0\0\0CR\2\0" + bytes(50), "1.tif").detail


@pytest.mark.parametrize(
    ("kind", "name", "detail"),
    [
        ("WEBP", "a.jpg", "its content is WebP, although its name ends in .jpg; rename it to end "
                          "in .webp, or convert it"),
        ("PNG", "a.JPG", "its content is PNG, although its name ends in .jpg; rename it to end in "
                         ".png, or convert it"),
        ("JPEG", "a.png", "its content is JPEG, although its name ends in .png; rename it to end "
                          "in .jpg, or convert it"),
    ],
)  # fmt: skip
def test_a_name_that_does_not_fit_the_content_is_explained(kind: str, name: str, detail: str):
    outcome = refused(encoded(picture(2), kind), name)
    assert (outcome.reason, outcome.detail) == ("extension_mismatch", detail)
