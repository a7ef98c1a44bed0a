"""A sweep for a scheduler: text to be submitted, in which every point runs `crate-jax sweep --point=NUMBER`."""

import shlex

SLURM = """\
#!/bin/bash
# {count} points of {config}; submit with: sbatch {file}
#SBATCH --job-name={name}
#SBATCH --array=0-{last}{at_once}
#SBATCH --output={workdir}/slurm-%a.txt
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue

# Told to stop, a point saves and ends with 143; requeued, it goes on where it stopped.
srun crate-jax sweep --config={config} --workdir={workdir} --point="$SLURM_ARRAY_TASK_ID" || code=$?
if [ "${{code:-0}}" -eq 143 ]; then scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"; fi
exit "${{code:-0}}"
"""

JOBSET = """\
# {count} points of {config}; apply with: kubectl apply -f {file}
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
          backoffLimitPerIndex: 3
          maxFailedIndexes: {count}
          podFailurePolicy:
            rules:
              - action: Ignore
                onPodConditions:
                  - type: DisruptionTarget
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
        parallel: points at once.

    Returns:
        (file name, text).
    """
    name = "".join(c if c.isalnum() else "-" for c in sweep.path.stem.lower()).strip("-")[:40] or "sweep"
    file = {"slurm": "sweep.slurm", "jobset": "sweep.jobset.yaml", "tpu_vm": "sweep.tpu_vm.sh"}[kind]
    words = {
        "count": len(sweep.points),
        "last": len(sweep.points) - 1,
        "parallel": max(1, min(parallel, len(sweep.points))),
        "at_once": f"%{parallel}" if parallel > 1 else "",
        "name": name,
        "file": f"{workdir}/{file}",
        "config": sweep.path,
        "workdir": workdir,
    }
    if kind == "slurm":
        quoted = {key: shlex.quote(str(words[key])) for key in ("config", "workdir", "file")}
        return file, SLURM.format(**words | quoted)
    if kind == "jobset":
        return file, JOBSET.format(**words)
    return file, tpu_vm(sweep, workdir, name)


def tpu_vm(sweep, workdir, name):
    """A command a point: on a TPU VM of its own, made by `launch/tpu_vm/` or by hand beforehand."""
    lines = [
        "#!/bin/bash",
        f"# {len(sweep.points)} points of {sweep.path}, each on the TPU VM {name}-NUMBER; run the lines you want.",
        'set -u; : "${ZONE:?set ZONE to the zone of the TPU VMs}"',
    ]
    for number, point in enumerate(sweep.points):
        command = shlex.join(
            ["crate-jax", "sweep", f"--config={sweep.path}", f"--workdir={workdir}", f"--point={point.name}"]
        )
        lines.append(
            f'gcloud compute tpus tpu-vm ssh {name}-{number} --zone="$ZONE" --worker=all '
            f"--command={shlex.quote(command)} &"
        )
    return "\n".join([*lines, "wait", ""])
