// The rules of the scheduler one by one: preemption, the prefix cache, samples that share blocks.
#include "tests/sim/rules.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;

// --- what no token sees any more -------------------------------------------------------------

TEST_F(Rules, BlocksBehindTheReachReturnWithTheStepsInFlight) {
  groups = {{1, 4}};
  make(8, 4, 2);
  add(1, request(8, 12));
  launch();
  launch();
  EXPECT_EQ(used(), 3);
  commit();  // position 8 sees 5 and what follows: the first block goes, but a step is in flight
  EXPECT_EQ(used(), 3);
  commit();
  EXPECT_EQ(used(), 2);
  while (finish_of(1) == FinishReason::none) {
    const auto rows = step();
    EXPECT_TRUE(rows.empty() || rows[0].blocks.size() <= 2u);
  }
  EXPECT_EQ(tokens_of(1), 12);
}

// Two of a stretch's three blocks are of layers with a window of 4.
TEST_F(Rules, OnlyWindowedLayersGiveBack) {
  groups = {{1, 0}, {2, 4}};
  make(16, 4);
  add(1, request(8, 12));
  step();
  EXPECT_EQ(used(), 4);  // position 8 sees 5 and what follows: of the first block all see none
  while (finish_of(1) == FinishReason::none) {
    const auto rows = step();
    EXPECT_EQ(rows[0].blocks.size(), size_t(rows[0].begin / 4 + 1));
    EXPECT_LE(rows[0].windowed.size(), 4u);
  }
  EXPECT_EQ(tokens_of(1), 12);
}

// Of a prefix the windowed layers need have only what the next token sees; where that is gone, a
// shorter one does.
TEST_F(Rules, APrefixNeedsOfWindowedLayersWhatTheNextTokenSees) {
  groups = {{1, 0}, {1, 4}};
  make(24, 4);
  add(1, request(17, 1));
  const std::vector<BlockId> windowed = step()[0].windowed;
  run_until_idle();
  const auto sharing = [](int tokens, TokenId others) {
    GenerateRequest q = request(17, 1);
    for (size_t i = size_t(tokens); i < 17; ++i) q.prompt[i] = others + TokenId(i);
    return q;
  };
  add(2, sharing(17, 0));  // position 16 sees 13 and what follows
  auto rows = step();
  EXPECT_EQ(rows[0].begin, 16);
  EXPECT_EQ(rows[0].blocks.size(), 5u);
  EXPECT_EQ(rows[0].windowed.size(), 2u);
  EXPECT_EQ(rows[0].windowed[0], windowed[3]);
  run_until_idle();
  // Those of tokens 4 to 11 were given back first: somebody else gets them first.
  std::vector<BlockId> others;
  while (!pool->published(windowed[1]).empty()) ASSERT_TRUE(pool->allocate(1, others));
  EXPECT_FALSE(pool->published(windowed[0]).empty());
  pool->release(others);
  add(3, sharing(8, 2000));  // position 8 sees 5
  rows = step();
  EXPECT_EQ(rows[0].begin, 4);
  EXPECT_EQ(rows[0].windowed[0], windowed[0]);
  run_until_idle();
}

// A pool for 24 tokens of all layers, or for 36 whose windowed layers give back as the prompt is
// computed, six tokens a step.
TEST_F(Rules, AWindowedTableFollowsAPromptThatFitsNoOtherWay) {
  groups = {{1, 0}, {2, 4}};
  policy.max_step_tokens = 6;
  const int held = window_stretches(4, 6, 4);
  EXPECT_EQ(held, 4);
  make(9 + 2 * held, 4);
  EXPECT_FALSE(try_add(9, request(33, 5)).ok());  // a stretch more
  auto two = request(25, 4);
  two.num_samples = 2;  // they share tables, which do not follow
  EXPECT_FALSE(try_add(8, two).ok());
  add(1, request(33, 4));
  int most = 0;
  for (int begin = 0; begin < 33; begin += 6) {
    const auto rows = launch();
    EXPECT_THAT(rows, ElementsAre(Row{1, 0, begin, std::min(6, 33 - begin), 0, begin == 30, {}}));
    EXPECT_EQ(rows[0].blocks.size(), 9u);
    EXPECT_LE(rows[0].windowed.size(), size_t(2 * held));
    most = std::max(most, used());
    commit();
  }
  EXPECT_EQ(most, 9 + 2 * held);
  run_until_idle();
  EXPECT_EQ(tokens_of(1), 4);
  // Who sets aside all that it may need must fit with all of it.
  policy.max_preemptions = 0;
  make(9 + 2 * held, 4);
  EXPECT_FALSE(try_add(2, request(33, 4)).ok());
}

// For one token a prompt takes from others, for more of them only what is free.
TEST_F(Rules, AChunkTakesRoomForMoreTokensFromNobody) {
  groups = {{1, 0}, {1, 4}};
  policy.max_step_tokens = 11;
  policy.prefix_caching = false;
  make(33, 4);
  for (RequestId id : {3, 1, 2}) {  // in the end 1 grows into what 2 gives back; 3 is behind both
    auto q = request(id == 2 ? 80 : 4, id == 2 ? 2 : 40, TokenId(1000 * id));
    q.priority = int(id);
    add(id, q);
    step();
  }
  EXPECT_EQ(pool->num_available(), 1);
  while (finish_of(2) == FinishReason::none) step();
  EXPECT_EQ(scheduler->stats().preemptions, 0);
}

// Others take from it more often than from those that all could be set aside for.
TEST_F(Rules, WhatCannotBeSetAsideForHasNoBoundOfPreemptions) {
  groups = {{1, 0}, {2, 4}};
  policy.max_step_tokens = 6;
  policy.max_preemptions = 1;
  policy.prefix_caching = false;
  make(9 + 2 * window_stretches(4, 6, 4), 4);
  auto giant = request(5, 32);
  giant.priority = 1;
  add(1, giant);
  for (RequestId id = 2; id < 5; ++id) {
    while (!has(step(), 1)) {
    }
    add(id, request(5, 14, TokenId(2000 * id)));
    while (finish_of(id) == FinishReason::none) step();
  }
  run_until_idle();
  EXPECT_GT(scheduler->stats().preemptions, 1);
  EXPECT_EQ(tokens_of(1), 32);
}

// What somebody holds already takes no room, in any of a stretch's blocks.
TEST_F(Rules, ASharedPrefixTakesNoRoomInAnyTable) {
  groups = {{2, 0}, {2, 9}};
  make(4 * 5 + 4, 4);
  add(1, request(17, 3));  // 5 stretches; 2 of 4 go back, and stay cached
  step();
  add(2, request(17, 3));  // one more: the rest is shared
  EXPECT_EQ(step().size(), 2u);
  EXPECT_EQ(used(), 4 * 6 - 4);
  run_until_idle();
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

TEST_F(Rules, NobodyComesInWhileOthersArePutOut) {
  policy.prefix_caching = false;
  make(6, 4);
  add(1, request(8, 8));
  add(2, request(13, 4, 2000));
  step();
  add(3, request(3, 4, 3000));
  EXPECT_THAT(step(), ElementsAre(Row{1, 0, 8, 1, 1, 1, {}}));  // takes one of the four of 2
  EXPECT_EQ(scheduler->stats().preemptions, 1);
  EXPECT_THAT(step(), ElementsAre(Row{1, 0, 9, 1, 1, 1, {}}, Row{3, 0, 0, 3, 1, 1, {}}));
}

TEST_F(Rules, AVictimIsKeptOutUntilItHasLanded) {
  policy.prefix_caching = false;
  make(5, 4, 2);
  add(1, request(8, 8));
  add(2, request(9, 8, 2000));  // has room in its third block
  EXPECT_EQ(launch().size(), 2u);
  EXPECT_EQ(launch().size(), 0u);  // another row of 2 would put off its landing for ever
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

// Its block could else go to a copy from the host before the step that copies it has run.
TEST_F(Rules, TheLastSampleThatLivesWritesInPlaceWhileOthersLand) {
  policy.max_rows = 1;
  make(64, 4, 2);
  auto q = request(6, 5);
  q.num_samples = 3;
  add(1, q);
  step();
  ASSERT_EQ(launch().size(), 1u);  // the first sample copies
  EXPECT_EQ(num_copies, 1);
  scheduler->cancel(1, 0);
  scheduler->cancel(1, 1);  // holds the block it shares until that step has landed
  const auto rows = launch();
  ASSERT_EQ(rows.size(), 1u);
  EXPECT_EQ(rows[0].sample, 2);
  EXPECT_EQ(num_copies, 0);
  run_until_idle();
  EXPECT_EQ(tokens_of(1, 2), 5);
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

}  // namespace
}  // namespace sluice
