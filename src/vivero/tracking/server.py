"""The address of an MLflow server, read without importing MLflow, which takes seconds."""

import re
from urllib.parse import urlsplit, urlunsplit


def without_credentials(uri: str) -> str:
    """The address fit for a message: no user, no password, no query."""
    try:
        parts = urlsplit(uri)
    except ValueError:  # such as http://[::1
        return re.sub(r"//.*@", "//", uri).partition("?")[0]
    if not parts.netloc:
        return uri
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def is_server(uri: str) -> bool:
    """Whether the address names an HTTP server; an sqlite file or a database is none."""
    return re.match(r"\s*https?:", uri, re.IGNORECASE) is not None
