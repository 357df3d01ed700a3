"""A family of tasks."""


class BlockToBlockReward:
    verb = "push"
