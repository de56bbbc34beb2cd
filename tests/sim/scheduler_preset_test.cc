// What every preset promises: the same random worlds as for free choices, and shares by weight.
#include <gtest/gtest.h>

#include <csignal>
#include <cstdio>
#include <random>

#include "config/presets.h"
#include "tests/sim/world.h"

namespace sluice {
namespace {

constexpr int kWorlds = 2000, kTenantWorlds = 400;

std::string current_preset;
uint64_t current_seed = 0;
void say_world(int) {
  std::fprintf(stderr, "in the world of seed %llu, preset %s\n", (unsigned long long)current_seed,
               current_preset.c_str());
}

Policy policy_of(const std::string& preset) {
  Config::Scheduler choices;
  choices.preset = preset;
  CHECK(apply_preset(choices).ok());
  const auto policy = Policy::from(choices, Config::Cache());
  CHECK(policy.ok());
  return *policy;
}

class Presets : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    current_preset = GetParam();
    std::signal(SIGABRT, say_world);
    std::signal(SIGSEGV, say_world);
  }
};

TEST_P(Presets, KeepTheirPromisesInRandomWorlds) {
  const Policy policy = policy_of(GetParam());
  Coverage c;
  for (current_seed = 0; current_seed < kWorlds; ++current_seed) {
    World world(current_seed, 1 + int(current_seed % 4), c, policy);
    world.run();
    ASSERT_FALSE(HasFailure()) << "seed " << current_seed;
  }
  std::printf("requests %ld steps %ld preemptions %ld swaps %ld storms %ld starved %ld orca %ld\n",
              long(c.requests), long(c.steps), long(c.preemptions), long(c.swaps), long(c.storms),
              long(c.starved), long(c.orca));
  using P = Policy;
  EXPECT_EQ(c.preemptions > 0, policy.reservation == P::Reservation::paged || policy.proactive);
  EXPECT_EQ(c.swaps > 0, policy.pressure != P::Pressure::recompute && c.preemptions > 0);
  EXPECT_EQ(c.starved > 0, policy.order == P::Order::mlfq);
  EXPECT_EQ(c.orca > 0, GetParam() == "orca");
  EXPECT_GT(c.storms, 0);
}

// Tenants of random weights, all of which always have requests waiting.
class TenantWorld {
 public:
  TenantWorld(uint64_t seed, Policy policy) : rng_(seed) {
    policy.max_seqs = rnd(3, 12);
    policy.max_step_tokens = rnd(72, 128);
    policy.max_queue = 1 << 20;
    policy.prefix_caching = false;
    policy.tenant_weights.clear();
    for (int t = rnd(2, 3); t > 0; --t) policy.tenant_weights.push_back(rnd(1, 4));
    weights_ = policy.tenant_weights;
    const int num_blocks = rnd(12, 60);
    pool_.emplace(num_blocks, 8);
    host_.emplace(rnd(0, 1) ? 4 * num_blocks : 1, 8, pool_->hasher());
    tokens_wanted_ = 60 * num_blocks * 8;
    scheduler_.emplace(policy, CostModel(), *pool_, &*host_, 1, std::vector<TokenId>{}, 96);
    waiting_.resize(weights_.size());
    computed_.resize(weights_.size());
  }

  // How far the worst tenant's share of the computed tokens is from its weight's, relatively.
  double run() {
    int64_t computed = 0;
    int idle = 0;
    while (computed < tokens_wanted_) {
      for (size_t t = 0; t < weights_.size(); ++t) {
        while (waiting_[t] < 24) submit(uint32_t(t));
      }
      const StepPlan plan = scheduler_->schedule(now_, copies_, events_);
      idle = plan.empty() ? idle + 1 : 0;
      CHECK(idle < 3);  // one round, while somebody makes room and somebody comes in
      if (plan.empty()) continue;
      for (const StepRow& row : plan.rows) {
        computed += row.count;
        computed_[row.seq->request->tenant] += row.count;
      }
      finish(plan);
    }
    double worst = 0, weights = 0;
    for (double w : weights_) weights += w;
    for (size_t t = 0; t < weights_.size(); ++t) {
      const double due = double(computed) * weights_[t] / weights;
      worst = std::max(worst, std::abs(double(computed_[t]) / due - 1));
    }
    return worst;
  }

 private:
  int rnd(int a, int b) { return a + int(rng_() % uint64_t(b - a + 1)); }

  void submit(uint32_t tenant) {
    GenerateRequest q;
    for (int k = rnd(1, 40); k > 0; --k) q.prompt.push_back(1);
    q.sampling.max_tokens = rnd(1, 30);
    q.tenant = tenant;
    tenant_of_[++last_id_] = tenant;
    ++waiting_[tenant];
    CHECK(scheduler_->add(last_id_, std::move(q), now_).ok());
  }

  void finish(const StepPlan& plan) {
    StepResult result;
    result.id = plan.id;
    result.device_time = std::chrono::milliseconds(1);
    result.first.push_back(0);
    for (const StepRow& row : plan.rows)
      result.first.push_back(result.first.back() + row.num_samples);
    result.tokens.assign(size_t(result.first.back()), 1);
    result.logprobs.assign(result.tokens.size(), 0);
    copies_.done = plan.id;
    now_ += std::chrono::milliseconds(1);
    scheduler_->commit(result, now_, events_);
    for (const TokenEvent& e : events_)
      waiting_[tenant_of_[e.request]] -= e.finish != FinishReason::none;
    events_.clear();
  }

  std::mt19937_64 rng_;
  std::vector<double> weights_;
  std::optional<BlockPool> pool_, host_;
  std::optional<Scheduler> scheduler_;
  std::vector<int> waiting_;  // requests that have not ended, by tenant
  std::vector<int64_t> computed_;
  std::map<RequestId, uint32_t> tenant_of_;
  std::vector<TokenEvent> events_;
  CopyProgress copies_;
  Instant now_{};
  RequestId last_id_ = 0;
  int64_t tokens_wanted_ = 0;
};

TEST_P(Presets, ServeTenantsByTheirWeights) {
  for (current_seed = 0; current_seed < kTenantWorlds; ++current_seed)
    EXPECT_LT(TenantWorld(current_seed, policy_of(GetParam())).run(), 0.05) << current_seed;
}

std::vector<std::string> names() {
  std::vector<std::string> out;
  for (std::string_view name : preset_names()) out.emplace_back(name);
  return out;
}
INSTANTIATE_TEST_SUITE_P(All, Presets, ::testing::ValuesIn(names()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace sluice
