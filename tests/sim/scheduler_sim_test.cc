// Random worlds over all choices of the scheduler, at several depths.
#include <gtest/gtest.h>

#include <csignal>
#include <cstdio>

#include "tests/sim/world.h"

namespace sluice {
namespace {

constexpr int kWorldsPerDepth = 1500;

// A CHECK aborts: say which world it was.
uint64_t current_seed = 0;
int current_depth = 0;
void say_world(int) {
  std::fprintf(stderr, "in the world of seed %llu, depth %d\n", (unsigned long long)current_seed,
               current_depth);
}

class Worlds : public ::testing::TestWithParam<int> {};

TEST_P(Worlds, EveryOutputEqualsTheRequestRunAlone) {
  std::signal(SIGABRT, say_world);
  std::signal(SIGSEGV, say_world);
  Coverage c;
  current_depth = GetParam();
  for (current_seed = 0; current_seed < kWorldsPerDepth; ++current_seed) {
    World world(current_seed, current_depth, c);
    world.run();
    ASSERT_FALSE(HasFailure()) << "seed " << current_seed << ", depth " << current_depth;
  }
  std::printf(
      "requests %ld (refused %ld, overloaded %ld) steps %ld tokens %ld preemptions %ld (at the "
      "bound %ld) cached %ld forks %ld copies %ld cancels in prefill %ld of samples %ld deadlines "
      "%ld overtakes %ld prompt logprobs %ld\n",
      long(c.requests), long(c.refused), long(c.overloaded), long(c.steps), long(c.tokens),
      long(c.preemptions), long(c.restarts_at_bound), long(c.cached_tokens), long(c.forks),
      long(c.copies), long(c.mid_prefill_cancels), long(c.sample_cancels), long(c.deadlines),
      long(c.overtakes), long(c.prompt_logprobs));
  std::printf(
      "swaps %ld blocks in %ld proactive %ld demotions %ld promotions %ld written behind %ld host "
      "cached %ld session tails %ld oldest %ld orca %ld storms %ld starved %ld\n",
      long(c.swaps), long(c.blocks_in), long(c.proactive), long(c.demotions), long(c.promotions),
      long(c.written_behind), long(c.host_cached), long(c.session_tails), long(c.oldest),
      long(c.orca), long(c.storms), long(c.starved));
  for (int64_t seen :
       {c.swaps, c.blocks_in, c.proactive, c.demotions, c.promotions, c.written_behind,
        c.host_cached, c.session_tails, c.oldest, c.storms, c.starved, c.given_back,
        c.windowed_given_back, c.windowed_cached, c.following, c.giants}) {
    EXPECT_GT(seen, 0);
  }
  EXPECT_GT(c.refused, 0);
  EXPECT_GT(c.overloaded, 0);
  EXPECT_GT(c.preemptions, 0);
  EXPECT_GT(c.restarts_at_bound, 0);
  EXPECT_GT(c.cached_tokens, 0);
  EXPECT_GT(c.forks, 0);
  EXPECT_GT(c.copies, 0);
  EXPECT_GT(c.mid_prefill_cancels, 0);
  EXPECT_GT(c.sample_cancels, 0);
  EXPECT_GT(c.deadlines, 0);
  EXPECT_GT(c.overtakes, 0);
  EXPECT_GT(c.prompt_logprobs, 0);
}

INSTANTIATE_TEST_SUITE_P(Depth, Worlds, ::testing::Range(1, 5));

}  // namespace
}  // namespace sluice
