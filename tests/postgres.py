"""A PostgreSQL server for a test: Debian's binaries, a folder of its own, on loopback alone."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def _binaries() -> Path:
    found = [*Path("/usr/lib/postgresql").glob("*/bin/initdb"), shutil.which("initdb")]
    if not found[0]:
        pytest.skip("no PostgreSQL server is installed")
    return Path(found[0]).parent


@contextmanager
def postgres_server() -> Iterator[str]:
    """The URL of an empty database; skips the test where server or driver is missing."""
    pytest.importorskip("psycopg")
    binaries = _binaries()
    # The server refuses to run as root.
    as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="syncnas-postgres-") as folder:
        if as_user:
            shutil.chown(folder, "postgres")

        def run(name: str, *arguments: str) -> None:
            command = [*as_user, str(binaries / name), "-D", f"{folder}/db", *arguments]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=300, cwd="/")

        run("initdb", "-A", "trust", "-U", "syncnas", "--no-sync")
        options = f"-h 127.0.0.1 -p {port} -k '' -F"
        run("pg_ctl", "-w", "-t", "240", "-o", options, "-l", f"{folder}/log", "start")
        try:
            yield f"postgresql://syncnas@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", "-m", "immediate", "stop")
