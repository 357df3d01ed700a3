"""RunConfig: every folder's configuration in one, and the checks across them; no disk is read."""

import dataclasses
from typing import Annotated, Any

from vla_jax.actions.bins import BinsConfig
from vla_jax.core.config import to_config_dict
from vla_jax.core.errors import UserError
from vla_jax.core.fields import Checked, Count, PathText, Range, Seed
from vla_jax.data import mixture as mixture_lib
from vla_jax.data.loader import LoaderConfig
from vla_jax.data.mixture import MixtureConfig
from vla_jax.data.robots import table
from vla_jax.envs.tabletop import world
from vla_jax.envs.tabletop.datasets import DatasetsConfig
from vla_jax.envs.tabletop.world import Split
from vla_jax.models.pretrained import PretrainedConfig
from vla_jax.models.vlm_config import VLMConfig
from vla_jax.runtime.checkpoint import CheckpointConfig
from vla_jax.runtime.mesh import MeshConfig
from vla_jax.runtime.metrics import MetricsConfig
from vla_jax.runtime.profiler import ProfilerConfig
from vla_jax.tokens.action_tokens import ActionTokensConfig
from vla_jax.tokens.prompts import PromptsConfig
from vla_jax.tokens.sequence import SequenceConfig
from vla_jax.tokens.tokenizer import TokenizerConfig
from vla_jax.train.loop import LoopConfig
from vla_jax.train.loss import LossConfig
from vla_jax.train.optimizer import OptimizerConfig
from vla_jax.train.strategy import StrategyConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig(Checked):
    """Closed-loop and question evaluation.

    Attributes:
      episodes: fixed closed-loop episodes per split at the end, shared evenly by the tasks.
      quick_episodes: episodes per split at every `loop.eval_every` steps.
      splits: which splits of the tabletop; words that no training text has may not fit
        `sequence.prefix`, so `relation` and `symbol` need the web's questions about them.
      blocks: fewest and most blocks on the table; with one block the words would not matter.
      questions: held-out questions asked on the way and at the end.
      frames: held-out examples of the losses on the way and of the open-loop error.
      film: episodes in the picture grid.
      slots: environments stepped together.
      execute: actions of a decision (of `loader.chunk`) that are executed before the next one.

    Raises:
      UserError: a number is out of its range, or the split `seen` is missing.
    """

    episodes: Count = 300
    quick_episodes: Count = 30
    splits: tuple[Split, ...] = world.DEFAULT_SPLITS
    blocks: tuple[world.Blocks, world.Blocks] = world.EVALUATION_BLOCKS
    questions: Count = 600
    frames: Count = 200
    film: Annotated[int, Range(0, 1000)] = 12
    slots: Annotated[int, Range(1, 4096)] = 50
    execute: Annotated[int, Range(1, 1024)] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if "seen" not in self.splits:
            raise UserError(
                "config.evaluation.splits", expected="seen among them", found=self.splits
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig(Checked):
    """Everything a run depends on; with the seed in it, the run is a pure function of this.

    Attributes:
      seed: of parameters, shuffles and mixing.
      data_dir: root of the datasets: those of the mixture are looked for in DATA_DIR/NAME/VERSION,
        and the tabletop's are generated there.
      cache_dir: where the indexes of datasets go that cannot be written beside; None writes beside.
      tabletop: content of the generated datasets.
      bins: how an action dimension is cut.
      tokenizer: text to ids.
      action_tokens: bins to ids.
      prompts: wording.
      sequence: room for text.
      model: sizes.
      pretrained: the released checkpoint that the model starts from.
      mixture: which datasets, and how much of each.
      loader: batches.
      strategy: what is trained.
      loss: normalisation.
      optimizer: update rule.
      mesh: device layout.
      checkpoint: how often and how many.
      loop: how long and how often to look.
      metrics: where they go beside the workdir.
      profiler: which steps are traced.
      evaluation: how much to evaluate.

    Raises:
      UserError: values that do not go together.
    """

    seed: Seed = 0
    data_dir: PathText = "data"
    cache_dir: PathText | None = None
    tabletop: DatasetsConfig = DatasetsConfig()
    bins: BinsConfig = BinsConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    action_tokens: ActionTokensConfig = ActionTokensConfig()
    prompts: PromptsConfig = PromptsConfig()
    sequence: SequenceConfig = SequenceConfig()
    model: VLMConfig = VLMConfig()
    pretrained: PretrainedConfig = PretrainedConfig()
    mixture: MixtureConfig = MixtureConfig()
    loader: LoaderConfig = LoaderConfig()
    strategy: StrategyConfig = StrategyConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    mesh: MeshConfig = MeshConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    loop: LoopConfig = LoopConfig()
    metrics: MetricsConfig = MetricsConfig()
    profiler: ProfilerConfig = ProfilerConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        robots = mixture_lib.resolve(self.mixture)
        for name, settings in robots.items():
            robot = table.find(settings.adapter or name)
            needed = robot.spec.size * self.loader.chunk + 1
            if self.action_tokens.scheme == "fast":
                continue  # how long they are is up to the data
            if self.sequence.suffix < needed:
                raise UserError(
                    f"config.sequence.suffix is too short for the actions of {name}",
                    expected=f"at least {needed} ({self.loader.chunk} actions of "
                    f"{robot.spec.size} tokens, and <eos>)",
                    found=self.sequence.suffix,
                )
        inline = self.model.images == "inline"
        for wanted, found in zip(("robot", "web"), self.prompts.inline, strict=True):
            if inline != found:
                raise UserError(
                    f"config.prompts.{wanted}",
                    expected="a prompt "
                    + ("with its images inside (palme)" if inline else "without images inside")
                    + f", as config.model.images={self.model.images}",
                    found=getattr(self.prompts, wanted),
                )

    @property
    def image_tokens(self) -> int:
        """Slots that the images of an example take inside the prompt; 0 where they stand before."""
        if self.model.images != "inline":
            return 0
        return self.model.image_tokens * len(self.loader.views) * self.loader.history


def defaults() -> Any:
    """Returns the ConfigDict that config files start from and flags override.

    Its attributes are the fields of `RunConfig`, which its own type does not know.
    """
    return to_config_dict(RunConfig())
