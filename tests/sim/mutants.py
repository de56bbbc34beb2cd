#!/usr/bin/env python3
"""Seeded bugs: each is put into a copy of the scheduler and the block pool, and a test must fail.

    tests/sim/mutants.py [--only N ...] [--jobs J] [--cxx g++]

Works in a scratch folder; the tree is not touched. Needs pkg-config, Abseil, fmt and GoogleTest. A
mutant is killed when a test fails, aborts or hangs; the columns say which of the three programs
did it: `worlds` (random worlds against the ledger), `rules` (directed), `pool` (block pool).

Last result: killed 55 of 55 (worlds 40 of them, rules 44, pool 6).
"""

import argparse
import concurrent.futures
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
SOURCES = ["base/check.cc", "kvcache/block_pool.cc", "scheduler/scheduler.cc",
           "scheduler/order.cc", "scheduler/admission.cc", "scheduler/memory.cc",
           "scheduler/swap.cc", "scheduler/commit.cc", "scheduler/inspect.cc",
           "scheduler/policy.cc", "scheduler/cost_model.cc"]
PROGRAMS = {
    "worlds": ["tests/sim/scheduler_sim_test.cc"],
    "rules": ["tests/sim/scheduler_rules_test.cc", "tests/sim/scheduler_memory_test.cc"],
    "pool": ["tests/unit/kvcache/block_pool_test.cc"],
}
TIMEOUT_S = 150

POOL, SCHED = "kvcache/block_pool.cc", "scheduler/scheduler.cc"
ADMIT, MEMORY, COMMIT = "scheduler/admission.cc", "scheduler/memory.cc", "scheduler/commit.cc"
# (what is wrong, file, text, text in its place); the text must occur exactly once.
MUTANTS = [
    ("a block's hash ignores its parent", MEMORY,
     "const BlockHash parent = i > 0 ? s.hashes.back() : hasher.root(s.request->cache_salt);",
     "const BlockHash parent = hasher.root(s.request->cache_salt);"),
    ("the salt is ignored", MEMORY, "hasher.root(s.request->cache_salt)", "hasher.root(0)"),
    ("tokens are not compared on a hit", POOL,
     "return std::equal(own, own + blocks_[b].num_tokens, rest.begin()) ? b : kNone;",
     "return own ? b : kNone;"),
    ("heads are evicted before tails", POOL,
     "for (auto it = blocks.rbegin(); it != blocks.rend(); ++it) {",
     "for (auto it = blocks.begin(); it != blocks.end(); ++it) {"),
    ("an evicted block stays in the index", POOL,
     "if (blocks_[b].num_tokens > 0) unpublish(b);", ""),
    ("cached blocks are used before worthless ones", POOL,
     "link(*it, block.num_tokens > 0 ? blocks_[end].prev : end);", "link(*it, end);"),
    ("a hit on a held block takes no reference", POOL,
     "if (blocks_[b].refs++ == 0) unlink(b);",
     "if (blocks_[b].refs == 0) { ++blocks_[b].refs; unlink(b); }"),
    ("a hit on a free block leaves it on the free list", POOL,
     "if (blocks_[b].refs++ == 0) unlink(b);", "++blocks_[b].refs;"),
    ("the whole prompt may come from the cache", ADMIT,
     "(carrier->num_tokens() - 1) / block_size_ : 0",
     "carrier->num_tokens() / block_size_ : 0"),
    ("prompt logprobs use the cache", "scheduler/scheduler_impl.h",
     "return policy_.prefix_caching && r.request.sampling.prompt_logprobs < 0;",
     "return policy_.prefix_caching;"),
    ("cached blocks count as free and as found", ADMIT,
     "const int taken = all - cached.held;", "const int taken = all - cached.blocks;"),
    ("a partial block is published as a full one", COMMIT,
     "const int full = end / block_size_;\n  extend_hashes(s, full);",
     "const int full = std::min(blocks_for(end), s.num_tokens() / block_size_);\n"
     "  extend_hashes(s, full);"),
    ("blocks are published one block late", COMMIT,
     "for (int i = begin / block_size_; i < full; ++i) {",
     "for (int i = begin / block_size_; i < full - 1; ++i) {"),
    ("no copy on write", MEMORY,
     "if (at != r.shared_blocks || pool_.refs(s.blocks[at]) == 1) return true;", "return true;"),
    ("the last holder copies too", MEMORY,
     "if (at != r.shared_blocks || pool_.refs(s.blocks[at]) == 1) return true;",
     "if (at != r.shared_blocks || s.num_scheduled > s.num_prompt) return true;"),
    ("a copied block is not given back", MEMORY,
     "pool_.release(scratch_);  // a sibling holds it", "// a sibling holds it"),
    ("blocks return under a step in flight", MEMORY,
     "if (r.last_plan <= committed_) {\n    pool_.release(blocks);",
     "if (true) {\n    pool_.release(blocks);"),
    ("a victim in flight is preempted at once", MEMORY,
     "if (victim.last_plan <= committed_) {", "if (victim.last_plan > 0) {"),
    ("a held-back victim still gets its row", SCHED, "|| r.held_back == round_) return;",
     ") return;"),
    ("the first is preempted, not the last", MEMORY,
     "Record& victim = *running_[--victims_end_];",
     "Record& victim = *running_[running_.size() - victims_end_ + index + 1];\n"
     "    --victims_end_;"),
    ("preemptions are not counted against the bound", MEMORY, "++r.num_preempted;", ""),
    ("nothing is reserved at the bound", ADMIT,
     "const int all = reserved(r) ? total_need(r) : need;", "const int all = need;"),
    ("a reservation ignores the samples to come", "scheduler/scheduler_impl.h",
     "r.shared_blocks + r.num_live * (r.final_blocks - r.shared_blocks);", "r.final_blocks;"),
    ("a reservation outlives its samples", MEMORY,
     "if (r.spare.size() <= need) return;", "return;"),
    ("a reservation leaks at the end", COMMIT, "pool_.release(r.spare);", "r.spare.clear();"),
    ("a preempted request goes to the back", MEMORY,
     "waiting_.insert(std::upper_bound(waiting_.begin(), waiting_.end(), r,\n"
     "                                     [&](auto* a, auto* b) { return before(*a, *b); }),\n"
     "                    r);", "waiting_.push_back(r);"),
    ("a preempted request forgets its output", MEMORY,
     "s.num_scheduled = s.num_computed = s.num_cached = 0;\n    s.seq_slot = -1;",
     "s.num_scheduled = s.num_computed = s.num_cached = 0;\n    s.seq_slot = -1;\n"
     "    s.tokens.resize(size_t(s.num_prompt));"),
    ("a slot leaks at preemption", MEMORY,
     "for (Record::Sample& sample : r.samples) release_slot(sample);", ""),
    ("newcomers come in while others are put out", SCHED,
     "if (preempted_.empty()) admit_waiting(plan);", "admit_waiting(plan);"),
    ("skipping has no bound", ADMIT, "starving |= ++p->num_overtaken >= policy_.max_overtakes;",
     "++p->num_overtaken;"),
    ("nothing is skipped", ADMIT, "r.num_overtaken >= policy_.max_overtakes ||", "true ||"),
    ("the watermark counts on an idle machine", ADMIT, "(num_running_ > 0 ? watermark_ : 0)",
     "watermark_"),
    ("decodes take all of the budget", SCHED,
     "decode_budget_ -= std::any_of(first.seqs", "plan.num_tokens += 0 * std::any_of(first.seqs"),
    ("decodes do not count in the budget", SCHED, "    --decode_budget_;\n", ""),
    ("chunks come before decodes", SCHED,
     "plan.rows.insert(plan.rows.end(), chunk_rows_.begin(), chunk_rows_.end());\n"
     "  f.owners.insert(f.owners.end(), chunk_owners_.begin(), chunk_owners_.end());",
     "plan.rows.insert(plan.rows.begin(), chunk_rows_.begin(), chunk_rows_.end());\n"
     "  f.owners.insert(f.owners.begin(), chunk_owners_.begin(), chunk_owners_.end());"),
    ("siblings recompute the prompt before it is there", SCHED,
     "return &t == &s || t.num_computed >= r.shared_blocks * block_size_;", "return true;"),
    ("the prompt is not handed on to a sibling", COMMIT,
     "next->num_scheduled = next->num_computed = shared;\n",
     "next->num_scheduled = next->num_computed = r.shared_blocks * block_size_;\n"),
    ("a fork does not wait for its commit", "scheduler/scheduler_impl.h",
     "(forked ? request.sampling.max_tokens - 1 : 0)", "request.sampling.max_tokens - 1"),
    ("one draw too many in flight", "scheduler/scheduler_impl.h",
     "(forked ? request.sampling.max_tokens - 1 : 0)", "(forked ? request.sampling.max_tokens : 0)"),
    ("a cancelled sample is forked", COMMIT, "      release_slot(r.samples[i]);\n      continue;\n",
     "      release_slot(r.samples[i]);\n"),
    ("forked samples hold no reference", COMMIT, "      pool_.retain(r.seqs[0].blocks);\n", ""),
    ("rows of ended sequences are kept", COMMIT, "    if (f.rows[i].seq->ended) continue;\n", ""),
    ("a second final event", SCHED, "|| r.samples[i].done) continue;", ") continue;"),
    ("cancel tells nobody", SCHED, "std::move(owed_.begin(), owed_.end(), "
     "std::back_inserter(events));\n", ""),
    ("prompt logprobs are repeated after a preemption", SCHED,
     "const int from = std::max(row.begin, r.num_reported);", "const int from = row.begin;"),
    ("a stop token ends a sample before min_tokens", COMMIT,
     "if (num_output > sampling.min_tokens) {", "if (num_output > 0) {"),
    ("min_tokens counts one too many", COMMIT, "if (num_output > sampling.min_tokens) {",
     "if (num_output > sampling.min_tokens + 1) {"),
    ("ignore_eos ignores stop tokens", COMMIT,
     "if ((!sampling.ignore_eos && has(eos_)) || has(sampling.stop_tokens))",
     "if (!sampling.ignore_eos && (has(eos_) || has(sampling.stop_tokens)))"),
    ("deadlines fall due late", SCHED, "due_.top().deadline <= now", "due_.top().deadline < now"),
    ("an old deadline hits a new request of the id", SCHED,
     "|| it->second->request.deadline != due.deadline) continue;", ") continue;"),
    ("idle() forgets events owed", SCHED,
     "impl_->live_.empty() && impl_->owed_.empty() &&", "impl_->live_.empty() &&"),
    ("idle() forgets steps in flight", SCHED, "&& impl_->in_flight() == 0;", ";"),
    ("admission forgets the samples", ADMIT,
     "shared + request.num_samples * each;", "shared + each;"),
    ("the context bound is off by one", ADMIT, "if (total > max_model_len_) {",
     "if (total > max_model_len_ + 1) {"),
    ("num_cached comes with every token", COMMIT, "    r.first_event_sent = true;\n", ""),
]


def run(command, **kwargs):
    return subprocess.run(command, capture_output=True, text=True, **kwargs)


def flags_of(args):
    pkg = run(["pkg-config", "--libs", "absl_status", "absl_statusor", "fmt"])
    if pkg.returncode:
        sys.exit("mutants.py: pkg-config does not find absl_status, absl_statusor and fmt:\n"
                 + pkg.stderr)
    compile_flags = [args.cxx, "-std=c++20", "-O1"]
    return compile_flags, pkg.stdout.split() + ["-lgmock", "-lgtest", "-lgtest_main", "-lpthread"]


def object_of(folder, source):
    return folder / (source.replace("/", "_") + ".o")


def compile_all(sources, tree, objects, flags):
    for source in sources:
        done = run(flags + [f"-I{tree}", "-c", str(tree / source), "-o",
                            str(object_of(objects, source))])
        if done.returncode:
            return done.stderr
    return None


def link_and_run(objects, base_objects, flags, libs):
    """The names of the programs that fail."""
    failed = []
    for name, tests in PROGRAMS.items():
        inputs = []
        for source in SOURCES + tests:
            own = object_of(objects, source)
            inputs.append(str(own if own.exists() else object_of(base_objects, source)))
        program = objects / name
        link = run(flags[:1] + inputs + ["-o", str(program)] + libs)
        if link.returncode:
            sys.exit(link.stderr)
        try:
            if run([str(program), "--gtest_fail_fast"], timeout=TIMEOUT_S).returncode:
                failed.append(name)
        except subprocess.TimeoutExpired:
            failed.append(name + " (hangs)")
    return failed


def try_mutant(index, scratch, flags, libs):
    what, path, old, new = MUTANTS[index]
    tree, objects = scratch / f"tree{index}", scratch / f"objects{index}"
    objects.mkdir()
    shutil.copytree(scratch / "tree", tree)
    text = (tree / path).read_text()
    if text.count(old) != 1:
        return index, f"does not apply: found {text.count(old)} times", False
    (tree / path).write_text(text.replace(old, new))
    touched = [path]
    if path.endswith(".h"):
        touched = [s for s in SOURCES if s.startswith("scheduler/")]
    error = compile_all(touched, tree, objects, flags)
    if error:
        return index, "does not compile:\n" + error, False
    failed = link_and_run(objects, scratch / "objects", flags, libs)
    shutil.rmtree(tree)
    shutil.rmtree(objects)
    return index, ", ".join(failed) or "SURVIVED", bool(failed)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", type=int, nargs="*", help="numbers of mutants, from 1")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--cxx", default="g++")
    args = parser.parse_args()
    flags, libs = flags_of(args)
    with tempfile.TemporaryDirectory(prefix="mutants-") as name:
        scratch = pathlib.Path(name)
        for folder in ["base", "config", "kvcache", "scheduler", "engine", "tests/sim",
                       "tests/unit/kvcache"]:
            shutil.copytree(ROOT / folder, scratch / "tree" / folder,
                            ignore=shutil.ignore_patterns("__pycache__"))
        (scratch / "objects").mkdir()
        sources = SOURCES + [t for tests in PROGRAMS.values() for t in tests]
        error = compile_all(sources, scratch / "tree", scratch / "objects", flags)
        if error:
            sys.exit(error)
        (scratch / "plain").mkdir()
        failed = link_and_run(scratch / "plain", scratch / "objects", flags, libs)
        if failed:
            sys.exit(f"without a mutant these fail already: {', '.join(failed)}")
        wanted = [n - 1 for n in args.only] if args.only else range(len(MUTANTS))
        killed = 0
        with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
            tries = [pool.submit(try_mutant, i, scratch, flags, libs) for i in wanted]
            for done in tries:
                index, outcome, dead = done.result()
                killed += dead
                print(f"{index + 1:3} {MUTANTS[index][0]}: {outcome}", flush=True)
        print(f"killed {killed} of {len(wanted)}")
        return 0 if killed == len(wanted) else 1


if __name__ == "__main__":
    sys.exit(main())
