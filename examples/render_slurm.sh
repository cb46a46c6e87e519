#!/bin/bash
# Renders a manifest on a SLURM cluster: each task of the array takes its share of the jobs and a GPU of its own.
#
#     sbatch examples/render_slurm.sh manifest.jsonl path/to/model renders/
#
# The output folder must be on a disk that all nodes share. Submit it again after a time limit or a lost node: what is
# rendered stays rendered. Keep the number of tasks while doing so, because the shares depend on it.
#
#SBATCH --job-name=accel-render
#SBATCH --array=1-8
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@120
#SBATCH --output=accel-render-%A-%a.log

# `accel render` answers the SIGTERM two minutes before the end by finishing the job at hand.
exec srun accel render "$1" --model "$2" --out "$3" --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT"
