// What a request gets does not depend on anything that happens around it: one set of requests under
// every preset of the scheduler, with chunks and pools of any size, memory that is taken away and
// given back at random, copies that hang and clients that leave. Alone, in one piece and with all
// the memory there is, is the definition.
#include "tests/unit/engine/trial.h"

namespace sluice {
namespace {

bool cuts_prompts(const Policy& p) {
  return p.step != Policy::Step::whole && p.step != Policy::Step::prefill_first;
}

// Every chunk with every pool and host pool, a few times; the rest is drawn.
std::vector<Scenario> scenarios(std::string_view preset, const Requests& requests) {
  constexpr int kTimes = 3;
  const int least = largest_need(requests, Scenario().block_size);
  std::vector<Scenario> all;
  for (const int chunk : {5, 32, 256})
    for (const int blocks : {least, least * 3 / 2, kManyBlocks})
      for (const int host_blocks : {0, least / 3, least * 6})
        for (int i = 0; i < kTimes; ++i) {
          Scenario s;
          s.seed = all.size() + 1;
          std::mt19937_64 rng(mix64(s.seed));
          const auto one_in = [&](uint64_t n) { return rng() % n == 0; };
          s.policy = policy_of(preset);
          s.policy.max_step_tokens = cuts_prompts(s.policy) ? chunk : longest(requests) + chunk;
          s.policy.max_seqs = one_in(3) ? 4 : 32;
          s.policy.prefix_caching = s.policy.write_behind = !one_in(3);
          if (!one_in(3)) s.policy.max_preemptions = 1000;
          if (one_in(2)) s.policy.promote_after = 30ms;
          if (one_in(2)) s.policy.promotion = Policy::Promotion::visit;
          if (!one_in(3)) s.policy.pressure = Policy::Pressure::swap;
          s.num_blocks = blocks;
          s.num_host_blocks = host_blocks;
          s.longest_hold = int(rng() % 12);
          s.at_once = one_in(3);
          s.mixed_priorities = one_in(2);
          s.squeezes = !one_in(4);
          s.leaves = one_in(3);
          all.push_back(s);
        }
  return all;
}

class ExactnessTest : public testing::TestWithParam<std::string_view> {};
INSTANTIATE_TEST_SUITE_P(Presets, ExactnessTest, testing::ValuesIn(preset_names()),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(ExactnessTest, WhateverHappensAround) {
  Rank rank = load(llama(false), "auto", 1);
  const Requests requests = requests_of(rank);
  const Traces expected = each_alone(rank, requests);
  std::map<RequestId, std::pair<int, int>> preempted;
  int held = 0, beside = 0, left = 0;
  int64_t cached = 0, host_cached = 0;
  for (const Scenario& s : scenarios(GetParam(), requests)) {
    SCOPED_TRACE(testing::Message() << GetParam() << ": " << s);
    const Outcome out = Trial(rank, s, requests).go();
    ASSERT_NO_FATAL_FAILURE(expect_same(out, expected));
    ASSERT_FALSE(HasFailure());
    for (const auto& [id, counts] : out.preempted) {
      preempted[id].first += counts.first;
      preempted[id].second += counts.second;
    }
    held += out.held_plans, beside += out.steps_beside, left += out.left;
    cached += out.stats.cached_tokens, host_cached += out.stats.host_cached_tokens;
  }
  // Where nothing happens, all of the above holds too.
  EXPECT_GT(left, 50);
  EXPECT_GT(held, 100);
  EXPECT_GT(beside, 100);
  EXPECT_GT(cached, 1000);
  EXPECT_GT(host_cached, 100);
  EXPECT_EQ(preempted.size(), requests.size());
  const bool full = policy_of(GetParam()).reservation == Policy::Reservation::full;
  for (const auto& [id, counts] : preempted) {
    EXPECT_EQ(counts.first > 0, !full) << "swaps of request " << id;
    EXPECT_EQ(counts.second > 0, !full) << "recomputes of request " << id;
  }
}

// Whoever has blocks to wait for waits alone.
TEST(HeldCopiesTest, StepsGoOnWhileTheyHang) {
  Rank rank = load(llama(false), "auto", 1);
  const Requests requests = requests_of(rank);
  Scenario s;
  s.policy = policy_of("sluice");
  s.policy.max_step_tokens = 24;
  s.policy.pressure = Policy::Pressure::swap;
  s.num_blocks = largest_need(requests, Scenario().block_size) * 2;
  s.num_host_blocks = kManyBlocks;
  s.longest_hold = 40;
  s.even_holds = true;
  const Outcome out = Trial(rank, s, requests).go();
  expect_same(out, each_alone(rank, requests));
  EXPECT_GT(out.stats.swaps, 0);
  EXPECT_GE(out.longest_beside, 20);
  EXPECT_GT(out.steps_beside, 100);
}

}  // namespace
}  // namespace sluice
