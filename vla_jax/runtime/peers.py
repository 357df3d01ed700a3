"""What the processes of one job tell each other; alone, everything returns at once.

They talk through the key-value store of `jax.distributed`, which needs no device and waits as long
as another process works: one that is gone ends them all (`runtime/lifeline.py`). JAX has no public
name for its client; Orbax reaches it in the same way. All processes have to make the same calls in
the same order.
"""

import concurrent.futures
import datetime
import itertools
import json
import socket
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
from jax._src import distributed
from jax.experimental import multihost_utils

from vla_jax.core.errors import UserError

T = TypeVar("T")

_PATIENCE = 7 * 24 * 3600 * 1000  # milliseconds; the lifeline ends what waits in vain
_numbers = itertools.count()
_waiter = concurrent.futures.ThreadPoolExecutor(1, "barrier")
# What JAX's preemption service waits for. It agrees on the step, but hears of SIGTERM only.
_NOTICE = "RECEIVED_PREEMPTION_NOTICE"


def index() -> int:
    """Number of this process."""
    return distributed.global_state.process_id


def count() -> int:
    """How many processes there are."""
    return distributed.global_state.num_processes


def is_first() -> bool:
    """Whether this is the process that prints and writes for all."""
    return index() == 0


def client() -> Any:
    """The client of the key-value store; None where a process is alone."""
    return distributed.global_state.client


def wait(what: str) -> None:
    """Returns once all processes have come here."""
    if count() > 1:
        _meet(f"vla_jax/{next(_numbers)}/{what}")


def gather(what: str, value: Any) -> list[Any]:
    """Returns the JSON value of every process, by its number."""
    if count() == 1:
        return [value]
    place = f"vla_jax/{next(_numbers)}/{what}/"
    client().key_value_set(f"{place}{index()}", json.dumps(value))
    _meet(place)
    told = {int(key.rpartition("/")[2]): text for key, text in client().key_value_dir_get(place)}
    return [json.loads(told[process]) for process in range(count())]


def agree(what: str, values: Mapping[str, Any], fix: str) -> None:
    """Makes sure that all processes hold the same.

    Args:
      what: the thing, for the message.
      values: its parts, JSON values.
      fix: what to do if they differ.

    Raises:
      UserError: they differ, in every process; names what, and the processes and hosts that have
        each value.
    """
    told = gather(what, {"host": socket.gethostname(), "values": dict(values)})
    names = sorted(set().union(*(one["values"] for one in told)))
    wrong = []
    for name in names:
        holders: dict[str, list[str]] = {}
        for process, one in enumerate(told):
            spelled = str(one["values"].get(name, "absent"))
            holders.setdefault(spelled, []).append(f"{process} on {one['host']}")
        if len(holders) > 1:
            facts = (f"{value} in process {_some(where)}" for value, where in holders.items())
            wrong.append(f"{name}: {'; '.join(facts)}")
    if wrong:
        more = f" (and {len(wrong) - 3} more)" if len(wrong) > 3 else ""
        found = f"{', '.join(wrong[:3])}{more}"
        raise UserError(what, expected="the same in all processes", found=found, fix=fix)


def first(call: Callable[[], object]) -> None:
    """Runs `call` in process 0 while the others wait."""
    if is_first():
        call()
    wait("first")


def in_turns(call: Callable[[], T]) -> T:
    """Runs `call`, which may write files, in all processes, but no two that may share a disk.

    Process 0 begins; what it writes to a shared disk is there for all. Then comes one process of
    every other host, for the hosts' own disks, then the rest.
    """
    hosts = gather("host", socket.gethostname())
    mine = 0 if is_first() else 1 if hosts.index(hosts[index()]) == index() else 2
    results = []
    for turn in range(3):
        if turn == mine:
            results.append(call())
        wait(f"turn {turn}")
    return results[0]


def compiled_together(jitted: Any) -> Any:
    """Returns a jitted function that first runs once all processes have compiled it.

    For one shape of inputs. A collective waits for other processes (Gloo's, on CPUs, for 30 s), and
    how long they compile differs with their caches.

    Args:
      jitted: what `jax.jit` returned; returned as it is where there is but one process.
    """
    if count() == 1:
        return jitted
    programs = []

    def call(*inputs: Any) -> Any:
        if not programs:
            programs.append(jitted.lower(*inputs).compile())
            wait("compiled")
        return programs[0](*inputs)

    return call


def local(tree: Any) -> Any:
    """Brings arrays that lie on the devices of several processes to those of this one.

    Args:
      tree: a pytree of `jax.Array` on one mesh. All processes have to call this: split arrays are
        gathered, one at a time, so that the largest has to fit on a device.

    Returns:
      The same tree on the devices of this process, split over these in the same way.
    """
    if count() == 1:
        return tree
    return jax.tree.map(_local, tree)


def stop_together(asked: bool, step: int) -> bool:
    """Turns the wish of one process to stop into a stop of all after the same step.

    Args:
      asked: whether this process was asked to stop.
      step: the step that is done; all processes have to call this after each.

    Returns:
      Whether all processes stop here.
    """
    if count() == 1:
        return asked
    if asked:
        now = datetime.datetime.now(datetime.UTC)
        client().key_value_set(_NOTICE, now.isoformat(), allow_overwrite=True)
    return multihost_utils.reached_preemption_sync_point(step)


def _meet(barrier: str) -> None:
    # In a thread: while JAX waits, the main one would hear no signal.
    _waiter.submit(client().wait_at_barrier, barrier, _PATIENCE).result()


def _local(array: jax.Array) -> jax.Array:
    whole = (
        array.addressable_data(0)
        if array.is_fully_replicated
        else multihost_utils.process_allgather(array, tiled=True)
    )
    sharding: Any = array.sharding
    here = jax.sharding.NamedSharding(sharding.mesh.local_mesh, sharding.spec)
    return jax.device_put(whole, here)


def _some(names: list[str], shown: int = 4) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
