"""Class names that people really have, or that somebody tries on purpose."""

NASTY_NAMES = (
    "US$ 1_$5",
    "a\nb",
    "[bold]",
    "<script>alert(1)</script>",
    "|x|",
    "`code`",
    "日本",
    "\U0001f408 cat \U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\u05d7\u05ea\u05d5\u05dc",
    "abc\u202edef",
    "x" * 300,
    "日" * 300,
    " ",
    "\x1b[31mred\x1b[0m",
    "$\\frac{1}{0}$",
    "_hidden",
    "100%",
    "{x} %s",
    "\u0301",
)
