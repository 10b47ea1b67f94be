#!/usr/bin/env bash
# A run as a job of a Ray cluster that is up already. On its head node, in the project's folder, which every node has under
# the same path (a shared file system):
#   export RAY_AUTH_MODE=token                               # in every shell: docs/clusters.md, Ray
#   ./run ray start --head --dashboard-host=127.0.0.1        # on the head node, once
#   ./run ray start --address=HEAD:6379                      # on every other node, once
#   cluster/ray_job.sh --config configs/models/qwen2.5-7b.yaml --config configs/scales/2nodes.yaml cluster.n_nodes=2
# What stands after the file's name goes to ./run train. Then: ./run ray job logs --follow ID, ./run ray job stop ID.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
export RAY_API_SERVER_ADDRESS=${RAY_API_SERVER_ADDRESS:-http://127.0.0.1:8265}
printf -v command 'cd %q && exec ./run train scheduler.type=ray' "$PWD"
[ $# -eq 0 ] || command+=$(printf ' %q' "$@")
exec ./run ray job submit -- bash -c "$command"
