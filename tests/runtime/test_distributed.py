"""How processes find each other, what they agree on, and that none waits for one that is gone."""

import json
import os
import re
import signal
import time

import pytest

from vla_jax.core.errors import UserError
from vla_jax.runtime import distributed, lifeline, peers
from vla_jax.runtime.distributed import DistributedConfig

SLURM = {
    "SLURM_JOB_ID": "1234",
    "SLURM_STEP_NODELIST": "node[007-009]",
    "SLURM_NTASKS": "3",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
}
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
}
JOIN = """
import sys, types
from vla_jax.cli import flags, main
from vla_jax.core.errors import UserError
from vla_jax.runtime import distributed, lifeline, peers

def work():
{work}

def verb(arguments):
    values, _ = flags.parse("train", arguments, flags.define_processes)
    with distributed.joined(flags.processes(values)):
        work()

sys.modules["vla_jax.cli.train"] = types.ModuleType("verb")
sys.modules["vla_jax.cli.train"].main = verb
main.main(["train", *sys.argv[1:]])
"""


def program(work):
    """A verb of the command line that does this in all processes of a job."""
    return JOIN.format(work="\n".join(f"    {line}" for line in work.strip().splitlines()))


def ours(text):
    """The lines that this package has written, not JAX."""
    return [line for line in text.splitlines() if line.startswith("vla-jax: ")]


def wait_for_work(job, number):
    deadline = time.monotonic() + 60
    while "working" not in job.texts(number)[0]:
        assert time.monotonic() < deadline, job.texts(number)
        time.sleep(0.1)


@pytest.fixture
def no_launcher(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("SLURM_", "OMPI_", "VLA_JAX_", "CUDA_VISIBLE")):
            monkeypatch.delenv(name)


def find(**given):
    return distributed._find(DistributedConfig.of(given))


def test_flags_go_before_the_environment(no_launcher, monkeypatch):
    monkeypatch.setenv("VLA_JAX_PROCESSES", "4")
    monkeypatch.setenv("VLA_JAX_PROCESS", "1")
    monkeypatch.setenv("VLA_JAX_COORDINATOR", "a:1")
    config = DistributedConfig.of({"process": 2, "start_timeout": None})
    assert config == DistributedConfig(coordinator="a:1", processes=4, process=2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"coordinator": "host"}, "coordinator: expected HOST:PORT, found host"),
        ({"processes": 0}, "processes: expected 1 or more, found 0"),
        ({"processes": 2, "process": 2}, "below the number of processes (2), found 2"),
        ({"process": -1}, "found -1"),
        ({"cluster": "slrum"}, "cluster: expected one of auto, none, slurm"),
        ({"heartbeat_timeout": 0}, "heartbeat_timeout: expected 1 or more"),
    ],
)
def test_a_wrong_value_is_named(given, message):
    with pytest.raises(UserError, match=re.escape(message)):
        DistributedConfig.of(given)


def test_a_variable_that_is_no_number_is_named(monkeypatch):
    monkeypatch.setenv("VLA_JAX_PROCESS", "one")
    with pytest.raises(UserError, match=r"\$VLA_JAX_PROCESS: expected a number, found one"):
        DistributedConfig.of({})


def test_without_a_launcher_a_process_is_alone(no_launcher):
    assert find() is None
    assert find(coordinator="a:1", processes=1, process=0) is None


def test_slurm_says_where_to_meet(no_launcher, monkeypatch):
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    place = find()
    assert re.fullmatch(r"node007:\d+", place.coordinator)
    assert place[1:] == (3, 2, [0])
    assert find(cluster="none") is None
    # The only process of a host takes all its GPUs.
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "1(x3)")
    assert find().devices is None
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "16(x3)")
    assert find().devices == [0]
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert find() is None  # several runs in one allocation


def test_open_mpi_says_where_to_meet(no_launcher, monkeypatch):
    for name, value in OPEN_MPI.items():
        monkeypatch.setenv(name, value)
    place = find()
    assert re.fullmatch(r"10\.96\.0\.1:\d+", place.coordinator)
    assert place[1:] == (4, 3, [1])
    monkeypatch.delenv("OMPI_MCA_orte_hnp_uri")  # from version 5 on
    with pytest.raises(UserError, match="found 4 processes and no address"):
        find()
    assert find(coordinator="a:1", processes=4, process=3) == ("a:1", 4, 3, None)
    assert find(cluster="none") is None
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "1")
    assert find() is None  # `mpirun -n 1`


def test_half_an_address_is_refused(no_launcher):
    with pytest.raises(UserError, match="found no processes, process"):
        find(coordinator="a:1")


def test_alone_everything_returns_at_once():
    assert peers.gather("x", {"a": 1}) == [{"a": 1}]
    assert peers.in_turns(lambda: 3) == 3
    peers.wait("x")
    peers.agree("x", {"a": 1}, "fix")
    done = []
    peers.first(lambda: done.append(1))
    assert done == [1]
    tree = {"a": 1}
    assert peers.local(tree) is tree
    assert [peers.stop_together(asked, 1) for asked in (False, True)] == [False, True]
    assert lifeline.explain(ValueError("Gloo failed")) is None
    lifeline.leave("x", 3)  # the caller does


TALK = """
import json, time
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from vla_jax.runtime import mesh, sharding

me = peers.index()
told = {"gathered": peers.gather("number", me * 10)}
told["turn"] = [peers.in_turns(lambda: (start := time.time(), time.sleep(0.2), time.time())[::2])]
try:
    peers.agree("things", {"same": 1, "other": me // 2}, "Do something")
except UserError as error:
    told["disagreement"] = str(error)

grid = mesh.make_mesh(mesh.MeshConfig(data=1, fsdp=-1))
whole = np.arange(64, dtype=np.float32).reshape(8, 8)
def spread(*spec):
    where = NamedSharding(grid, P(*spec))
    return jax.make_array_from_callback(whole.shape, where, whole.__getitem__)
here = peers.local({"split": spread("fsdp"), "copied": spread()})
told["local"] = [bool((np.asarray(leaf) == whole).all()) for leaf in here.values()]
told["devices"] = [len(leaf.sharding.device_set) for leaf in here.values()]
told["added"] = float(jax.jit(lambda tree: (tree["split"] + tree["copied"]).sum())(here))
told["part"] = sharding.batch_part(grid)
told["part_of_tensor"] = sharding.batch_part(mesh.make_mesh(mesh.MeshConfig(data=1, tensor=-1)))

steps = 0
while steps < 500:
    time.sleep(0.01 * (1 + me))
    steps += 1
    if peers.stop_together(me == 1 and steps > 5, steps):
        break
told["stopped"] = steps
print(json.dumps(told))
"""


def check_talk(results, processes, devices):
    assert [code for code, _, _ in results] == [0] * processes, results
    told = [json.loads(out.splitlines()[-1]) for _, out, _ in results if '"gathered"' in out]
    assert len(told) == processes
    assert all(one["gathered"] == [10 * n for n in range(processes)] for one in told)
    # All are on one host: process 0 is done before the others begin.
    turns = [one["turn"][0] for one in told]
    assert all(turns[0][1] <= begin for begin, _ in turns[1:])
    assert all(one["local"] == [True, True] for one in told)
    assert all(one["devices"] == [devices, devices] for one in told)
    assert all(one["added"] == 64 * 63 for one in told)
    assert [one["part"] for one in told] == [[n, processes] for n in range(processes)]
    assert all(one["part_of_tensor"] == [0, 1] for one in told)
    assert len({one["stopped"] for one in told}) == 1
    assert 5 < told[0]["stopped"] < 500
    return told


def test_two_processes_agree(start_job):
    job = start_job(processes=2, program=program(TALK))
    told = check_talk(job.wait(120), 2, 2)
    assert "disagreement" not in told[0]


@pytest.mark.slow
def test_four_processes_agree(start_job):
    job = start_job(processes=4, devices=1, program=program(TALK))
    told = check_talk(job.wait(120), 4, 1)
    line = told[0]["disagreement"]
    assert re.fullmatch(
        r"things: expected the same in all processes, found other: 0 in process 0 on \S+, 1 on "
        r"\S+; 1 in process 2 on \S+, 3 on \S+\. Do something\.",
        line,
    )
    assert all(one["disagreement"] == line for one in told)


def test_nobody_at_the_address_is_one_line(start_job):
    arguments = ("--coordinator=127.0.0.1:9", "--processes=2", "--process=1", "--start-timeout=3")
    start = time.monotonic()
    ((code, out, err),) = start_job(*arguments, program=program("pass")).wait(60)
    assert time.monotonic() - start < 30
    assert (code, out) == (1, "")
    assert err.count("\n") == 1, err
    assert "coordinator 127.0.0.1:9: expected process 0 of 2 there within 3 s, found nobody" in err


@pytest.mark.slow
def test_a_process_that_never_comes_is_one_line(start_job):
    job = start_job("--start-timeout=3", processes=2, program=program("pass"))
    job.kill(1)
    code, _, err = job.wait(60)[0]
    assert code == 1
    assert err.count("\n") == 1, err
    assert "expected 2 processes there within 3 s, found fewer" in err


def test_another_version_is_named_with_its_host(start_job):
    def other(number):
        return "import jax; jax.__version__ = '0.0.1'" if number else ""

    for code, _, err in start_job(processes=2, program=program("pass"), before=other).wait(60):
        assert code == 1
        (line,) = ours(err)
        assert re.search(r"jax: \S+ in process 0 on \S+; 0\.0\.1 in process 1 on \S+", line)
        assert "Install the same versions on all hosts." in line


def test_a_mistake_in_one_process_ends_all(start_job):
    work = """
if peers.index() == 1:
    raise UserError("shard 3", found="damage")
peers.wait("something")
"""
    (first, _, told), (second, _, err) = start_job(processes=2, program=program(work)).wait(60)
    assert (first, second) == (1, 1)
    assert ours(err) == ["vla-jax: shard 3: found damage."]
    (line,) = ours(told)
    assert re.fullmatch(r"vla-jax: process 1 on \S+: shard 3: found damage\.", line)


@pytest.mark.slow
def test_a_signal_is_heard_while_waiting(start_job):
    work = """
import time
print("working", flush=True)
if peers.is_first():
    time.sleep(300)
peers.wait("the first")
"""
    job = start_job(processes=2, program=program(work))
    for number in range(2):
        wait_for_work(job, number)
    time.sleep(1)
    job.processes[1].send_signal(signal.SIGINT)
    (first, _, told), (second, _, _) = job.wait(30)
    assert (first, second) == (130, 130)
    assert re.fullmatch(r"vla-jax: process 1 on \S+: interrupted; .*\n", told)


@pytest.mark.parametrize("victim", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_killed_process_ends_the_others(start_job, victim):
    work = """
import time
print("working", flush=True)
time.sleep(300)
"""
    job = start_job("--heartbeat-timeout=5", processes=2, program=program(work))
    wait_for_work(job, victim)
    start = time.monotonic()
    job.kill(victim)
    code, _, err = job.wait(60)[1 - victim]
    assert time.monotonic() - start < 5 + 10
    if victim == 0 and code != lifeline.AGAIN:
        # JAX has been faster, with its own words.
        assert "leader task was preempted/died" in err
        return
    assert code == lifeline.AGAIN
    (line,) = ours(err)
    wrong = "has been silent for 5 s" if victim else "the coordinator, is gone"
    assert re.search(rf"process {victim} on \S+ {wrong}|process 0 on \S+, {wrong}", line), line
    assert "Run the same command again in all processes." in line
