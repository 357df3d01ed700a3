"""A family of tasks."""


class SeparateBlocksReward:
    verb = "separate"
