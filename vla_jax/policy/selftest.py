"""Does an exported policy compute what it was exported from? Its golden frames say.

`golden.npz` holds observations, prompts, and for each what JAX decoded in float32 from the exported
weights: tokens, actions, and the logits of some ids at every token. Also a few observations as
cameras give them, with what they become. This is copied into every export.
"""

import argparse
import json
import pathlib
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Any

import exported_images
import numpy as np
from exported_policy import ExportedPolicy, Inputs

Load = Callable[..., ExportedPolicy]
_FIELDS = ("images", "image_mask", "state", "state_mask")
_PACKAGES = ("torch", "transformers", "timm", "jax", "flatbuffers", "safetensors", "tokenizers")


def measure(policy: ExportedPolicy, golden: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Compares a computation in float32 with what JAX computed.

    Returns:
      prompts, tokens: how many; wrong_tokens, wrong_prompts, wrong_inputs: how many differ (of
      prefixes, and of images and states made from raw ones, bit by bit); logits_max, logits_rms:
      difference in units of the logits' standard deviation; actions_max: largest difference, of
      values above 1 relative.
    """
    texts, tokens, values, logits = golden["instructions"], [], [], []
    prefixes = [policy.prefix(str(text)) for text in texts]
    for inputs in observations(golden):
        found, seen = policy.model.decode(inputs, policy.grammar, golden["logit_ids"])
        tokens.append(found)
        logits.append(seen)
        values.append(policy.read(found)[0])
    expected = golden["values"]
    error = np.abs(np.stack(values) - expected) / np.maximum(1, np.abs(expected))
    return {
        "prompts": len(texts),
        "tokens": int(_inside(golden).sum()),
        "wrong_tokens": int((np.stack(tokens) != golden["tokens"]).sum()),
        "wrong_prompts": sum(
            not np.array_equal(prefix, inputs.prefix)
            for prefix, inputs in zip(prefixes, observations(golden), strict=True)
        ),
        "wrong_inputs": _wrong_inputs(policy, golden),
        **_difference(np.stack(logits), golden),
        "actions_max": float(error.max()),
    }


def measure_rounded(policy: ExportedPolicy, golden: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Compares a computation in a shorter dtype, along the tokens that JAX decoded.

    Returns:
      As `measure`: prompts, tokens, logits_max, logits_rms; choices: share of positions at which
      the likeliest of the golden ids is the same.
    """
    ids, inside = golden["logit_ids"], _inside(golden)
    frames = zip(observations(golden), golden["tokens"], inside, strict=True)
    logits = np.stack(
        [
            policy.model.decode(inputs, policy.grammar.only(row[written]), ids)[1]
            for inputs, row, written in frames
        ]
    )
    same = logits[inside].argmax(-1) == golden["logits"][inside].argmax(-1)
    return {
        "prompts": len(logits),
        "tokens": int(inside.sum()),
        **_difference(logits, golden),
        "choices": float(same.mean()),
    }


def observations(golden: Mapping[str, np.ndarray]) -> list[Inputs]:
    """Returns what a model is given for every golden frame."""
    return [
        Inputs(
            prefix=row[len(row) - length :],
            **{name: golden[name][n] for name in _FIELDS if name in golden},
        )
        for n, (row, length) in enumerate(
            zip(golden["prefix"], golden["prefix_length"], strict=True)
        )
    ]


def judge(found: Mapping[str, float], allowed: Mapping[str, float]) -> list[str]:
    """Returns what is above its tolerance, one line each; NaN is above everything."""
    return [
        f"{name} {found[name]:.3g}, allowed {limit:g}"
        for name, limit in allowed.items()
        if not found[name] <= limit
    ]


def run(load: Load, folder: pathlib.Path, device: str) -> dict[str, Any]:
    """Measures in float32, and in the dtype of the weights if that is another.

    Returns:
      `versions` of what computed, and `measured`: dtype -> measurements and `failures`.
    """
    measured: dict[str, Any] = {}
    policy = load(folder, device, "float32", unchecked=True)
    golden = _golden(folder / "golden.npz")
    parity, stored = policy.description["parity"], policy.description["dtype"]
    measured["float32"] = measure(policy, golden)
    if stored != "float32":
        del policy  # two copies of the weights need not fit
        measured[stored] = measure_rounded(
            load(folder, device, stored, unchecked=True, verify=False), golden
        )
    for dtype, found in measured.items():
        limits = parity["float32" if dtype == "float32" else "rounded"]
        found["failures"] = judge(found, limits)
    return {"versions": versions(), "device": device, "measured": measured}


def _golden(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path) as file:
            return dict(file)
    except Exception as error:  # of zip archives, of numpy, of the file system
        raise ValueError(f"{path}: no golden frames ({error})") from error


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that may matter."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def main(load: Load, folder: pathlib.Path, arguments: Sequence[str] | None = None) -> None:
    """The command line of a stand-alone policy: prints an action, or tests itself.

    Args:
      load: (folder, device, dtype, unchecked=False, verify=True) -> policy.
      folder: where the program lies.
      arguments: those of the process by default.
    """
    program = pathlib.Path(sys.argv[0]).stem
    parser = argparse.ArgumentParser(description="Run the exported policy in this folder.")
    parser.add_argument("--folder", default=folder, type=pathlib.Path)
    parser.add_argument("--device", default="cpu", help="such as cpu or cuda")
    parser.add_argument("--dtype", default="float32", help="float32, bfloat16 or float16")
    parser.add_argument("--image", action="append", default=[], help="FILE or VIEW=FILE")
    parser.add_argument("--instruction")
    parser.add_argument("--state", type=float, nargs="*", help="proprioception in robot units")
    parser.add_argument("--selftest", action="store_true", help="compare with the golden frames")
    parser.add_argument(
        "--skip-verify", action="store_true", help="act without comparing files with manifest.json"
    )
    parser.add_argument("--json", type=pathlib.Path, help="where --selftest writes what it found")
    options = parser.parse_args(arguments)
    try:
        if options.selftest:
            sys.exit(_selftest(load, options))
        if not options.image or options.instruction is None:
            raise ValueError("expected --image and --instruction, or --selftest")
        verify = not options.skip_verify
        _act(load(options.folder, options.device, options.dtype, verify=verify), options)
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        sys.exit(f"{program}: {' '.join(str(error).split())}")


def _act(policy: ExportedPolicy, options: argparse.Namespace) -> None:
    views: dict[str, list[np.ndarray]] = {}
    for item in options.image:
        view, _, file = item.rpartition("=")
        views.setdefault(view or policy.views[0], []).append(exported_images.read(file))
    state = None if options.state is None else np.array(options.state, np.float32)
    action = policy.act(views, options.instruction, state)
    rows = zip(policy.names, action.values[0], policy.units, strict=True)
    lines = [f"{name:<10} {value:+.5f} {unit}" for name, value, unit in rows]
    lines += [f"plan {action.plan}"] if action.plan else []
    sys.stdout.write("\n".join([*lines, f"tokens {' '.join(map(str, action.tokens))}", ""]))


def _selftest(load: Load, options: argparse.Namespace) -> int:
    result = run(load, options.folder, options.device)
    for dtype, found in result["measured"].items():
        rows = {name: value for name, value in found.items() if name != "failures"}
        lines = [f"{name:<14} {value:.6g}" for name, value in rows.items()]
        verdict = "; ".join(found["failures"]) or "as JAX"
        sys.stdout.write("\n".join([f"computed in {dtype}", *lines, f"{dtype}: {verdict}", ""]))
    if options.json is not None:
        options.json.write_text(json.dumps(result))
    return int(any(found["failures"] for found in result["measured"].values()))


def _inside(golden: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns bool [p, t]: which tokens were written; behind the end all is 0."""
    return np.any(golden["logits"] != 0, axis=-1)


def _difference(found: np.ndarray, golden: Mapping[str, np.ndarray]) -> dict[str, float]:
    expected, inside = golden["logits"], _inside(golden)
    error = (found.astype(np.float64) - expected) / expected[inside].std()
    return {
        "logits_max": float(np.abs(error).max()),
        "logits_rms": float(np.sqrt(np.mean(error[inside] ** 2))),
    }


def _wrong_inputs(policy: ExportedPolicy, golden: Mapping[str, np.ndarray]) -> int:
    """Counts raw observations that do not become what they became in training."""
    wrong = 0
    for n in range(int(golden["raw/count"])):
        images = {
            view: [
                golden[f"raw/{n}/{view}/{step}"]
                for step in range(policy.history)
                if f"raw/{n}/{view}/{step}" in golden
            ]
            for view in policy.views
        }
        text = str(golden["instructions"][0])
        found = policy.look(images, text, golden.get(f"raw/{n}/state"))
        wrong += any(
            not np.array_equal(getattr(found, name), golden[f"raw/{n}/becomes/{name}"])
            for name in _FIELDS
            if f"raw/{n}/becomes/{name}" in golden
        )
    return wrong


if __name__ == "__main__":  # an export asks an interpreter what it has
    sys.stdout.write(json.dumps(versions()))
