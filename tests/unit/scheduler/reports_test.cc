// What a scheduler tells those who run it: when the blocks of a cancelled request are back, and
// what its tenants have.
#include <gtest/gtest.h>

#include "scheduler/scheduler.h"

namespace sluice {
namespace {

GenerateRequest request(int prompt_len) {
  GenerateRequest r;
  for (int i = 0; i < prompt_len; ++i) r.prompt.push_back(i);
  r.sampling.max_tokens = 20;
  r.sampling.ignore_eos = true;
  return r;
}

struct World {
  explicit World(int num_blocks, int depth = 1)
      : pool(num_blocks, 4),
        host(100, 4, pool.hasher()),
        scheduler(policy(), CostModel(), pool, &host, depth, {}, 1000) {}
  static Policy policy() {
    Policy p;
    p.pressure = Policy::Pressure::swap;
    p.prefix_caching = p.write_behind = false;
    return p;
  }
  StepPlan schedule() { return scheduler.schedule(Instant{}, copies, events); }
  void commit(const StepPlan& plan) {
    StepResult r;
    r.id = plan.id;
    r.first = {0};
    for (const StepRow& row : plan.rows) {
      for (int i = 0; i < row.num_samples; ++i) r.tokens.push_back(7);
      r.first.push_back(int(r.tokens.size()));
    }
    r.logprobs.resize(r.tokens.size());
    scheduler.commit(r, Instant{}, events);
  }
  BlockPool pool, host;
  CopyProgress copies;
  std::vector<TokenEvent> events;
  Scheduler scheduler;
};

TEST(ReleaseTest, BlocksOfAStepInFlightComeBackWhenItIsCommitted) {
  World w(20, 2);
  ASSERT_TRUE(w.scheduler.add(1, request(10), Instant{}).ok());
  const StepPlan plan = w.schedule();
  const auto release = w.scheduler.cancel(1);
  ASSERT_TRUE(release.has_value());
  EXPECT_FALSE(w.scheduler.released(*release));
  EXPECT_LT(w.pool.num_available(), 20);
  w.commit(plan);
  EXPECT_TRUE(w.scheduler.released(*release));
  EXPECT_EQ(w.pool.num_available(), 20);
}

TEST(ReleaseTest, BlocksOnTheirWayToTheHostComeBackWhenTheyAreThere) {
  World w(26);
  ASSERT_TRUE(w.scheduler.add(1, request(40), Instant{}).ok());
  ASSERT_TRUE(w.scheduler.add(2, request(40), Instant{}).ok());
  StepPlan plan;
  while (plan.swap_out.empty()) {
    plan = w.schedule();
    ASSERT_FALSE(plan.empty());
    w.commit(plan);
  }
  const auto second = w.scheduler.cancel(2), first = w.scheduler.cancel(1);
  ASSERT_TRUE(first.has_value() && second.has_value());
  EXPECT_TRUE(w.scheduler.released(*first));  // that one stayed
  EXPECT_FALSE(w.scheduler.released(*second));
  EXPECT_LT(w.pool.num_available(), 26);
  w.copies.done = plan.id;
  w.schedule();
  EXPECT_TRUE(w.scheduler.released(*second));
  EXPECT_EQ(w.pool.num_available(), 26);
  EXPECT_EQ(w.host.num_available(), 100);
}

TEST(ReleaseTest, NothingIsOwedForWhatIsNotThereOrGoesOn) {
  World w(20);
  EXPECT_FALSE(w.scheduler.cancel(1).has_value());
  GenerateRequest two = request(10);
  two.num_samples = 2;
  two.sampling.max_tokens = 5;
  ASSERT_TRUE(w.scheduler.add(1, two, Instant{}).ok());
  EXPECT_FALSE(w.scheduler.cancel(1, 0).has_value());
  const auto waiting = w.scheduler.cancel(1, 1);
  ASSERT_TRUE(waiting.has_value());
  EXPECT_TRUE(w.scheduler.released(*waiting));
}

TEST(TenantTest, RequestsAreCountedWhereTheyAre) {
  Policy policy = World::policy();
  policy.tenant_weights = {1, 1};
  policy.max_seqs = 1;
  BlockPool pool(100, 4);
  Scheduler scheduler(policy, CostModel(), pool, nullptr, 1, {}, 1000);
  EXPECT_EQ(scheduler.num_tenants(), 2);
  for (const RequestId id : {1, 2, 3}) {
    GenerateRequest r = request(10);
    r.tenant = 1;
    ASSERT_TRUE(scheduler.add(id, r, Instant{}).ok());
  }
  EXPECT_EQ(scheduler.tenant(1).waiting, 3);
  std::vector<TokenEvent> events;
  const StepPlan plan = scheduler.schedule(Instant{}, {}, events);
  EXPECT_EQ(plan.rows.size(), 1u);
  EXPECT_EQ(scheduler.tenant(1).waiting, 2);
  EXPECT_EQ(scheduler.tenant(1).running, 1);
  EXPECT_EQ(scheduler.tenant(1).tokens, 10);
  EXPECT_EQ(scheduler.tenant(0).waiting + scheduler.tenant(0).running, 0);
}

}  // namespace
}  // namespace sluice
