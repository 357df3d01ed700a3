"""The models of an exported folder that `transformers` computes: PaliGemma and OpenVLA.

The grammar is a LogitsProcessor, so that the library's own generation, with its cache, cannot
choose an illegal token, and a StoppingCriteria.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers
from exported_policy import Inputs
from exported_tokens import Grammar


class Legal(transformers.LogitsProcessor):
    """Allows what the grammar does, and keeps some logits before it does.

    Args:
      grammar: what may be written.
      wanted: ids whose logits are kept in `seen`.
      start: length of the prompt.
      softcap: bound of the logits that the library forgets; None for none.

    Attributes:
      seen: float32 [i] for every token so far.
      is_finite: whether a legal token had a logit that is a number, each time.
    """

    def __init__(
        self, grammar: Grammar, wanted: np.ndarray, start: int, softcap: float | None = None
    ):
        self._grammar, self._wanted, self._start = grammar, wanted, start
        self._softcap = softcap
        self.seen: list[torch.Tensor] = []
        self.is_finite = True

    def state(self, input_ids: torch.Tensor) -> int:
        """Returns the grammar's state behind a prompt and what was written so far, [1, s]."""
        state = self._grammar.start
        for token in input_ids[0, self._start :].tolist():
            state = self._grammar.after(state, token)
        return state

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Returns `scores` [1, v] with -inf for what may not stand here."""
        if self._softcap is not None:
            scores = torch.tanh(scores / self._softcap) * self._softcap
        self.seen.append(scores[0, torch.from_numpy(self._wanted).to(scores.device)].float())
        place = input_ids.shape[1] - self._start
        ids = torch.from_numpy(self._grammar.allowed(self.state(input_ids), place))
        ids, out = ids.to(scores.device), torch.full_like(scores, -torch.inf)
        # NaN is above all other numbers here; a runtime may show some of them as impossible.
        self.is_finite = self.is_finite and bool(scores[:, ids].max().isfinite())
        # A legal token stays above the others even if its logit is -inf or no number.
        lowest = torch.finfo(scores.dtype).min
        out[:, ids] = scores[:, ids].nan_to_num(nan=lowest, posinf=torch.inf, neginf=lowest)
        return out


class AtEnd(transformers.StoppingCriteria):
    """Stops where the grammar ends; the model's own end of a text is never legal."""

    def __init__(self, legal: Legal):
        self._legal = legal

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> Any:
        """Returns bool [1]."""
        return torch.tensor([not self._legal.state(input_ids)], device=input_ids.device)


class _Generating:
    """A model whose library generates."""

    def __init__(self, loaded: Any, folder: pathlib.Path, device: str):
        model, info = loaded
        for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            if names := sorted(map(str, info.get(problem) or ())):
                raise ValueError(
                    f"{folder}: transformers {transformers.__version__} finds "
                    f"{problem.replace('_', ' ')}: {', '.join(names[:3])}, {len(names)} in all"
                )
        self.model = model.to(device).eval()
        self._softcap: float | None = None

    @torch.inference_mode()
    def _generate(
        self, ids: Sequence[int], grammar: Grammar, wanted: np.ndarray, **inputs: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        device = self.model.device
        prompt = torch.tensor([list(ids)], device=device)
        legal = Legal(grammar, wanted, len(ids), self._softcap)
        out = self.model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            **{name: value.to(device) for name, value in inputs.items()},
            do_sample=False,
            max_new_tokens=grammar.length,
            logits_processor=transformers.LogitsProcessorList([legal]),
            stopping_criteria=transformers.StoppingCriteriaList([AtEnd(legal)]),
        )
        if not legal.is_finite:
            raise ValueError("the model's logits are not finite")
        tokens = out[0, len(ids) :].cpu().numpy().astype(np.int32)
        return grammar.filled(tokens), grammar.filled(torch.stack(legal.seen).cpu().numpy())


class PaliGemma(_Generating):
    """PaliGemma 1 or 2, as the hub has them."""

    def __init__(
        self, folder: pathlib.Path, description: dict[str, Any], device: str, dtype: torch.dtype
    ):
        # Eager: Gemma 2's soft-caps, and prefixes that see themselves, in every version.
        loaded = transformers.PaliGemmaForConditionalGeneration.from_pretrained(
            folder, dtype=dtype, attn_implementation="eager", output_loading_info=True
        )
        super().__init__(loaded, folder, device)
        if int(transformers.__version__.split(".")[0]) < 5:
            # Version 4 calls the output matrix of Gemma 2 without the cap that it has of its own.
            self._softcap = getattr(self.model.config.text_config, "final_logit_softcapping", None)
        self._image_token = self.model.config.image_token_id
        vision = description["model"]["vision"]
        self._patches = (vision["image_size"] // vision["patch_size"]) ** 2

    def decode(
        self, inputs: Inputs, grammar: Grammar, wanted: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Decodes greedily: see `exported_policy.Model`."""
        images = torch.from_numpy(inputs.images[inputs.image_mask]).permute(0, 3, 1, 2)
        ids = [self._image_token] * (len(images) * self._patches) + inputs.prefix.tolist()
        pixels = {"pixel_values": (images / 127.5 - 1).to(self.model.dtype)} if len(images) else {}
        # Without token types some versions see the future, others not all of the prefix.
        return self._generate(
            ids,
            grammar,
            wanted,
            token_type_ids=torch.zeros(1, len(ids), dtype=torch.long),
            **pixels,
        )


class OpenVLA(_Generating):
    """OpenVLA, by the modelling files that lie in the folder."""

    def __init__(
        self, folder: pathlib.Path, description: dict[str, Any], device: str, dtype: torch.dtype
    ):
        auto: Any = transformers
        if not hasattr(auto, "AutoModelForVision2Seq"):
            raise ValueError(
                f"OpenVLA's code needs transformers 4.40, found {transformers.__version__}"
            )
        loaded = auto.AutoModelForVision2Seq.from_pretrained(
            folder,
            torch_dtype=dtype,
            attn_implementation="eager",
            trust_remote_code=True,
            low_cpu_mem_usage=True,
            output_loading_info=True,
        )
        super().__init__(loaded, folder, device)
        model = description["model"]
        towers = (model["vision"], model["fused_vision"])
        self._towers = [(tower["mean"], tower["std"]) for tower in towers if tower is not None]

    def decode(
        self, inputs: Inputs, grammar: Grammar, wanted: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Decodes greedily: see `exported_policy.Model`."""
        images = torch.from_numpy(inputs.images).permute(0, 3, 1, 2) / 255
        parts = [
            (images - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
            for mean, std in self._towers
        ]
        pixels = torch.cat(parts, dim=1).to(self.model.dtype)
        return self._generate(inputs.prefix.tolist(), grammar, wanted, pixel_values=pixels)


MODELS = {"hf_paligemma": PaliGemma, "openvla": OpenVLA}
