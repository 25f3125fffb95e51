"""Checks in groups, each group a process of its own, as many at a time as there are processors: interop.py and what it is made of.

A group is (name, function): the function is given the group's Checks, and what makes names in the group's own folder.
"""

import collections
import multiprocessing
import multiprocessing.connection
import time
import traceback


class Skipped(Exception):
    """A check that this machine cannot make; its text says why."""


class Checks:
    """The checks of a group: what each comes to is told."""

    def __init__(self, only, tell):
        self.only, self.tell = only, tell

    def run(self, name, check):
        if self.only and self.only not in name:
            return
        began = time.monotonic()
        try:
            said = check()
            self.tell("ok", f"{name}{': ' + said if said else ''} ({time.monotonic() - began:.1f} s)")
        except Skipped as why:
            self.tell("skip", f"{name}: {why}")
        except (Exception, SystemExit) as error:
            self.tell("FAIL", f"{name}: {error}" + ("" if isinstance(error, AssertionError) else "\n" + traceback.format_exc().rstrip()))


def one(name, check):
    return name, lambda checks, at: checks.run(name, lambda: check(at))


def in_processes(groups, jobs, run):
    """run(name, group, tell) of each of the groups, (name, group), in a process forked for it. What they tell is printed as it comes; how many times
    each word came."""
    context, waiting, running, told = multiprocessing.get_context("fork"), collections.deque(groups), {}, collections.Counter()
    while waiting or running:
        while waiting and len(running) < jobs:
            name, group = waiting.popleft()
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=run, args=(name, group, lambda *words: theirs.send(words)), daemon=True)
            process.start()
            theirs.close()
            running[ours] = name, process
        for ours in multiprocessing.connection.wait(running):
            name, process = running[ours]
            try:
                word, text = ours.recv()
            except EOFError:
                process.join()
                ours.close()
                del running[ours]
                if process.exitcode == 0:
                    continue
                word, text = "FAIL", f"{name}: the process of these checks ended with status {process.exitcode}"
            told[word] += 1
            print(f"{word:5} {text}", flush=True)
    return told
