// Who comes first. FCFS is by arrival; MLFQ is FastServe's skip-join multi-level feedback queue
// (Wu et al., "Fast distributed inference serving for large language models", NSDI'26) with its
// artifact's errors put right: service is a request's own share of a step, a promoted request
// starts with none, and a bound counts from when it last ran or arrived. Promotion may also be a
// visit, which is ours.
#include <algorithm>
#include <cmath>

#include "scheduler/scheduler_impl.h"

namespace sluice {

// Priority, the tenant's rank, calm after starving, level, place in the level's queue. Keys are
// unique, for tickets are.
uint64_t Scheduler::Impl::key_of(const Record& r) const {
  constexpr uint64_t kTicketBits = 40;
  const bool mlfq = policy_.order == Policy::Order::mlfq;
  const bool ranked = active_tenants_ > 1 && r.resident();
  uint64_t key = uint64_t(r.request.priority - kMinPriority);
  key = key << 8 | uint64_t(ranked ? std::min(r.tenant->rank, 255) : 0);
  key = key << 1 | uint64_t(mlfq && !r.starving);
  key = key << 4 | uint64_t(mlfq ? r.level : 0);
  return key << kTicketBits | (mlfq ? r.ticket : r.arrival);
}

void Scheduler::Impl::file(Record& r) {
  r.key = key_of(r);
  r.tenant->waiting.insert({r.key, &r});
}

void Scheduler::Impl::unfile(Record& r) { r.tenant->waiting.erase({r.key, &r}); }

void Scheduler::Impl::refile(Record& r) {
  if (!r.resident()) {
    unfile(r);
    file(r);
  } else if (!r.refiled) {
    r.refiled = true;
    refiled_.push_back(&r);
  }
}

// Puts those of running_ whose key changed where they belong. Only they are looked at: the others
// would be a cache miss each.
void Scheduler::Impl::settle_order() {
  if (refiled_.empty()) return;
  settling_.clear();
  for (Record* r : refiled_) {
    r->refiled = false;
    const auto at = std::lower_bound(running_.begin(), running_.end(), Filed{r->key, r});
    CHECK(at != running_.end() && at->record == r);
    at->record = nullptr;
    r->key = key_of(*r);
    settling_.push_back({r->key, r});
  }
  refiled_.clear();
  std::erase_if(running_, [](const Filed& f) { return f.record == nullptr; });
  std::sort(settling_.begin(), settling_.end());
  // Merged from the back, in place.
  size_t old = running_.size(), moved = settling_.size(), to = old + moved;
  running_.resize(to);
  while (moved > 0) {
    const bool last = old == 0 || running_[old - 1] < settling_[moved - 1];
    running_[--to] = last ? settling_[--moved] : running_[--old];
  }
}

// Whoever was served least for its weight comes first; with one tenant there is nothing to do.
void Scheduler::Impl::rank_tenants() {
  if (active_tenants_ < 2) return;
  bool changed = false;
  for (Tenant& t : tenants_) {
    if (t.live == 0) continue;
    int rank = 0;
    for (const Tenant& o : tenants_) {
      rank += o.live > 0 && (o.counter < t.counter || (o.counter == t.counter && &o < &t));
    }
    changed |= std::exchange(t.rank, rank) != rank;
  }
  if (!changed) return;
  for (Filed& f : running_) f.key = f.record->key = key_of(*f.record);
  std::sort(running_.begin(), running_.end());
}

// What a tenant does not use is not banked. Without requests it is owed nothing; while all that it
// has get their rows, no more than a cache full of tokens, which is how far those who hold the
// memory can make shares lag behind the weights (the bound of Sheng et al. is of that order).
void Scheduler::Impl::settle_tenants() {
  if (tenants_.size() < 2) return;
  for (Tenant& t : tenants_) t.waits = !t.waiting.empty();
  for (const Filed& f : running_) {
    if (f.record->state == SeqState::running && f.record->last_plan != plan_)
      f.record->tenant->waits = true;
  }
  double least = std::numeric_limits<double>::infinity(), most = 0;
  for (const Tenant& t : tenants_) {
    if (t.waits) least = std::min(least, t.counter);
    most = std::max(most, t.counter);
  }
  for (Tenant& t : tenants_) {
    if (t.waits) continue;
    const double owed =
        t.live > 0 ? double(pool_.num_blocks()) / stretch_blocks_ * block_size_ / t.weight : 0;
    t.counter = std::max(t.counter, std::min(least, most) - owed);
  }
}

// Its bound will be looked at when it falls due. For whoever begins to wait.
void Scheduler::Impl::watch(Record& r) {
  if (policy_.order != Policy::Order::mlfq || r.watched || r.starving) return;
  r.watched = true;
  due_.push({r.last_run + patience(r.level), r.id, Due::Kind::patience});
}

// It goes first. A visit is for answers that stand still: whoever still has a prompt to compute
// starts again at the top, for prompts come in chunks, and one chunk is all of a visit.
void Scheduler::Impl::promote(Record& r) {
  const bool visit = policy_.promotion == Policy::Promotion::visit &&
                     std::all_of(r.seqs.begin(), r.seqs.end(), [](const Sequence& s) {
                       return s.ended || s.num_computed >= s.num_prompt;
                     });
  count_level(r, -1);
  r.home = visit ? std::max(r.home, r.level) : 0;
  r.level = 0;
  count_level(r, 1);
  r.service = 0;
  r.ticket = ++tickets_;
  r.starving = true;
  ++counters_.promotions;
  ++r.trace->promotions;
  r.trace->level = 0;
  r.trace->note(now_, RequestTrace::Kind::promoted, 0);
  refile(r);
}

// A bound fell due that was set when it began to wait; it may have run since, and wait again.
void Scheduler::Impl::patience_over(Record& r) {
  r.watched = false;
  if (r.starving || r.state == SeqState::arriving || r.last_plan > committed_) return;
  if (now_ - r.last_run >= patience(r.level)) {
    promote(r);
  } else if (!r.resident()) {
    watch(r);
  }
}

// The first level whose quantum holds its whole prefill, so that one is never cut short by a
// demotion (skip-join). What the cache holds is not computed.
int Scheduler::Impl::join_level(const Record& r) const {
  if (policy_.order != Policy::Order::mlfq) return 0;
  const Sequence& s = r.seqs[0];
  const int cached = pool_.probe(s.hashes, s.tokens).blocks * block_size_;
  StepWork work;
  work.add(cached, std::max(s.num_prompt - cached, 1), false);
  const double seconds = cost_.marginal(work) + cost_.cost().constant / rows_average_;
  int level = 0;
  while (level < kLevels - 1 && quantum(level) < seconds) ++level;
  return level;
}

void Scheduler::Impl::charge(Record& r, double seconds) {
  r.work += seconds;
  r.service += seconds;
  if (r.service < quantum(r.level) || r.level == kLevels - 1) return;
  count_level(r, -1);
  r.level = std::max<uint8_t>(r.level + 1, r.home);
  count_level(r, 1);
  r.service = 0;
  r.ticket = ++tickets_;
  ++counters_.demotions;
  ++r.trace->demotions;
  r.trace->level = r.level;
  r.trace->note(now_, RequestTrace::Kind::demoted, r.level);
  refile(r);
}

// It runs: it waits no longer than it may.
void Scheduler::Impl::calm(Record& r) {
  r.starving = false;
  refile(r);
}

void Scheduler::Impl::count_level(const Record& r, int by) {
  (r.resident() ? counters_.running_at : counters_.waiting_at)[r.level] += by;
}

// Whether waiting `a` may push out running `b`. Never within a class: that would be a swap for
// nothing.
bool Scheduler::Impl::outranks(const Record& a, const Record& b) const {
  if (a.request.priority != b.request.priority) return a.request.priority < b.request.priority;
  if (a.tenant->counter > b.tenant->counter) return false;
  if (a.starving != b.starving) return a.starving;
  return a.level < b.level;
}

// FastServe's estimated next schedule time, in seconds: until it is promoted, or until all those
// above it have burnt their quanta down to its level, whichever is sooner. Quanta are work, so
// there is no division by the batch size as in the paper, whose quanta are time.
void Scheduler::Impl::estimate_next_times() {
  std::array<double, kLevels> execute{};
  for (int level = 1; level < kLevels; ++level) {
    for (int above = 0; above < level; ++above) {
      const int requests = counters_.running_at[above] + counters_.waiting_at[above];
      execute[level] += requests * (quantum(level) - quantum(above));
    }
  }
  for (Victim& v : victims_) {
    const Record& r = *v.record;
    const double promote = to_seconds(patience(r.level) - (now_ - r.last_run));
    v.next_time = std::min(execute[r.level], promote);
  }
}

// Those that may be asked for their blocks in this step.
void Scheduler::Impl::list_victims() {
  victims_listed_ = true;
  victims_.clear();
  for (const Filed& f : running_) {
    if (f.record->state == SeqState::running && !reserved(*f.record))
      victims_.push_back({0, f.key, f.record});
  }
  if (policy_.order == Policy::Order::mlfq) estimate_next_times();
  std::make_heap(victims_.begin(), victims_.end());
}

// The best one to ask, off the list: it would run again last.
Victim Scheduler::Impl::next_victim() {
  std::pop_heap(victims_.begin(), victims_.end());
  const Victim v = victims_.back();
  victims_.pop_back();
  return v;
}

}  // namespace sluice
