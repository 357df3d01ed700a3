import json
import pathlib
import shlex
import signal
import subprocess
import threading
import time

import pytest
import yaml

SCRIPTS = pathlib.Path(__file__).parents[2] / "tpu_scripts"
NAMES = sorted(str(path.relative_to(SCRIPTS)) for path in SCRIPTS.rglob("*.sh"))
RUNNABLE = [name for name in NAMES if name not in ("common.sh", "slurm/job.sh")]
TRICKY = ("vla-jax", "train", "--config=my configs/x.py", "it's", 'a "b" $HOME `c` \\', "*")


def wait_for(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def bracketed(arguments):
    return "".join(f"[{argument}]" for argument in arguments)


@pytest.mark.parametrize("name", RUNNABLE)
def test_every_script_explains_itself(cloud, name):
    done = cloud.run(name, "--help")
    assert done.returncode == 0, done.stderr
    assert "usage: " in done.stdout
    assert cloud.calls() == []


@pytest.mark.parametrize("name", ["create", "setup", "launch", "logs", "status", "stop", "delete",
                                  "watch"])  # fmt: skip
def test_a_dry_run_prints_commands_and_runs_none(cloud, name):
    job = TRICKY if name in ("launch", "watch") else ()
    done = cloud.run(f"{name}.sh", "--dry-run", "--", *job)
    assert done.returncode == 0, done.stderr
    assert cloud.calls() == []
    lines = [shlex.split(line) for line in done.stdout.splitlines() if line.startswith("gcloud ")]
    assert lines
    assert all("--zone=zone" in line for line in lines)


@pytest.mark.parametrize("name", ["create.sh", "launch.sh", "watch.sh"])
def test_without_a_zone_nothing_is_done(cloud, name):
    done = cloud.run(name, "true", ZONE="")
    assert done.returncode == 1
    assert "ZONE: expected a zone" in done.stderr
    assert cloud.calls() == []


def test_an_unknown_option_is_refused(cloud):
    done = cloud.run("create.sh", "--spot")
    assert done.returncode == 1
    assert "unknown option --spot" in done.stderr


@pytest.mark.parametrize(
    ("settings", "flags"),
    [
        ({}, ["--spot"]),
        ({"CAPACITY": "on-demand"}, []),
        ({"CAPACITY": "reserved", "PROJECT": "my project"}, ["--reserved", "--project=my project"]),
        (
            {"VALID_UNTIL": "6h", "INTERNAL_IPS": "1", "NETWORK": "n", "SERVICE_ACCOUNT": "s@x"},
            ["--spot", "--valid-until-duration=6h", "--internal-ips", "--network=n",
             "--service-account=s@x"],
        ),
    ],
)  # fmt: skip
def test_a_tpu_is_asked_for_once(cloud, settings, flags):
    for _ in range(2):
        done = cloud.run("create.sh", NAME="pod", TPU_TYPE="v5p-64", **settings)
        assert done.returncode == 0, done.stderr
    assert cloud.verbs() == ["queued-resources create"]
    (made,) = [c["arguments"] for c in cloud.calls("gcloud") if "create" in c["arguments"]]
    assert made[3:5] == ["create", "pod"]
    assert {*flags, "--node-id=pod", "--accelerator-type=v5p-64", "--zone=zone"} <= set(made)
    assert ("--spot" in made) == ("--spot" in flags)


def test_a_request_that_failed_is_told_not_waited_for(cloud):
    cloud.tell(resource="FAILED")
    done = cloud.run("create.sh")
    assert done.returncode == 1
    assert "delete.sh first" in done.stderr


def test_waiting_for_a_tpu_ends_some_time(cloud):
    cloud.tell(resource="WAITING_FOR_RESOURCES")
    done = cloud.run("create.sh", WAIT_POLLS="3")
    assert done.returncode == 1
    assert "not there after 3 looks" in done.stderr


def test_deleting_what_is_not_there_is_fine(cloud):
    assert cloud.run("delete.sh").returncode == 0
    assert cloud.verbs() == []
    cloud.run("create.sh")
    assert cloud.run("delete.sh").returncode == 0
    assert cloud.verbs() == ["queued-resources create", "queued-resources delete"]


@pytest.fixture
def ready(cloud):
    """A TPU with two workers that are set up."""
    assert cloud.run("create.sh").returncode == 0
    done = cloud.run("setup.sh")
    assert done.returncode == 0, done.stderr
    assert (cloud.path / "worker1/vla_jax/tpu_scripts/worker.sh").exists()
    return cloud


def test_a_job_runs_on_every_worker_with_its_arguments_as_they_were(ready):
    done = ready.run("launch.sh", *TRICKY)
    assert done.returncode == 0, done.stderr
    wait_for(lambda: len(ready.jobs()) == 2)
    assert set(ready.jobs()) == {bracketed(TRICKY[1:])}


def test_launching_twice_starts_one_training(ready):
    for _ in range(3):
        assert ready.run("launch.sh", "vla-jax", "train").returncode == 0
        wait_for(lambda: len(ready.jobs()) == 2)
    time.sleep(0.3)
    assert len(ready.jobs()) == 2
    assert ready.run("status.sh").stdout.split("node: READY\n")[1] == "running\nrunning\n"


def test_nothing_starts_when_the_check_fails(ready):
    (ready.path / "check").write_text("1")
    done = ready.run("launch.sh", "vla-jax", "train")
    assert done.returncode == 1
    assert "vla-jax dist-check failed; nothing was started" in done.stderr
    assert ready.jobs() == []
    assert ready.run("launch.sh", "vla-jax", "train", CHECK="").returncode == 0


def test_a_lost_connection_is_tried_again_and_then_told(ready):
    ready.tell(lost=2)
    assert ready.run("launch.sh", "vla-jax", "train").returncode == 0
    ready.tell(lost=100)
    done = ready.run("launch.sh", "vla-jax", "train")
    assert done.returncode == 1
    assert "no word from the workers" in done.stderr


def test_a_job_that_is_told_to_stop_saves_and_stays_stopped(ready):
    ready.run("launch.sh", "vla-jax", "train")
    wait_for(lambda: len(ready.jobs()) == 2)
    time.sleep(0.3)  # until the job has its handler
    assert ready.run("stop.sh").returncode == 0
    wait_for(lambda: "exit 75\nexit 75" in ready.run("status.sh").stdout)
    assert len(ready.jobs()) == 2
    log = (ready.path / "worker1/.vla_jax/vla-jax/log").read_text()
    assert "output of 1" in log


def test_watch_sees_a_job_through_a_preemption(cloud):
    cloud.tell(preempted_at=4)
    command = ["watch.sh", "vla-jax", "train", "--workdir=a b"]
    result = []
    thread = threading.Thread(target=lambda: result.append(cloud.run(*command)))
    thread.start()
    wait_for(lambda: len(cloud.jobs()) == 4, 40)
    (cloud.path / "code").write_text("0")
    thread.join(40)
    (done,) = result
    assert done.returncode == 0, done.stderr
    assert set(cloud.jobs()) == {"[train][--workdir=a b]"}
    assert "PREEMPTED; a new one (restart 1)" in done.stdout
    changes = [verb for verb in cloud.verbs() if verb.startswith("queued")]
    assert changes == ["queued-resources create", "queued-resources delete",
                       "queued-resources create"]  # fmt: skip


@pytest.mark.parametrize(("code", "expected"), [("0", 0), ("1", 1), ("3", 1)])
def test_watch_ends_with_the_job(cloud, code, expected):
    (cloud.path / "code").write_text(code)
    done = cloud.run("watch.sh", "vla-jax", "train")
    assert done.returncode == expected, done.stdout + done.stderr
    assert len(cloud.jobs()) == 2
    assert ("the job failed" in done.stderr) == (expected == 1)


def test_watch_gives_up_after_so_many_preemptions(cloud):
    cloud.run("create.sh")
    cloud.tell(node="PREEMPTED", preempted_at=1)
    done = cloud.run("watch.sh", "vla-jax", "train", MAX_RESTARTS="0")
    assert done.returncode == 1
    assert "taken away 0 times" in done.stderr


def test_a_worker_runs_a_saved_job_again_and_keeps_the_code_of_others(cloud):
    codes = cloud.path / "code"
    codes.write_text("75")
    assert cloud.run("worker.sh", "start", "vla-jax", "train").stdout == "started\n"
    wait_for(lambda: len(cloud.jobs()) >= 3)
    codes.write_text("4")
    wait_for(lambda: cloud.run("worker.sh", "status").stdout == "exit 4\n")


def test_a_job_whose_supervisor_was_killed_is_not_started_beside_itself(cloud):
    cloud.run("worker.sh", "start", "vla-jax", "train")
    wait_for(lambda: len(cloud.jobs()) == 1)
    pid = int((cloud.path / "me/.vla_jax/vla-jax/supervisor").read_text())
    subprocess.run(["kill", f"-{signal.SIGKILL}", str(pid)], check=True)
    assert cloud.run("worker.sh", "start", "vla-jax", "train").stdout == "already running\n"
    assert len(cloud.jobs()) == 1


def test_a_machine_with_gpus_runs_a_job_once(cloud):
    for _ in range(2):
        done = cloud.run("gpu.sh", "start", *TRICKY)
        assert done.returncode == 0, done.stderr
        wait_for(lambda: len(cloud.jobs()) == 1)
    assert cloud.jobs() == [bracketed(TRICKY[1:])]
    assert cloud.run("gpu.sh", "status").stdout == "running\n"
    cloud.tell(**{"nvidia-smi": ""})
    done = cloud.run("gpu.sh", "start", "vla-jax", "train", NAME="other")
    assert (done.returncode, "expected GPUs" in done.stderr) == (1, True)


def test_slurm_is_asked_once_for_a_job_of_a_name(cloud, tmp_path):
    settings = {"NODES": "4", "PARTITION": "gpu", "LOG_DIR": str(tmp_path / "logs")}
    assert cloud.run("slurm/submit.sh", *TRICKY, **settings).stdout == "4711\n"
    (call,) = cloud.calls("sbatch")
    found = call["arguments"]
    assert found[-len(TRICKY) - 1 :] == [str(SCRIPTS / "slurm/job.sh"), *TRICKY]
    assert {"--nodes=4", "--gpus-per-node=8", "--partition=gpu", "--requeue", "--signal=TERM@300",
            "--ntasks-per-node=1"} <= set(found)  # fmt: skip
    assert (tmp_path / "logs").is_dir()
    cloud.tell(squeue="vla-jax|N/A\nother|3\n")
    assert "already queued" in cloud.run("slurm/submit.sh", "true", **settings).stdout
    assert len(cloud.calls("sbatch")) == 1
    assert cloud.run("slurm/submit.sh", "--queued", "oth").stdout == "other|3\n"


def test_a_refusal_of_slurm_is_passed_on(cloud, tmp_path):
    cloud.tell(sbatch=7)
    assert cloud.run("slurm/submit.sh", "true", LOG_DIR=str(tmp_path)).returncode == 7


@pytest.mark.parametrize(("code", "requeued"), [("0", False), ("75", True), ("1", False)])
def test_a_slurm_job_that_saved_is_queued_again(cloud, code, requeued):
    (cloud.path / "code").write_text(code)
    done = cloud.run("slurm/job.sh", *TRICKY, SLURM_JOB_ID="88")
    assert done.returncode == int(code)
    assert cloud.jobs() == [bracketed(TRICKY[1:])]
    wanted = [["requeue", "88"]] if requeued else []
    assert [call["arguments"] for call in cloud.calls("scontrol")] == wanted


def test_a_slurm_job_whose_check_fails_does_not_start(cloud):
    (cloud.path / "check").write_text("1")
    assert cloud.run("slurm/job.sh", "vla-jax", "train", SLURM_JOB_ID="88").returncode == 1
    assert cloud.jobs() == []


def test_an_array_task_runs_its_line(cloud):
    (cloud.path / "code").write_text("0")
    tasks = cloud.path / "tasks.tsv"
    tasks.write_text(f"first\tfalse\nsecond\t{shlex.join(TRICKY)}\n")
    settings = {"SLURM_JOB_ID": "9", "SLURM_ARRAY_TASK_ID": "1"}
    done = cloud.run("slurm/job.sh", "--tasks", str(tasks), **settings)
    assert done.returncode == 0, done.stderr
    assert cloud.jobs() == [bracketed(TRICKY[1:])]


def manifest(cloud):
    (call,) = [call for call in cloud.calls("kubectl") if "apply" in call["arguments"]]
    return yaml.safe_load(call["input"])


def test_a_jobset_for_a_tpu_slice(cloud):
    settings = {"IMAGE": "registry/x:1", "CLAIM": "disk", "QUEUE": "lab", "CHECK": ""}
    done = cloud.run("kubernetes/jobset.sh", "submit", "pod", *TRICKY, "@NAME@&", **settings)
    assert done.returncode == 0, done.stderr
    found = manifest(cloud)
    assert found["metadata"]["name"] == "pod"
    assert found["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "lab"
    (group,) = found["spec"]["replicatedJobs"]
    job = group["template"]["spec"]
    assert (job["completions"], job["parallelism"], job["backoffLimit"]) == (4, 4, 0)
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"] == [*TRICKY, "@NAME@&"]
    assert container["resources"] == {"limits": {"google.com/tpu": "4"}}
    assert container["volumeMounts"] == [{"name": "data", "mountPath": "/data"}]
    assert pod["volumes"] == [{"name": "data", "persistentVolumeClaim": {"claimName": "disk"}}]
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "4x4"
    # 75 and a preemption restart the set, everything else fails it.
    rules = job["podFailurePolicy"]["rules"]
    assert rules[0]["onExitCodes"]["values"] == [75]
    assert rules[1]["onPodConditions"][0]["type"] == "DisruptionTarget"
    actions = [rule["action"] for rule in found["spec"]["failurePolicy"]["rules"]]
    assert actions == ["RestartJobSetAndIgnoreMaxRestarts", "FailJobSet"]


def test_a_jobset_for_gpus_tells_the_processes_where_they_meet(cloud):
    settings = {"IMAGE": "x", "TPU_ACCELERATOR": "", "HOSTS": "2", "CHIPS": "8"}
    cloud.run("kubernetes/jobset.sh", "submit", "pod", "vla-jax", "train", "a b", **settings)
    pod = manifest(cloud)["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    values = {item["name"]: item.get("value", item.get("valueFrom")) for item in container["env"]}
    assert values["VLA_JAX_COORDINATOR"] == "pod-worker-0-0.pod:8476"
    assert values["VLA_JAX_PROCESSES"] == "2"
    assert "job-completion-index" in json.dumps(values["VLA_JAX_PROCESS"])
    assert container["resources"] == {"limits": {"nvidia.com/gpu": "8"}}
    # The check comes first, in the same container.
    assert container["command"] == ["bash", "-c", 'vla-jax dist-check && exec "$@"', "job",
                                    "vla-jax", "train", "a b"]  # fmt: skip


@pytest.mark.parametrize(
    ("there", "verbs"),
    [("", ["apply"]), ("pod <none>\n", []), ("pod Failed\n", ["delete", "apply"])],
)
def test_a_jobset_is_applied_unless_it_runs(cloud, there, verbs):
    cloud.tell(jobsets=there + "other <none>\n")
    done = cloud.run("kubernetes/jobset.sh", "submit", "pod", "vla-jax", "train", IMAGE="x")
    assert done.returncode == 0, done.stderr
    assert [call["arguments"][1] for call in cloud.calls("kubectl")] == ["get", *verbs]


def test_a_jobset_needs_an_image_and_lists_what_is_alive(cloud):
    done = cloud.run("kubernetes/jobset.sh", "submit", "pod", "true")
    assert (done.returncode, "IMAGE: expected" in done.stderr) == (1, True)
    cloud.tell(jobsets="a <none>\nb Completed\nc <none>\n")
    assert cloud.run("kubernetes/jobset.sh", "queued").stdout == "a\nc\n"
