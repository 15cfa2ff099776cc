#!/usr/bin/env bash
# bash tools/dist_test.sh CONFIG CHECKPOINT GPUS [options of test.py]
# GPUS processes on this machine: NCCL on GPUs, gloo on CPUs. On several machines, run it on each with NNODES, NODE_RANK,
# MASTER_ADDR and PORT set; on one, a free port is taken. When a process fails, its error is printed and all end.
set -euo pipefail
[ $# -ge 3 ] || { echo "usage: bash $0 CONFIG CHECKPOINT GPUS [options of test.py]" >&2; exit 2; }
exec "${PYTHON:-python}" "$(dirname "$0")/dist_run.py" test.py "$1" "$3" "$2" "${@:4}"
