"""`make sign`: sign the version that `make retrain` left in work/unsigned, and do nothing else.

VIVERO_SIGNING_KEY_PEM is the private key as text; without it the key is found as `vivero register`
finds it. This is the only step of the workflow `retrain` that has the key: it starts no process,
trains nothing and asks no server.
"""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from infra.github.retrain import unsigned_dir
from vivero.config.paths import project_dir
from vivero.processes import run_program
from vivero.registry.keys import SigningKey, public_key_of, signing_key
from vivero.registry.signing_requests import sign_requests


@contextlib.contextmanager
def key_of(pem: str, root: Path) -> Iterator[SigningKey]:
    """A private key as a file that only this user can read, while it is needed.

    Args:
        pem: The key; empty = the one that `vivero register` finds.
        root: Top of the repository.
    """
    if not pem:
        yield signing_key(root)
        return
    with tempfile.TemporaryDirectory() as folder:  # mode 0700
        path = Path(folder) / "signing_key.pem"
        path.touch(mode=0o600)
        path.write_text(pem.rstrip() + "\n", encoding="utf-8")
        password = os.environ.get("VIVERO_SIGNING_KEY_PASSWORD")
        key = SigningKey(path, password.encode() if password else None)
        public_key_of(key)
        yield key


def sign(pem: str) -> None:
    """Sign, and name what was signed; 1 = the key or a request cannot be read."""
    root = project_dir()
    with key_of(pem, root) as key:
        signed = sign_requests(unsigned_dir(root), key)
    for record in signed:
        sys.stdout.write(f"sign: signed version {record.version} of '{record.model}'\n")
    if not signed:
        sys.stdout.write("sign: nothing waits for a signature\n")


if __name__ == "__main__":
    given = os.environ.pop("VIVERO_SIGNING_KEY_PEM", "")  # before anything else runs
    run_program("sign", lambda: sign(given))
