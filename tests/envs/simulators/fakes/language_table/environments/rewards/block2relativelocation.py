"""A family of tasks."""


class BlockToRelativeLocationReward:
    verb = "nudge"
