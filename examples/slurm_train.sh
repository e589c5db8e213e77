#!/usr/bin/env bash
# Train on several nodes under SLURM, and go on after a preemption, a time limit or a node that failed.
#
#   sbatch --nodes=4 examples/slurm_train.sh --config imagenet_small --data.root /data/imagenet --timeout 10m
#
# What stands behind the script's name goes to `scalablevit fit`, without --run, --resume, --devices and
# --trainer.num_nodes. RUN names the run folder, on a disk that all nodes share; default: runs/ and the job's name.
# A job that is queued again finds the run there and resumes it; a cluster that preempts sends SIGTERM, and so does
# --signal before the time is over: the run then saves within a step and ends with exit code 143.
#SBATCH --job-name=scalablevit
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
set -uo pipefail

run=${RUN:-runs/${SLURM_JOB_NAME:-scalablevit}}
most=${MOST_REQUEUES:-50}
python=${PYTHON:-python}

last=$run/checkpoints/last.ckpt
before=$(stat -c %y "$last" 2>/dev/null)

# SIGTERM reaches the training processes by itself; this script waits for them.
trap ':' TERM

if [ -f "$last" ]; then
  # of the words for a new run, only these are for a resumed one too
  words=(--resume "$run")
  while [ $# -gt 0 ]; do
    case $1 in
      --timeout) words+=(--timeout "$2"); shift ;;
      --timeout=*) words+=("$1") ;;
    esac
    shift
  done
else
  words=(--run "$run" "$@")
fi

# One process that ends takes the others of its step with it.
srun --kill-on-bad-exit=1 "$python" -m scalablevit fit "${words[@]}" &
step=$!
while :; do
  wait "$step"
  code=$?
  kill -0 "$step" 2>/dev/null || break # else a signal has interrupted the waiting
done

restarts=${SLURM_RESTART_COUNT:-0}
[ "$code" = 0 ] && exit 0
# What fails again and again would be queued again and again.
if [ "$code" != 143 ] && [ "$(stat -c %y "$last" 2>/dev/null)" = "$before" ]; then
  echo "exit code $code, and nothing was saved since this start: not queued again" >&2
  exit "$code"
fi
if [ "$restarts" -ge "$most" ]; then
  echo "exit code $code after $restarts restarts: not queued again" >&2
  exit "$code"
fi
echo "exit code $code: queued again to resume $run" >&2
scontrol requeue "$SLURM_JOB_ID"
