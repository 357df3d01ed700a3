"""dist-check: one table of all processes, and the name of the one that is not like the others."""

import pathlib
import re

CONFIG = pathlib.Path(__file__).parents[1] / "tiny_run.py"


def rows_of(out):
    """The cells of the tables' lines."""
    return [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in out.splitlines()
        if line.startswith("│")
    ]


def test_one_process_is_checked_as_well(vla_jax, tmp_path):
    code, out, _ = vla_jax("dist-check", f"--workdir={tmp_path / 'runs' / 'x'}", "--cluster=none")
    assert code == 0
    first, *speeds = rows_of(out)
    assert first[0] == "0"
    assert first[2:6] == ["8 cpu", "right", "+0.000", "shared"]
    assert [row[:2] for row in speeds] == [
        [name, size] for size in ("1", "16", "64") for name in ("all-reduce", "all-gather")
    ]
    assert all(float(row[3]) > 0 for row in speeds)
    assert list(tmp_path.iterdir()) == []


def test_what_a_host_does_not_share_is_named(start_job, tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    dataset = folders[0] / "data" / "bridge_orig" / "1.0.0"
    dataset.mkdir(parents=True)
    (dataset / "features.json").write_text("{}")
    job = start_job(
        *("dist-check", f"--config={CONFIG}", "--config.data_dir=data", "--workdir=run"),
        *("--config.mixture.name=bridge", "--config.mixture.robot_share=1."),
        processes=2,
        before=lambda number: f"import os; os.chdir({str(folders[number])!r})",
    )
    (first, out, _), (second, silent, _) = job.wait(120)
    assert (first, second) == (1, 1)
    assert "clock" not in silent
    assert [row[:1] + row[2:4] for row in rows_of(out)[:2]] == [
        ["0", "2 cpu", "right"],
        ["1", "2 cpu", "right"],
    ]
    assert len([row for row in rows_of(out) if row[0].startswith("all-")]) == 6
    wrong = [line for line in out.splitlines() if line.startswith("wrong: ")]
    patterns = (
        r"wrong: process 1 on \S+: workdir run: \S+/b is not the one that process 0 writes to",
        r"wrong: process 1 on \S+: dataset bridge_orig: absent, where most have 1 files .*no index",
    )
    assert len(wrong) == len(patterns), out
    for line, pattern in zip(wrong, patterns, strict=True):
        assert re.match(pattern, line), line


def test_another_configuration_is_named_with_its_host(start_job):
    job = start_job(
        *("dist-check", f"--config={CONFIG}"),
        processes=2,
        before=lambda number: "import sys; sys.argv += ['--config.seed=3']" if number else "",
    )
    for code, _, err in job.wait(120):
        assert code == 1
        (line,) = [line for line in err.splitlines() if line.startswith("vla-jax: ")]
        assert re.search(
            r"configuration: expected the same in all processes, found config\.seed: 0 in process "
            r"0 on \S+; 3 in process 1 on \S+\. Start all processes with the same flags",
            line,
        )
