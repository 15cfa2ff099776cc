#!/usr/bin/env bash
# Shared by dist_train.sh and dist_test.sh: dist_run.sh TOOL CONFIG N [options of the tool]
set -euo pipefail
tool=$1 config=$2 processes=$3
[[ $processes =~ ^[1-9][0-9]*$ ]] || { echo "error: the number of processes is '$processes', but it is 1 or more" >&2; exit 2; }
# One process per processor core is the sensible number of threads when several share a machine.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" --nproc_per_node="$processes" \
    "$(dirname "$0")/$tool" "$config" "${@:4}" --launcher pytorch
