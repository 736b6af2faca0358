"""Whether an MLflow server answers, without importing MLflow, which takes seconds."""

import http.client
from urllib.parse import urlsplit, urlunsplit

PROBE_TIMEOUT_S = 2.0


def without_credentials(uri: str) -> str:
    """The address fit for a message: no user, no password, no query."""
    parts = urlsplit(uri)
    if not parts.netloc:
        return uri
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def is_reachable(uri: str, timeout_s: float = PROBE_TIMEOUT_S) -> bool:
    """Whether the server at uri answers within timeout_s; True for what is no HTTP server.

    Any answer counts, also a refusal: it proves that somebody listens. An sqlite file is always
    there, and a database is asked by MLflow itself.
    """
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return True
    secure = parts.scheme == "https"
    connect = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    connection = connect(parts.hostname, parts.port, timeout=timeout_s)
    try:
        connection.request("GET", parts.path.rstrip("/") + "/health")
        connection.getresponse()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True
