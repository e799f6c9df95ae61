"""Kernels as JSON, and measured tables on disk."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest
from hypothesis import given
from kernels import RK3399, add, conv, depthwise, kernels

from syncnas_tvm.cost_models import (
    MeasuredTable,
    Measurement,
    Roofline,
    TableFile,
    kernel_from_json,
    kernel_to_json,
    machine_key,
)
from syncnas_tvm.targets import load_target
from syncnas_tvm.work import Kernel


@given(kernels)
def test_kernels_survive_json(kernel: Kernel) -> None:
    again = kernel_from_json(json.loads(json.dumps(kernel_to_json(kernel))))
    assert again == kernel
    assert hash(again) == hash(kernel)


KEY = {"processor": "test", "tvm": "0"}
ENTRIES = {conv(64, 384): Measurement(800.0, 4.0), depthwise(96, "gpu"): Measurement(90.0, 1.0)}


def append_one(path: Path, number: int) -> None:
    for out in range(20):
        TableFile(path, KEY).append({conv(number + 1, out + 1): Measurement(1.0 + number)})


class TestTableFile:
    def load(self, file: TableFile) -> tuple[MeasuredTable, list[str]]:
        return file.load(Roofline(RK3399))

    def test_what_is_appended_is_read_back(self, tmp_path: Path) -> None:
        file = TableFile(tmp_path / "deep" / "t.jsonl", KEY)
        file.append(ENTRIES)
        file.append({add(3): Measurement(5.0)})
        found, problems = self.load(file)
        assert found.entries == {**ENTRIES, add(3): Measurement(5.0)}
        assert problems == []

    def test_the_last_line_for_a_kernel_counts_and_saving_keeps_one(self, tmp_path: Path) -> None:
        file = TableFile(tmp_path / "t.jsonl", KEY)
        file.append({add(3): Measurement(5.0)})
        file.append({add(3): Measurement(6.0)})
        found, _ = self.load(file)
        assert found.entries == {add(3): Measurement(6.0)}
        file.save(found)
        assert len(file.path.read_text().splitlines()) == 2
        assert self.load(file)[0].entries == found.entries
        assert sorted(p.name for p in tmp_path.iterdir()) == ["t.jsonl", "t.lock"]

    def test_no_file_is_an_empty_table(self, tmp_path: Path) -> None:
        found, problems = self.load(TableFile(tmp_path / "t.jsonl", KEY))
        assert len(found) == 0
        assert problems == []

    @pytest.mark.parametrize(
        "header", ["", "{}", "junk", "[]", '{"format": 1, "key": {"tvm": "9"}}']
    )
    def test_another_machines_table_is_not_used_and_then_replaced(
        self, tmp_path: Path, header: str
    ) -> None:
        file = TableFile(tmp_path / "t.jsonl", KEY)
        file.append(ENTRIES)
        lines = file.path.read_text().splitlines()
        file.path.write_text("\n".join([header, *lines[1:]]) + "\n")
        found, problems = self.load(file)
        assert len(found) == 0
        assert len(problems) == 1
        assert "not used" in problems[0]
        file.append({add(3): Measurement(5.0)})
        assert self.load(file)[0].entries == {add(3): Measurement(5.0)}

    @pytest.mark.parametrize(
        "broken",
        [
            "",
            "{",
            "3",
            "null",
            '{"kernel": {}, "latency_us": 3, "noise_us": 0}',
            '{"latency_us": 3}',
            "\x00\x01",
        ],
    )
    def test_a_corrupt_line_is_reported_with_its_number_and_skipped(
        self, tmp_path: Path, broken: str
    ) -> None:
        file = TableFile(tmp_path / "t.jsonl", KEY)
        file.append(ENTRIES)
        header, first, second = file.path.read_text().splitlines()
        file.path.write_text("\n".join([header, first, broken, second]) + "\n")
        found, problems = self.load(file)
        assert found.entries == ENTRIES
        assert len(problems) == 1
        assert problems[0].startswith(f"{file.path}:3: skipped")

    @pytest.mark.parametrize("value", ["-5", "0", "NaN", '"x"', "null", "[1]"])
    def test_a_line_that_is_no_time_is_skipped(self, tmp_path: Path, value: str) -> None:
        file = TableFile(tmp_path / "t.jsonl", KEY)
        file.append({add(3): Measurement(123.5)})
        file.path.write_text(file.path.read_text().replace("123.5", value))
        found, problems = self.load(file)
        assert len(found) == 0
        assert len(problems) == 1

    def test_a_kill_in_mid_append_costs_one_line_at_most(self, tmp_path: Path) -> None:
        file = TableFile(tmp_path / "t.jsonl", KEY)
        file.append(ENTRIES)
        whole = file.path.read_bytes()
        for length in range(len(whole)):
            file.path.write_bytes(whole[:length])
            file.append({add(3): Measurement(5.0)})
            found, problems = self.load(file)
            assert add(3) in found
            assert len(problems) <= 1
            assert found.entries.items() <= {**ENTRIES, add(3): Measurement(5.0)}.items()

    def test_processes_may_append_at_the_same_time(self, tmp_path: Path) -> None:
        path = tmp_path / "t.jsonl"
        context = multiprocessing.get_context("fork")
        workers = [context.Process(target=append_one, args=(path, n)) for n in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
            assert worker.exitcode == 0
        found, problems = self.load(TableFile(path, KEY))
        assert len(found) == 80
        assert problems == []

    def test_a_key_has_its_own_file(self, tmp_path: Path) -> None:
        host = load_target("host")
        one = TableFile.in_folder(tmp_path, machine_key(host, opencl="a"))
        two = TableFile.in_folder(tmp_path, machine_key(host, opencl="b"))
        again = TableFile.in_folder(tmp_path, machine_key(host, opencl="a"))
        assert one.path == again.path != two.path
        assert machine_key(host)["cpu_threads"] == str(host.cpu_threads)
