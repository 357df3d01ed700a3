"""An oracle that finds no plan for every third scene, and commands a little too much."""

import numpy as np
from tf_agents.policies import py_policy
from tf_agents.trajectories import policy_step
from tf_agents.trajectories import time_step as ts  # noqa: F401


class ObstacleOrientedPushOracleBoard2dRRT(py_policy.PyPolicy):
    def __init__(self, env, use_ee_planner):
        super().__init__(env.time_step_spec(), env.action_spec())
        assert use_ee_planner
        assert env.get_control_frequency() == 10
        self._env = env

    def reset(self):
        self.planned = False

    def get_plan(self, state):
        self.planned = self._env.draws % 3 != 0
        return self.planned

    def _action(self, time_step, policy_state):
        assert self.planned
        assert not time_step.is_first()
        state = self._env.compute_state()
        move = np.clip(state["goal"] - state["rod"], -0.03, 0.03)
        return policy_step.PolicyStep(action=move + np.random.normal(size=2) * 1e-3)
