"""Is this commit faster than that one? Both train on this machine in turn, and the ratio is printed.

    python benchmarks/compare_commits.py OLD [NEW] [--cases=quickstart,tiny] [--batch=8] [--mask=token] [--rounds=15]

NEW is the working tree if it is not given. Each commit gets a checkout and a process of its own; they take turns, a
step each, so what else the machine does hits both. The ratio is the median over rounds of NEW's seconds over OLD's
(below 1: NEW is faster), with the quartiles behind it. Cases are those of benchmarks/train_step.py; losses are printed
too, since a faster step that computes something else is no gain.
"""

import argparse
import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent


def worker(case):
    """Takes a step for every line that comes in, and answers with its loss and seconds."""
    import time

    from train_step import our_step, settings

    from crate_jax.distributed.host_cores import use_all_cores

    config = settings(case)
    use_all_cores(config)
    from crate_jax.training.program import build_program

    step = our_step(build_program(config, 1000))
    for _ in sys.stdin:
        begin = time.perf_counter()
        loss = step()
        print(json.dumps([loss, time.perf_counter() - begin]), flush=True)


@contextlib.contextmanager
def checkout(commit):
    """A folder with that commit's files; None is the working tree."""
    if commit is None:
        yield REPOSITORY
        return
    with tempfile.TemporaryDirectory() as folder:
        git = ["git", "-C", str(REPOSITORY), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", folder, commit], check=True)
        try:
            yield pathlib.Path(folder)
        finally:
            subprocess.run([*git, "remove", "--force", folder], check=True)


def start(folder, case):
    """A process that takes steps with the code of a folder."""
    environment = os.environ | {"PYTHONPATH": str(folder)}
    command = [sys.executable, __file__, "--worker", json.dumps(case)]
    return subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


def step(process, name):
    """(loss, seconds) of one step."""
    process.stdin.write("\n")
    process.stdin.flush()
    answer = process.stdout.readline()
    if not answer:
        raise SystemExit(f"{name} ended before its step; run it by hand: {' '.join(process.args)}")
    return json.loads(answer)


def measure(folders, case, rounds):
    """Seconds of each commit's steps, in turn, and its first loss."""
    running = {name: start(folder, case) for name, folder in folders.items()}
    losses = {name: step(process, name)[0] for name, process in running.items()}
    for name, process in running.items():
        step(process, name)
    turns = [{name: step(process, name)[1] for name, process in running.items()} for _ in range(rounds)]
    for process in running.values():
        process.stdin.close()
        process.wait()
    return turns, losses


def main():
    """The comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", help="a commit")
    parser.add_argument("new", nargs="?", help="another; the working tree if not given")
    parser.add_argument("--cases", default="quickstart,tiny")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--mask", default="token")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    print("case           old ms    new ms   new/old (quartiles)   first loss old, new")
    with checkout(arguments.old) as old, checkout(arguments.new) as new:
        for size in arguments.cases.split(","):
            case = {"size": size, "batch": arguments.batch, "mask": arguments.mask, "small": False}
            turns, losses = measure({"old": old, "new": new}, case, arguments.rounds)
            low, middle, high = statistics.quantiles([turn["new"] / turn["old"] for turn in turns], n=4)
            milliseconds = {name: 1000 * statistics.median(turn[name] for turn in turns) for name in losses}
            print(
                f"{size:<11} {milliseconds['old']:9.1f} {milliseconds['new']:9.1f}   {middle:.3f} ({low:.3f} to "
                f"{high:.3f})   {losses['old']:.6f}, {losses['new']:.6f}",
                flush=True,
            )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(json.loads(sys.argv[2]))
    else:
        main()
