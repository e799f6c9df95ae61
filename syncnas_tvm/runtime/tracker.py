"""Gets a device from a TVM tracker, with errors that say what is wrong instead of endless retries."""

from __future__ import annotations

import socket
import time
from typing import Any

from tvm import rpc

from syncnas_tvm.errors import DeviceError, InputError, error_line
from syncnas_tvm.runtime.deadline import deadline

_ANSWER_S = 5.0
_POLL_S = 0.2


def parse_address(flag: str, text: str) -> tuple[str, int]:
    """HOST:PORT; raises InputError for anything else."""
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise InputError(f"{flag} {text}: give HOST:PORT, for example 127.0.0.1:9190")
    return host.strip("[]"), int(port)


def request_device(
    address: tuple[str, int], key: str, wait_s: float, session_s: float = 0.0
) -> rpc.RPCSession:
    """A session on a device registered as ``key``, waiting up to ``wait_s`` for a busy one.

    The device ends a session that takes longer than ``session_s``, unless that is 0. Raises DeviceError
    where no tracker answers, no device has the key, or all stay busy.
    """
    tracker = _connect(address)
    try:
        _await_free(tracker, address, key, wait_s)
        with deadline(wait_s, f"asking the tracker for '{key}'"):
            return tracker.request(key, session_timeout=session_s, max_retry=1)
    except (RuntimeError, OSError, ValueError) as error:
        where = "{}:{}".format(*address)
        raise DeviceError(
            f"no session on '{key}' through the tracker at {where}: {error_line(error)}"
        ) from error
    finally:
        tracker.close()


def count_devices(address: tuple[str, int], key: str) -> int:
    """How many devices are registered as ``key``; raises DeviceError where no tracker answers."""
    tracker = _connect(address)
    try:
        return _keys(_summary(tracker, address)).count(key)
    except (RuntimeError, OSError, ValueError) as error:
        where = "{}:{}".format(*address)
        raise DeviceError(f"the tracker at {where} failed: {error_line(error)}") from error
    finally:
        tracker.close()


def _summary(tracker: rpc.TrackerSession, address: tuple[str, int]) -> dict[str, Any]:
    with deadline(_ANSWER_S, "the tracker at {}:{}".format(*address)):
        return tracker.summary()


def _keys(summary: dict[str, Any]) -> list[str]:
    """The key of each registered device."""
    return [info["key"].removeprefix("server:") for info in summary["server_info"]]


def _connect(address: tuple[str, int]) -> rpc.TrackerSession:
    where = "{}:{}".format(*address)
    hint = "start one with 'python -m tvm.exec.rpc_tracker --host 127.0.0.1 --port 9190'"
    # TVM's own client retries for a minute: see first whether anybody is there.
    try:
        socket.create_connection(address, timeout=_ANSWER_S).close()
    except OSError as error:
        raise DeviceError(f"no tracker at {where} ({error.strerror or error}); {hint}") from error
    try:
        with deadline(_ANSWER_S, f"the tracker at {where}"):
            return rpc.connect_tracker(*address)
    except (RuntimeError, OSError, DeviceError) as error:
        raise DeviceError(f"{where} answers, but is no TVM tracker; {hint}") from error


def _await_free(
    tracker: rpc.TrackerSession, address: tuple[str, int], key: str, wait_s: float
) -> None:
    where = "{}:{}".format(*address)
    start = time.monotonic()
    while True:
        summary = _summary(tracker, address)
        keys = set(_keys(summary))
        if key in keys and summary["queue_info"].get(key, {}).get("free"):
            return
        waited_s = time.monotonic() - start
        # A tracker that was restarted just now does not know its devices yet.
        if key not in keys and waited_s > min(_ANSWER_S, wait_s):
            known = ", ".join(f"'{name}'" for name in sorted(keys)) or "none"
            raise DeviceError(
                f"no device is registered as '{key}' with the tracker at {where} "
                f"(registered: {known}); start syncnas-server there with --key={key}"
            )
        if waited_s > wait_s:
            raise DeviceError(
                f"all devices registered as '{key}' were busy for {wait_s:g} s; try again later"
            )
        time.sleep(_POLL_S)
