"""``python -m syncnas_tvm.device``: ``build`` a bundle for a device, ``emulate`` a board."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from syncnas_tvm.cli import USER_ERROR, end
from syncnas_tvm.device import build_command, emulate_command

COMMANDS = {"build": build_command.main, "emulate": emulate_command.main}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in COMMANDS:
        return COMMANDS[words[0]](words[1:])
    usage = "usage: python -m syncnas_tvm.device build|emulate ...; each has --help"
    if words in (["--help"], ["-h"]):
        print(f"{usage}\n\n  build    a folder to copy to a device: server, libraries, example")
        print("  emulate  an aarch64 board on this machine, with a TVM tracker and our server")
        return 0
    print(f"error: {usage}", file=sys.stderr)
    return USER_ERROR


if __name__ == "__main__":
    end(main())
