// The host tier: requests that go out and come back, prefixes and sessions that are kept.
#include "tests/sim/policy_rules.h"

namespace sluice {
namespace {

class SwapTest : public MlfqTest {
 protected:
  SwapTest() {
    policy.pressure = Policy::Pressure::swap;
    policy.proactive = true;
    policy.max_rows = 1;
    policy.min_residency = 1;
  }
};

TEST_F(SwapTest, AVictimGoesOutByCopyAndComesBackWithoutComputingAgain) {
  make(4, 4, 1, 8);
  add_all({{7, 9}});
  for (int i = 0; i < 5; ++i) step();
  EXPECT_EQ(used(), 3);
  add_all({{7, 2}});
  const auto first = step();
  EXPECT_EQ(num_out, 3);  // 11 tokens
  EXPECT_FALSE(has(first, 1) || has(first, 2));
  EXPECT_EQ(info(1).state, State::swapped);
  EXPECT_TRUE(has(step(), 2));
  run_until_idle();
  EXPECT_EQ(tokens_of(1), 9);
  EXPECT_EQ(scheduler->stats().swaps, 1);
  EXPECT_EQ(scheduler->stats().wasted_recompute, 0);
  EXPECT_EQ(scheduler->stats().blocks_in, 3);
}

TEST_F(SwapTest, ABlockIsNotUsedAgainBeforeItsCopyIsDone) {
  make(4, 4, 1, 8);
  add_all({{7, 9}});
  for (int i = 0; i < 5; ++i) step();
  add_all({{7, 2}});
  hold_copies = true;
  step();
  ASSERT_EQ(num_out, 3);
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(step().empty());
  EXPECT_EQ(used(), 3);
  EXPECT_FALSE(scheduler->idle());
  hold_copies = false;
  EXPECT_TRUE(has(step(), 2));
}

TEST_F(SwapTest, OthersComputeWhileACopyIsUnderWay) {
  policy.max_rows = 2;
  make(6, 4, 1, 8);
  add_all({{1, 12}, {7, 12}});
  for (int i = 0; i < 6; ++i) step();
  ASSERT_GT(info(2).trace.level, 0);
  GenerateRequest q = request(7, 2, 9000);
  q.priority = -1;
  add(3, std::move(q));
  hold_copies = true;
  step();
  ASSERT_GT(num_out, 0);
  const RequestId out = info(1).state == State::swapped ? 1 : 2;
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(has(step(), 3 - out));
}

TEST_F(SwapTest, TheVictimIsTheOneThatWouldRunLast) {
  policy.max_rows = 3;
  policy.max_seqs = 3;
  make(60, 4, 1, 60);
  add_all({{30, 40}, {1, 40}, {7, 40}});  // levels 3, 0, 1
  for (int i = 0; i < 2; ++i) step();
  ASSERT_EQ(info(1).trace.level, 3);
  add_all({{1, 2}});
  step();
  EXPECT_EQ(info(1).state, State::swapped);
  EXPECT_EQ(info(2).state, State::running);
  EXPECT_EQ(info(3).state, State::running);
}

TEST_F(SwapTest, WhatJustCameInIsNotPushedOut) {
  policy.min_residency = 4;
  policy.max_seqs = 1;
  make(60, 4, 1, 60);
  add_all({{8, 40}});
  step();
  ASSERT_EQ(info(1).trace.level, 2);
  add_all({{1, 2}});
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(has(step(), 1));
  EXPECT_TRUE(has(step(), 2));
}

TEST_F(SwapTest, AFullHostMeansRecompute) {
  make(4, 4, 1, 1);
  policy.max_rows = 1;
  add_all({{7, 9}});
  for (int i = 0; i < 6; ++i) step();
  add_all({{3, 2}});
  run_until_idle();
  EXPECT_EQ(scheduler->stats().swaps, 0);
  EXPECT_EQ(tokens_of(1), 9);
}

TEST_F(SwapTest, CheapestFollowsTheCostModel) {
  for (const double copy : {1e-6, 1.0}) {
    policy.pressure = Policy::Pressure::cheapest;
    cost.per_block_copy = copy;
    events.clear();
    make(4, 4, 1, 8);
    last_id = 0, last_plan = 0, copies = {};
    add_all({{7, 9}});
    for (int i = 0; i < 6; ++i) step();
    GenerateRequest q = request(7, 2, 9000);
    q.priority = -1;
    add(2, std::move(q));
    run_until_idle();
    EXPECT_EQ(scheduler->stats().swaps, copy < 1 ? 1 : 0);
    EXPECT_EQ(tokens_of(1), 9);
  }
}

TEST_F(SwapTest, SamplesGoOutAndComeBackTogether) {
  policy.max_rows = 4;
  policy.max_seqs = 4;
  make(40, 4, 1, 40);
  GenerateRequest q = request(6, 12);
  q.num_samples = 4;
  add(1, std::move(q));
  for (int i = 0; i < 6; ++i) step();
  const int held = used();
  GenerateRequest urgent = request(2, 2, 9000);
  urgent.priority = -1;
  add(2, std::move(urgent));
  step();
  EXPECT_EQ(num_out, held);  // what they share goes out once
  EXPECT_EQ(info(1).state, State::swapped);
  run_until_idle();
  for (int i = 0; i < 4; ++i) EXPECT_EQ(tokens_of(1, i), 12);
  EXPECT_EQ(scheduler->stats().wasted_recompute, 0);
}

TEST_F(SwapTest, TheTraceSaysHowLongCopiesHeldARequestUp) {
  make(4, 4, 1, 8);
  add_all({{7, 9}});
  for (int i = 0; i < 5; ++i) step();
  EXPECT_EQ(info(1).trace.copy_time, Nanos{});
  add_all({{7, 2}});
  Instant let_in{};
  for (int i = 0; i < 20 && num_in == 0; ++i) {
    let_in = now;
    step();
  }
  ASSERT_EQ(info(1).state, State::arriving);
  hold_copies = true;
  step();
  now += milliseconds(5);
  hold_copies = false;
  const Instant resumed = now;
  step();
  ASSERT_EQ(info(1).state, State::running);
  EXPECT_EQ(info(1).trace.copy_time, resumed - let_in);
  EXPECT_GE(info(1).trace.copy_time, milliseconds(5));
  EXPECT_GT(info(1).trace.swapped_time, info(1).trace.copy_time);
}

TEST_F(SwapTest, CancelWhileSwappedOrOnTheWayFreesBothPools) {
  for (const bool on_the_way : {false, true}) {
    make(4, 4, 1, 8);
    last_id = 0, last_plan = 0, copies = {}, hold_copies = false;
    add_all({{7, 9}});
    for (int i = 0; i < 5; ++i) step();
    add_all({{7, 2}});
    hold_copies = !on_the_way;
    step();
    ASSERT_EQ(num_out, 3);
    for (int i = 0; on_the_way && i < 20 && num_in == 0; ++i) step();
    hold_copies = true;
    ASSERT_EQ(info(1).state, on_the_way ? State::arriving : State::swapped);
    scheduler->cancel(1);
    scheduler->check_invariants();
    hold_copies = false;
    run_until_idle();
    EXPECT_EQ(used(), 0);
    EXPECT_EQ(host->num_available(), 8);
  }
}

TEST_F(PolicyTest, AnEvictedPrefixComesBackFromTheHost) {
  policy.prefix_caching = true;
  make(6, 4, 1, 16);
  add(1, request(17, 1));
  run_until_idle();
  EXPECT_EQ(scheduler->stats().written_behind, 4);
  add(2, request(20, 4, 5000));  // takes all six blocks
  run_until_idle();
  add(3, request(17, 1));
  const auto rows = step();
  EXPECT_TRUE(rows.empty());
  EXPECT_EQ(num_in, 4);
  EXPECT_EQ(step()[0].begin, 16);
  EXPECT_EQ(first_of(3).num_cached, 16);
  EXPECT_EQ(scheduler->stats().host_cached_tokens, 16);
}

TEST_F(PolicyTest, ASessionGoesOnInsideItsLastBlock) {
  policy.prefix_caching = true;
  make(20, 16);
  std::vector<TokenId> said;
  draw = [&](RequestId, int, int n) { return TokenId(7000 + n); };
  GenerateRequest first = request(20, 6);
  first.session = 5;
  first.sampling.seed = 77;
  GenerateRequest next = first;
  for (int i = 0; i < 6; ++i) next.prompt.push_back(7000 + i);
  next.prompt.push_back(42);
  GenerateRequest other = next;
  other.session = 6;
  next.sampling.seed = 0;
  add(1, first);
  run_until_idle();
  GenerateRequest apart = request(20, 6, 5000);  // another session that got as far
  apart.session = 6;
  add(4, apart);
  run_until_idle();
  add(2, other);
  EXPECT_EQ(step()[0].begin, 16);  // whole blocks only
  run_until_idle();
  add(3, next);
  const StepPlan plan = scheduler->schedule(now, copies, events);
  ASSERT_EQ(plan.rows.size(), 1u);
  EXPECT_EQ(plan.rows[0].begin, 25);  // all but the token that was drawn last, and the new one
  EXPECT_EQ(plan.rows[0].seq->request->sampling.seed, 77u);
}

// Their number is bounded: the eighth that was used longest ago goes, and costs its memory only.
TEST_F(PolicyTest, TheOldestSessionsAreForgotten) {
  constexpr int kMost = 65536;
  policy.prefix_caching = true;
  make(20, 16);
  RequestId id = 0;
  const auto seed_of = [&](uint64_t session, uint64_t seed) {
    GenerateRequest q = request(3, 1);
    q.session = session;
    q.sampling.seed = seed;
    add(++id, q);
    const StepPlan plan = scheduler->schedule(now, copies, events);
    const uint64_t used = plan.rows.at(0).seq->request->sampling.seed;
    StepResult result;
    result.id = plan.id;
    result.first = {0, 1};
    result.tokens = {9};
    result.logprobs = {0};
    scheduler->commit(result, now, events);
    events.clear();
    return used;
  };
  for (int i = 1; i <= kMost; ++i) ASSERT_EQ(seed_of(uint64_t(i), 100), 100u);
  EXPECT_EQ(seed_of(1, 200), 100u);          // remembered, and used now
  EXPECT_EQ(seed_of(kMost + 1, 300), 300u);  // one too many
  EXPECT_EQ(seed_of(2, 200), 200u);
  EXPECT_EQ(seed_of(1, 200), 100u);
  EXPECT_EQ(seed_of(kMost, 200), 100u);
}

}  // namespace
}  // namespace sluice
