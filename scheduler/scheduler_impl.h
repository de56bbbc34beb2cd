#pragma once

#include <deque>
#include <queue>
#include <unordered_map>

#include "base/check.h"
#include "scheduler/scheduler.h"

namespace sluice {

// A request inside the scheduler: what its samples have in common. It waits, runs and is preempted
// as a whole; the unit that computes is the Sequence.
// What every step touches comes first.
struct alignas(64) Record {
  // Capacity num_samples, so that rows may point at them. Before the fork there is one, the
  // carrier; afterwards one per sample that was alive then, in the order of samples.
  std::vector<Sequence> seqs;
  uint64_t last_plan = 0;  // the last one that touches any of its samples
  uint64_t held_back = 0;  // the round it was kept out of, to be preempted once it has landed
  RequestId id = 0;
  int num_samples = 1;
  SeqState state = SeqState::waiting;
  bool forked = false;         // every sample has a sequence; from the start where n == 1
  bool retired = false;        // no sample left; kept while a step in flight names it
  bool admitted_once = false;  // its prompt was looked up in the cache and counted
  bool first_event_sent = false;

  GenerateRequest request;  // its prompt has moved to seqs[0].tokens
  uint64_t ticket = 0;      // order of arrival
  int num_live = 0;         // samples that have not ended
  int shared_blocks = 0;    // full blocks of the prompt, held by all samples together
  int final_blocks = 0;     // of one sample that uses all its max_tokens
  int num_preempted = 0;
  int num_overtaken = 0;  // later arrivals that came in while this one was passed over
  int num_cached = 0;     // prompt tokens found in the cache when it first came in
  struct Sample {
    bool done = false;
    int slot = -1;
  };
  std::vector<Sample> samples;
  std::vector<BlockId> spare;  // set aside for its growth, never written yet
  std::vector<TokenLogprob> prompt_logprobs;
  int num_reported = 0;  // prompt positions in prompt_logprobs

  int max_scheduled() const {  // the last token drawn is never computed; a fork waits for commit
    return seqs[0].num_prompt + (forked ? request.sampling.max_tokens - 1 : 0);
  }
};

struct Scheduler::Impl {
  Impl(const Policy&, const CostModel& seed, BlockPool& device, BlockPool* host, int depth,
       std::vector<TokenId> eos_tokens, int max_model_len);

  // admission.cc: who may wait, and who comes in.
  absl::Status add(RequestId, GenerateRequest, Instant now);
  absl::Status check(RequestId, const GenerateRequest&) const;
  void admit_waiting(StepPlan&);
  bool admit(Record&);
  void enter(Record&, int num_cached_blocks);

  // scheduler.cc: what the next step holds, and how requests leave early.
  StepPlan schedule(Instant now, std::vector<TokenEvent>& events);
  void cancel(RequestId, int sample, FinishReason why);
  void expire(Instant now);
  void prefetch_running(size_t index) const;
  void add_decodes(size_t index, StepPlan&);
  void add_chunks(Record&, StepPlan&);
  void add_row(Record&, Sequence&, int count, StepPlan&, std::vector<StepRow>& rows,
               std::vector<Record*>& owners);
  bool wants_chunk(const Record&, const Sequence&) const;
  void finish_plan(StepPlan&);

  // commit.cc: what a step's results change.
  void commit(const StepResult&, std::vector<TokenEvent>& events);
  void commit_row(Record&, const StepRow&, const StepResult&, size_t row, std::vector<TokenEvent>&);
  void fork(Record&);
  void accept(Record&, Sequence&, const StepResult&, int draw, std::vector<TokenEvent>&);
  FinishReason finish_reason(const Record&, const Sequence&) const;
  void publish(Sequence&, int begin, int end);
  void end_sample(Record&, int sample);
  void retire(Record&);
  void sweep();

  // memory.cc: blocks, slots and preemption.
  int blocks_for(int tokens) const { return (tokens + block_size_ - 1) / block_size_; }
  int total_need(const Record& r) const {  // blocks, if every live sample uses all its tokens
    return r.shared_blocks + r.num_live * (r.final_blocks - r.shared_blocks);
  }
  int remaining_need(const Record&) const;
  bool reserved(const Record& r) const { return r.num_preempted >= policy_.max_preemptions; }
  bool use_cache(const Record& r) const {  // prompt logprobs need every prompt position computed
    return policy_.prefix_caching && r.request.sampling.prompt_logprobs < 0;
  }
  void extend_hashes(Sequence&, int num_blocks) const;
  bool grow(Record&, Sequence&, size_t index, StepPlan&);
  bool take_block(Record&, size_t index, std::vector<BlockId>& out);
  bool make_room(size_t index);
  void preempt(Record&);
  void requeue_preempted();
  void release(Record&, std::vector<BlockId>& blocks);
  void release_slot(Record::Sample&);
  void trim_spare(Record&);

  void check_invariants() const;
  Stats stats() const;

  // The policy's order. Whoever comes first is served first, and preempted last.
  bool before(const Record& a, const Record& b) const {
    switch (policy_.order) {
      default:
        return a.ticket < b.ticket;
    }
  }

  // A launched plan: its rows, and what comes back to the pool when it commits.
  struct Flight {
    uint64_t id = 0;
    std::vector<StepRow> rows;
    std::vector<Record*> owners;  // of the rows
    std::vector<BlockId> freed;
    int num_coming = 0;  // of `freed`, how many nobody else holds
  };
  Flight& flight(uint64_t plan) { return flights_[plan % flights_.size()]; }
  void prefetch_flight(const Flight&, size_t row) const;
  void prepare_publish(const Flight&);
  static Sequence& sequence_of(const Flight& f, size_t row) {
    return f.owners[row]->seqs[size_t(f.rows[row].seq - f.owners[row]->seqs.data())];
  }
  int in_flight() const { return int(last_plan_ - committed_); }

  struct Due {
    Instant deadline;
    RequestId id;
    bool operator>(const Due& o) const { return deadline > o.deadline; }
  };

  const Policy policy_;
  CostModel cost_;
  BlockPool& pool_;
  const int block_size_, watermark_, max_model_len_;
  const std::vector<TokenId> eos_;

  std::unordered_map<RequestId, std::unique_ptr<Record>> live_;
  std::vector<std::unique_ptr<Record>> ended_;  // until no step in flight names them
  std::vector<Record*> running_;                // in the policy's order
  std::deque<Record*> waiting_;                 // likewise
  std::priority_queue<Due, std::vector<Due>, std::greater<>> due_;
  std::vector<int> free_slots_;
  std::vector<TokenEvent> owed_;  // of cancels, until the next schedule()

  std::vector<Flight> flights_;  // [depth] ring, by plan id
  uint64_t last_plan_ = 0, committed_ = 0, tickets_ = 0;
  int num_coming_ = 0;  // blocks that return when the steps in flight commit

  int num_waiting_ = 0, num_running_ = 0;
  int64_t waiting_tokens_ = 0;
  Stats counters_;  // only what counts from the start
  bool swept_ = true;

  // Of the step being built.
  uint64_t plan_ = 0;   // its id, taken only if it is not empty
  uint64_t round_ = 0;  // counts calls
  Flight* building_ = nullptr;
  int budget_ = 0;          // tokens left
  int decode_budget_ = 0;   // of which decodes may take
  int soon_ = 0;            // blocks of those held back
  size_t victims_end_ = 0;  // running_ from here on was asked for its blocks
  std::vector<Record*> preempted_, chunked_, passed_;
  std::vector<StepRow> chunk_rows_;
  std::vector<Record*> chunk_owners_;
  std::vector<BlockId> scratch_;
  std::vector<size_t> full_rows_;  // of the step that commits: those that fill a block
};

}  // namespace sluice
