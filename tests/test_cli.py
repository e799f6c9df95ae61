"""The commands as a user sees them: what they print, where, and their exit codes."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from cli_tools import ROOT, SIZE, Shell

from syncnas_tvm.cost_models.dataset import Dataset
from syncnas_tvm.errors import TargetError
from syncnas_tvm.measure import main as measure_main
from syncnas_tvm.planner import STRATEGIES
from syncnas_tvm.targets import load_target

SHAPE = (1, 3, SIZE, SIZE)


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    return Shell(tmp_path_factory.mktemp("cli"))


@pytest.fixture(scope="module")
def compiled(shell):
    """A folder with every region split, and what ``compile --json`` said."""
    done = shell("compile", shell.model, "--output", "split", "--split-all", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def image(shell):
    array = np.random.default_rng(1).standard_normal(SHAPE).astype("float32")
    np.save(shell.folder / "image.npy", array)
    return array


def test_compile_json(shell, compiled):
    assert compiled["model"] == str(shell.model)
    assert (compiled["target"], compiled["output"]) == ("host", "split")
    assert [r["name"] for r in compiled["regions"]] == [f"r{i}" for i in range(6)]
    assert compiled["plan"] == json.loads((shell.folder / "split/plan.json").read_text())
    split = [d for d in compiled["plan"]["decisions"] if d["rule"] in ("ChannelSplit", "RowSplit")]
    assert len(split) == 6
    assert compiled["syncs"] >= len(split)
    for lanes in ("cpu", "gpu", "both"):
        assert compiled["latency_us"][lanes]["predicted"] > 0
        assert compiled["latency_us"][lanes]["measured"] > 0
    assert 0 <= compiled["max_rel_error"] <= 1e-4
    assert compiled["max_abs_error"] >= 0
    documented = (ROOT / "docs/cli.md").read_text()
    assert all(f"`{name}`" in documented for name in compiled)
    stages = {"import", "regions", "measure", "plan", "build", "verify", "time"}
    assert compiled["seconds"].keys() == stages


def test_a_plan_is_replayed_and_told_to_people(shell, compiled, image):
    done = shell(
        *("compile", shell.model, "--output", "again", "--plan", "split/plan.json", "--verbose"),
        *("--verify-input", "image.npy", "--trace", "trace.json"),
    )
    assert done.returncode == 0, done.stderr
    for words in (
        "CPU lane",
        "GPU lane",
        "both lanes *",
        "ChannelSplit",
        "every kernel has a schedule rule",
        "the plan that was given",
    ):
        assert words in done.stdout
    assert "build" in done.stderr
    plans = [json.loads((shell.folder / f / "plan.json").read_text()) for f in ("split", "again")]
    assert plans[0] == plans[1]
    events = json.loads((shell.folder / "trace.json").read_text())["traceEvents"]
    names = {e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert names == {"predicted", "measured"}


def test_measure_lays_the_prediction_beside_what_was_measured(shell, compiled):
    flags = ("--json", "--repeat", 3, "--trace", "both.json", "--kernels", "kernels.jsonl")
    done = shell("measure", "split", *flags)
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    latency = data["latency_us"]
    expected_us = compiled["latency_us"]["both"]["predicted"]
    assert latency["predicted"] == pytest.approx(expected_us)
    assert 0 < latency["measured"]["min"] <= latency["measured"]["median"]
    assert (data["target"], data["device"], data["runs"]) == ("host", None, 3)
    predicted = data["timelines"]["predicted"]["spans"]
    for lane in ("cpu", "gpu"):
        names = [s["name"] for s in predicted if (s["lane"], s["kind"]) == (lane, "kernel")]
        rows = [r for r in data["rows"] if (r["lane"], r["kind"]) == (lane, "kernel")]
        assert [row["name"] for row in rows] == names
        assert all(row["measured_us"] > 0 and row["ratio"] > 0 for row in rows)
    events = json.loads((shell.folder / "both.json").read_text())["traceEvents"]
    assert {e["args"]["name"] for e in events if e["name"] == "process_name"} == {
        "predicted",
        "measured",
    }
    samples = Dataset.read(shell.folder / "kernels.jsonl")
    assert len(samples) == data["kernels"] > 10
    assert {(s.device, s.source) for s in samples} == {("host", "split")}


def test_measure_tells_people_what_is_most_off(shell, compiled, capfd):
    assert measure_main([str(shell.folder / "split"), "--repeat", "2", "--top", "3"]) == 0
    totals, off, _ = capfd.readouterr().out.split("\n\n")
    assert [line.split("  ")[0] for line in totals.splitlines()[2:5]] == [
        "the network",
        "kernels, CPU lane",
        "joins, CPU lane",
    ]
    assert len(off.splitlines()) == 2 + 3


def test_what_measure_cannot_do(shell, compiled, tmp_path, capfd):
    def fails(*arguments):
        assert measure_main([str(a) for a in arguments]) == 2
        said = capfd.readouterr()
        assert said.out == ""
        assert said.err.count("\n") == 1
        return said.err

    folder = shell.folder / "split"
    assert "does not exist" in fails(tmp_path / "none")
    assert "go together" in fails(folder, "--rpc-tracker", "127.0.0.1:1")
    assert "--target is for --kernels" in fails(folder, "--target", "host")
    assert "is a folder; name a file" in fails(folder, "--kernels", tmp_path)
    on_a_device = ("--rpc-tracker", "127.0.0.1:1", "--rpc-key", "board")
    assert "compiled for this machine (target 'host')" in fails(folder, *on_a_device)
    phone = tmp_path / "phone"
    shutil.copytree(folder, phone)
    manifest = json.loads((phone / "manifest.json").read_text())
    own = {**manifest, "runs_on_host": False, "target": "my-phone"}
    (phone / "manifest.json").write_text(json.dumps(own))
    assert "--rpc-tracker runs it on a device" in fails(phone)
    assert "no tracker at 127.0.0.1:1" in fails(phone, *on_a_device)
    said = fails(phone, *on_a_device, "--kernels", tmp_path / "k.jsonl")
    assert "compiled for target 'my-phone', which does not ship" in said


def test_one_lane_replaces_the_folder(shell, compiled):
    for lanes in ("cpu", "gpu"):
        done = shell("compile", shell.model, "--output", "one", "--lanes", lanes, "--json")
        assert done.returncode == 0, done.stderr
        decisions = json.loads(done.stdout)["plan"]["decisions"]
        assert {(d["rule"], d["lane"]) for d in decisions} == {("Place", lanes)}
        manifest = json.loads((shell.folder / "one/manifest.json").read_text())
        assert manifest["lanes"] == [lanes]
    assert [p.name for p in shell.folder.iterdir() if p.name.startswith(".")] == []


def test_compile_for_a_phone(shell):
    try:
        load_target("android").link.find()
    except TargetError as error:
        pytest.skip(str(error))
    done = shell("compile", shell.model, "--output", "phone", "--target", "android", "--json")
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    assert data["target"] == "android-adreno"
    assert data["latency_us"]["cpu"]["predicted"] > 0
    assert {latency["measured"] for latency in data["latency_us"].values()} == {None}
    assert data["max_rel_error"] is None
    refused = shell.fails(
        *("compile", shell.model, "--output", "phone", "--target", "android", "--verify")
    )
    assert "does not run on this machine" in refused
    assert "android-adreno" in shell.fails("run", "phone")


def test_a_search_is_continued_and_of_its_target_alone(shell):
    study = ("compile", shell.model, "--output", "studied", "--json", "--cost-mode", "study")
    study += ("--sync-us", 500, "--search-state", "search.json", "--evaluations", 200)
    latencies = []
    for _ in range(2):
        done = shell(*study, "--target", "rk3399")
        assert done.returncode == 0, done.stderr
        latencies.append(json.loads(done.stdout)["latency_us"]["both"]["predicted"])
    assert latencies[1] <= latencies[0]
    state = json.loads((shell.folder / "search.json").read_text())["state"]
    assert state["complete"] or state["evaluations"] >= 400
    line = shell.fails(*study, "--target", "android-mali")
    assert "search.json: is of a search with target 'rk3399', not 'android-mali'" in line


def test_run_json_agrees_with_onnxruntime(shell, compiled, image):
    done = shell(
        *("run", "split", "--input", "image.npy", "--repeat", 5, "--json"),
        *("--output-file", "outputs.npz", "--profile", "profile.json"),
    )
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    session = onnxruntime.InferenceSession(str(shell.model), providers=["CPUExecutionProvider"])
    (expected,) = session.run(["output"], {"input": image})
    with np.load(shell.folder / "outputs.npz") as outputs:
        np.testing.assert_allclose(outputs["output"], expected, rtol=1e-4, atol=1e-4)
    output = data["outputs"]["output"]
    assert output["shape"] == [1, 10]
    assert [index for index, _ in output["top5"]] == np.argsort(-expected[0])[:5].tolist()
    assert [value for _, value in output["top5"]] == pytest.approx(
        sorted(expected[0])[:-6:-1], 1e-3
    )
    latency = data["latency_us"]
    assert 0 < latency["min"] <= latency["median"] <= latency["p90"]
    assert data["lanes"] == ["cpu", "gpu"]
    events = json.loads((shell.folder / "profile.json").read_text())["traceEvents"]
    assert {e["tid"] for e in events if e.get("cat") == "kernel"} == {1, 2}


def test_run_for_people(shell, compiled, image):
    done = shell("run", "split", "--repeat", 2)
    assert done.returncode == 0, done.stderr
    assert "random (seed 0)" in done.stdout
    assert "median" in done.stdout
    named = shell("run", "split", "--repeat", 2, "--input", "input=image.npy", "--verbose")
    assert named.returncode == 0, named.stderr
    assert "random" not in named.stdout


def test_inspect_needs_no_gpu(shell, compiled):
    nothing = {"SYNCNAS_OPENCL_LIBRARY": "/nonexistent", "OCL_ICD_VENDORS": "/nonexistent"}
    done = shell("inspect", shell.model, "--json", **nothing)
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    rules = [region.pop("rules") for region in data["regions"]]
    possible = [region.pop("decisions") for region in data["regions"]]
    assert [Counter(d["rule"] for d in here) for here in possible] == rules
    assert all(any(d in here for here in possible) for d in compiled["plan"]["decisions"])
    assert data["regions"] == compiled["regions"]
    assert all(found["Place"] == 2 for found in rules)
    assert sum("ChannelSplit" in found for found in rules) == 6
    assert data["totals"]["macs"] == sum(r["macs"] for r in data["regions"])
    table = shell("inspect", shell.model, "--target", "rk3399", **nothing)
    assert table.returncode == 0, table.stderr
    assert "ChannelSplit" in table.stdout
    assert table.stdout.splitlines()[-1].startswith("total: 6 regions")
    whole = shell("inspect", shell.model, "--target", "rk3399", "--verbose", **nothing).stdout
    assert "  Place on r1: lane=cpu | lane=gpu\n" in whole


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "required: model, --output"),
        (("MODEL",), "required: --output"),
        (("MODEL", "--output", "o", "--lanes", "npu"), "--lanes: invalid choice"),
        (("MODEL", "--output", "o", "--no-such-flag"), "--no-such-flag"),
        (("MODEL", "--output", "o", "--target", "hots"), "did you mean 'host'"),
        (("MODEL", "--output", "o", "--target", "no.toml"), "no.toml"),
        (("MODEL", "--output", "o", "--evaluations", "0"), "from 1 up"),
        (("MODEL", "--output", "o", "--seconds", "inf"), "above 0"),
        (("MODEL", "--output", "o", "--tolerance", "nan"), "--tolerance"),
        (("MODEL", "--output", "o", "--seed", "-1"), "--seed"),
        (("MODEL", "--output", "o", "--strategy", "luck"), "mcts"),
        (("MODEL", "--output", "o", "--input-shapes", "input"), "--input-shapes"),
        (("MODEL", "--output", "o", "--input-shapes", "x:[1]"), "no input 'x'"),
        (("MODEL", "--output", "o", "--split-all", "--lanes", "cpu"), "--split-all"),
        (("MODEL", "--output", "o", "--split-all", "--plan", "split/plan.json"), "one of them"),
        (("MODEL", "--output", "o", "--cost-mode", "study"), "--sync-us"),
        (("MODEL", "--output", "o", "--sync-us", "5"), "not for timeline"),
        (("MODEL", "--output", "o", "--measured-device", "x"), "are for --measurements"),
        (("MODEL", "--output", "o", "--measurements", "no.log"), "no.log: not a TopHub log"),
        (("MODEL", "--output", "o", "--sync-us", "-1"), "not a number from 0 up"),
        (("MODEL", "--output", "o", "--sync-us", "0.00"), "not for timeline"),
        (("MODEL", "--output", "o", "--split-all", "--search-state", "s"), "nothing is searched"),
        (
            ("MODEL", "--output", "o", "--lanes", "cpu", "--strategy", "dp"),
            "--strategy and --lanes",
        ),
        (("MODEL", "--output", "o", "--plan", "p", "--evaluations", "9"), "nothing is searched"),
        (("MODEL", "--output", "o", "--split-all", "--seconds", "1"), "--seconds and --split-all"),
        (("MODEL", "--output", "."), "current folder"),
        (("MODEL", "--output", "MODEL"), "is a file"),
        (("MODEL", "--output", "MODEL/o"), "is not a folder"),
        (("MODEL", "--output", "o", "--trace", "split"), "--trace split: is a folder"),
        (("no.onnx", "--output", "o"), "no.onnx: no such file"),
        (("broken.json", "--output", "o"), "not an ONNX model"),
    ],
)
def test_bad_flags_are_one_line(shell, compiled, arguments, words):
    (shell.folder / "broken.json").write_text("{")
    named = [str(a).replace("MODEL", str(shell.model)) for a in arguments]
    assert words in shell.fails("compile", *named)
    assert not (shell.folder / "o").exists()


PLANS = {
    "missing.json": (None, "no such file"),
    "broken.json": ("{", "not JSON"),
    "binary.json": (b"\xff\xfe", "not JSON"),
    "deep.json": ("[" * 100_000, "not JSON"),
    "list.json": ("[]", "'decisions'"),
    "format.json": ('{"format": 99, "decisions": []}', "format 99"),
    "nested.json": (
        '{"decisions": [{"regions": ["r0"], "rule": "Place", "lane": ["cpu"]}]}',
        "plain",
    ),
    "nowhere.json": (
        '{"decisions": [{"regions": [], "rule": "Place", "lane": "cpu"}]}',
        "no region",
    ),
    "short.json": ('{"decisions": [{"regions": ["r0"], "rule": "Place", "lane": "cpu"}]}', "'r1'"),
    "other.json": ('{"decisions": [{"regions": ["r99"], "rule": "Place", "lane": "cpu"}]}', "r99"),
}


@pytest.mark.parametrize("name", PLANS)
def test_bad_plans(shell, name):
    content, words = PLANS[name]
    if content is not None:
        data = content if isinstance(content, bytes) else content.encode()
        (shell.folder / name).write_bytes(data)
    line = shell.fails("compile", shell.model, "--output", "o", "--plan", name)
    assert f"--plan {name}: " in line
    assert words in line


@pytest.fixture(scope="module")
def bad_arrays(shell, image):
    """Files that are no input of the model, and what is said of each."""
    folder = shell.folder
    np.save(folder / "unbatched.npy", image[0])
    np.save(folder / "wide.npy", image.astype("float64"))
    np.save(folder / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    (folder / "text.npy").write_text("hello")
    (folder / "empty.npy").write_bytes(b"")
    (folder / "short.npy").write_bytes((folder / "image.npy").read_bytes()[:500])
    np.savez(folder / "other.npz", other=image)
    np.savez(folder / "whole.npz", input=image)
    (folder / "short.npz").write_bytes((folder / "whole.npz").read_bytes()[:500])
    return {
        "nowhere.npy": "no such file",
        "unbatched.npy": "array[None]",
        "wide.npy": "astype('float32')",
        "objects.npy": "Python objects",
        "text.npy": "not a .npy",
        "empty.npy": "not a .npy",
        "short.npy": "damaged or truncated",
        "short.npz": "damaged or truncated",
        "other.npz": "no input 'other'",
        "split": "is a folder",
    }


def test_bad_verify_inputs(shell, compiled, bad_arrays):
    for name, words in bad_arrays.items():
        line = shell.fails("compile", shell.model, "--output", "o", "--verify-input", name)
        assert f"--verify-input {name}: " in line
        assert words in line


def test_bad_run_inputs(shell, compiled, bad_arrays):
    for name, words in bad_arrays.items():
        line = shell.fails("run", "split", "--input", name, "--json")
        assert f"--input {name}: " in line
        assert words in line
    assert "no input 'x'" in shell.fails("run", "split", "--input", "x=image.npy")
    twice = shell.fails("run", "split", "--input", "image.npy", "--input", "image.npy")
    assert "one file too many" in twice


@pytest.mark.parametrize("command", ["compile", "run", "inspect"])
def test_help(shell, command):
    done = shell(command, "--help")
    assert done.returncode == 0
    assert "--json" in done.stdout
    if command == "compile":
        assert all(name in done.stdout for name in STRATEGIES)


def test_the_tools_see_a_wrong_exit_code(shell):
    with pytest.raises(AssertionError):
        shell.fails("inspect", "--help")


def test_folders_that_are_not_whole(shell, compiled):
    assert "does not exist" in shell.fails("run", "nowhere")
    assert "no manifest.json" in shell.fails("run", Path("cache"))
