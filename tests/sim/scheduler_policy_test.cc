// The five choices, one rule at a time.
#include "tests/sim/policy_rules.h"

namespace sluice {
namespace {

TEST_F(MlfqTest, SkipJoinPicksTheFirstLevelWhoseQuantumHoldsThePrefill) {
  make(100, 4);
  // Prefill work is 1 ms a token and the constant; quanta are 4, 8, 16, 32 ms.
  add_all({{3, 1}, {4, 1}, {7, 1}, {8, 1}, {15, 1}, {16, 1}});
  const std::vector<int> levels = {0, 1, 1, 2, 2, 3};
  for (RequestId id = 1; id <= 6; ++id) EXPECT_EQ(info(id).trace.level, levels[id - 1]) << id;
}

TEST_F(MlfqTest, WhatTheCacheHoldsDoesNotCountForTheLevel) {
  policy.prefix_caching = true;
  make(100, 4);
  add(1, request(17, 1));
  EXPECT_EQ(info(1).trace.level, 3);
  run_until_idle();
  add(2, request(17, 1));
  EXPECT_EQ(info(2).trace.level, 0);  // one token of 17 is left
}

TEST_F(MlfqTest, DemotionGoesOneLevelAtATimeAndStartsWithNoService) {
  make(100, 4);
  add_all({{1, 40}});
  // Each step of it alone costs 2 ms: the quantum of 4 ms is used up after two, of 8 after four...
  std::vector<int> levels;
  for (int i = 0; i < 15; ++i) {
    step();
    levels.push_back(info(1).trace.level);
  }
  EXPECT_EQ(levels, (std::vector<int>{0, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3}));
}

TEST_F(MlfqTest, ADecodeBesideALongPrefillPaysItsOwnShareOnly) {
  policy.quantum = 0.008;
  make(100, 4);
  add_all({{1, 40}});
  step();
  add_all({{60, 1}});
  step();  // 64 ms of wall time; its share is a row's 1 ms and half the constant
  EXPECT_EQ(info(1).trace.level, 0);
}

TEST_F(MlfqTest, RowsGoToTheBestLevelAndNobodyLosesItsBlocks) {
  policy.max_rows = 1;
  make(100, 4);
  add_all({{1, 40}});
  for (int i = 0; i < 4; ++i) step();
  EXPECT_EQ(info(1).trace.level, 1);
  policy.proactive = true;
  add_all({{2, 3}});
  // Not proactive in this scheduler: the newcomer comes in when a row is free.
  EXPECT_TRUE(has(step(), 1));
}

TEST_F(MlfqTest, AnOutrankingNewcomerTakesTheRowAtOnce) {
  policy.max_rows = 1;
  policy.proactive = true;
  make(100, 4);
  add_all({{1, 40}});
  for (int i = 0; i < 4; ++i) step();
  add_all({{2, 2}});
  const auto rows = step();
  EXPECT_TRUE(has(rows, 2));
  EXPECT_FALSE(has(rows, 1));
  EXPECT_EQ(info(1).state, State::running);
  EXPECT_EQ(scheduler->stats().preemptions, 0);
}

TEST_F(MlfqTest, WhoWaitsPastItsBoundGoesFirstAndStartsAtTheTop) {
  policy.max_rows = 1;
  policy.proactive = true;
  policy.promote_after = milliseconds(50);
  make(100, 4);
  add_all({{1, 100}});
  for (int i = 0; i < 7; ++i) step();
  EXPECT_EQ(info(1).trace.level, 2);
  int waited = 0;
  // A stream of short ones, each better than it.
  for (int i = 0; i < 60 && waited < 60; ++i) {
    add_all({{1, 1}});
    if (has(step(), 1)) break;
    ++waited;
  }
  EXPECT_GT(waited, 20);  // 2 ms a step: 50 ms are 25 steps
  EXPECT_LE(waited, 26);
  EXPECT_EQ(info(1).trace.promotions, 1);
  EXPECT_EQ(info(1).trace.level, 0);
  const auto stats = scheduler->stats();
  EXPECT_EQ(stats.running_at[2] + stats.waiting_at[2], 0);
}

TEST_F(MlfqTest, AVisitToTheTopLastsOneQuantum) {
  policy.max_rows = 1;
  policy.proactive = true;
  policy.promotion = Policy::Promotion::visit;
  policy.promote_after = milliseconds(50);
  make(100, 4);
  add_all({{1, 100}});
  for (int i = 0; i < 7; ++i) step();
  ASSERT_EQ(info(1).trace.level, 2);
  // A stream of short ones.
  int ran = 0, pause = 0, longest = 0;
  for (int i = 0; i < 300; ++i) {
    add_all({{1, 1}});
    if (!has(step(), 1)) {
      longest = std::max(longest, ++pause);
      continue;
    }
    pause = 0;
    ++ran;
    EXPECT_TRUE(info(1).trace.level == 0 || info(1).trace.level == 2) << info(1).trace.level;
  }
  EXPECT_LE(longest, 26);  // 50 ms are 25 steps
  EXPECT_GE(info(1).trace.promotions, 8);
  EXPECT_LE(ran, 3 * info(1).trace.promotions);  // 4 ms of work are two steps, or three
}

TEST_F(MlfqTest, WhoStarvesOnAVisitGoesBackToWhereItCameFrom) {
  policy.max_rows = 1;
  policy.proactive = true;
  policy.promotion = Policy::Promotion::visit;
  policy.promote_after = milliseconds(50);
  make(100, 4);
  add_all({{1, 100}});
  for (int i = 0; i < 7; ++i) step();
  const auto run_beside = [&](int output) {
    GenerateRequest urgent = request(1, output, TokenId(1000 * ++last_id));
    urgent.priority = -1;
    add(last_id, std::move(urgent));
    while (!has(step(), 1)) {
    }
  };
  run_beside(30);
  ASSERT_EQ(info(1).trace.level, 0);
  run_beside(30);
  ASSERT_EQ(info(1).trace.promotions, 2);
  for (int i = 0; i < 4 && info(1).trace.level == 0; ++i) step();
  EXPECT_EQ(info(1).trace.level, 2);
}

TEST_F(MlfqTest, AVisitIsForAnswersNotForPrompts) {
  policy.max_rows = 1;
  policy.max_step_tokens = 8;
  policy.proactive = true;
  policy.promotion = Policy::Promotion::visit;
  policy.promote_after = milliseconds(50);
  make(100, 4);
  add_all({{2, 1}, {64, 2}});
  ASSERT_GT(info(2).trace.level, 2);
  for (int i = 0; i < 100 && info(2).trace.chunks == 0; ++i) {
    add_all({{2, 1}});
    step();
  }
  EXPECT_EQ(info(2).trace.promotions, 1);
  EXPECT_EQ(info(2).trace.level, 1);  // a chunk is more than the first quantum
}

TEST_F(MlfqTest, PatienceGrowsWithTheLevel) {
  policy.max_rows = 1;
  policy.proactive = true;
  policy.promote_after = milliseconds(20);
  policy.promote_growth = 2;
  make(100, 4);
  add_all({{1, 100}});
  for (int i = 0; i < 7; ++i) step();
  ASSERT_EQ(info(1).trace.level, 2);  // 80 ms
  int waited = 0;
  for (; waited < 100; ++waited) {
    add_all({{1, 1}});
    if (has(step(), 1)) break;
  }
  EXPECT_GT(waited, 35);
  EXPECT_LE(waited, 41);
}

TEST_F(MlfqTest, AFirstTokenTargetMovesARequestUpInTime) {
  policy.max_rows = 1;
  make(100, 4);
  add_all({{8, 2}});
  for (RequestId id = 2; id <= 30; ++id) {
    GenerateRequest q = request(2, 2, TokenId(1000 * id));
    if (id == 30) q.first_token_by = now + milliseconds(40);
    add(id, std::move(q));
  }
  for (int i = 0; i < 200 && tokens_of(30) == 0; ++i) step();
  EXPECT_LE(now.time_since_epoch(), milliseconds(48));
}

TEST_F(MlfqTest, ALongPromptDoesNotBlockShortOnes) {
  policy.max_step_tokens = 8;
  make(100, 4);
  add_all({{200, 2}});
  step();
  for (int i = 0; i < 5; ++i) {
    add_all({{3, 1}});
    const auto rows = step();
    EXPECT_EQ(finish_of(last_id), FinishReason::length);
    EXPECT_TRUE(has(rows, 1));  // what is left over is the long one's
  }
}

TEST_F(MlfqTest, PrioritiesComeBeforeLevels) {
  policy.max_rows = 1;
  policy.proactive = true;
  make(100, 4);
  add_all({{1, 40}});
  step();
  GenerateRequest urgent = request(30, 2, 9000);
  urgent.priority = -1;
  add(2, std::move(urgent));
  EXPECT_TRUE(has(step(), 2));
  GenerateRequest idle = request(1, 2, 8000);
  idle.priority = 1;
  add(3, std::move(idle));
  run_until_idle();
  EXPECT_EQ(finish_of(3), FinishReason::length);
}

TEST_F(PolicyTest, TenantsShareByWeight) {
  for (const double weight : {1.0, 3.0}) {
    policy.order = Policy::Order::mlfq;
    policy.tenant_weights = {1.0, weight};
    policy.max_seqs = 4;
    policy.max_queue = 100000;
    make(1000, 4);
    RequestId id = 0;
    for (int i = 0; i < 1100; ++i) {
      GenerateRequest q = request(4 + i % 9, 5 + i % 7, TokenId(10 * i));
      q.tenant = i % 11 == 0;
      add(++id, std::move(q));
    }
    for (int i = 0; i < 200; ++i) step();
    const double share =
        scheduler->tenant_served(1) / (scheduler->tenant_served(0) + scheduler->tenant_served(1));
    EXPECT_NEAR(share, weight / (1 + weight), 0.05);
  }
}

TEST_F(PolicyTest, AnIdleTenantBanksNothing) {
  policy.tenant_weights = {1, 1};
  policy.max_seqs = 1;
  make(1000, 4);
  RequestId id = 0;
  const auto send = [&](uint32_t tenant) {
    GenerateRequest q = request(4, 4, TokenId(100 * id));
    q.tenant = tenant;
    add(++id, std::move(q));
  };
  for (int i = 0; i < 50; ++i) send(0);
  for (int i = 0; i < 100; ++i) step();
  const double before = scheduler->tenant_served(0);
  for (int i = 0; i < 50; ++i) send(1);
  for (int i = 0; i < 40; ++i) step();
  EXPECT_NEAR(scheduler->tenant_served(0) - before, scheduler->tenant_served(1), 9);
}

TEST_F(PolicyTest, ATenantWhoseRequestsAllRunIsOwedACacheFullAtMost) {
  policy.tenant_weights = {1, 1};
  policy.max_seqs = 4;
  make(20, 4);  // 80 tokens
  RequestId id = 0;
  const auto send = [&](uint32_t tenant) {
    GenerateRequest q = request(4, 8, TokenId(100 * id));
    q.tenant = tenant;
    add(++id, std::move(q));
  };
  for (int i = 0; i < 400; ++i) send(0);
  for (int i = 0; i < 200; ++i) {  // one of its own at a time: a quarter of what is computed
    if (i % 8 == 0) send(1);
    step();
  }
  const double first = scheduler->tenant_served(0), second = scheduler->tenant_served(1);
  EXPECT_GT(first, 2 * second);
  for (int i = 0; i < 200; ++i) send(1);
  for (int i = 0; i < 100; ++i) step();
  EXPECT_NEAR(scheduler->tenant_served(1) - second, scheduler->tenant_served(0) - first, 80 + 24);
}

TEST_F(PolicyTest, TheBudgetKeepsAStepWithinTheTargetInterval) {
  policy.budget = Policy::Budget::target;
  policy.token_interval = 0.020;
  policy.min_chunk = 2;
  make(100, 4);
  add_all({{1, 40}, {1, 40}});
  step();
  add_all({{60, 2}});
  const auto rows = step();
  ASSERT_EQ(rows.size(), 3u);
  EXPECT_EQ(rows[2].count, 17);  // 20 ms less the constant and two decodes of 1 ms
}

TEST_F(PolicyTest, ARequestsOwnIntervalShortensTheStep) {
  policy.budget = Policy::Budget::target;
  policy.token_interval = 0.060;
  make(100, 4);
  GenerateRequest q = request(1, 40);
  q.token_interval = milliseconds(22);
  add(++last_id, std::move(q));
  step();
  add_all({{60, 2}});
  EXPECT_EQ(step()[1].count, 20);
}

TEST_F(PolicyTest, WithNobodyDecodingAPromptGetsTheWholeStep) {
  policy.budget = Policy::Budget::target;
  policy.token_interval = 0.005;
  make(100, 4);
  add_all({{60, 2}});
  EXPECT_EQ(step()[0].count, 60);
}

TEST_F(PolicyTest, SplitFuseEvensOutAPrompt) {
  policy.budget = Policy::Budget::split_fuse;
  policy.max_prefill_steps = 4;
  policy.min_chunk = 1;
  make(100, 4);
  add_all({{1, 40}});
  step();
  add_all({{40, 1}});
  step();
  EXPECT_EQ(info(2).trace.events.back().value, 10);
}

TEST_F(PolicyTest, AStepThatCutsAPromptEndsWithATile) {
  policy.tile_tokens = 16;
  policy.max_step_tokens = 40;
  make(1000, 4);
  add(1, request(5, 9));
  add(2, request(200, 1, 2000));
  add(3, request(200, 1, 3000));
  const auto counts = [&] {
    std::vector<int> out;
    for (const Row& row : step()) out.push_back(row.count);
    return out;
  };
  EXPECT_EQ(counts(), (std::vector<int>{5, 27}));  // the third waits for a tile of its own
  EXPECT_EQ(counts(), (std::vector<int>{1, 31}));
  policy.tile_tokens = 64;  // beyond what a step holds: no tile can be filled
  make(1000, 4);
  add(1, request(200, 1));
  EXPECT_EQ(counts(), (std::vector<int>{40}));
}

TEST_F(PolicyTest, WholePromptsAreNotCut) {
  policy.step = Policy::Step::whole;
  policy.order = Policy::Order::fcfs_strict;
  policy.max_step_tokens = 20;
  make(100, 4);
  add_all({{12, 4}, {12, 4}, {2, 4}});
  const auto rows = step();
  ASSERT_EQ(rows.size(), 1u);  // the second does not fit, and nobody overtakes it
  EXPECT_EQ(rows[0].count, 12);
  EXPECT_EQ(step().size(), 3u);
  EXPECT_EQ(try_add(9, request(18, 4)).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(PolicyTest, PrefillsFirstMeansStepsOfTheirOwn) {
  policy.step = Policy::Step::prefill_first;
  make(100, 4);
  add_all({{4, 4}});
  step();
  add_all({{4, 4}});
  auto rows = step();
  ASSERT_EQ(rows.size(), 1u);
  EXPECT_EQ(rows[0].id, 2u);
  rows = step();
  EXPECT_EQ(rows.size(), 2u);
}

TEST_F(PolicyTest, ABatchRunsUntilItsLastMemberEnds) {
  policy.step = Policy::Step::batch;
  make(100, 4);
  add_all({{4, 2}, {4, 6}});
  step();
  add_all({{4, 2}});
  while (finish_of(2) == FinishReason::none) EXPECT_FALSE(has(step(), 3));
  EXPECT_TRUE(has(step(), 3));
}

TEST_F(PolicyTest, NewcomersGatherUntilTheyAreMany) {
  policy.step = Policy::Step::ratio;
  policy.waiting_ratio = 0.5;
  policy.max_waiting_steps = 5;
  make(100, 4);
  add_all({{4, 90}, {4, 90}, {4, 90}, {4, 90}});
  step();
  add_all({{4, 9}});
  EXPECT_FALSE(has(step(), 5));
  add_all({{4, 9}});
  EXPECT_TRUE(has(step(), 5));  // two for four
  add_all({{4, 9}});
  int waited = 0;
  while (!has(step(), 7)) ++waited;
  EXPECT_EQ(waited, 4);  // or the fifth step since
}

TEST_F(PolicyTest, FullReservationNeverPreempts) {
  policy.reservation = Policy::Reservation::full;
  make(6, 4);
  add_all({{4, 9}, {4, 9}, {4, 9}});
  EXPECT_EQ(step().size(), 2u);  // 3 blocks each
  run_until_idle();
  EXPECT_EQ(scheduler->stats().preemptions, 0);
}

TEST_F(PolicyTest, OnlyGroupsAreSwappedWhereThatIsTheRule) {
  policy.pressure = Policy::Pressure::swap_groups;
  make(8, 4, 1, 40);
  GenerateRequest group = request(4, 12);
  add(1, request(4, 12));
  group.num_samples = 2;
  group.prompt[0] = 1;
  add(2, std::move(group));
  add(3, request(4, 12, 5000));
  run_until_idle();
  EXPECT_GT(scheduler->stats().preemptions, scheduler->stats().swaps);
  EXPECT_GT(scheduler->stats().swaps, 0);
}

TEST_F(PolicyTest, TheTraceTellsWhatHappened) {
  make(4, 4);
  add_all({{7, 9}, {7, 4}});
  run_until_idle();
  std::shared_ptr<const RequestTrace> trace;
  for (const TokenEvent& e : events) {
    EXPECT_EQ(e.known().trace != nullptr, e.finish != FinishReason::none);
    if (e.request == 2 && e.known().trace) trace = e.known().trace;
  }
  ASSERT_TRUE(trace);
  EXPECT_EQ(trace->prompt_tokens, 7);
  EXPECT_EQ(trace->output_tokens, 4);
  EXPECT_EQ(trace->recomputes, 1);
  EXPECT_GT(trace->recomputed_tokens, 0);
  EXPECT_EQ(trace->recomputed_tokens, scheduler->stats().wasted_recompute);
  EXPECT_LE(trace->admitted, trace->first_token);
  EXPECT_LT(trace->first_token, trace->ended);
  EXPECT_EQ(trace->events.back().kind, RequestTrace::Kind::ended);
}

}  // namespace
}  // namespace sluice
