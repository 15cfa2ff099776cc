#!/usr/bin/env bash
# bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG [options of train.py]
# GPUS (default 8) processes, GPUS_PER_NODE (8) and CPUS_PER_TASK (5) each; SRUN_ARGS goes to srun.
set -euo pipefail
[ $# -ge 3 ] || { echo "usage: bash $0 PARTITION JOB_NAME CONFIG [options of train.py]" >&2; exit 2; }
gpus=${GPUS:-8}
per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
# shellcheck disable=SC2086
exec srun --partition="$1" --job-name="$2" --gres="gpu:$per_node" --ntasks="$gpus" --ntasks-per-node="$per_node" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    "${PYTHON:-python}" -u "$(dirname "$0")/train.py" "$3" "${@:4}" --launcher slurm
