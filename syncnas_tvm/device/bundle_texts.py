"""The texts in a bundle: how it is started and what its user has to know."""

from __future__ import annotations

from syncnas_tvm.targets import Target


def start_script(key: str) -> str:
    """A shell script that starts the server; any POSIX shell runs it, Android's too."""
    return f"""#!/bin/sh
# Starts the RPC server of this bundle:   ./start-server.sh --tracker=HOST:PORT [more flags]
# bin/syncnas-server --help lists the flags. Later flags win over the ones set here.
here=$(cd "$(dirname "$0")" && pwd)
export LD_LIBRARY_PATH="$here/lib${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}"
mkdir -p "$here/work"
exec "$here/bin/syncnas-server" --key={key} --work-dir="$here/work" \\
  --load="$here/lib/libsyncnas_opencl.so" "$@"
"""


def readme(target: Target, toolchain: str) -> str:
    """README.md of a bundle for ``target``."""
    return f"""# Bundle for {target.name}

{target.description}. Built with {toolchain}.

1. Copy this folder to the device (`scp -r`, `adb push`).
2. On the device, start the server (it listens on the loopback alone where `--host` is left out):

       ./start-server.sh --host=0.0.0.0 --tracker=HOST:9190

   where HOST is the machine that runs `python -m tvm.exec.rpc_tracker --host 0.0.0.0 --port 9190`.
   Through a cable, nothing has to leave the loopback: leave `--host` out, add
   `--custom-addr=127.0.0.1`, and forward the ports (`adb reverse tcp:9190 tcp:9190`,
   `adb forward tcp:9090 tcp:9090`, or `ssh -R` and `-L`).
3. On the machine that compiles:

       python -m syncnas_tvm.compile model.onnx --target {target.name} --output out/
       python -m syncnas_tvm.run out/ --rpc-tracker HOST:9190 --rpc-key {target.name}

**TVM's RPC runs whatever it is sent, and asks for no password.** Let only trusted networks reach the
server and the tracker.

Without a network: copy the compiled folder to the device too and run it there:

    LD_LIBRARY_PATH=lib bin/syncnas-run out/ --input=image.npy --repeat=50

`include/syncnas/model.h` is the same in C++, for programs of your own (examples/android_cpp in the
project); link with `lib/libsyncnas_opencl.so`.
"""
