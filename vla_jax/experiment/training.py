"""A training run from its configuration to its last checkpoint; run again, it goes on."""

import dataclasses
import signal
from collections.abc import Mapping
from types import FrameType
from typing import cast

from vla_jax.data.loader import Loader
from vla_jax.experiment import frozen, parts, pretraining, sources
from vla_jax.experiment.config import RunConfig
from vla_jax.experiment.held_out import HeldOut
from vla_jax.experiment.workdir import Workdir
from vla_jax.models import attention
from vla_jax.policy.policy import Policy
from vla_jax.runtime import mesh as mesh_lib
from vla_jax.runtime import peers, progress, sharding
from vla_jax.runtime.checkpoint import Checkpoints
from vla_jax.runtime.metrics import MetricWriter, NoWriter
from vla_jax.tokens.encoder import Encoder
from vla_jax.train import loop
from vla_jax.train.state import TrainState


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
    """What a finished run hands to its evaluation.

    Attributes:
      data: the opened datasets.
      policies: the trained policy of each robot.
      summary: steps, seconds they took over all resumptions, samples per second.
    """

    data: sources.Data
    policies: Mapping[str, Policy]
    summary: Mapping[str, float]


class StopRequest:
    """True once the process was asked to stop (Ctrl-C, SIGTERM); a second Ctrl-C is immediate."""

    def __init__(self) -> None:
        self._asked = False

    def __enter__(self) -> "StopRequest":
        """Takes over the signals."""
        self._previous = {
            number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(self, *exception: object) -> None:
        """Gives the signals back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def __call__(self) -> bool:
        """Tells whether to stop."""
        return self._asked

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = True
        progress.note("stopping after this step; the run will be saved")


def train(config: RunConfig, workdir: Workdir) -> Trained:
    """Trains to `config.loop.steps`, from the newest checkpoint if there is one.

    Raises:
      UserError: the workdir is another run's, or a part of the configuration is wrong.
      KeyboardInterrupt: asked to stop; everything done is saved.
    """
    workdir.agree(config)
    mesh = mesh_lib.make_mesh(config.mesh)
    attention.check(config.model.backend)
    encoder = workdir.load_encoder()
    # A wrong checkpoint is told before the directory is taken and datasets are opened.
    weights = pretraining.open_weights(config) if encoder is None else None
    peers.first(lambda: workdir.claim(config))
    workdir.check_shared()
    data = sources.open_together(config)
    if encoder is None:
        peers.first(lambda: workdir.save_encoder(parts.make_encoder(config, data, weights)))
        encoder = cast(Encoder, workdir.load_encoder(wait=True))
    model = parts.Model(config, encoder.vocabulary, mesh)
    for line in model.fallbacks:
        progress.note(f"sharding: {line}")
    with Checkpoints(workdir.checkpoints, config.checkpoint) as checkpoints:
        state, seconds = _start(config, workdir, model, encoder, data, checkpoints)
        clock = loop.Clock(seconds)
        _announce(config, data, encoder, model, int(state.step))
        state = _run(config, workdir, data, encoder, model, state, checkpoints, clock)
    peers.wait("saved")  # before anyone leaves
    done = int(state.step)
    if done < config.loop.steps:
        raise KeyboardInterrupt(f"stopped at step {done} of {config.loop.steps}, saved")
    return Trained(
        data=data,
        policies=parts.make_policies(config, encoder, model, peers.local(model.joined(state))),
        summary=parts.summary(config, done, clock.seconds()),
    )


def _start(
    config: RunConfig,
    workdir: Workdir,
    model: parts.Model,
    encoder: Encoder,
    data: sources.Data,
    checkpoints: Checkpoints,
) -> tuple[TrainState, float]:
    """Returns the state to start from and the seconds of training behind it.

    Raises:
      UserError: the datasets are not those that the run began with.
    """
    if checkpoints.latest_step() is None:
        state = model.create(encoder, pretraining.open_weights(config))
        frozen.save(workdir.frozen, state.frozen)
        return state, 0.0
    abstract = model.abstract_state()
    _, arrays, loader = checkpoints.restore(abstract.saved())
    Loader.check(loader, data.sources)
    return TrainState.of(arrays, frozen.restore(workdir.frozen, abstract.frozen)), loader["seconds"]


def _announce(
    config: RunConfig, data: sources.Data, encoder: Encoder, model: parts.Model, start: int
) -> None:
    given = config.pretrained
    begin = "starting" + (f" from {given.path} ({given.parts})" if given.path else "")
    begin = f"resuming at step {start}" if start else begin
    progress.note(
        f"{begin}: {model.size:,} parameters, {model.trained_size:,} of them trained "
        f"({config.strategy.kind}), {encoder.vocabulary} tokens, "
        f"{sum(map(len, data.robots.values())):,} robot frames, "
        f"{sum(map(len, data.web.values())):,} web examples, "
        f"batches of {config.loader.batch_size}, "
        f"mesh {dict(model.mesh.shape)}"
    )


def _run(
    config: RunConfig,
    workdir: Workdir,
    data: sources.Data,
    encoder: Encoder,
    model: parts.Model,
    state: TrainState,
    checkpoints: Checkpoints,
    clock: loop.Clock,
) -> TrainState:
    """Wires loader, step, hooks and displays together and runs the loop."""
    start = int(state.step)
    make_writer = MetricWriter if peers.is_first() else NoWriter
    measure = model.measure(len(data.names))
    train_step = model.train_step(measure)
    part = sharding.batch_part(model.mesh)
    loader = parts.make_loader(config, data.sources, encoder, start, part)
    parts.print_ledger(config, data, encoder, loader)
    with (
        StopRequest() as asked,
        make_writer(workdir.path, start) as writer,
        progress.Progress("train", total=config.loop.steps, start=start) as bar,
    ):

        def save(n: int, state: TrainState) -> Mapping[str, float]:
            checkpoints.save(n, state.saved(), loader.state(n) | {"seconds": clock.seconds()})
            return {}

        stop = peers.Agreement(asked, start)
        measurements = HeldOut(config, data, encoder, model, measure)

        def look(n: int, state: TrainState) -> Mapping[str, float]:
            if n == config.loop.steps or stop.reached:
                return {}  # the full evaluation follows, or the user waits
            values = measurements(model.joined(state))
            writer.write(n, values)
            return {"success": values["success/seen"]} if "success/seen" in values else {}

        state = loop.run(
            state,
            train_step,
            loader,
            config.loop,
            place=lambda batch: sharding.place(batch, model.mesh),
            sources=data.names,
            hooks=(
                loop.Hook(every=config.checkpoint.every, call=save),
                loop.Hook(every=config.loop.eval_every, call=look),
            ),
            log=writer.write,
            tick=lambda shown: bar.update(1, **shown),
            stop=stop,
            clock=clock,
        )
        if loader.skipped_count:
            progress.note(f"damaged examples that were skipped: {loader.skipped_count}")
        return state
