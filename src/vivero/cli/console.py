"""Where commands print: text of a person is shown as it is, never read as markup."""

from rich.console import Console


def plain_console(min_width: int = 100) -> Console:
    """A console of at least this width that reads no markup and no emoji; colour comes by Text.

    Args:
        min_width: Columns, also where the terminal has fewer: a cut name names nothing.
    """
    width = max(min_width, Console().width)
    return Console(width=width, markup=False, emoji=False, highlight=False)
