// What a scheduler says of itself: counters, live requests, and what must hold.
#include <algorithm>

#include "scheduler/scheduler_impl.h"

namespace sluice {

Scheduler::Stats Scheduler::Impl::stats() const {
  Stats s = counters_;
  s.waiting = num_waiting_;
  s.running = num_running_;
  s.swapped = num_swapped_;
  s.waiting_tokens = waiting_tokens_;
  s.total_blocks = pool_.num_blocks();
  s.stretch_blocks = stretch_blocks_;
  s.used_blocks = pool_.num_blocks() - pool_.num_available();
  if (host_ != nullptr) {
    s.total_host_blocks = host_->num_blocks();
    s.used_host_blocks = host_->num_blocks() - host_->num_available();
  }
  return s;
}

RequestInfo Scheduler::Impl::info(const Record& r, Instant now) const {
  RequestInfo i;
  i.id = r.id;
  i.state = r.state == SeqState::waiting   ? RequestInfo::State::waiting
            : r.state == SeqState::running ? RequestInfo::State::running
            : r.state == SeqState::swapped ? RequestInfo::State::swapped
                                           : RequestInfo::State::arriving;
  i.priority = r.request.priority;
  i.tenant = r.request.tenant;
  i.num_samples = r.num_samples;
  i.age = now - r.trace->arrived;
  i.trace = *r.trace;
  i.trace.output_tokens = num_output(r);
  return i;
}

std::vector<RequestInfo> Scheduler::list(Instant now) const {
  std::vector<const Record*> records;
  for (const auto& [id, record] : impl_->live_) records.push_back(record.get());
  std::sort(records.begin(), records.end(),
            [](const Record* a, const Record* b) { return a->arrival < b->arrival; });
  std::vector<RequestInfo> out;
  for (const Record* r : records) out.push_back(impl_->info(*r, now));
  return out;
}

bool Scheduler::find(RequestId id, Instant now, RequestInfo& out) const {
  const auto it = impl_->live_.find(id);
  if (it == impl_->live_.end()) return false;
  out = impl_->info(*it->second, now);
  return true;
}

int Scheduler::num_tenants() const { return int(impl_->tenants_.size()); }

Scheduler::TenantStats Scheduler::tenant(uint32_t index) const {
  const Tenant& t = impl_->tenants_.at(index);
  const int waiting = int(t.waiting.size());
  return {t.live - waiting, waiting, t.tokens};
}

double Scheduler::tenant_served(uint32_t tenant) const {
  return double(impl_->tenants_.at(tenant).tokens);
}

void Scheduler::Impl::check_record(const Record& r, std::vector<int>& refs,
                                   std::vector<int>& host_refs, std::vector<char>& slots) const {
  const bool in = r.resident();
  CHECK(!r.retired && r.num_live > 0);
  CHECK(r.num_preempted <= policy_.max_preemptions || !can_set_aside(r));
  CHECK(r.num_pushed_out <= kPushesPerPreemption * policy_.max_preemptions || !can_set_aside(r));
  CHECK(r.num_overtaken <= policy_.max_overtakes);
  CHECK(in || r.spare.empty());
  CHECK(!in || !reserved(r) || int(r.spare.size()) + num_coming_ >= remaining_need(r));
  CHECK(in || r.tenant->waiting.count({r.key, nullptr}) == 1);
  CHECK(in || r.key == key_of(r));
  for (BlockId b : r.spare) ++refs[b];
  for (const Record::Sample& sample : r.samples) {
    CHECK((sample.slot >= 0) == (in && (!r.forked || !sample.done)));
    if (sample.slot >= 0) CHECK(slots[sample.slot]++ == 0);
  }
  for (const Sequence& s : r.seqs) {
    CHECK(s.num_computed <= s.num_scheduled && s.num_computed <= s.num_tokens());
    for (int g = 0; g < num_groups_; ++g) check_table(r, s, g, refs, host_refs);
    if (s.ended) continue;
    if (r.state == SeqState::waiting) CHECK(s.num_scheduled == 0);
    if (r.state == SeqState::swapped) CHECK(s.num_scheduled == s.num_computed);
    CHECK(s.seq_slot == r.samples[s.sample].slot);
  }
}

void Scheduler::Impl::check_table(const Record& r, const Sequence& s, int group,
                                  std::vector<int>& refs, std::vector<int>& host_refs) const {
  const BlockTable& t = s.tables[size_t(group)];
  const bool in = r.resident();
  for (BlockId b : t.blocks) ++refs[b];
  for (BlockId b : t.host_blocks) ++host_refs[b];
  CHECK(t.width == width_[size_t(group)] && t.blocks.size() % size_t(t.width) == 0);
  if (s.ended) {
    CHECK(t.blocks.empty() && t.host_blocks.empty());
    return;
  }
  // What the next token sees is there. Recomputed siblings go on where the first of them stands.
  int next = s.num_computed;
  for (const Sequence& o : r.seqs) {
    if (in && r.forked)
      next = std::max(next, std::min(o.num_computed, r.shared_stretches * block_size_));
  }
  const bool windowed = group == windowed_ && kv_reach_ > 0;
  const int unseen = windowed ? std::max(next - kv_reach_ + 1, 0) : 0;
  CHECK(t.first >= 0 && t.first * block_size_ <= unseen);
  if (r.state == SeqState::waiting) CHECK(t.first == 0 && t.host_blocks.empty());
  if (r.state == SeqState::swapped) CHECK(int(t.host_blocks.size()) == num_computed(s, t));
  if (!in) CHECK(t.blocks.empty());
  if (in) CHECK(t.host_blocks.empty() && t.end() * block_size_ >= s.num_scheduled);
  if (in && group > 0 && follows(r)) {
    CHECK(t.end() <= s.end_block() && t.end() - t.first <= window_stretches_);
  } else if (in) {
    CHECK(t.end() == s.end_block());
  }
  CHECK(t.end() <= std::max(r.final_stretches, stretches_for(s.num_tokens())));
}

// What must hold between any two calls; linear in everything.
void Scheduler::Impl::check_invariants() const {
  pool_.check_invariants();
  if (host_ != nullptr) host_->check_invariants();
  std::vector<int> refs(size_t(pool_.num_blocks()));
  std::vector<int> host_refs(size_t(host_ != nullptr ? host_->num_blocks() : 0));
  std::vector<char> slots(size_t(policy_.max_seqs));
  int waiting = 0, running = 0, swapped = 0, arriving = 0;
  int64_t waiting_tokens = 0;
  Stats levels;
  for (const auto& [id, owned] : live_) {
    const Record& r = *owned;
    CHECK(r.id == id);
    check_record(r, refs, host_refs, slots);
    waiting += r.state == SeqState::waiting;
    swapped += r.state == SeqState::swapped;
    arriving += r.state == SeqState::arriving;
    running += r.resident();
    (r.resident() ? levels.running_at : levels.waiting_at)[r.level] += 1;
    if (r.state == SeqState::waiting) waiting_tokens += r.seqs[0].num_prompt;
  }
  CHECK(waiting == num_waiting_ && running == num_running_ && swapped == num_swapped_);
  CHECK(waiting_tokens == waiting_tokens_ && arriving == int(arriving_.size()));
  CHECK(levels.running_at == counters_.running_at && levels.waiting_at == counters_.waiting_at);
  for (int slot : free_slots_) CHECK(slots[slot]++ == 0);
  CHECK(std::count(slots.begin(), slots.end(), 1) == policy_.max_seqs);
  int coming = 0, leaving = 0;
  for (const Flight& f : flights_) {
    for (BlockId b : f.freed) ++refs[b];
    coming += f.num_coming;
  }
  for (const Copy& c : copies_) {
    ++refs[c.device];
    ++host_refs[c.host];
    leaving += c.leaving;
  }
  for (BlockId b : behind_) ++refs[b];
  CHECK(coming == num_coming_ && leaving == num_leaving_);
  for (size_t b = 0; b < refs.size(); ++b) CHECK(refs[b] == pool_.refs(BlockId(b)));
  for (size_t b = 0; b < host_refs.size(); ++b) CHECK(host_refs[b] == host_->refs(BlockId(b)));
  CHECK(std::is_sorted(running_.begin(), running_.end()));
  for (const Filed& f : running_) CHECK(f.key == f.record->key);
  size_t filed = 0;
  for (const Tenant& t : tenants_) filed += t.waiting.size();
  CHECK(int(filed) == num_waiting_ + num_swapped_);
}

}  // namespace sluice
