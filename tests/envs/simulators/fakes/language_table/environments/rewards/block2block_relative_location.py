"""A family of tasks."""


class BlockToBlockRelativeLocationReward:
    verb = "slide"
