#!/usr/bin/env bash
# bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG [options of train.py]
# GPUS (default 8) processes, one for each, GPUS_PER_NODE (8) and CPUS_PER_TASK (5); GPUS=0 takes NTASKS (1) processes on CPUs,
# NTASKS_PER_NODE. SRUN_ARGS goes to srun, PORT is one of the first machine (default: one at random).
set -euo pipefail
[ $# -ge 3 ] || { echo "usage: bash $0 PARTITION JOB_NAME CONFIG [options of train.py]" >&2; exit 2; }
gpus=${GPUS:-8}
if [ "$gpus" -gt 0 ]; then
    tasks=$gpus per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
    resources=("--gres=gpu:$per_node")
else
    tasks=${NTASKS:-1} per_node=${NTASKS_PER_NODE:-${NTASKS:-1}}
    resources=()
fi
export MASTER_PORT=${PORT:-$((20000 + RANDOM % 20000))} OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# shellcheck disable=SC2086
exec srun --partition="$1" --job-name="$2" "${resources[@]}" --ntasks="$tasks" --ntasks-per-node="$per_node" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    "${PYTHON:-python}" -u "$(dirname "$0")/train.py" "$3" "${@:4}" --launcher slurm
