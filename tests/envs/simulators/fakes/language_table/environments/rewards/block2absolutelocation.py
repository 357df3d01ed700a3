"""A family of tasks."""


class BlockToAbsoluteLocationReward:
    verb = "move"
