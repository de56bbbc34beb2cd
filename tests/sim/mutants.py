#!/usr/bin/env python3
"""Seeded bugs: each is put into a copy of the scheduler and the block pool, and a test must fail.

    tests/sim/mutants.py [--only N ...] [--jobs J] [--cxx g++]

Works in a scratch folder; the tree is not touched. Needs pkg-config, Abseil, fmt and GoogleTest. A
mutant is killed when a test fails, aborts or hangs; what stands behind it says in which program that
was first: `pool` (block pool), `rules` (directed), `worlds` (random worlds against the ledger) or
`presets` (worlds under every preset, tenants' shares).

Last result: killed 110 of 110, in two runs.
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
           "scheduler/policy.cc", "scheduler/cost_model.cc", "config/presets.cc"]
PROGRAMS = {  # the quick ones first
    "pool": ["tests/unit/kvcache/block_pool_test.cc"],
    "rules": ["tests/sim/scheduler_rules_test.cc", "tests/sim/scheduler_memory_test.cc",
              "tests/sim/scheduler_policy_test.cc", "tests/sim/scheduler_swap_test.cc"],
    "worlds": ["tests/sim/scheduler_sim_test.cc"],
    "presets": ["tests/sim/scheduler_preset_test.cc"],
}
TIMEOUT_S = 300

POOL, SCHED = "kvcache/block_pool.cc", "scheduler/scheduler.cc"
ADMIT, MEMORY, COMMIT = "scheduler/admission.cc", "scheduler/memory.cc", "scheduler/commit.cc"
ORDER, SWAP, IMPL = "scheduler/order.cc", "scheduler/swap.cc", "scheduler/scheduler_impl.h"
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
     "if (at != r.shared_blocks || !shares_partial_block(r, s)) return true;", "return true;"),
    ("the last holder copies too", MEMORY,
     "if (at != r.shared_blocks || !shares_partial_block(r, s)) return true;",
     "if (at != r.shared_blocks || s.num_scheduled > s.num_prompt) return true;"),
    ("a block is copied that nobody shares any more", MEMORY,
     "!shares_partial_block(r, s)) return true;", "pool_.refs(s.blocks[at]) == 1) return true;"),
    ("a copied block is not given back", MEMORY,
     "pool_.release(scratch_);  // a sibling holds it", "// a sibling holds it"),
    ("blocks return under a step in flight", MEMORY,
     "if (r.last_plan <= committed_) {\n    pool_.release(blocks);",
     "if (true) {\n    pool_.release(blocks);"),
    ("a victim in flight is preempted at once", MEMORY,
     "if (victim.last_plan <= committed_) {", "if (victim.last_plan > 0) {"),
    ("a held-back victim still gets its row", SCHED, "|| r.held_back == round_) return true;",
     ") return true;"),
    ("the first is preempted, not the last", ORDER,
     "  std::pop_heap(victims_.begin(), victims_.end());\n",
     "  std::sort(victims_.begin(), victims_.end());\n"
     "  std::reverse(victims_.begin(), victims_.end());\n"),
    ("preempted without bound", MEMORY, "r.at_bound = r.num_preempted >= policy_.max_preemptions ||",
     "r.at_bound = r.num_preempted > policy_.max_preemptions ||"),
    ("preemptions are not counted against the bound", MEMORY,
     "++(swapped && proactive ? r.num_pushed_out : r.num_preempted);", ""),
    ("nothing is reserved at the bound", ADMIT,
     "const int all = reserved(r) ? total_need(r) : need;", "const int all = need;"),
    ("a reservation ignores the samples to come", "scheduler/scheduler_impl.h",
     "r.shared_blocks + r.num_live * (r.final_blocks - r.shared_blocks);", "r.final_blocks;"),
    ("a reservation outlives its samples", MEMORY,
     "if (r.spare.size() <= need) return;", "return;"),
    ("a reservation leaks at the end", COMMIT, "pool_.release(r.spare);", "r.spare.clear();"),
    ("a preempted request goes to the back", MEMORY,
     "    file(*r);\n", "    r->arrival = ++arrivals_;\n    r->ticket = ++tickets_;\n    file(*r);\n"),
    ("a preempted request forgets its output", MEMORY,
     "    s.seq_slot = -1;\n", "    s.seq_slot = -1;\n    s.tokens.resize(size_t(s.num_prompt));\n"),
    ("a slot leaks at preemption", MEMORY,
     "for (Record::Sample& sample : r.samples) release_slot(sample);", ""),
    ("newcomers come in while others are put out", ADMIT,
     "if (!preempted_.empty()) return false;", ""),
    ("skipping has no bound", ADMIT, "starving |= ++p->num_overtaken >= policy_.max_overtakes;",
     "++p->num_overtaken;"),
    ("nothing is skipped", ADMIT, "r->num_overtaken >= policy_.max_overtakes ||", "true ||"),
    ("the watermark counts on an idle machine", ADMIT, "(num_running_ > 0 ? watermark_ : 0)",
     "watermark_"),
    ("decodes take all of the budget", SCHED,
     "      decode_budget_ -= std::min(policy_.min_chunk, (decode_budget_ + 1) / 2);", "      {}"),
    ("decodes do not count in the budget", SCHED, "--budget_, --decode_budget_, --rows_left_",
     "--budget_, --rows_left_"),
    ("decodes do not count as tokens of the step", SCHED, "--budget_, --decode_budget_, --rows_left_",
     "--decode_budget_, --rows_left_"),
    ("decodes do not count as rows of the step", SCHED, "--budget_, --decode_budget_, --rows_left_",
     "--budget_, --decode_budget_"),
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
    ("rows of ended sequences are kept", COMMIT,
     "    if (s.ended) continue;\n    if (fills", "    if (fills"),
    ("a second final event", SCHED, "|| r.samples[i].done) continue;", ") continue;"),
    ("cancel tells nobody", SCHED, "std::move(owed_.begin(), owed_.end(), "
     "std::back_inserter(events));\n", ""),
    ("prompt logprobs are repeated after a preemption", SCHED,
     "const int from = std::max(row.begin, r.num_reported);", "const int from = row.begin;"),
    ("a stop token ends a sample before min_tokens", COMMIT,
     "if (num_output > sampling.min_tokens &&", "if (num_output > 0 &&"),
    ("min_tokens counts one too many", COMMIT, "if (num_output > sampling.min_tokens &&",
     "if (num_output > sampling.min_tokens + 1 &&"),
    ("ignore_eos ignores stop tokens", COMMIT,
     "((!sampling.ignore_eos && contains(eos_, token)) || contains(sampling.stop_tokens, token))",
     "(!sampling.ignore_eos && (contains(eos_, token) || contains(sampling.stop_tokens, token)))"),
    ("deadlines fall due late", SCHED, "due_.top().when <= now_", "due_.top().when < now_"),
    ("an old deadline hits a new request of the id", SCHED,
     "if (r.request.deadline == due.when) cancel(", "cancel("),
    ("idle() forgets events owed", SCHED,
     "impl_->live_.empty() && impl_->owed_.empty() &&", "impl_->live_.empty() &&"),
    ("idle() forgets steps in flight", SCHED, "&& impl_->in_flight() == 0 &&", "&&"),
    ("idle() forgets copies", SCHED, "impl_->copies_.empty() && impl_->behind_.empty();", "true;"),
    ("admission forgets the samples", ADMIT,
     "shared + request.num_samples * each;", "shared + each;"),
    ("the context bound is off by one", ADMIT, "if (total > max_model_len_) {",
     "if (total > max_model_len_ + 1) {"),
    ("num_cached comes with every token", COMMIT, "    r.first_event_sent = true;\n", ""),
    # --- order ---
    ("priorities are ignored", ORDER, "uint64_t key = uint64_t(r.request.priority - kMinPriority);",
     "uint64_t key = 0;"),
    ("the starving let others pass", ADMIT, "r->starving ||\n", ""),
    ("the starving do not go first", ORDER, "uint64_t(mlfq && !r.starving)", "uint64_t(0)"),
    ("levels do not order", ORDER, "uint64_t(mlfq ? r.level : 0)", "uint64_t(0)"),
    ("everybody joins at the top", ORDER, "while (level < kLevels - 1 && quantum(level) < seconds) "
     "++level;", ""),
    ("the cache does not count for the level", ORDER,
     "const int cached = pool_.probe(s.hashes, s.tokens).blocks * block_size_;",
     "const int cached = 0;"),
    ("demotion by two levels", ORDER, "  ++r.level;\n", "  r.level += 2;\n"),
    ("service is kept at a demotion", ORDER, "  r.service = 0;\n  r.ticket = ++tickets_;\n"
     "  ++counters_.demotions;", "  r.ticket = ++tickets_;\n  ++counters_.demotions;"),
    ("promotion stays at its level", ORDER, "  r.level = 0;\n", ""),
    ("patience does not grow", SCHED, "std::pow(std::max(policy.promote_growth, 1.0), level)",
     "1.0"),
    ("a decode pays for the prefill beside it", COMMIT,
     "shares.scale * (shares.constant + cost_.marginal(own))",
     "shares.scale * cost_.seconds(f.work)"),
    ("the order is not settled after a change", ORDER,
     "    r->key = key_of(*r);\n    settling_.push_back", "    settling_.push_back"),
    ("an idle tenant banks what it did not use", ORDER, ": 0;\n    t.counter", ": 1e18;\n    t.counter"),
    ("a tenant that trickles banks what it did not use", ORDER,
     "t.live > 0 ? double(pool_.num_blocks()) * block_size_ / t.weight", "t.live > 0 ? 1e18"),
    ("weights are ignored", IMPL, "r.tenant->counter += tokens / r.tenant->weight;",
     "r.tenant->counter += tokens;"),
    ("decodes are free", SCHED, "  pay_for(r, 1);\n", ""),
    ("prefills are free", SCHED, "  pay_for(r, count);\n", ""),
    ("who decodes does not count as having run", SCHED, "  pay_for(r, 1);\n  ran(r);\n",
     "  pay_for(r, 1);\n"),
    ("residents are not ranked by tenant", ORDER, "ranked ? std::min(r.tenant->rank, 255) : 0",
     "0"),
    ("the most served tenant goes first", ADMIT,
     "tenants_[t].counter >= tenants_[best].counter", "tenants_[t].counter <= tenants_[best].counter"),
    ("a first-token target is ignored", ADMIT, "if (r.request.first_token_by != kNever) {",
     "if (false) {"),
    # --- what a step holds ---
    ("whole prompts are cut", SCHED, "if (count == 0 || (whole_prompts() && count < left)) return;",
     "if (count == 0) return;"),
    ("rows have no bound", SCHED, "if (decode_budget_ == 0 || budget_ == 0 || rows_left_ == 0 || !grow(",
     "if (decode_budget_ == 0 || budget_ == 0 || !grow("),
    ("rows set aside are left to the next step", SCHED, "rows_aside_ = soon_ = taken_ = 0;",
     "soon_ = taken_ = 0;"),
    ("a batch is open", ADMIT, "return !batch_closed();", "return true;"),
    ("prefills do not go first", SCHED, "  if (!chunk_rows_.empty()) return;\n", ""),
    ("newcomers need not gather", ADMIT, "num_waiting_ >= policy_.waiting_ratio * num_running_;",
     "true;"),
    ("strict order skips", ADMIT, "policy_.order == Policy::Order::fcfs_strict || r->starving ||",
     "r->starving ||"),
    ("the target interval is ignored", SCHED, "std::max(token_interval() - cost_.seconds(building_->work), 0.0);", "1e9;"),
    ("a request's own interval is ignored", SCHED,
     "if (own > 0) interval = std::min(interval, own);", ""),
    ("tiles are ignored", SCHED, "if (over < count) return count - over;", ""),
    ("split-fuse takes all at once", SCHED,
     "(left + policy_.max_prefill_steps - 1) / policy_.max_prefill_steps", "left"),
    # --- the host tier ---
    ("a copy does not hold the device's block", SWAP,
     "  pool_.retain(std::span(&device, 1));\n  host_->retain", "  host_->retain"),
    ("a request runs before its copies are done", SWAP,
     "if (r->copy_plan > copies_done_) return false;\n    arrive", "arrive"),
    ("a request comes back before it is out", SWAP,
     "if (pushed_out_ || r.copy_plan > copies_done_) return false;",
     "if (pushed_out_) return false;"),
    ("copies out do not count as leaving", SWAP, "    ++num_leaving_;\n", ""),
    ("samples do not share on the host", SWAP,
     "mapping_.erase(std::unique(mapping_.begin(), mapping_.end(), same), mapping_.end());", ""),
    ("the partial block stays behind", SWAP,
     "for (int i = int(s.host_blocks.size()); i < blocks; ++i) mapping_",
     "for (int i = int(s.host_blocks.size()); i < s.num_computed / block_size_; ++i) mapping_"),
    ("what comes back has no room for what is known", SWAP,
     "    CHECK(pool_.allocate(blocks_for(s.num_tokens()) - int(s.blocks.size()), s.blocks));\n  }\n"
     "  pool_", "  }\n  pool_"),
    ("what was swapped is computed again", MEMORY,
     "if (!swapped) s.num_computed = s.num_cached = 0;", "s.num_computed = s.num_cached = 0;"),
    ("a swapped request keeps its host blocks when it ends", COMMIT,
     "if (host_ != nullptr) host_->release(s->host_blocks);", ""),
    ("the cheapest is the dearest", SWAP, "swap_seconds(r) < recompute_seconds(r)",
     "swap_seconds(r) > recompute_seconds(r)"),
    ("the first to run again goes out", IMPL,
     "? next_time < o.next_time : key < o.key", "? next_time > o.next_time : key < o.key"),
    ("who just came in goes out again", IMPL,
     "return r.residency >= std::max(policy_.min_residency, 1);", "return true;"),
    ("nobody is pushed out for a better one", ADMIT,
     "if (v.last_plan <= committed_) {\n      preempt(v, plan, true);", "if (v.last_plan <= committed_) {"),
    ("evicted prefixes are not looked for on the host", ADMIT,
     "from_host = host_->match(host_hashes, host_tokens, scratch_);", ""),
    ("what is on the host cannot be found there", SWAP,
     "if (c.out && int(tokens.size()) == block_size_)", "if (false)"),
    ("write-behind keeps its hold", SWAP,
     "    scratch_.assign(1, b);\n    pool_.release(scratch_);\n  }\n  behind_", "  }\n  behind_"),
    # --- sessions ---
    ("sessions meet", COMMIT, "  parent.hi ^= r.request.session;\n", ""),
    ("a session's tail is shared while somebody writes it", ADMIT,
     "if (found.blocks == 0 || found.held > 0) return 0;", "if (found.blocks == 0) return 0;"),
    ("a session forgets its seed", ADMIT,
     "if (!r.request.sampling.seed_given) r.request.sampling.seed = it->second.seed;", ""),
    ("the newest sessions are forgotten", COMMIT, "s.second.used <= *cut", "s.second.used >= *cut"),
    ("sessions have no bound", COMMIT, "if (sessions_.size() >= kMaxSessions) forget_sessions();", ""),
    ("a whole session may come from the cache", ADMIT, "|| end >= s.num_tokens()) return 0;",
     "|| end > s.num_tokens()) return 0;"),
]


def run(command, **kwargs):
    return subprocess.run(command, capture_output=True, text=True, **kwargs)


def flags_of(args):
    pkg = run(["pkg-config", "--libs", "absl_status", "absl_statusor",
               "absl_raw_hash_set", "absl_hash", "fmt"])
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
    """The first program that fails, or ""."""
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
                return name
        except subprocess.TimeoutExpired:
            return name + " (hangs)"
    return ""


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
    return index, failed or "SURVIVED", bool(failed)


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
            sys.exit(f"without a mutant it fails already: {failed}")
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
