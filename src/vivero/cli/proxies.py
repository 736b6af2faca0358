"""Whether Prefect's client, httpx, can read the proxies and certificates that the variables name.

It reads all of them before its first question, also for a server on this machine.
"""

import os

import httpx

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
CERTIFICATES = ("ssl_cert_file", "ssl_cert_dir")


def proxy_fault() -> str | None:
    """What httpx cannot read, and what to do; None when it reads everything."""
    try:
        httpx.Client().close()
    except (ValueError, httpx.InvalidURL) as error:
        return _fault("proxies", str(error), PROXIES)
    except ImportError:
        reason = "a SOCKS proxy needs the package socksio, which is not installed"
        return _fault("proxies", reason, PROXIES)
    except OSError as error:
        return _fault("certificates", error.strerror or str(error), CERTIFICATES)
    return None


def _fault(what: str, reason: str, names: tuple[str, ...]) -> str:
    found = ", ".join(sorted(name for name in os.environ if name.lower() in names))
    return (
        f"Prefect's client cannot use the {what} of the environment ({reason}). Correct or unset "
        f"what is wrong among {found}, and run the same command again"
    )
