"""Environments: the embedded tabletop, and adapters to simulators."""


def register() -> None:
    """Makes `gymnasium.make("vla_jax/Tabletop-v0")` work; calling it again changes nothing.

    Gymnasium 1.x has no plugin entry points, and importing this package has no side effects, so
    a program that wants the environment by name calls this once.
    """
    import gymnasium  # noqa: PLC0415

    from vla_jax.envs.tabletop.env import ENV_ID  # noqa: PLC0415

    if ENV_ID not in gymnasium.registry:
        gymnasium.register(id=ENV_ID, entry_point="vla_jax.envs.tabletop.env:TabletopEnv")
