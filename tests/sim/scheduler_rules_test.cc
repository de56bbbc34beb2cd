// The rules of the scheduler one by one, with tokens that the test chooses.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <functional>

#include "scheduler/scheduler.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

constexpr TokenId kEos = 2;

struct Row {
  RequestId id;
  int sample, begin, count, num_logits, num_samples;
  std::vector<BlockId> blocks;
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
  void make(int num_blocks, int block_size, int depth = 1) {
    pool.emplace(num_blocks, block_size);
    scheduler.emplace(policy, *pool, depth, std::vector<TokenId>{kEos}, max_model_len);
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
    const StepPlan plan = scheduler->schedule(now, events);
    scheduler->check_invariants();
    num_copies = int(plan.fork_copies.size());
    std::vector<Row> rows;
    if (plan.empty()) return rows;
    StepResult& r = flights.emplace_back();
    r.id = plan.id;
    r.first.push_back(0);
    for (const StepRow& row : plan.rows) {
      const Sequence& s = *row.seq;
      rows.push_back(
          {s.id, s.sample, row.begin, row.count, row.num_logits, row.num_samples, s.blocks});
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
    if (!rows.empty()) commit();
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
  std::optional<BlockPool> pool;
  std::optional<Scheduler> scheduler;
  std::function<TokenId(RequestId, int sample, int num_output)> draw;
  std::deque<StepResult> flights;
  std::vector<TokenEvent> events;
  Instant now{};
  int num_copies = 0, next_token = 0, num_steps = 0;
};

// --- what a step holds -----------------------------------------------------------------------

TEST_F(Rules, BatchIsFormedAnewEveryStep) {
  make(64, 4);
  add(1, request(3, 10));
  EXPECT_THAT(step(), ElementsAre(Row{1, 0, 0, 3, 1, 1, {}}));
  add(2, request(2, 2, 2000));
  EXPECT_THAT(step(), ElementsAre(Row{1, 0, 3, 1, 1, 1, {}}, Row{2, 0, 0, 2, 1, 1, {}}));
  EXPECT_THAT(step(), ElementsAre(Row{1, 0, 4, 1, 1, 1, {}}, Row{2, 0, 2, 1, 1, 1, {}}));
  EXPECT_EQ(finish_of(2), FinishReason::length);
  EXPECT_THAT(step(), ElementsAre(Row{1, 0, 5, 1, 1, 1, {}}));
}

TEST_F(Rules, DecodesFirstThenChunksOfSeveralPrompts) {
  policy.max_step_tokens = 16;
  make(64, 4);
  add(1, request(3, 10));
  step();
  add(2, request(20, 5, 2000));
  add(3, request(4, 5, 3000));
  add(4, request(30, 5, 4000));
  EXPECT_THAT(step(), ElementsAre(Row{1, 0, 3, 1, 0, 1, {}}, Row{2, 0, 0, 15, 0, 0, {}}));
  EXPECT_THAT(step(), ElementsAre(Row{1, 0, 4, 1, 0, 1, {}}, Row{2, 0, 15, 5, 0, 1, {}},
                                  Row{3, 0, 0, 4, 0, 1, {}}, Row{4, 0, 0, 6, 0, 0, {}}));
}

TEST_F(Rules, FirstInOrderAdvancesHoweverSmallTheBudget) {
  policy.max_step_tokens = 2;
  make(64, 4);
  add(1, request(1, 40, 1000));
  add(2, request(1, 40, 2000));
  step();
  add(3, request(6, 2, 3000));
  EXPECT_EQ(step().size(), 2u);  // both decode, nothing left for 3
  scheduler->cancel(1);
  step();
  scheduler->cancel(2);
  EXPECT_THAT(step(), ElementsAre(Row{3, 0, 1, 2, 0, 0, {}}));
  add(4, request(1, 40, 4000));
  add(5, request(1, 40, 5000));
  for (int i = 0; i < 3 && finish_of(3) == FinishReason::none; ++i) {
    const auto rows = step();
    EXPECT_TRUE(std::any_of(rows.begin(), rows.end(), [](const Row& r) { return r.id == 3; }));
  }
  run_until_idle();
}

TEST_F(Rules, LogitsOnlyWhereWanted) {
  policy.max_step_tokens = 4;
  make(64, 4);
  add(1, request(6, 2));
  EXPECT_EQ(step()[0].num_logits, 0);
  EXPECT_EQ(step()[0].num_logits, 1);
  EXPECT_EQ(step()[0].num_logits, 1);
}

TEST_F(Rules, PromptLogprobsCoverEveryPositionOnce) {
  policy.max_step_tokens = 4;
  make(64, 4);
  auto q = request(10, 2);
  q.sampling.prompt_logprobs = 0;
  add(1, q);
  EXPECT_EQ(step()[0].num_logits, 4);
  EXPECT_EQ(step()[0].num_logits, 4);
  EXPECT_EQ(step()[0].num_logits, 2);  // position 8, and the one to draw from
  ASSERT_EQ(first_of(1).prompt_logprobs.size(), 9u);
  for (int p = 0; p < 9; ++p) {
    EXPECT_EQ(first_of(1).prompt_logprobs[size_t(p)].token, 1001 + p);
    EXPECT_EQ(first_of(1).prompt_logprobs[size_t(p)].logprob, float(p));
  }
  EXPECT_EQ(step()[0].num_logits, 1);
}

// --- the end of a sample ---------------------------------------------------------------------

TEST_F(Rules, MaxTokensOneEndsWithThePrompt) {
  make(64, 4);
  add(1, request(5, 1));
  step();
  EXPECT_EQ(finish_of(1), FinishReason::length);
  EXPECT_EQ(tokens_of(1), 1);
  EXPECT_TRUE(scheduler->idle());
  EXPECT_EQ(used(), 0);
}

TEST_F(Rules, EndOfTextStopsAndIsDelivered) {
  make(64, 4);
  draw = [](RequestId, int, int n) { return n == 2 ? kEos : 50; };
  add(1, request(5, 10));
  run_until_idle();
  EXPECT_EQ(finish_of(1), FinishReason::stop);
  EXPECT_EQ(tokens_of(1), 3);
  EXPECT_EQ(events.back().token, kEos);
}

TEST_F(Rules, IgnoreEosDoesNotIgnoreStopTokens) {
  make(64, 4);
  draw = [](RequestId, int, int n) { return n == 4 ? 77 : kEos; };
  auto q = request(5, 10);
  q.sampling.ignore_eos = true;
  q.sampling.stop_tokens = {76, 77};
  add(1, q);
  run_until_idle();
  EXPECT_EQ(finish_of(1), FinishReason::stop);
  EXPECT_EQ(tokens_of(1), 5);
}

TEST_F(Rules, NothingStopsBeforeMinTokens) {
  make(64, 4);
  draw = [](RequestId id, int, int) { return id == 1 ? kEos : 77; };
  for (RequestId id : {1, 2}) {
    auto q = request(5, 10);
    q.sampling.min_tokens = 3;
    q.sampling.stop_tokens = {77};
    add(id, q);
  }
  run_until_idle();
  for (RequestId id : {1, 2}) {
    EXPECT_EQ(finish_of(id), FinishReason::stop);
    EXPECT_EQ(tokens_of(id), 4);  // three that may not end it, and the first that may
  }
}

TEST_F(Rules, StopWinsOverLength) {
  make(64, 4);
  draw = [](RequestId, int, int) { return kEos; };
  add(1, request(5, 1));
  run_until_idle();
  EXPECT_EQ(finish_of(1), FinishReason::stop);
}

// --- waiting ---------------------------------------------------------------------------------

TEST_F(Rules, SkipsWhatDoesNotFitButNotForEver) {
  policy.max_overtakes = 5;
  make(8, 4);
  add(1, request(6, 3));
  step();
  add(2, request(28, 4, 90000));  // all of the pool
  int before = 0;
  for (RequestId id = 3; finish_of(2) == FinishReason::none; ++id) {
    ASSERT_LT(id, 100u);
    add(id, request(6, 3, TokenId(1000 * id)));
    for (const Row& r : step()) {
      before += r.id > 2 && r.begin == 0 && tokens_of(2) == 0;
    }
  }
  EXPECT_EQ(before, 5);
}

TEST_F(Rules, PassesOverAtMostMaxPassed) {
  policy.max_passed = 2;
  make(8, 4);
  add(1, request(8, 3));
  step();
  add(2, request(28, 4, 2000));
  add(3, request(28, 4, 3000));
  add(4, request(3, 4, 4000));
  EXPECT_THAT(step(), ElementsAre(Row{1, 0, 8, 1, 0, 1, {}}));
}

TEST_F(Rules, WatermarkKeepsBlocksForThoseWhoRun) {
  policy.watermark = 0.25;
  make(8, 4);
  add(1, request(16, 4));  // 4 blocks; nobody runs, so the watermark does not count
  step();
  add(2, request(12, 4, 2000));  // would leave less than 2
  add(3, request(3, 4, 3000));
  const auto rows = step();
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[1].id, 3u);
}

// --- preemption ------------------------------------------------------------------------------

TEST_F(Rules, PreemptsTheLatestArrivalAndKeepsItsPlace) {
  make(6, 4);
  policy.prefix_caching = false;
  make(6, 4);
  for (RequestId id : {1, 2, 3}) add(id, request(8, 12, TokenId(1000 * id)));
  EXPECT_EQ(step().size(), 3u);
  add(4, request(3, 2, 4000));
  const auto rows = step();  // 1 and 2 grow into what 3 held; nobody comes in
  EXPECT_THAT(rows, ElementsAre(Row{1, 0, 8, 1, 0, 1, {}}, Row{2, 0, 8, 1, 0, 1, {}}));
  EXPECT_EQ(scheduler->stats().preemptions, 1);
  EXPECT_EQ(scheduler->stats().waiting, 2);
  EXPECT_EQ(scheduler->stats().waiting_tokens, 11);
  run_until_idle();
  for (RequestId id : {1, 2, 3}) EXPECT_EQ(tokens_of(id), 12);
}

TEST_F(Rules, APreemptedRequestComputesWhatItHadAndGoesOn) {
  policy.prefix_caching = false;
  make(4, 4);
  add(1, request(4, 8));
  add(2, request(4, 8, 2000));
  for (int i = 0; i < 5; ++i) EXPECT_EQ(step().size(), 2u);
  EXPECT_EQ(step().size(), 1u);  // 1 takes a third block from 2, which had 5 tokens of output
  std::vector<Row> rows;
  while (finish_of(1) == FinishReason::none) rows = step();
  rows = step();
  EXPECT_THAT(rows, ElementsAre(Row{2, 0, 0, 9, 1, 1, {}}));
  run_until_idle();
  EXPECT_EQ(tokens_of(2), 8);
}

TEST_F(Rules, AtItsBoundARequestReturnsWithAllItNeeds) {
  policy.max_preemptions = 1;
  policy.prefix_caching = false;
  make(6, 4);
  add(1, request(4, 13));        // 4 blocks in the end
  add(2, request(4, 17, 2000));  // 5
  for (int i = 0; i < 9; ++i) EXPECT_EQ(step().size(), 2u);
  EXPECT_EQ(step().size(), 1u);  // 1 takes from 2, which knows 13 tokens: 4 blocks
  EXPECT_EQ(scheduler->stats().preemptions, 1);
  while (finish_of(1) == FinishReason::none) step();
  add(3, request(8, 2, 3000));  // 3 blocks: does not fit beside what 2 has set aside
  EXPECT_THAT(step(), ElementsAre(Row{2, 0, 0, 13, 1, 1, {}}));
  EXPECT_EQ(used(), 5);
  run_until_idle();
  EXPECT_EQ(tokens_of(2), 17);
  EXPECT_EQ(scheduler->stats().preemptions, 1);
}

TEST_F(Rules, WithNoPreemptionsAllowedAllIsReservedFromTheStart) {
  policy.max_preemptions = 0;
  make(8, 4);
  add(1, request(4, 13));  // 4 blocks
  step();
  EXPECT_EQ(used(), 4);
  add(2, request(4, 9, 2000));  // 3
  add(3, request(4, 9, 3000));  // 3: does not fit
  EXPECT_EQ(step().size(), 2u);
  EXPECT_EQ(used(), 7);
  run_until_idle();
  EXPECT_EQ(scheduler->stats().preemptions, 0);
}

TEST_F(Rules, AReservationShrinksWithItsSamples) {
  policy.max_preemptions = 0;
  make(16, 4);
  auto q = request(4, 13);
  q.num_samples = 4;
  add(1, q);
  launch();
  EXPECT_EQ(used(), 1 + 4 * 3);
  scheduler->cancel(1, 2);
  EXPECT_EQ(used(), 1 + 3 * 3);
  commit();
  scheduler->cancel(1, 0);
  EXPECT_EQ(used(), 1 + 2 * 3);
  run_until_idle();
  EXPECT_EQ(used(), 0);
}

TEST_F(Rules, AVictimInFlightIsTakenOnceItHasLanded) {
  policy.prefix_caching = false;
  make(4, 4, 2);
  add(1, request(8, 8));
  add(2, request(8, 8, 2000));
  EXPECT_EQ(launch().size(), 2u);
  EXPECT_EQ(launch().size(), 0u);  // 1 needs a block: 2 is held back, both stall
  EXPECT_EQ(scheduler->stats().preemptions, 0);
  commit();
  EXPECT_THAT(launch(), ElementsAre(Row{1, 0, 8, 1, 1, 1, {}}));
  EXPECT_EQ(scheduler->stats().preemptions, 1);
}

// --- the prefix cache ------------------------------------------------------------------------

TEST_F(Rules, CacheGivesFullBlocksAndNeverTheLastToken) {
  make(64, 4);
  add(1, request(12, 1));
  run_until_idle();
  EXPECT_EQ(first_of(1).num_cached, 0);
  add(2, request(12, 1));
  EXPECT_THAT(step(), ElementsAre(Row{2, 0, 8, 4, 1, 1, {}}));
  EXPECT_EQ(first_of(2).num_cached, 8);
  add(3, request(13, 1));
  EXPECT_THAT(step(), ElementsAre(Row{3, 0, 12, 1, 1, 1, {}}));
  EXPECT_EQ(first_of(3).num_cached, 12);
  EXPECT_EQ(scheduler->stats().prompt_tokens, 37);
  EXPECT_EQ(scheduler->stats().cached_tokens, 20);
}

TEST_F(Rules, OutputIsCachedToo) {
  make(64, 4);
  add(1, request(6, 7));
  run_until_idle();
  GenerateRequest q = request(6, 1);
  for (const TokenEvent& e : events) q.prompt.push_back(e.token);  // the next turn
  add(2, q);
  step();
  EXPECT_EQ(first_of(2).num_cached, 12);
}

TEST_F(Rules, SaltsAndPromptLogprobsDoNotShare) {
  make(64, 4);
  add(1, request(12, 1));
  run_until_idle();
  auto salted = request(12, 1);
  salted.cache_salt = 7;
  add(2, salted);
  run_until_idle();
  EXPECT_EQ(first_of(2).num_cached, 0);
  auto logprobs = request(12, 1);
  logprobs.sampling.prompt_logprobs = 0;
  add(3, logprobs);
  run_until_idle();
  EXPECT_EQ(first_of(3).num_cached, 0);
  add(4, salted);
  run_until_idle();
  EXPECT_EQ(first_of(4).num_cached, 8);
}

TEST_F(Rules, CachingCanBeOff) {
  policy.prefix_caching = false;
  make(64, 4);
  for (RequestId id : {1, 2}) {
    add(id, request(12, 1));
    run_until_idle();
    EXPECT_EQ(first_of(id).num_cached, 0);
  }
  EXPECT_EQ(scheduler->stats().prompt_tokens, 0);
}

TEST_F(Rules, SharedBlocksAreHeldOnce) {
  make(64, 4);
  add(1, request(16, 20));
  step();
  const int alone = used();
  add(2, request(17, 20));
  step();
  EXPECT_EQ(used(),
            alone + 2);  // a block for 1's first output token, one for 2's last prompt token
}

// --- samples ---------------------------------------------------------------------------------

TEST_F(Rules, SamplesForkAfterThePromptAndCopyItsPartialBlock) {
  make(64, 4);
  auto q = request(6, 5);
  q.num_samples = 3;
  add(1, q);
  EXPECT_THAT(step(), ElementsAre(Row{1, 0, 0, 6, 1, 3, {}}));
  EXPECT_EQ(used(), 2);
  const auto rows = step();
  EXPECT_EQ(rows.size(), 3u);
  EXPECT_EQ(num_copies, 2);  // the last one writes in place
  EXPECT_EQ(used(), 4);
  for (const Row& r : rows) EXPECT_EQ(r.blocks[0], rows[0].blocks[0]);
  step();
  EXPECT_EQ(num_copies, 0);
  run_until_idle();
  for (int i = 0; i < 3; ++i) EXPECT_EQ(tokens_of(1, i), 5);
  EXPECT_EQ(used(), 0);
}

TEST_F(Rules, NoCopyWhereThePromptFillsItsBlocks) {
  make(64, 4);
  auto q = request(8, 5);
  q.num_samples = 3;
  add(1, q);
  step();
  step();
  EXPECT_EQ(num_copies, 0);
  EXPECT_EQ(used(), 2 + 3);
}

TEST_F(Rules, NumCachedComesOncePerRequest) {
  make(64, 4);
  add(1, request(12, 1));
  run_until_idle();
  events.clear();
  auto q = request(12, 2);
  q.num_samples = 2;
  add(2, q);
  run_until_idle();
  int64_t cached = 0;
  for (const TokenEvent& e : events) cached += e.num_cached;
  EXPECT_EQ(cached, 8);
}

TEST_F(Rules, SamplesArePreemptedTogetherAndShareThePromptAgain) {
  policy.prefix_caching = false;
  make(14, 4);
  add(1, request(4, 24));          // 7 blocks in the end
  auto q = request(16, 20, 2000);  // 4 shared, then 5 each
  q.num_samples = 2;
  add(2, q);
  while (scheduler->stats().preemptions == 0) step();
  EXPECT_EQ(scheduler->stats().running, 1);
  while (finish_of(1) == FinishReason::none) step();
  EXPECT_EQ(scheduler->stats().waiting, 1);
  const auto first = step();  // the first sample computes the prompt for both
  ASSERT_EQ(first.size(), 1u);
  EXPECT_EQ(first[0].sample, 0);
  const auto second = step();
  ASSERT_EQ(second.size(), 2u);
  EXPECT_EQ(second[1].sample, 1);
  EXPECT_EQ(second[1].begin, 16);
  for (int b = 0; b < 4; ++b) EXPECT_EQ(second[0].blocks[b], second[1].blocks[b]);
  run_until_idle();
  EXPECT_EQ(tokens_of(2, 0), 20);
  EXPECT_EQ(tokens_of(2, 1), 20);
}

TEST_F(Rules, ASiblingTakesOverAHalfComputedPrompt) {
  policy.prefix_caching = false;
  policy.max_step_tokens = 8;
  make(14, 4);
  add(1, request(4, 24));
  auto q = request(16, 20, 2000);
  q.num_samples = 2;
  add(2, q);
  while (scheduler->stats().preemptions == 0) step();
  while (finish_of(1) == FinishReason::none) step();
  EXPECT_THAT(step(), ElementsAre(Row{2, 0, 0, 8, 0, 0, {}}));
  scheduler->cancel(2, 0);
  const auto rows = step();
  ASSERT_EQ(rows.size(), 1u);
  EXPECT_EQ(rows[0].sample, 1);
  EXPECT_EQ(rows[0].begin, 8);
  run_until_idle();
  EXPECT_EQ(tokens_of(2, 1), 20);
}

// --- leaving early ---------------------------------------------------------------------------

TEST_F(Rules, CancelFreesAtOnceWhatNoStepTouches) {
  make(64, 4);
  policy.max_step_tokens = 4;
  make(64, 4);
  add(1, request(30, 10));
  add(2, request(30, 10, 2000));
  step();
  EXPECT_GT(used(), 0);
  scheduler->cancel(1);
  EXPECT_EQ(used(), 0);
  scheduler->cancel(2);  // still in the queue
  scheduler->cancel(2);
  scheduler->cancel(99);
  EXPECT_FALSE(scheduler->idle());  // events are owed
  EXPECT_TRUE(launch().empty());
  EXPECT_TRUE(scheduler->idle());
  EXPECT_EQ(events.size(), 2u);
  EXPECT_EQ(finish_of(1), FinishReason::cancelled);
  EXPECT_EQ(finish_of(2), FinishReason::cancelled);
}

TEST_F(Rules, CancelFreesWhenTheLastStepThatTouchesItCommits) {
  make(64, 4, 3);
  add(1, request(5, 10));
  launch(), launch();
  scheduler->cancel(1);
  EXPECT_EQ(used(), 2);
  EXPECT_TRUE(launch().empty());  // nothing is launched for it any more
  commit();
  EXPECT_EQ(used(), 2);
  EXPECT_FALSE(scheduler->idle());
  commit();
  EXPECT_EQ(used(), 0);
  EXPECT_TRUE(scheduler->idle());
  EXPECT_EQ(events.size(), 1u);  // tokens of the steps in flight are discarded
}

TEST_F(Rules, ACancelledSampleLeavesTheOthersAlone) {
  make(64, 4);
  auto q = request(6, 6);
  q.num_samples = 3;
  add(1, q);
  launch();
  scheduler->cancel(1, 1);  // before the fork
  commit();
  step();
  scheduler->cancel(1, 0);  // after it
  run_until_idle();
  EXPECT_EQ(finish_of(1, 0), FinishReason::cancelled);
  EXPECT_EQ(tokens_of(1, 0), 2);
  EXPECT_EQ(finish_of(1, 1), FinishReason::cancelled);
  EXPECT_EQ(tokens_of(1, 1), 0);
  EXPECT_EQ(finish_of(1, 2), FinishReason::length);
  EXPECT_EQ(tokens_of(1, 2), 6);
}

TEST_F(Rules, DeadlinesFallDueOnTime) {
  make(64, 4);
  auto q = request(6, 100);
  q.deadline = now + std::chrono::milliseconds(10);
  add(1, q);
  q.deadline = now + std::chrono::milliseconds(20);
  add(2, q);
  step();
  now += std::chrono::milliseconds(10) - Nanos(1);
  EXPECT_EQ(step().size(), 2u);
  now += Nanos(1);
  EXPECT_EQ(step().size(), 1u);
  EXPECT_EQ(finish_of(1), FinishReason::deadline);
  scheduler->cancel(2);
  add(2, request(6, 3));  // the id is free again, and its old deadline is nobody's
  now += std::chrono::milliseconds(10);
  events.clear();
  run_until_idle();
  EXPECT_EQ(tokens_of(2), 3);
}

// --- steps in flight -------------------------------------------------------------------------

TEST_F(Rules, StepsInFlightGoOnWithTokensTheHostHasNotSeen) {
  make(64, 4, 3);
  add(1, request(5, 10));
  EXPECT_THAT(launch(), ElementsAre(Row{1, 0, 0, 5, 1, 1, {}}));
  EXPECT_THAT(launch(), ElementsAre(Row{1, 0, 5, 1, 1, 1, {}}));
  EXPECT_THAT(launch(), ElementsAre(Row{1, 0, 6, 1, 1, 1, {}}));
  EXPECT_TRUE(launch().empty());  // depth
  commit();
  EXPECT_THAT(launch(), ElementsAre(Row{1, 0, 7, 1, 1, 1, {}}));
}

TEST_F(Rules, NeverMoreDrawsInFlightThanMaxTokens) {
  make(64, 4, 4);
  add(1, request(5, 2));
  launch(), launch();
  EXPECT_TRUE(launch().empty());
  commit(), commit();
  EXPECT_EQ(tokens_of(1), 2);
  EXPECT_TRUE(scheduler->idle());
}

TEST_F(Rules, RowsOfEndedSequencesAreDiscarded) {
  make(64, 4, 3);
  draw = [](RequestId, int, int n) { return n == 0 ? kEos : 50; };
  add(1, request(5, 10));
  launch(), launch(), launch();
  commit();
  EXPECT_EQ(finish_of(1), FinishReason::stop);
  EXPECT_EQ(used(), 2);  // two steps in flight still write there
  commit();
  EXPECT_EQ(used(), 2);
  commit();
  EXPECT_EQ(used(), 0);
  EXPECT_EQ(events.size(), 1u);
}

TEST_F(Rules, AForkWaitsForItsCommit) {
  make(64, 4, 3);
  auto q = request(5, 10);
  q.num_samples = 2;
  add(1, q);
  launch();
  EXPECT_TRUE(launch().empty());
  commit();
  EXPECT_EQ(launch().size(), 2u);
  EXPECT_EQ(launch().size(), 2u);
}

// --- admission -------------------------------------------------------------------------------

TEST_F(Rules, RefusesWhatCanNeverFit) {
  max_model_len = 40;
  policy.max_seqs = 4;
  make(8, 4);
  const auto refused = [&](GenerateRequest q, const char* why) {
    const absl::Status s = try_add(1, std::move(q));
    EXPECT_EQ(s.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(message_of(s)), HasSubstr(why));
  };
  refused(request(31, 10), "context of 40");
  refused(request(0, 10), "empty");
  refused(request(5, 0), "max_tokens");
  refused(request(30, 4), "needs 9 cache blocks of 4 tokens; the cache has 8");
  auto q = request(5, 5);
  q.num_samples = 5;
  refused(q, "max_seqs (4)");
  q.num_samples = 4;  // 1 + 4 * 2 blocks
  refused(q, "needs 9 cache blocks");
  q.num_samples = 3;
  q.sampling.min_tokens = 6;
  refused(q, "min_tokens");
  q.sampling.min_tokens = 5;
  add(1, q);
  refused(q, "in use");
  add(2, request(29, 4));  // exactly all blocks: the last token drawn is never computed
  run_until_idle();
  EXPECT_EQ(tokens_of(2), 4);
  EXPECT_TRUE(events.back().finish == FinishReason::length);
}

TEST_F(Rules, BoundsTheQueue) {
  policy.max_queue = 2;
  make(64, 4);
  add(1, request(5, 5));
  add(2, request(5, 5));
  EXPECT_EQ(try_add(3, request(5, 5)).code(), absl::StatusCode::kResourceExhausted);
  step();  // both run: the queue is empty
  EXPECT_TRUE(try_add(3, request(5, 5)).ok());
}

TEST_F(Rules, BoundsTheQueuedTokens) {
  policy.max_queued_tokens = 20;
  make(64, 4);
  add(1, request(30, 5));  // alone it may wait
  EXPECT_EQ(try_add(2, request(1, 5)).code(), absl::StatusCode::kResourceExhausted);
  scheduler->cancel(1);
  add(2, request(15, 5));
  add(3, request(5, 5));
  EXPECT_EQ(try_add(4, request(1, 5)).code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(Rules, NoMoreSamplesRunThanSlots) {
  policy.max_seqs = 4;
  make(64, 4);
  auto q = request(5, 5);
  q.num_samples = 3;
  add(1, q);
  add(2, q);
  add(3, request(5, 5, 3000));
  const auto rows = step();
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[1].id, 3u);
  run_until_idle();
  for (int i = 0; i < 3; ++i) EXPECT_EQ(tokens_of(2, i), 5);
}

}  // namespace
}  // namespace sluice
