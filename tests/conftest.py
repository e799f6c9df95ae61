"""Session-wide defaults: one core per lane, set before TVM or OpenCL is loaded.

The GPU lane is PoCL on one core, the CPU lane one TVM thread; with more, the two would share cores
and no test could tell overlap from contention. Values from the environment win.
"""

import functools
import os
from collections.abc import Iterator

import pytest

os.environ.setdefault("POCL_MAX_PTHREAD_COUNT", "1")
os.environ.setdefault("TVM_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def nothing_measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compiles for ``host`` measure no kernels, and keep nothing in the user's cache."""
    from syncnas_tvm import compile_job

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SYNCNAS_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        quick = functools.partial(compile_job.HostKernels, seconds=0.0)
        patch.setattr(compile_job, "HostKernels", quick)
        yield


@pytest.fixture
def own_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Split rules that a test registers are gone after it."""
    from syncnas_tvm.passes import rule

    rule.rules()
    monkeypatch.setattr(rule, "_RULES", dict(rule._RULES))
