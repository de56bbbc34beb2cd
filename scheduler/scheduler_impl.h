#pragma once

#include <absl/container/btree_set.h>
#include <absl/container/flat_hash_map.h>

#include <array>
#include <cstddef>
#include <limits>
#include <optional>
#include <queue>
#include <unordered_map>

#include "base/check.h"
#include "scheduler/scheduler.h"

namespace sluice {

struct Tenant;

// A request inside the scheduler: what its samples have in common. It waits, runs and is preempted
// as a whole; the unit that computes is the Sequence.
// What every step touches fills the first two cache lines, up to the sampling's stop tokens.
struct alignas(64) Record {
  // Capacity num_samples, so that rows may point at them. Before the fork there is one, the
  // carrier; afterwards one per sample that was alive then, in the order of samples.
  std::vector<Sequence> seqs;
  uint64_t last_plan = 0;  // the last one that touches any of its samples
  uint64_t held_back = 0;  // the round it was kept out of, to be preempted once it has landed
  Tenant* tenant = nullptr;
  int num_samples = 1;
  SeqState state = SeqState::waiting;
  uint8_t level = 0;               // MLFQ
  uint8_t home = 0;                // the level that its last visit to the top began at
  bool forked : 1 = false;         // every sample has a sequence; from the start where n == 1
  bool retired : 1 = false;        // no sample left; kept while a step in flight names it
  bool admitted_once : 1 = false;  // its prompt was looked up in the cache and counted
  bool first_event_sent : 1 = false;
  bool starving : 1 = false;  // waited past its bound: before others of its priority until it runs
  bool watched : 1 = false;   // has an entry among the bounds that may fall due
  bool at_bound : 1 = false;  // preempted as often as may be: it comes in with all it may need
  bool refiled : 1 = false;   // running, and its place in the order has changed
  int residency = 0;          // steps since it came in
  double service = 0;         // seconds of work at this level
  double work = 0;            // seconds of work since it came in
  Instant last_run{};         // or arrived, or went out: since when it waits

  GenerateRequest request;  // its prompt has moved to seqs[0].tokens
  RequestId id = 0;
  uint64_t key = 0;  // its place in the order, under which it is filed
  uint64_t arrival = 0;
  uint64_t ticket = 0;       // place in its level's queue
  uint64_t copy_plan = 0;    // swapped, arriving: the plan whose copies must be done
  int num_live = 0;          // samples that have not ended
  int shared_stretches = 0;  // full ones of the prompt, held by all samples together
  int final_stretches = 0;   // of one sample that uses all its max_tokens
  int num_preempted = 0;
  int num_pushed_out = 0;  // swapped out ahead of need: nothing lost, so it counts apart
  int num_overtaken = 0;   // later arrivals that came in while this one was passed over
  int num_cached = 0;      // prompt tokens found in the cache when it first came in
  struct Sample {
    bool done = false;
    int slot = -1;
  };
  std::vector<Sample> samples;
  std::vector<BlockId> spare;  // set aside for its growth, never written yet
  std::vector<TokenLogprob> prompt_logprobs;
  int num_reported = 0;  // prompt positions in prompt_logprobs
  Instant out_since{};   // swapped: since when
  Instant in_since{};    // arriving: since when
  std::shared_ptr<RequestTrace> trace;

  bool resident() const { return state == SeqState::running || state == SeqState::arriving; }
  int max_scheduled() const {  // the last token drawn is never computed; a fork waits for commit
    return seqs[0].num_prompt + (forked ? request.sampling.max_tokens - 1 : 0);
  }
};

static_assert(offsetof(Record, service) <= 64);
static_assert(offsetof(Record, request.sampling.stop_tokens) + sizeof(std::vector<TokenId>) <= 128);

// A record under its place in the order: lower comes first.
struct Filed {
  uint64_t key = 0;
  Record* record = nullptr;
  bool operator<(const Filed& o) const { return key < o.key; }
};

// A running request that may be asked for its blocks; the highest first.
struct Victim {
  double next_time;  // estimated seconds until it would run again
  uint64_t key;
  Record* record;
  bool operator<(const Victim& o) const {
    return next_time != o.next_time ? next_time < o.next_time : key < o.key;
  }
};

struct Tenant {
  double weight = 1;
  double counter = 0;  // virtual: tokens computed, over weight
  int64_t tokens = 0;  // served
  int live = 0;        // requests
  int rank = 0;        // among those with requests, by counter
  bool waits = false;  // the last step left out some of its requests
  absl::btree_set<Filed> waiting;
};

struct Scheduler::Impl {
  Impl(const Policy&, const CostModel& seed, BlockPool& device, BlockPool* host, int depth,
       std::vector<TokenId> eos_tokens, int max_model_len, std::vector<KvGroup> groups);

  // admission.cc: who may wait, and who comes in.
  absl::Status add(RequestId, GenerateRequest, Instant now);
  absl::Status check(RequestId, const GenerateRequest&) const;
  absl::Status check_size(const GenerateRequest&) const;
  bool open_to_newcomers() const;
  void displace(StepPlan&);
  bool outranks_unfinished(const Record&) const;
  bool batch_closed() const { return policy_.step == Policy::Step::batch && occupied_; }
  void admit_waiting(StepPlan&);
  Record* next_waiting();
  void start_waiting_pass();
  void end_waiting_pass();
  bool push_out_for(const Record&, StepPlan&);
  bool admit_one(Record&, StepPlan&);
  bool admit(Record&, StepPlan&);
  void note_admission(Record&, int found, int on_host);
  void enter(Record&, uint64_t copy_plan);
  void enlist(Record&);
  void continue_session(Record&);
  int match_session(Record&, Sequence& carrier);
  BlockHash session_hash(const Record&, const Sequence&, int end) const;
  bool whole_prompts() const {
    return policy_.step == Policy::Step::whole || policy_.step == Policy::Step::prefill_first;
  }

  // prefix.cc: what the caches of the pools have.
  // Stretches of tokens, under whose hashes a cache may have blocks.
  struct Known {
    std::span<const BlockHash> hashes;
    std::span<const TokenId> tokens;
  };
  Known part_of(const Known&, int begin, int end) const;
  BlockPool::Match probe_table(const BlockPool&, int group, const Known&) const;
  int match_table(BlockPool&, int group, const Known&, std::vector<BlockId>& out) const;
  BlockPool::Match find_prefix(const BlockPool&, const Known&, int from) const;
  int first_seen(int group, int stretches) const;
  int held_of_prefix(const Record&, const Known&, const BlockPool::Match& found) const;
  void take_prefix(Sequence&, const Known&, int stretches);
  int copy_prefix(Sequence&, const Known&, StepPlan&);

  // scheduler.cc: what the next step holds, and how requests leave early.
  StepPlan schedule(Instant now, const CopyProgress&, std::vector<TokenEvent>& events);
  std::optional<Release> cancel(RequestId, int sample, FinishReason why);
  void expire();
  void begin_step(StepPlan&);
  void fill_mixed(StepPlan&);
  void fill_prefill_first(StepPlan&);
  void set_chunk_budget();
  double token_interval() const;
  int affordable(int begin) const;
  int tiled(int count, const StepPlan&) const;
  void spend(int begin, int count);
  void prefetch_running(size_t index) const;
  void add_decode(Record&, Sequence&, StepPlan&);
  bool add_decodes(Record&, StepPlan&);
  void add_chunks(Record&, StepPlan&);
  void add_row(Record&, Sequence&, int count, StepPlan&, std::vector<StepRow>& rows,
               std::vector<Record*>& owners);
  bool wants_chunk(const Record&, const Sequence&) const;
  int computed_tokens(const Record&, int sample) const;
  void finish_plan(StepPlan&);
  void note_unfinished();
  void note_stall(const StepPlan&);

  // order.cc: who comes first: keys, levels, starvation, tenants.
  uint64_t key_of(const Record&) const;
  void file(Record&);    // among the waiting
  void unfile(Record&);  // of the waiting
  void refile(Record&);  // wherever it is, after a part of its key changed
  void settle_order();
  void rank_tenants();
  void settle_tenants();
  void watch(Record&);
  void promote(Record&);
  void patience_over(Record&);
  Nanos patience(int level) const { return patience_[size_t(level)]; }
  double quantum(int level) const { return quantum_ * double(uint64_t{1} << level); }
  int join_level(const Record&) const;
  void charge(Record&, double seconds);
  void ran(Record& r) {  // it has a row in the step being built
    if (r.last_plan == plan_) return;
    r.last_plan = plan_;
    r.last_run = now_;
    ++r.residency;
    if (r.starving) calm(r);
  }
  void calm(Record&);
  void pay_for(Record& r, int tokens) {  // what is computed again, again
    if (tenants_.size() > 1) r.tenant->counter += tokens / r.tenant->weight;
  }
  void count_level(const Record&, int by);
  bool outranks(const Record& a, const Record& b) const;
  void estimate_next_times();
  void list_victims();
  Victim next_victim();

  // commit.cc: what a step's results change.
  void commit(const StepResult&, Instant now, std::vector<TokenEvent>& events);
  struct Shares {
    double scale = 0, constant = 0;  // measured over predicted seconds; each row's of the constant
  };
  struct Flight;
  Shares learn(const Flight&, double seconds);
  void charge_row(const Flight&, size_t row, const Shares&);
  void commit_row(Record&, Sequence&, const StepRow&, const StepResult&, size_t row,
                  std::vector<TokenEvent>&);
  void fork(Record&);
  void accept(Record&, Sequence&, const StepResult&, int draw, std::vector<TokenEvent>&);
  int num_output(const Record&) const;
  std::shared_ptr<const RequestTrace> close_trace(Record&);
  FinishReason finish_reason(const Record&, const Sequence&) const;
  void publish(Sequence&, int begin, int end);
  void keep_session(Record&, Sequence&);
  void forget_sessions();
  void end_sample(Record&, int sample);
  void retire(Record&);
  void sweep();

  // memory.cc: blocks, slots and preemption.
  int in_block(int position) const {
    return block_mask_ >= 0 ? position & block_mask_ : position % block_size_;
  }
  bool fills_block(const StepRow& row) const {
    return in_block(row.begin) + row.count >= block_size_;
  }
  int stretches_for(int tokens) const { return (tokens + block_size_ - 1) / block_size_; }
  int blocks_for(int tokens) const { return stretches_for(tokens) * stretch_blocks_; }
  int total_need(const Record& r) const {  // blocks, if every live sample uses all its tokens
    return (r.shared_stretches + r.num_live * (r.final_stretches - r.shared_stretches)) *
           stretch_blocks_;
  }
  int remaining_need(const Record&) const;
  int need_beyond_known(const Record&) const;
  bool settled(const Record& r) const {  // what has not even computed must not go out again
    return r.residency >= std::max(policy_.min_residency, 1);
  }
  bool reserved(const Record& r) const {
    return policy_.reservation == Policy::Reservation::full || r.at_bound;
  }
  // Some fit only because their windowed layers give back: for them preemptions have no bound.
  bool can_set_aside(const Record& r) const { return total_need(r) <= pool_.num_blocks(); }
  bool use_cache(const Record& r) const {  // prompt logprobs need every prompt position computed
    return policy_.prefix_caching && r.request.sampling.prompt_logprobs < 0;
  }
  void extend_hashes(Sequence&, int num_blocks) const;
  // One more token of a decoding sequence: a block that nobody else writes.
  bool grow(Record& r, Sequence& s, StepPlan& plan) {
    // Inside a block that its last token is in: the usual case, without a look at the table.
    return (r.num_samples == 1 && in_block(s.num_scheduled) != 0) || extend_table(r, s, plan);
  }
  bool extend_table(Record&, Sequence&, StepPlan&);
  // Whether the windowed table follows the tokens that are computed, rather than reach to the end
  // of those that are known.
  bool follows(const Record& r) const {
    return num_groups_ > 1 && r.num_samples == 1 && !reserved(r);
  }
  int table_end(const Record&, int group, int first, int known) const;
  int known_need(const Record&, const Sequence&, int windowed_first) const;
  bool extend_window(Record&, Sequence&, StepPlan&);
  bool shares_partial_block(const Record&, const Sequence&) const;
  void give_back_unseen(Record& r, Sequence& s) {
    if (kv_reach_ > 0 &&
        s.num_computed - kv_reach_ + 1 >= (s.tables[size_t(windowed_)].first + 1) * block_size_)
      give_back_blocks(r, s);
  }
  void give_back_blocks(Record&, Sequence&);
  bool take_blocks(Record&, int n, std::vector<BlockId>& out, StepPlan&);
  template <class S>
  auto tables(S& s) const {
    return std::span(s.tables).first(size_t(num_groups_));
  }
  bool make_room(const Record&, int blocks, StepPlan&);
  void hold_back(Record& victim);
  void preempt(Record&, StepPlan&, bool proactive);
  void give_up(Record&);
  void requeue_preempted();
  void release(Record&, std::vector<BlockId>& blocks);
  void release_tables(Record&, Sequence&);
  void release_slot(Record::Sample&);
  void trim_spare(Record&);

  // swap.cc: the host tier.
  double recompute_seconds(const Record&) const;
  double swap_seconds(const Record&) const;
  bool prefers_swap(const Record&) const;
  bool swap_out(Record&, StepPlan&);
  bool admit_swapped(Record&, StepPlan&);
  void copy_in(Record&, StepPlan&);
  Known known_blocks(const Record&, const Sequence&, const BlockTable&) const;
  int num_computed(const Sequence&, const BlockTable&) const;
  static bool by_source(const BlockCopy&, const BlockCopy&);
  void unique_sources();
  BlockId mapped(BlockId source) const;
  void swap_ahead(StepPlan&);
  void arrive(Record&);
  void start_copy(StepPlan&, BlockId device, BlockId host, bool out);
  void finish_copies(const CopyProgress&);
  void write_behind(StepPlan&);
  int arrival_reserve() const;

  // inspect.cc
  void check_invariants() const;
  void check_record(const Record&, std::vector<int>& refs, std::vector<int>& host_refs,
                    std::vector<char>& slots) const;
  void check_table(const Record&, const Sequence&, int group, std::vector<int>& refs,
                   std::vector<int>& host_refs) const;
  Stats stats() const;
  RequestInfo info(const Record&, Instant now) const;

  // A launched plan: its rows, and what comes back to the pool when it commits.
  struct Flight {
    uint64_t id = 0;
    std::vector<StepRow> rows;
    std::vector<Record*> owners;  // of the rows
    std::vector<size_t> filling;  // those rows that fill a block
    std::vector<BlockId> freed;
    int num_coming = 0;  // of `freed`, how many nobody else holds
    StepWork work;
  };
  Flight& flight(uint64_t plan) { return flights_[plan % flights_.size()]; }
  void prefetch_flight(const Flight&, size_t row) const;
  void prepare_publish(const Flight&);
  static Sequence& sequence_of(const Flight& f, size_t row) {  // a record's own, so not const
    return const_cast<Sequence&>(*f.rows[row].seq);
  }
  int in_flight() const { return int(last_plan_ - committed_); }

  // A copy under way. It holds a reference on both of its ends, so that neither is used again
  // before it is done.
  struct Copy {
    uint64_t plan;
    BlockId device, host;
    bool out;
    bool leaving;  // its request has gone: the device's block returns when it is done
  };
  struct Due {
    enum class Kind : uint8_t { deadline, patience, first_token };
    Instant when;
    RequestId id;
    Kind kind;
    bool operator>(const Due& o) const { return when > o.when; }
  };
  // What is kept of a conversation between its turns; the blocks are the pool's to evict.
  struct Session {
    int num_tokens = 0;  // of the last turn in the cache, the last, partial block included
    uint64_t seed = 0;
    uint64_t used = 0;  // when, in arrivals
  };
  static constexpr size_t kMaxSessions = 65536;
  // Proactive swaps cost copies only. Were each to count as much as a preemption, residents would
  // soon all hold reservations, and there would be nobody left to swap.
  static constexpr int kPushesPerPreemption = 16;
  static constexpr double kNoLimit = std::numeric_limits<double>::infinity();

  Policy policy_;  // constant but for the limits of its queue
  CostModel cost_;
  BlockPool& pool_;
  BlockPool* const host_;
  const int block_size_;
  const int block_mask_;  // block_size_ - 1; -1: that is no power of two
  const int watermark_, max_model_len_;
  const int num_groups_;
  const std::array<int, kMaxKvGroups> width_;  // blocks of a stretch; 0: there is no such group
  const int stretch_blocks_;                   // in all groups together
  const int windowed_;                         // the group that gives back what is behind ...
  const int kv_reach_;                         // ... so many positions; 0: none does
  const int window_stretches_;                 // that a windowed table may hold where it follows
  const int max_rows_;
  const std::vector<TokenId> eos_;

  std::unordered_map<RequestId, std::unique_ptr<Record>> live_;
  std::vector<std::unique_ptr<Record>> ended_;  // until no step in flight names them
  std::vector<Filed> running_;                  // in the policy's order; also those arriving
  std::vector<Tenant> tenants_;                 // each with its waiting and swapped requests
  std::priority_queue<Due, std::vector<Due>, std::greater<>> due_;
  absl::flat_hash_map<uint64_t, Session> sessions_;
  std::vector<int> free_slots_;
  std::vector<TokenEvent> owed_;  // of cancels, until the next schedule()
  std::vector<Copy> copies_;      // in the order of their plans
  std::vector<BlockId> behind_;   // published, to be copied to the host; held
  std::vector<Record*> arriving_;
  std::vector<Record*> unfinished_;  // running, and the last step left some of their prompts

  std::vector<Flight> flights_;  // [depth] ring, by plan id
  uint64_t last_plan_ = 0, committed_ = 0, copies_done_ = 0;
  uint64_t arrivals_ = 0, tickets_ = 0;
  int num_coming_ = 0;   // blocks that return when the steps in flight commit
  int num_leaving_ = 0;  // blocks that return when their copies to the host are done

  int num_waiting_ = 0, num_running_ = 0, num_swapped_ = 0;
  int64_t waiting_tokens_ = 0;
  int num_paced_ = 0;  // live requests with a token interval of their own
  int active_tenants_ = 0;
  Stats counters_;  // what counts from the start, and levels
  bool swept_ = true;
  std::array<Nanos, kLevels> patience_;  // by level: how long a request may wait there
  double quantum_ = 0;                   // of level 0, seconds of work
  double rows_average_ = 1;              // of recent decode steps
  double arrival_blocks_ = 0;  // that requests took per step when they came in, recent average
  int64_t copied_blocks_ = 0;  // as last reported
  Nanos copied_time_{};
  int stalled_rounds_ = 0;
  int64_t preempted_since_token_ = 0;  // those that lost what they had computed
  int steps_since_admission_ = 0;

  // Of the step being built.
  Instant now_{};
  uint64_t plan_ = 0;   // its id, taken only if it is not empty
  uint64_t round_ = 0;  // counts calls
  Flight* building_ = nullptr;
  int budget_ = 0;                   // tokens left
  int decode_budget_ = 0;            // of which decodes may take
  int chunk_budget_ = 0;             // of which prefills may take
  double chunk_seconds_ = kNoLimit;  // likewise, in time
  int rows_left_ = 0;
  int rows_aside_ = 0;   // of those taken, kept for chunks
  int soon_ = 0;         // blocks of those held back
  int taken_ = 0;        // blocks that newcomers took
  size_t visiting_ = 0;  // running_ up to here has its rows
  bool victims_listed_ = false, pushed_out_ = false;
  bool occupied_ = false;        // somebody was in when it began
  std::vector<Victim> victims_;  // a heap
  std::vector<Filed> settling_;
  std::vector<Record*> preempted_, chunked_, passed_, refiled_;
  std::vector<Filed> admitted_;                            // under their places among the waiting
  std::vector<absl::btree_set<Filed>::iterator> cursors_;  // [tenants] of the pass over the waiting
  std::vector<StepRow> chunk_rows_;
  std::vector<Record*> chunk_owners_;
  std::vector<BlockId> scratch_, fresh_;
  std::vector<BlockCopy> mapping_;  // of one swap: from block to block
};

}  // namespace sluice
