"""Is this commit faster than that one? Both train on this machine in turn, and the ratio is printed.

    python benchmarks/compare_commits.py OLD [NEW] [--cases=quickstart,tiny] [--batch=8] [--mask=token] [--rounds=15]

NEW is the working tree if it is not given. Each commit gets a checkout and a process of its own; they take turns, two
steps each of which the second is measured, so what else the machine does hits both. The ratio is the median over rounds
of NEW's seconds over OLD's (below 1: NEW is faster), with the quartiles behind it. Cases are those of
benchmarks/train_step.py; losses are printed too, since a faster step that computes something else is no gain.
"""

import argparse
import contextlib
import pathlib
import statistics
import subprocess
import sys
import tempfile

from train_step import contender, start, take_turns

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent


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


def start_with(folder, case):
    """A process that takes steps with the code of a folder: a new process looks where this one does."""
    sys.path.insert(0, str(folder))
    try:
        return start(contender, "ours", case)
    finally:
        sys.path.pop(0)


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
            running = {name: start_with(folder, case) for name, folder in (("old", old), ("new", new))}
            _, losses, turns = take_turns(running, arguments.rounds)
            low, middle, high = statistics.quantiles([turn["new"] / turn["old"] for turn in turns], n=4)
            milliseconds = {name: 1000 * statistics.median(turn[name] for turn in turns) for name in losses}
            print(
                f"{size:<11} {milliseconds['old']:9.1f} {milliseconds['new']:9.1f}   {middle:.3f} ({low:.3f} to "
                f"{high:.3f})   {losses['old']:.6f}, {losses['new']:.6f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
