#!/usr/bin/env bash
# Copies this checkout (what git tracks, uncommitted changes included) to every worker and installs.
#
# usage: ZONE=... [NAME=...] tpu_scripts/setup.sh [--dry-run]
#
# Settings: tpu_scripts/common.sh.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
parse "$@"
place
cd "$(dirname "${BASH_SOURCE[0]}")/.."

temporary="$(mktemp -d)"
trap 'rm -rf "$temporary"' EXIT
archive="$temporary/vla_jax.tar.gz"
# A commit of the changes that no branch holds; empty if there are none.
changes="$(git -c user.name=setup -c user.email=setup@localhost stash create)"
run git archive --format=tar.gz --output="$archive" "${changes:-HEAD}"
copy=(gcloud compute tpus tpu-vm scp "$archive" "$NAME:vla_jax.tar.gz" "${TPU_FLAGS[@]}" --worker=all)
[[ "$INTERNAL_IPS" != 1 ]] || copy+=(--internal-ip)
run "${copy[@]}"

# The images have an older Python than the package needs; uv brings one along.
# A module that is gone here must be gone there; runs and data beside the package stay.
install="mkdir -p $(quoted "$REMOTE_DIR") && rm -rf $(quoted "$REMOTE_DIR/vla_jax") &&
 tar -xzf vla_jax.tar.gz -C $(quoted "$REMOTE_DIR") &&
 cd $(quoted "$REMOTE_DIR") && python3 -m pip install --user --quiet uv &&
 ~/.local/bin/uv venv --quiet --allow-existing --python $(quoted "$PYTHON_VERSION") venv &&
 ~/.local/bin/uv pip install --quiet --python venv/bin/python -e $(quoted ".[$EXTRAS]")"
command=(gcloud compute tpus tpu-vm ssh "$NAME" "${TPU_FLAGS[@]}" --worker=all)
[[ "$INTERNAL_IPS" != 1 ]] || command+=(--internal-ip)
run "${command[@]}" --command="$install"
note "$NAME is set up"
