"""Running compiled folders: load them, call them, profile them."""

from syncnas_tvm.runtime.executable import Executable, load

__all__ = ["Executable", "load"]
