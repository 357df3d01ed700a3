"""A training run from its configuration to its last checkpoint; run again, it goes on."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import jax

from vla_jax.core.config import to_json
from vla_jax.core.errors import UserError
from vla_jax.data import ledger
from vla_jax.data.loader import Loader
from vla_jax.experiment import flaws, frozen, parts, sources, warm_start
from vla_jax.experiment.config import RunConfig
from vla_jax.experiment.hooks import Hooks
from vla_jax.experiment.planning import fit
from vla_jax.experiment.pretraining import Start
from vla_jax.experiment.workdir import Workdir, write_json
from vla_jax.models import attention
from vla_jax.policy.policy import Policy
from vla_jax.runtime import mesh as mesh_lib
from vla_jax.runtime import peers, progress, sharding
from vla_jax.runtime.checkpoint import Checkpoints
from vla_jax.runtime.compilation import Watched
from vla_jax.runtime.interruption import Interruption
from vla_jax.runtime.metrics import MetricWriter, NoWriter
from vla_jax.runtime.profiler import Profiler
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


def train(config: RunConfig, workdir: Workdir, origin: Mapping[str, Any] | None = None) -> Trained:
    """Trains to `config.loop.steps`, from the newest checkpoint if there is one.

    Args:
      config: the run.
      workdir: its directory.
      origin: of a run that begins: what asked for it, for its origin.json.

    Raises:
      UserError: the workdir is another run's, or a part of the configuration is wrong.
      KeyboardInterrupt: asked to stop, by SIGTERM if it is `Preempted`; everything done is saved.
    """
    workdir.agree(config)
    mesh = mesh_lib.make_mesh(config.mesh)
    attention.check(config.model.backend)
    _check_batch(config, mesh)
    encoder = workdir.load_encoder() if workdir.check(config) else None
    seen = {"holds a run": encoder is not None}
    peers.agree("workdir", seen, "Take a --workdir on a file system that all hosts share")
    # Whatever the run may be refused for is told before the directory is taken.
    weights = warm_start.open_weights(config) if encoder is None else None
    data = sources.open_together(config)
    if encoder is None:
        peers.first(lambda: _begin(config, workdir, origin, data, weights))
    workdir.check_shared()
    if encoder is None:
        encoder = cast(Encoder, workdir.load_encoder(wait=True))
    config = fit.fit(config, encoder.vocabulary, mesh)
    peers.agree("devices", {"remat that fits": config.model.remat}, "Set config.model.remat")
    model = parts.Model(config, encoder.vocabulary, mesh)
    for line in model.fallbacks:
        progress.note(f"sharding: {line}")
    with Interruption() as interruption:  # no signal cuts the last save short
        with (
            Checkpoints(workdir.checkpoints, config.checkpoint) as checkpoints,
            fit.memory_errors(),
        ):
            state, position = _start(config, workdir, model, encoder, data, checkpoints)
            # The data are known by now to be the same, wherever they are.
            peers.first(lambda: workdir.claim(config, origin))
            clock = loop.Clock(position.get("seconds", 0.0))
            _announce(config, data, encoder, model, int(state.step))
            state = _run(
                *(config, workdir, data, encoder, model, state, checkpoints, clock, position),
                interruption.reached,
            )
        peers.wait("saved")  # before anyone leaves
    done = int(state.step)
    if done < config.loop.steps:
        raise interruption.stopped(f"stopped at step {done} of {config.loop.steps}, saved")
    return Trained(
        data=data,
        policies=parts.make_policies(config, encoder, model, peers.local(model.joined(state))),
        summary=parts.summary(config, done, clock.seconds()),
    )


def _check_batch(config: RunConfig, mesh: jax.sharding.Mesh) -> None:
    """Checks that every device gets as many examples, in every part of an accumulated batch."""
    shares = math.prod(mesh.shape[axis] for axis in sharding.BATCH_AXES)
    parts_of_batch = config.optimizer.accumulate
    if config.loader.batch_size % (shares * parts_of_batch):
        of = f"{' x '.join(sharding.BATCH_AXES)} of the mesh"
        raise UserError(
            "config.loader.batch_size",
            expected=f"a multiple of {shares * parts_of_batch} ({shares}, {of}"
            + (f", x {parts_of_batch} parts" if parts_of_batch > 1 else "")
            + ")",
            found=config.loader.batch_size,
            fix="Change it, or config.mesh"
            + (" or config.optimizer.accumulate" if parts_of_batch > 1 else ""),
        )


def _begin(
    config: RunConfig,
    workdir: Workdir,
    origin: Mapping[str, Any] | None,
    data: sources.Data,
    weights: Start | None,
) -> None:
    """Makes the tokens of a new run and takes its directory.

    Raises:
      UserError: something of the data or of the directory is not as the run needs it.
    """
    encoder = parts.make_encoder(config, data, weights)
    flaws.check(config, encoder, data)
    workdir.claim(config, origin)
    workdir.save_encoder(encoder)


def _start(
    config: RunConfig,
    workdir: Workdir,
    model: parts.Model,
    encoder: Encoder,
    data: sources.Data,
    checkpoints: Checkpoints,
) -> tuple[TrainState, dict[str, Any]]:
    """Returns the state to start from, and what `Hooks.save` saved beside it.

    Raises:
      UserError: the datasets are not those that the run began with.
    """
    if checkpoints.latest_step() is None:
        state = model.create(encoder, warm_start.open_weights(config))
        frozen.save(workdir.frozen, state.frozen)
        return state, {}
    abstract = model.abstract_state()
    _, arrays, position = checkpoints.restore(abstract.saved())
    Loader.check(position, data.sources)
    return TrainState.of(arrays, frozen.restore(workdir.frozen, abstract.frozen)), position


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
    position: Mapping[str, Any],
    stop: Callable[[int], bool],
) -> TrainState:
    """Wires loader, step, hooks and displays together and runs the loop."""
    start = int(state.step)
    part = sharding.batch_part(model.mesh)
    loader = parts.make_loader(config, data.sources, encoder, start, part)
    mixture = parts.print_ledger(config, data, encoder, loader)
    if peers.is_first():
        write_json(workdir.mixture, mixture)
    feed = loop.Feed(loader, lambda batch: sharding.place(batch, model.mesh))
    with _writer(config, workdir, start) as writer:
        hooks = Hooks(
            *(config, workdir, data, encoder, model, loader, feed, writer, checkpoints, clock),
            position,
        )
        hooks.catch_up(start, state)
        train_step = _watched(model.train_step(hooks.measure))
        with (
            Profiler(train_step, config.profiler, workdir.profile, start) as stepping,
            progress.Progress("train", total=config.loop.steps, start=start) as bar,
        ):
            state = loop.run(
                state,
                stepping,
                feed,
                config.loop,
                window=hooks.window,
                hooks=hooks.due(),
                log=hooks.log,
                tick=lambda shown: bar.update(1, **shown),
                stop=stop,
                on_nonfinite=hooks.nonfinite,
                clock=clock,
            )
    if loader.skipped.flaws:
        progress.note(f"damaged items that were skipped: {len(loader.skipped.flaws)}")
        mixture["skipped"] = ledger.skipped(loader.skipped)
        if peers.is_first():
            write_json(workdir.mixture, mixture)
    return state


def _watched(train_step: Any) -> Any:
    """Returns the step so that what it recompiles is told, or in several processes, is refused."""
    if peers.count() == 1:
        return Watched(train_step, "the train step")
    return peers.compiled_together(train_step)  # one program, or an error


def _writer(config: RunConfig, workdir: Workdir, start: int) -> MetricWriter:
    if not peers.is_first():
        return NoWriter()
    return MetricWriter(workdir.path, start, config.metrics, to_json(config))
