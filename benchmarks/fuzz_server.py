"""Sends garbage to the RPC server, built with sanitizers, and watches it.

    make fuzz                    # 10 minutes
    python benchmarks/fuzz_server.py build/sanitize --seconds 60

Strangers open connections and send random bytes, broken handshakes, or a right handshake with
garbage, or mutated calls, as the session. The server itself must neither end nor report an error of the
sanitizers, nor hold more memory than after its first hundred connections plus 20 MB; every 50
connections a real client must be served within 10 s. Nor may a session (a process of its own, with
TVM's session loop and the project's OpenCL device) touch memory that is not its own. AddressSanitizer
also ends sessions that ask for as many bytes as a stranger says: counted as refused, since without it
that is an exception, and the session ends with one line.
"""

import argparse
import os
import random
import re
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil
import tvm_ffi
from tvm import rpc

from syncnas_tvm.device.emulate_command import free_port

HELLO = struct.pack("<i", 0xFF271)
KEY = b"client:device"
GROWTH = 20 << 20
REFUSALS = ("allocation-size-too-big", "out-of-memory")


def text(data: bytes) -> bytes:
    """Bytes after their length, as TVM's protocol has them."""
    return struct.pack("<i", len(data)) + data


def mutated(rng: random.Random, data: bytes) -> bytes:
    """``data`` with some bytes changed, cut off or repeated."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed[: rng.randint(1, len(changed))]) * rng.choice((1, 1, 3))


def packet(rng: random.Random) -> bytes:
    """A packet of a session: a plausible length and call code, then noise."""
    body = struct.pack("<i", rng.randint(0, 14)) + rng.randbytes(rng.choice((0, 4, 16, 64, 1000)))
    size = rng.choice((len(body), len(body), 0, 2**31, 2**60, 2**64 - 1))
    return struct.pack("<Q", size) + body


def attack(rng: random.Random) -> bytes:
    """What one stranger sends."""
    kind = rng.randrange(6)
    if kind == 0:
        return rng.randbytes(rng.randint(0, 400))
    if kind == 1:
        return HELLO + struct.pack("<i", rng.choice((-1, 0, 4097, 2**31 - 1))) + rng.randbytes(40)
    if kind == 2:
        return mutated(rng, HELLO + text(KEY))
    if kind == 3:
        return HELLO + text(
            rng.choice((b"", b"client:", b"client:device -timeout=nan", b"x" * 4000))
        )
    option = rng.choice((b"", b" -timeout=1", b" -timeout=-5", b" -timeout=1e99"))
    garbage = rng.randbytes(100) if kind == 4 else b"".join(packet(rng) for _ in range(3))
    return HELLO + text(KEY + option) + garbage


def send(port: int, data: bytes) -> None:
    """Connect, send, and leave."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as stranger:
        stranger.settimeout(0.2)
        stranger.sendall(data)
        stranger.recv(64)


def served(port: int) -> float:
    """Seconds until a real client has called a function on the server."""
    start = time.monotonic()
    session = rpc.connect("127.0.0.1", port, "device")
    session.get_function("tvm.rpc.server.workpath")("file")
    return time.monotonic() - start


def main() -> int:
    """Attack for the time given; 1 where the server did not take it well."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("build", type=Path, help="build folder with syncnas-server")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, port = random.Random(options.seed), free_port()
    libraries = [Path(rpc.__file__).parents[1] / "lib", Path(tvm_ffi.__file__).parent / "lib"]
    # Freed memory stays in AddressSanitizer's quarantine (256 MB by default): growth would be its own.
    sanitizer = {"ASAN_OPTIONS": "quarantine_size_mb=1"}
    environment = {**os.environ, **sanitizer, "LD_LIBRARY_PATH": ":".join(map(str, libraries))}
    flags = [f"--port={port}", "--memory-mb=1000", "--session-seconds=5"]
    flags += [f"--load={options.build / 'libsyncnas_opencl.so'}"]
    with tempfile.TemporaryDirectory() as work, (Path(work) / "log").open("w+") as log:
        command = [str(options.build / "syncnas-server"), f"--work-dir={work}", *flags]
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        server, count, slowest, first, most = psutil.Process(process.pid), 0, 0.0, 0, 0
        try:
            time.sleep(2)
            end = time.monotonic() + options.seconds
            while time.monotonic() < end and process.poll() is None:
                send(port, attack(rng))
                count += 1
                most = max(most, server.memory_info().rss)
                if count % 50 == 0:
                    slowest = max(slowest, served(port))
                if count == 100:
                    first = server.memory_info().rss
            alive = process.poll() is None
        finally:
            process.terminate()
            code = process.wait(20)
        said = (Path(work) / "log").read_text(errors="replace")
        left = [path.name for path in Path(work).iterdir() if path.name != "log"]
    kinds = Counter(re.findall(r"^SUMMARY: \w+Sanitizer: ([\w-]+)", said, re.MULTILINE))
    refused = sum(kinds.pop(kind, 0) for kind in REFUSALS)
    kinds.update(re.findall("runtime error", said))
    grown = most - first if first else 0
    print(
        f"{count} strangers, {said.count('session done')} sessions ({refused} refused memory), "
        f"server alive: {alive}"
    )
    print(f"reports {dict(kinds) or 'none'}, exit code {code}, left in the work folder: {left}")
    print(f"memory grew by {grown / 2**20:.1f} MB, slowest real client {slowest:.1f} s")
    good = alive and not kinds and code == 0 and not left and grown < GROWTH and slowest < 10
    if not good:
        print(said[-3000:])
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
