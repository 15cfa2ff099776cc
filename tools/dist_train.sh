#!/usr/bin/env bash
# bash tools/dist_train.sh CONFIG GPUS [options of train.py]
# GPUS processes on this machine: NCCL on GPUs, gloo on CPUs. On several machines, run it on each with NNODES, NODE_RANK,
# MASTER_ADDR and PORT set; on one, a free port is taken. When a process fails, its error is printed and all end.
set -euo pipefail
[ $# -ge 2 ] || { echo "usage: bash $0 CONFIG GPUS [options of train.py]" >&2; exit 2; }
exec "${PYTHON:-python}" "$(dirname "$0")/dist_run.py" train.py "$@"
