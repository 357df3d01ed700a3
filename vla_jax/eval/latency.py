"""How long one decision takes: a robot waits for it."""

import statistics
import time

from vla_jax.core.batch import Example
from vla_jax.policy.policy import Policy

_TIMES = 20


def decode_ms(policy: Policy, example: Example) -> float:
    """Returns the milliseconds of one decision, the median of some, compilation left out.

    From the prepared observation to the action in robot units, as `Action.milliseconds["decode"]`.
    """
    observation = policy.observer.read(example)
    seconds = []
    for _ in range(1 + _TIMES):
        began = time.perf_counter()
        policy.act_batch([observation], [example.prefix])
        seconds.append(time.perf_counter() - began)
    return 1e3 * statistics.median(seconds[1:])
