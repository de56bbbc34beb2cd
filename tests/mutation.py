"""Seeded bugs: each is put into a copy of the sources, and a test must fail. What tests/*/mutants.py share."""

import argparse
import concurrent.futures
import dataclasses
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]


@dataclasses.dataclass
class Build:
    """One way to build the tests. Sources are paths from the root; every program links all of them."""

    sources: list
    programs: dict  # name -> its test sources; run in this order until one fails
    flags: list = dataclasses.field(default_factory=lambda: ["-O1"])
    packages: list = dataclasses.field(default_factory=list)  # of pkg-config
    name: str = ""
    timeout_s: int = 300


def run(command, **kwargs):
    return subprocess.run(command, capture_output=True, text=True, **kwargs)


def object_of(folder, source):
    return folder / (source.replace("/", "_") + ".o")


class Runner:
    """Objects of one build, without a mutant; those of a mutant are made beside them."""

    def __init__(self, build, scratch, cxx, users_of):
        self.build, self.scratch, self.users_of = build, scratch, users_of
        self.compile_flags = [cxx, "-std=c++20", *build.flags]
        self.libs = ["-lgmock", "-lgtest", "-lgtest_main", "-lpthread"]
        if build.packages:
            found = run(["pkg-config", "--libs", *build.packages])
            if found.returncode:
                sys.exit(f"pkg-config does not find {', '.join(build.packages)}:\n{found.stderr}")
            self.libs = found.stdout.split() + self.libs
        self.objects = scratch / f"objects{build.name}"
        self.objects.mkdir()

    def prepare(self):
        sources = self.build.sources + [t for tests in self.build.programs.values() for t in tests]
        error = self.compile(sources, self.scratch / "tree", self.objects)
        if error:
            sys.exit(error)
        plain = self.scratch / f"plain{self.build.name}"
        plain.mkdir()
        failed = self.link_and_run(plain)
        if failed:
            sys.exit(f"without a mutant it fails already: {failed}")

    def compile(self, sources, tree, objects):
        for source in sources:
            language = ["-x", "c++"] if source.endswith(".cu") else []
            done = run(self.compile_flags + [f"-I{tree}", *language, "-c", str(tree / source), "-o",
                                             str(object_of(objects, source))])
            if done.returncode:
                return done.stderr
        return None

    def link_and_run(self, objects):
        """The first program that fails, or ""."""
        for name, tests in self.build.programs.items():
            inputs = []
            for source in self.build.sources + tests:
                own = object_of(objects, source)
                inputs.append(str(own if own.exists() else object_of(self.objects, source)))
            program = objects / name
            link = run(self.compile_flags + inputs + ["-o", str(program)] + self.libs)
            if link.returncode:
                sys.exit(link.stderr)
            try:
                if run([str(program), "--gtest_fail_fast"], timeout=self.build.timeout_s).returncode:
                    return name + self.build.name
            except subprocess.TimeoutExpired:
                return f"{name}{self.build.name} (hangs)"
        return ""

    def try_mutant(self, index, tree, path):
        """What noticed, or ""; and why it could not be tried, or None."""
        objects = self.scratch / f"objects{self.build.name}{index}"
        objects.mkdir()
        touched = self.users_of(path) if path.endswith(".h") else [path]
        error = self.compile(touched, tree, objects)
        failed = "" if error else self.link_and_run(objects)
        shutil.rmtree(objects)
        return failed, error and "does not compile:\n" + error


def try_all_builds(runners, index, mutant, scratch):
    what, path, old, new = mutant
    tree = scratch / f"tree{index}"
    shutil.copytree(scratch / "tree", tree)
    text = (tree / path).read_text()
    if text.count(old) != 1:
        return f"does not apply: found {text.count(old)} times", False
    (tree / path).write_text(text.replace(old, new))
    failed = ""
    for runner in runners:
        failed, error = runner.try_mutant(index, tree, path)
        if error:
            return error, False
        if failed:
            break
    shutil.rmtree(tree)
    return failed or "SURVIVED", bool(failed)


def main(doc, mutants, builds, folders, users_of):
    """`mutants`: (what is wrong, file, text that occurs exactly once, text in its place). `folders` are
    copied; `users_of(header)`: the sources that a change of it changes. Exits with 1 where any lives."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--only", type=int, nargs="*", help="numbers of mutants, from 1")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--cxx", default="g++")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mutants-") as name:
        scratch = pathlib.Path(name)
        for folder in folders:
            shutil.copytree(ROOT / folder, scratch / "tree" / folder,
                            ignore=shutil.ignore_patterns("__pycache__"))
        runners = [Runner(build, scratch, args.cxx, users_of) for build in builds]
        for runner in runners:
            runner.prepare()
        wanted = [n - 1 for n in args.only] if args.only else range(len(mutants))
        killed = 0
        with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
            tries = {i: pool.submit(try_all_builds, runners, i, mutants[i], scratch) for i in wanted}
            for index, done in tries.items():
                outcome, dead = done.result()
                killed += dead
                print(f"{index + 1:3} {mutants[index][0]}: {outcome}", flush=True)
        print(f"killed {killed} of {len(wanted)}")
        sys.exit(0 if killed == len(wanted) else 1)
