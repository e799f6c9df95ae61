"""What ``syncnas_tvm`` exports, and that the documentation of it is complete."""

import ast
import builtins
import inspect
import re
import subprocess
import sys

import pytest
from cli_tools import ROOT

import syncnas_tvm

PAGE = (ROOT / "docs" / "api.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
EXAMPLES = [(ROOT / "examples" / f"{n}.py").read_text() for n in ("custom_rule", "custom_pass")]


def test_every_exported_name_is_there():
    for name in syncnas_tvm.__all__:
        assert getattr(syncnas_tvm, name).__doc__ or name == "__version__", name
    assert {"SplitRule", "register_rule", "Budget"} <= set(syncnas_tvm.__all__)


def test_what_is_imported_for_it():
    """The API is imported on first use: the package itself brings nothing along."""
    code = (
        "import sys; before = set(sys.modules); import syncnas_tvm\n"
        "print(sorted(n for n in set(sys.modules) - before if n.startswith(('syncnas', 'tvm'))))"
    )
    out = subprocess.check_output([sys.executable, "-S", "-c", code], cwd=ROOT, text=True)
    assert out.strip() == "['syncnas_tvm', 'syncnas_tvm._version']"


@pytest.mark.parametrize("source", EXAMPLES, ids=["rule", "pass"])
def test_examples_need_the_api_alone(source):
    assert re.findall(r"syncnas_tvm\.[a-z_]+\.", source) == []
    assert re.findall(r"from syncnas_tvm\.", source) == []


@pytest.mark.parametrize("source", SNIPPETS, ids=range(len(SNIPPETS)))
def test_snippets_are_complete(source):
    """Every name in it is imported, made or passed there."""
    nodes = list(ast.walk(ast.parse(source)))
    made = set(dir(builtins))
    for node in nodes:
        match node:
            case ast.alias():
                made.add(node.asname or node.name.partition(".")[0])
            case ast.FunctionDef() | ast.ClassDef():
                made.add(node.name)
            case ast.arg():
                made.add(node.arg)
            case ast.Name(ctx=ast.Store()):
                made.add(node.id)
    assert {node.id for node in nodes if isinstance(node, ast.Name)} <= made


def test_all_that_compile_takes_is_listed():
    for name in inspect.signature(syncnas_tvm.compile_onnx).parameters:
        assert f"`{name}`" in PAGE, name
