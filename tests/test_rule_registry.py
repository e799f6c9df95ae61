"""Where split rules come from: the built-in ones, classes that are registered, installed packages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cli_tools
import pytest

from syncnas_tvm.errors import RuleError
from syncnas_tvm.passes.place import Place
from syncnas_tvm.passes.rule import register_rule, rule, rules

BUILT_IN = {"Place", "ChannelSplit", "RowSplit", "Branches"}


@pytest.mark.usefixtures("own_rules")
def test_a_rule_without_a_name() -> None:
    with pytest.raises(RuleError, match="split rule Nameless has no 'name'"):

        @register_rule
        class Nameless(Place):
            name = ""


@pytest.mark.usefixtures("own_rules")
def test_two_rules_of_one_name() -> None:
    """Neither takes the other's place; the same class, defined again, does."""

    def defined() -> type[Place]:
        class Mine(Place):
            name = "Mine"

        return Mine

    first, again = defined(), defined()
    register_rule(first)
    register_rule(again)
    assert type(rule("Mine")) is again
    with pytest.raises(
        RuleError, match=r"rules syncnas_tvm\.\S*Place and \S*Other .*'Place'; change"
    ):

        @register_rule
        class Other(Place):
            pass

    assert type(rule("Place")) is Place
    assert [r.name for r in rules()][-1] == "Mine"


def python(folder: Path, code: str) -> list[str]:
    """What ``code`` prints in a process of its own that finds what is installed in ``folder``."""
    paths = f"{folder}:{cli_tools.ROOT}"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": paths, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def install(folder: Path, package: str, source: str) -> None:
    """A distribution whose entry point, ``tokens``, is one module of ``source``."""
    (folder / f"{package}.py").write_text(source)
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[syncnas_tvm.rules]\ntokens = {package}\n")


def rule_source(name: str) -> str:
    return f"""
from syncnas_tvm.passes.rule import SplitRule, register_rule

@register_rule
class {name}(SplitRule):
    name = "{name}"
    applies = variants = rewrite = lambda *_: []
"""


def test_rules_of_installed_packages(tmp_path: Path) -> None:
    """Both of two packages that give their entry points one name, after the built-in rules."""
    install(tmp_path, "alpha", rule_source("Alpha"))
    install(tmp_path, "beta", rule_source("Beta"))
    # One that is imported before all others still comes behind the built-in ones.
    code = """
import beta
from syncnas_tvm.passes.rule import rules
print(*(rule.name for rule in rules()), sep="\\n")
"""
    found = python(tmp_path, code)
    assert set(found[:4]) == BUILT_IN
    assert found[4:] == ["Beta", "Alpha"]


def test_a_package_that_does_not_load(tmp_path: Path) -> None:
    """It is named each time, not once only."""
    install(tmp_path, "alpha", rule_source("Alpha"))
    install(tmp_path, "broken", "1 / 0\n")
    code = """
from syncnas_tvm.errors import RuleError
from syncnas_tvm.passes.rule import rules
for _ in range(2):
    try:
        rules()
    except RuleError as error:
        print(error)
"""
    line = (
        "the split rule 'tokens' (broken) of package 'broken' does not load: division by zero; "
        "fix or uninstall the package"
    )
    assert python(tmp_path, code) == [line, line]
