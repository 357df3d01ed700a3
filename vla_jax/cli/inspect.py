"""`vla-jax inspect`: what a run would see before it trains, or what a released checkpoint holds.

`vla-jax inspect CONFIG --params --mixture --tokens --batch=FILE.png` or
`vla-jax inspect CHECKPOINT`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags as absl_flags

from vla_jax.cli import flags
from vla_jax.core.errors import UserError
from vla_jax.experiment.config import RunConfig
from vla_jax.runtime import progress

if TYPE_CHECKING:
    from vla_jax.experiment.sources import Data
    from vla_jax.tokens.encoder import Encoder

_ROWS = 8
_ACTIONS = 100_000  # examples of a robot that are written and read again


def main(arguments: Sequence[str]) -> None:
    """Prints what is trained or the mixture, draws a batch, or describes a checkpoint."""
    paths = [a for a in arguments if not a.startswith("-") and not flags.is_config(a)]
    if paths:
        _describe(arguments)
        return
    config, values = flags.parse_run("inspect", flags.with_config(arguments), _define)
    if not (values.mixture or values.batch or values.params or values.tokens):
        raise UserError(
            "vla-jax inspect",
            expected="--params, --mixture, --tokens or --batch=FILE.png",
            found="none",
        )
    if values.params:
        _params(config)
    if values.mixture or values.batch or values.tokens:
        _data(config, values)


def _params(config: RunConfig) -> None:
    """Prints what is trained and how large everything is; opens no data."""
    from vla_jax.experiment import inventory
    from vla_jax.experiment.model import Model
    from vla_jax.experiment.planning import vocabulary
    from vla_jax.runtime import mesh

    tokens, origin = vocabulary.find(config)
    model = Model(config, tokens, mesh.abstract_mesh(mesh.MeshConfig(), 1))
    rows = [part.row() for part in inventory.parts(model)]
    progress.table(f"strategy {config.strategy.kind}, all devices", inventory.HEADER, rows)
    progress.note(f"{tokens:,} token ids ({origin})")


def _data(config: RunConfig, values: absl_flags.FlagValues) -> None:
    """Prints the mixture or what tokens cost, or draws a batch."""
    # Imported late, so that a typing error in a flag is told at once.
    from vla_jax.data import show
    from vla_jax.experiment import parts, sources

    with progress.Phases() as phases:
        data = sources.open_data(config, phases)
    encoder = parts.make_encoder(config, data)
    if values.tokens:
        _tokens(data, encoder)
    loader = parts.make_loader(config, data.sources, encoder, values.step)
    if values.mixture:
        parts.print_ledger(config, data, encoder, loader)
    if values.batch:
        batch = next(loader)
        views = [
            f"{view} t-{back}" if back else view
            for back in reversed(range(config.loader.history))
            for view in config.loader.views
        ]
        picture = show.picture(batch, encoder, rows=_ROWS, sources=data.names, views=views)
        show.save(picture, values.batch)
        progress.note(f"batch {values.step}: {values.batch}")


def _tokens(data: "Data", encoder: "Encoder") -> None:
    """Prints, for every robot, how far its training actions are from what their tokens say."""
    from vla_jax.eval import round_trip

    for name, robot in data.robots.items():
        tokens, chunks = encoder.actions[name], robot.chunks(_ACTIONS)
        rows = [dimension.row() for dimension in round_trip.measure(tokens, chunks)]
        mean, most = round_trip.lengths(tokens, chunks)
        title = f"actions of {name} as tokens, {len(chunks):,} examples"
        progress.table(title, round_trip.HEADER, rows)
        progress.note(
            f"{mean:.1f} tokens an example, at most {most}; they are of {len(tokens.ids):,} ids"
        )


def _describe(arguments: Sequence[str]) -> None:
    """Prints family, sizes and parameters of a released checkpoint; then whether it is whole."""
    _, (path,) = flags.parse("inspect", arguments, lambda _: None, ["CHECKPOINT"])
    from vla_jax.models.pretrained import Weights, report

    weights = Weights(path)
    progress.table(path, ("what", "value"), report.rows(weights))
    weights.require(weights.config)


def _define(values: absl_flags.FlagValues) -> None:
    absl_flags.DEFINE_boolean(
        "params",
        False,
        "Print which parts are trained, and bytes of weights, moments and gradients.",
        flag_values=values,
    )
    absl_flags.DEFINE_boolean(
        "mixture",
        False,
        "Print shares, epochs and tokens per source, and the predicted host memory.",
        flag_values=values,
    )
    absl_flags.DEFINE_boolean(
        "tokens",
        False,
        "Print what writing actions as tokens costs: errors in robot units, clipped actions, dead "
        "bins.",
        flag_values=values,
    )
    flags.define_path("batch", "PNG file: a batch as the model sees it.", values)
    absl_flags.DEFINE_integer("step", 0, "Which batch.", lower_bound=0, flag_values=values)
