"""A sweep for a scheduler: text to be submitted, in which every point runs `crate-jax sweep --point=NUMBER`."""

import logging
import pathlib
import shlex

from crate_jax.errors import UserError
from crate_jax.storage import is_remote

logger = logging.getLogger(__name__)

SLURM = """\
#!/bin/bash
# {count} points of {config}; submit with: sbatch {file}
#SBATCH --job-name={name}
#SBATCH --array=0-{last}{at_once}
#SBATCH --output={output}
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue

# A preempted point saves and ends with 143, one that stalled with 175: queued again, it resumes. 1 is permanent.
# SIGTERM for a preempted job reaches this shell as well; it must outlive the point to queue it again.
trap 'true' TERM
# srun does not take --cpus-per-task over from sbatch.
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" \\
    crate-jax sweep --config={config} --workdir={workdir} --point="$SLURM_ARRAY_TASK_ID" || code=$?
if [ "${{code:-0}}" -eq 143 ] || {{ [ "${{code:-0}}" -eq 175 ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt 10 ]; }}; then
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
fi
exit "${{code:-0}}"
"""

JOBSET = """\
# {count} points of {config}; apply with: kubectl apply -f {file}
# A point that is preempted (143) or stalled (175) is started again and resumes; exit code 1 is permanent.
# Set IMAGE to an image with crate-jax[tpu] in it, and the two selectors to a slice that one point fits on.
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: {name}
spec:
  failurePolicy:
    maxRestarts: 0
  replicatedJobs:
    - name: points
      replicas: 1
      template:
        spec:
          completionMode: Indexed
          completions: {count}
          parallelism: {parallel}
          backoffLimitPerIndex: 10
          maxFailedIndexes: {count}
          podFailurePolicy:
            rules:
              - action: Ignore
                onPodConditions:
                  - type: DisruptionTarget
              - action: Ignore
                onExitCodes:
                  containerName: point
                  operator: In
                  values: [143]
              - action: FailIndex
                onExitCodes:
                  containerName: point
                  operator: In
                  values: [1]
          template:
            spec:
              restartPolicy: Never
              terminationGracePeriodSeconds: 120
              nodeSelector:
                cloud.google.com/gke-tpu-accelerator: tpu-v5-lite-podslice
                cloud.google.com/gke-tpu-topology: 2x4
              containers:
                - name: point
                  image: IMAGE
                  command: [crate-jax, sweep, "--config={config}", "--workdir={workdir}", "--point=$(POINT)"]
                  env:
                    - name: POINT
                      valueFrom:
                        fieldRef:
                          fieldPath: metadata.annotations['batch.kubernetes.io/job-completion-index']
                  resources:
                    limits:
                      google.com/tpu: 8
"""


def emit(kind, sweep, workdir, parallel):
    """The text of a sweep for a scheduler.

    Args:
        kind: "slurm", "jobset" or "tpu_vm".
        sweep: from `load_sweep`.
        workdir: D, where the points will run.
        parallel: points at once; None is one with "jobset", and with "slurm" as many as there are nodes for.

    Returns:
        (file name, text).

    Raises:
        UserError: a number of points at once that nobody would heed.
    """
    if kind == "tpu_vm" and parallel is not None:
        raise UserError(f"--parallel={parallel}: with --emit=tpu_vm every point is a job of its own; leave it out.")
    if kind != "slurm" and not is_remote(workdir):
        logger.warning("--workdir=%s: a machine of --emit=%s takes its disk along; name a bucket.", workdir, kind)
    called = pathlib.PurePath(sweep.config).name.replace(".py", "").lower()
    name = "".join(c if c.isascii() and c.isalnum() else "-" for c in called)[:40].strip("-") or "sweep"
    file = {"slurm": "sweep.slurm", "jobset": "sweep.jobset.yaml", "tpu_vm": "sweep.tpu_vm.sh"}[kind]
    words = {
        "count": len(sweep.points),
        "last": len(sweep.points) - 1,
        "parallel": min(parallel or 1, len(sweep.points)),
        "at_once": f"%{parallel}" if parallel else "",
        "name": name,
        "file": file if is_remote(workdir) else f"{workdir}/{file}",  # into a bucket nothing is written
        "config": sweep.config,
        "workdir": workdir,
        "output": f"{name}-%a.txt" if is_remote(workdir) else f"{workdir}/slurm-%a.txt",  # SLURM writes no bucket
    }
    if kind == "slurm":
        quoted = {key: shlex.quote(str(words[key])) for key in ("config", "workdir", "file", "output")}
        return file, SLURM.format(**words | quoted)
    if kind == "jobset":
        return file, JOBSET.format(**words)
    return file, tpu_vm(sweep, workdir, name)


def tpu_vm(sweep, workdir, name):
    """A SkyPilot managed job per point, each on a slice of its own: replaced when it is taken away."""
    lines = [
        "#!/bin/bash",
        f"# {len(sweep.points)} points of {sweep.config}, each a SkyPilot managed job on a TPU slice (spot).",
        "# Run this from the root of a checkout (launch/sky/tpu.yaml says more). A point runs on one host;",
        "# another slice of one host: --gpus TYPE.",
        "set -eu",
    ]
    for number, point in enumerate(sweep.points):
        words = ["sweep", f"--config={sweep.config}", f"--workdir={workdir}", f"--point={point.name}"]
        environment = shlex.quote(f"COMMAND={shlex.join(words)}")
        flags = f"--name {name}-{number} --gpus tpu-v5litepod-8 --yes --detach-run --env {environment}"
        lines.append(f'sky jobs launch launch/sky/tpu.yaml {flags} "$@"')
    return "\n".join([*lines, ""])
