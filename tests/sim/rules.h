#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <functional>
#include <stdexcept>

#include "scheduler/scheduler.h"

// For tests of single rules of the scheduler: a scheduler, and a runner that computes nothing and
// draws what the test says.
namespace sluice {

inline constexpr TokenId kEos = 2;

struct Row {
  RequestId id;
  int sample, begin, count, num_logits, num_samples;
  std::vector<BlockId> blocks, windowed = {};  // of both groups, where there are two
  bool operator==(const Row& o) const {
    return id == o.id && begin == o.begin && count == o.count && num_samples == o.num_samples;
  }
  friend void PrintTo(const Row& r, std::ostream* os) {
    *os << "{" << r.id << "." << r.sample << " [" << r.begin << "+" << r.count << ") draws "
        << r.num_samples << "}";
  }
};

// A scheduler, and a runner whose draws are what `draw` says (a different token each by default).
class Rules : public ::testing::Test {
 protected:
  void make(int num_blocks, int block_size, int depth = 1, int num_host_blocks = 0) {
    pool.emplace(num_blocks, block_size);
    if (num_host_blocks > 0) host.emplace(num_host_blocks, block_size, pool->hasher());
    scheduler.emplace(policy, CostModel(cost), *pool, host ? &*host : nullptr, depth,
                      std::vector<TokenId>{kEos}, max_model_len, groups);
  }

  static GenerateRequest request(int prompt_len, int max_tokens, TokenId first = 1000) {
    GenerateRequest q;
    for (int i = 0; i < prompt_len; ++i) q.prompt.push_back(first + i);
    q.sampling.max_tokens = max_tokens;
    return q;
  }
  absl::Status try_add(RequestId id, GenerateRequest q) {
    return scheduler->add(id, std::move(q), now);
  }
  void add(RequestId id, GenerateRequest q) { ASSERT_TRUE(try_add(id, std::move(q)).ok()); }

  // Schedules and launches one step; its rows, or none where the plan is empty.
  std::vector<Row> launch() {
    if (!hold_copies) copies.done = last_plan;
    const StepPlan plan = scheduler->schedule(now, copies, events);
    scheduler->check_invariants();
    num_copies = int(plan.fork_copies.size());
    num_out = int(plan.swap_out.size()), num_in = int(plan.swap_in.size());
    out_blocks = plan.swap_out;
    std::vector<Row> rows;
    if (plan.empty()) return rows;
    last_plan = plan.id;
    StepWork work;
    StepResult& r = flights.emplace_back();
    r.id = plan.id;
    r.first.push_back(0);
    for (const StepRow& row : plan.rows) {
      const Sequence& s = *row.seq;
      work.add(row.begin, row.count, row.count == 1 && row.begin >= s.num_prompt);
      rows.push_back({s.id, s.sample, row.begin, row.count, row.num_logits, row.num_samples,
                      s.tables[0].blocks, s.tables[1].blocks});
      for (int i = 0; i < row.num_samples; ++i) {
        const int sample = row.num_samples > 1 ? i : s.sample;
        r.tokens.push_back(draw ? draw(s.id, sample, row.begin + row.count - s.num_prompt)
                                : TokenId(5000 + next_token++));
        r.logprobs.push_back(-1);
      }
      r.first.push_back(int(r.tokens.size()));
      auto& prompt = r.prompt.emplace_back();
      for (int p = row.begin + row.count - row.num_logits;
           s.request->sampling.prompt_logprobs >= 0 && p + 1 < s.num_prompt &&
           p < row.begin + row.count;
           ++p) {
        prompt.push_back({s.tokens[size_t(p) + 1], float(p)});
      }
    }
    if (timed && !rows.empty()) r.device_time = Nanos(int64_t(CostModel(cost).seconds(work) * 1e9));
    now += r.device_time;
    return rows;
  }
  void commit() {
    ASSERT_FALSE(flights.empty());
    scheduler->commit(flights.front(), now, events);
    flights.pop_front();
    scheduler->check_invariants();
  }
  std::vector<Row> step() {
    if (++num_steps > 2000) throw std::runtime_error("the test goes on for ever");
    std::vector<Row> rows = launch();
    if (!flights.empty()) commit();
    return rows;
  }
  // The final reason of a sample; none if it still runs.
  FinishReason finish_of(RequestId id, int sample = 0) const {
    for (const TokenEvent& e : events) {
      if (e.request == id && e.sample == sample && e.finish != FinishReason::none) return e.finish;
    }
    return FinishReason::none;
  }
  int tokens_of(RequestId id, int sample = 0) const {
    int n = 0;
    for (const TokenEvent& e : events) n += e.request == id && e.sample == sample && e.token >= 0;
    return n;
  }
  const TokenEvent& first_of(RequestId id) const {
    for (const TokenEvent& e : events) {
      if (e.request == id) return e;
    }
    throw std::runtime_error("no event");
  }
  void run_until_idle(int max_steps = 10000) {
    for (int i = 0; !scheduler->idle(); ++i) {
      ASSERT_LT(i, max_steps);
      step();
    }
  }
  int used() const { return pool->num_blocks() - pool->num_available(); }

  Policy policy = [] {
    Policy p;
    p.watermark = 0;
    return p;
  }();
  int max_model_len = 1 << 20;
  std::vector<KvGroup> groups = {KvGroup{}};
  // A live request, as the scheduler tells it.
  RequestInfo info(RequestId id) const {
    RequestInfo i;
    if (!scheduler->find(id, now, i)) throw std::runtime_error("no such request");
    return i;
  }
  static bool has(const std::vector<Row>& rows, RequestId id) {
    return std::any_of(rows.begin(), rows.end(), [id](const Row& r) { return r.id == id; });
  }

  StepCost cost;
  bool timed = false;        // steps take what the cost says, and the clock goes on by it
  bool hold_copies = false;  // copies are done when the test says so, not by the next step
  CopyProgress copies;
  uint64_t last_plan = 0;
  int num_out = 0, num_in = 0;
  std::vector<BlockCopy> out_blocks;
  std::optional<BlockPool> pool, host;
  std::optional<Scheduler> scheduler;
  std::function<TokenId(RequestId, int sample, int num_output)> draw;
  std::deque<StepResult> flights;
  std::vector<TokenEvent> events;
  Instant now{};
  int num_copies = 0, next_token = 0, num_steps = 0;
};

}  // namespace sluice
