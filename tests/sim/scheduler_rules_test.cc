// The rules of the scheduler one by one: steps, ends, waiting, admission, leaving, steps in flight.
#include "tests/sim/rules.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

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

TEST_F(Rules, FirstInOrderAdvancesHoweverManyDecode) {
  policy.max_step_tokens = 2;
  policy.max_seqs = 5;
  make(64, 4);
  auto q = request(1, 1);
  q.num_samples = 3;
  add(1, q);
  q = request(20, 5, 2000);
  q.num_samples = 3;
  add(2, q);  // has to wait for slots
  q = request(2, 9, 3000);
  q.num_samples = 2;
  add(3, q);
  EXPECT_THAT(step(), ElementsAre(Row{1, 0, 0, 1, 0, 3, {}}, Row{3, 0, 0, 1, 0, 0, {}}));
  EXPECT_THAT(step(), ElementsAre(Row{3, 0, 1, 1, 0, 2, {}}, Row{2, 0, 0, 1, 0, 0, {}}));
  // The two samples of 3 could take the whole budget from here on.
  EXPECT_THAT(step(), ElementsAre(Row{3, 0, 2, 1, 0, 1, {}}, Row{2, 0, 1, 1, 0, 0, {}}));
  EXPECT_THAT(step(), ElementsAre(Row{3, 0, 3, 1, 0, 1, {}}, Row{2, 0, 2, 1, 0, 0, {}}));
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
  ASSERT_EQ(first_of(1).known().prompt_logprobs.size(), 9u);
  for (int p = 0; p < 9; ++p) {
    EXPECT_EQ(first_of(1).known().prompt_logprobs[size_t(p)].token, 1001 + p);
    EXPECT_EQ(first_of(1).known().prompt_logprobs[size_t(p)].logprob, float(p));
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
