#!/usr/bin/env bash
# Shared by slurm_train.sh and slurm_test.sh: slurm_run.sh PARTITION JOB_NAME TOOL [options of the tool]
# GPUS (default 8) processes, one for each, GPUS_PER_NODE (8) and CPUS_PER_TASK (5); GPUS=0 takes NTASKS (1) processes on CPUs,
# NTASKS_PER_NODE. SRUN_ARGS goes to srun, PORT is one of the first machine (default: one at random).
set -euo pipefail
[ $# -ge 3 ] || { echo "usage: bash $0 PARTITION JOB_NAME TOOL [options of the tool]" >&2; exit 2; }
gpus=${GPUS:-8}
[[ $gpus =~ ^[0-9]+$ ]] || { echo "error: GPUS is '$gpus', but it is a number, 0 for processes on CPUs" >&2; exit 2; }
if [ "$gpus" -gt 0 ]; then
    tasks=$gpus per_node=${GPUS_PER_NODE:-8}
    per_node=$((gpus < per_node ? gpus : per_node))
    resources=("--gres=gpu:$per_node")
else
    tasks=${NTASKS:-1} per_node=${NTASKS_PER_NODE:-${NTASKS:-1}}
    resources=()
fi
export MASTER_PORT=${PORT:-$((20000 + RANDOM % 20000))} OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# shellcheck disable=SC2086
exec srun --partition="$1" --job-name="$2" ${resources[@]+"${resources[@]}"} --ntasks="$tasks" --ntasks-per-node="$per_node" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    "${PYTHON:-python}" -u "$(dirname "$0")/$3" "${@:4}" --launcher slurm
