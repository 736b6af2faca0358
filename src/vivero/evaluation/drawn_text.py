"""Text in pictures: drawn as it is written, with any installed font that has its characters.

Class names can be anything. What matplotlib reads as a formula, a line break, a character that no
font has, or a line longer than the picture is drawn as plain text, so that no name can end a stage.
"""

import functools
from collections.abc import Callable
from typing import Any

from matplotlib import font_manager
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogFormatter
from PIL import ImageDraw, ImageFont

from vivero.plain_text import bounded, escaped, one_line

# The first comes with matplotlib: Latin, Greek, Cyrillic, Arabic, Hebrew and many symbols.
FAMILIES = (
    "DejaVu Sans",
    "Noto Sans CJK JP",
    "Noto Sans JP",
    "Source Han Sans JP",
    "IPAGothic",
    "Hiragino Sans",
    "Yu Gothic",
    "WenQuanYi Zen Hei",
    "Microsoft YaHei",
    "Noto Sans Devanagari",
    "Noto Sans Thai",
    "Noto Emoji",
    "Symbola",
    "Segoe UI Emoji",
    "Arial Unicode MS",
)
MAX_CHARACTERS = 120  # of a line
MAX_TICK_CHARACTERS = 40


def draw_as_text(figure: Figure) -> None:
    """Make every text of a figure plain text, apart from the powers that logarithmic axes write."""
    for text in figure.findobj(Text):
        _make_plain(text)
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            _make_ticks_plain(axis)


def drawable(text: str, max_characters: int = MAX_CHARACTERS) -> str:
    r"""One line that the installed fonts can draw; a character that none has becomes \uXXXX."""
    line = one_line(text, max_characters) if text.strip() else ""
    drawn = "".join(c if c == " " or _family_of(c) else escaped(c) for c in line)
    return bounded(drawn, max_characters)


def write_line(
    pen: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    text: str,
    size: int,
    colour: str,
    width_px: int | None = None,
) -> None:
    """Write one line with Pillow, cut off at width_px where that is given."""
    line = drawable(text)
    families = {_family_of(character) for character in line} - {None, FAMILIES[0]}
    font = _pillow_font(next(iter(sorted(families, key=str)), FAMILIES[0]), size)
    while line and width_px is not None and pen.textlength(line, font=font) > width_px:
        line = line[:-1]
    pen.text(corner, line, fill=colour, font=font)


def _make_plain(text: Text) -> None:
    text.set_parse_math(False)
    lines = [drawable(line) for line in text.get_text().split("\n")]
    text.set_text("\n".join(lines))
    text.set_fontfamily(_families_for("".join(lines)))


def _make_ticks_plain(axis: Axis) -> None:
    """Do the same with labels that matplotlib writes when it draws."""
    formatter = axis.get_major_formatter()
    if isinstance(formatter, FuncFormatter):  # of given names, or a function of ours
        formatter.func = _plain_labels(formatter.func)
    is_logarithmic = isinstance(formatter, LogFormatter)
    for label in axis.get_ticklabels(which="both"):
        label.set_parse_math(is_logarithmic)
        if not is_logarithmic:
            label.set_fontfamily(_families_for(label.get_text()))


def _plain_labels(func: Callable[..., str]) -> Callable[..., str]:
    def plain(*arguments: Any) -> str:
        lines = func(*arguments).split("\n")
        return "\n".join(drawable(line, MAX_TICK_CHARACTERS) for line in lines)

    return plain


def _families_for(text: str) -> list[str]:
    """The font for a text, and the ones to fall back on."""
    needed = {family for family in map(_family_of, text) if family}
    return [FAMILIES[0], *(family for family in FAMILIES[1:] if family in needed)]


@functools.cache
def _family_of(character: str) -> str | None:
    """The first installed family that has a character."""
    return next((name for name, font in _fonts() if font.get_char_index(ord(character))), None)


@functools.cache
def _fonts() -> list[tuple[str, Any]]:
    installed = set(font_manager.get_font_names())
    return [
        (name, font_manager.get_font(font_manager.findfont(name)))
        for name in FAMILIES
        if name in installed
    ]


@functools.cache
def _pillow_font(family: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(font_manager.findfont(family), size)
