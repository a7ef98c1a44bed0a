"""A fine-tuning killed with -9 and started again ends with the very numbers of one that was not."""

import json
import os
import signal
import subprocess
import sys

import jax

from crate_jax.cli.main import main
from tests.compiling import with_devices

DEVICES = with_devices(jax.device_count())  # as many as here: other sums, other last bits
TIMES = ("images_per_second", "data_wait_fraction", "tflops_per_device")
FLAGS = ["--config.total_steps=40", "--config.optimizer.warmup_steps=4", "--config.batch_size=16"]
FLAGS += ["--config.checkpoint.every_steps=5", "--config.log_every_steps=1", "--config.data.mixup=0.8"]
FLAGS += ["--config.data.cutmix=1.0", "--config.data.label_smoothing=0.1"]
FLAGS += ["--config.model.drop_path=0.2", "--config.optimizer.layer_decay=0.65"]


def lines(folder):
    """Every line of the log, without what is a matter of time."""
    text = (folder / "metrics.jsonl").read_text()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in text.splitlines()]


def test_killed_fine_tuning_goes_on_to_the_same_numbers(workdir, tmp_path):
    words, straight = ["finetune", f"--workdir={workdir}", *FLAGS], workdir / "finetune" / "finetune"
    assert main(words) == 0
    words.append(f"--out={tmp_path}/killed")
    process = subprocess.Popen(
        [sys.executable, "-m", "crate_jax", *words],
        env=os.environ | {"PYTHONUNBUFFERED": "1", "XLA_FLAGS": DEVICES},
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stderr:
        if line.startswith("step 13/"):
            process.kill()
    assert process.wait() == -signal.SIGKILL
    assert 12 <= len(lines(tmp_path / "killed")) < 40 and not (tmp_path / "killed" / "finetune.json").exists()
    assert main(words) == 0
    assert lines(tmp_path / "killed") == lines(straight) and len(lines(straight)) == 40
    whole, killed = (json.loads((folder / "finetune.json").read_text()) for folder in (workdir, tmp_path / "killed"))
    assert killed == whole
    for folder in (workdir, tmp_path / "killed"):
        assert (folder / "figures" / "finetune.png").stat().st_size > 5000
