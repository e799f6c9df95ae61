"""``python -m syncnas_tvm.device build``: makes the folder to copy to a device."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from syncnas_tvm.cli import Command, Parser, check_writable, run_command

DEFAULT_WORK = Path("build") / "device"


def make_parser() -> Parser:
    """The flags; named as in the other commands."""
    parser = Parser("device build", "Make a folder to copy to a device.")
    parser.add_argument("--target", required=True, help="the device by name, or its .toml file")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FOLDER", help="where the bundle goes"
    )
    parser.add_argument(
        "--work-dir",
        type=Path,
        default=DEFAULT_WORK,
        metavar="FOLDER",
        help=f"keeps downloads and compiled files for the next time ({DEFAULT_WORK})",
    )
    parser.add_argument(
        "--tvm-libraries",
        type=Path,
        metavar="FOLDER",
        help="TVM's runtime libraries for Android, built with the NDK",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run_command(make_parser(), _work, argv)


def _work(command: Command) -> None:
    options = command.options
    check_writable("--output", options.output)
    check_writable("--work-dir", options.work_dir)
    from syncnas_tvm.device.bundle import BUNDLE, build_bundle
    from syncnas_tvm.targets import load_target

    target = load_target(options.target)
    toolchain = build_bundle(target, options.output, options.work_dir, options.tvm_libraries)
    size = sum(path.stat().st_size for path in options.output.rglob("*") if path.is_file())
    if options.json:
        command.print_json(
            {
                "target": target.name,
                "output": str(options.output),
                "toolchain": toolchain.name,
                "bytes": size,
                "manifest": str(options.output / BUNDLE),
            }
        )
        return
    command.print(f"built with {toolchain.name}")
    command.print(
        f"bundle for '{target.name}' in {options.output} ({size / 1e6:.1f} MB); see its README.md"
    )
