#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <random>

#include "bench/sim_fleet.h"
#include "bench/sim_report.h"
#include "bench/statistics.h"

namespace sluice {
namespace {

using testing::HasSubstr;

Instant at(double seconds) { return Instant{} + Nanos(std::llround(seconds * 1e9)); }

// Steps of a round length: 10 ms, 1 ms per row, 0.1 ms per prompt token.
SimOptions machine() {
  SimOptions o;
  o.setup.policy.max_queue = 1 << 20;
  o.setup.policy.max_step_tokens = 1000;
  o.setup.cost = {.constant = 0.010, .per_prefill_token = 1e-4, .per_decode_row = 1e-3};
  o.setup.seed_cost = o.setup.cost;
  o.setup.num_blocks = 10000;
  return o;
}

Workload workload(std::vector<SimRequest> requests) {
  Workload w;
  w.name = "test";
  w.requests = std::move(requests);
  for (size_t i = 0; i < w.requests.size(); ++i) {
    w.requests[i].content = i + 1;
    if (!w.requests[i].follows) w.order.push_back(int(i));
  }
  return w;
}

Workload named(const std::string& name, int requests, double rate) {
  WorkloadOptions o;
  o.name = name;
  o.requests = requests;
  o.rate = rate;
  return *make_workload(o);
}

SimResult run(const SimOptions& o, const Workload& w) {
  auto result = simulate_point(o, w);
  EXPECT_TRUE(result.ok()) << result.status();
  result->preset = "p";
  return *result;
}

TEST(LogHistogram, PercentilesAreWithinABucket) {
  LogHistogram h, other;
  std::mt19937_64 rng(1);
  std::lognormal_distribution<double> law(-4, 2);
  std::vector<double> exact;
  for (int i = 0; i < 20000; ++i) {
    exact.push_back(law(rng));
    (i % 3 == 0 ? h : other).add(exact.back());
  }
  h.merge(other);
  EXPECT_EQ(h.total(), 20000);
  EXPECT_NEAR(h.mean(), mean(exact), 1e-9);
  for (const double p : {0.0, 1.0, 50.0, 95.0, 99.9}) {
    const double want = percentile(exact, p);
    EXPECT_NEAR(h.percentile(p), want, 0.008 * want) << p;
  }
  EXPECT_LE(h.percentile(100), exact.back());
  EXPECT_EQ(h.max(), exact.back());
  h.add(0), h.add(1e300);  // the ends of the scale
  EXPECT_EQ(LogHistogram().percentile(50), 0);
}

TEST(CopyStream, CopiesOnePlanAfterTheOther) {
  CopyStream stream(0.001);
  EXPECT_EQ(stream.next_end(), kNever);
  stream.start(1, 0, at(0));
  EXPECT_EQ(stream.progress(at(0)).done, 1u);
  stream.start(2, 10, at(1.000));  // until 1.010
  stream.start(3, 0, at(1.001));
  stream.start(4, 5, at(1.002));  // waits for the stream: until 1.015
  EXPECT_EQ(stream.next_end(), at(1.010));
  EXPECT_EQ(stream.progress(at(1.009)).done, 1u);
  CopyProgress p = stream.progress(at(1.010));
  EXPECT_EQ(p.done, 3u);  // the third had none
  EXPECT_EQ(p.blocks, 10);
  EXPECT_EQ(p.time, Nanos(10'000'000));
  EXPECT_EQ(stream.next_end(), at(1.015));
  p = stream.progress(at(2));
  EXPECT_EQ(p.done, 4u);
  EXPECT_EQ(p.blocks, 15);
  stream.start(5, 1, at(2));
  EXPECT_EQ(stream.next_end(), at(2.001));  // no time is made up
  EXPECT_NEAR(stream.seconds(), 0.016, 1e-12);
}

TEST(Simulate, OneRequestTakesWhatItsStepsTake) {
  const SimResult r = run(machine(), workload({{.arrival = 2, .prompt = 100, .output = 4}}));
  EXPECT_EQ(r.completed, 1);
  EXPECT_NEAR(r.ttft.mean, 0.010 + 100 * 1e-4, 1e-9);
  EXPECT_EQ(r.gap.max, 0.011);
  EXPECT_NEAR(r.gap.p50, 0.011, 1e-4);
  EXPECT_NEAR(r.latency.mean, 0.020 + 3 * 0.011, 1e-9);
  EXPECT_NEAR(r.normalised.mean, r.latency.mean / 4, 1e-9);
  EXPECT_NEAR(r.seconds, r.latency.mean, 1e-9);
  EXPECT_EQ(r.steps, 4);
  EXPECT_NEAR(r.output_rate, 4 / r.seconds, 1e-6);
  EXPECT_NEAR(r.token_rate, 104 / r.seconds, 1e-6);
}

TEST(Simulate, AStepWithPromptsPaysForWholeTiles) {
  SimOptions o = machine();
  o.setup.tile_tokens = 64;
  const SimResult r = run(o, workload({{.prompt = 100, .output = 4}}));
  EXPECT_NEAR(r.ttft.mean, 0.010 + 128 * 1e-4, 1e-9);
  EXPECT_EQ(r.gap.max, 0.011);  // decodes do not
}

// A step under way is not joined: the second request waits for its end.
TEST(Simulate, StepsHoldWhoCameBeforeThem) {
  const Workload w = workload(
      {{.arrival = 0, .prompt = 100, .output = 2}, {.arrival = 0.005, .prompt = 50, .output = 1}});
  const SimResult r = run(machine(), w);
  const double first = 0.020, second = first + 0.011 + 50 * 1e-4;
  EXPECT_NEAR(r.ttft.max, second - 0.005, 1e-9);
  EXPECT_NEAR(r.gap.max, second - first, 1e-9);
  EXPECT_EQ(r.steps, 2);
}

// W = D + lambda D^2 / (2 (1 - lambda D)): one server, Poisson arrivals, fixed service.
TEST(Simulate, OneRowIsAnMD1Queue) {
  for (const double load : {0.5, 0.8}) {
    constexpr double kService = 0.010;
    SimOptions o = machine();
    o.setup.policy.max_seqs = 1;
    o.setup.cost = o.setup.seed_cost = {.constant = kService, .per_prefill_token = 0};
    WorkloadOptions w;
    w.requests = 150000;
    w.rate = load / kService;
    Workload made = *make_workload(w);
    for (SimRequest& r : made.requests) r.prompt = r.output = 1;
    const SimResult r = run(o, made);
    const double want = kService + load * kService / (2 * (1 - load));
    EXPECT_NEAR(r.ttft.mean / want, 1, 0.025) << load;
    EXPECT_NEAR(r.busy, load, 0.02);
    EXPECT_NEAR(r.achieved, w.rate, 0.02 * w.rate);
  }
}

TEST(Simulate, ClosedLoopKeepsClientsBusy) {
  std::vector<SimRequest> requests(20, {.prompt = 100, .output = 2});
  Workload w = workload(requests);
  w.clients = 1;
  const SimResult one = run(machine(), w);
  EXPECT_NEAR(one.seconds, 20 * (0.020 + 0.011), 1e-6);
  EXPECT_NEAR(one.ttft.max, 0.020, 1e-9);
  w.clients = 20;
  EXPECT_NEAR(run(machine(), w).seconds, 2 * 0.010 + 2000 * 1e-4 + 20 * 1e-3 + 2 * 0.010, 0.011);
}

TEST(Simulate, TurnsComeAfterTheAnswerAndFindTheirHistory) {
  Workload w =
      workload({{.arrival = 1, .prompt = 160, .output = 33, .next = 1, .session = 7},
                {.arrival = 5, .prompt = 320, .output = 1, .follows = true, .session = 7}});
  w.requests[1].content = w.requests[0].content;
  const SimResult r = run(machine(), w);
  EXPECT_EQ(r.completed, 2);
  const double first = 0.010 + 160 * 1e-4 + 32 * 0.011;
  // 160 + 32 computed tokens fill 12 blocks of 16; the session may keep the partial one as well.
  EXPECT_GE(r.stats.cached_tokens, 192);
  EXPECT_NEAR(r.seconds, first + 5 + 0.010 + (320 - double(r.stats.cached_tokens)) * 1e-4, 1e-6);
}

TEST(Simulate, RefusalsAreCountedWithTheirReason) {
  SimOptions o = machine();
  o.setup.num_blocks = 10;
  const SimResult r =
      run(o, workload({{.prompt = 100, .output = 10}, {.prompt = 900, .output = 9}}));
  EXPECT_EQ(r.completed, 1);
  EXPECT_EQ(r.refused, 1);
  EXPECT_THAT(r.refusal, HasSubstr("900"));
  EXPECT_THAT(sim_table({}, {&r, 1}), HasSubstr("1 refused: "));
}

TEST(Simulate, NoiseChangesStepsButNotTheirMean) {
  SimOptions o = machine();
  const Workload w = workload({{.prompt = 1, .output = 20000}});
  const double plain = run(o, w).seconds;
  o.setup.noise = 0.3;
  o.setup.num_blocks = 20000;
  const SimResult r = run(o, w);
  EXPECT_NEAR(r.seconds / plain, 1, 0.02);
  EXPECT_GT(r.gap.p99, 1.5 * r.gap.p50);
}

// Slow steps come in rows, as they were recorded, and a pause is as long beside any step.
TEST(Simulate, RecordedErrorsComeInPieces) {
  SimOptions o = machine();
  const Workload w = workload({{.prompt = 1, .output = 20000}});
  o.setup.num_blocks = 20000;
  const double plain = run(o, w).seconds;
  o.setup.errors.assign(1000, StepError{0.75, 0});
  std::fill_n(o.setup.errors.begin(), 500, StepError{1.25, 0});
  EXPECT_NEAR(run(o, w).seconds / plain, 1, 0.1);
  o.setup.errors.assign(1000, StepError{});
  o.setup.errors[700].pause = 1;
  const SimResult r = run(o, w);
  EXPECT_NEAR(r.gap.max, r.gap.p50 + 1, 0.02);
  EXPECT_NEAR((r.seconds - plain) / 20, 1, 0.7);
}

TEST(Simulate, CacheSharesAreThoseOfLiveTokens) {
  SimOptions o = machine();
  o.setup.num_blocks = 100;  // 1600 slots
  // One sequence of 800 to 1200 tokens.
  const SimResult r = run(o, workload({{.prompt = 800, .output = 400}}));
  EXPECT_NEAR(r.live, 1000 / 1600.0, 0.01);
  EXPECT_NEAR(r.held, 1008 / 1600.0, 0.01);
  EXPECT_NEAR(r.rows, 1, 1e-9);
}

TEST(Simulate, SharesOfTenantsCountOnlyWhileAllWait) {
  SimOptions o = machine();
  o.setup.policy.max_seqs = 1;
  o.setup.policy.tenant_weights = {1, 1};
  std::vector<SimRequest> requests;
  for (int i = 0; i < 100; ++i) requests.push_back({.prompt = 50, .output = 10});
  requests[99].tenant = 1;  // waits to the end where the order is that of arrival
  Workload w = workload(requests);
  w.tenants = 2;
  const SimResult r = run(o, w);
  ASSERT_EQ(r.shares.size(), 2u);
  EXPECT_NEAR(r.shares[0] + r.shares[1], 1, 1e-9);
  w.requests[99].arrival = 1e6;  // alone: nobody competes
  w.order = {};
  for (int i = 0; i < 100; ++i) w.order.push_back(i);
  EXPECT_EQ(run(o, w).tenant_served, (std::vector<double>{0, 0}));
}

TEST(Simulate, TheLongPromptsNeighboursAreReportedApart) {
  std::vector<SimRequest> requests;
  for (int i = 0; i < 100; ++i) requests.push_back({.arrival = i * 0.1, .prompt = 10, .output = 2});
  requests.push_back({.arrival = 5.01, .prompt = 9000, .output = 2, .is_long = true});
  Workload w = workload(requests);
  std::ranges::stable_sort(w.order, {}, [&](int i) { return w.requests[size_t(i)].arrival; });
  const SimResult r = run(machine(), w);
  EXPECT_TRUE(r.has_long);
  EXPECT_GT(r.long_ttft, 0.9);
  EXPECT_NEAR(double(r.beside_long), std::floor(r.long_ttft / 0.1 + 0.1), 1);
  EXPECT_GE(r.beside_p99, r.beside_p50);
}

TEST(Fleet, OneReplicaOfManyIsOneOfOne) {
  // Every second request: what round robin gives the first of two.
  const Workload all = named("orca-u", 2000, 20);
  Workload half = all;
  half.order.clear();
  for (size_t i = 0; i < all.order.size(); i += 2) half.order.push_back(all.order[i]);
  SimOptions o = machine();
  const SimResult alone = run(o, half);
  o.replicas = 2;
  const SimResult two = run(o, all);
  EXPECT_EQ(two.completed, 2000);
  EXPECT_EQ(alone.completed, 1000);
  EXPECT_NEAR(two.latency.mean / alone.latency.mean, 1, 0.05);
}

// One loop for all replicas or one each, on one thread or more: who gets what is the same, and so
// is what comes of it.
TEST(Fleet, TheResultDoesNotDependOnHowItIsComputed) {
  const Workload w = named("sharegpt-2turn", 1500, 40);
  for (const Route route : {Route::round_robin, Route::least_loaded, Route::prefix}) {
    SimOptions o = machine();
    o.replicas = 5;
    o.route = route;
    o.setup.noise = 0.2;
    const SimResult a = run(o, w);
    o.threads = 4;
    const SimResult b = run(o, w), again = run(o, w);
    EXPECT_EQ(sim_json({}, {&a, 1}), sim_json({}, {&b, 1}));
    EXPECT_EQ(sim_json({}, {&b, 1}), sim_json({}, {&again, 1}));
    EXPECT_EQ(a.completed, 1500);
    // A turn that nobody waits for makes the round robin go through one loop.
    Workload joint = w;
    joint.requests.push_back({.follows = true});
    const SimResult c = run(o, joint);
    EXPECT_EQ(c.completed, a.completed);
    EXPECT_EQ(c.steps, a.steps);
    EXPECT_NEAR(c.latency.mean, a.latency.mean, 1e-9);
  }
}

TEST(Fleet, LeastLoadedIsBetterThanRoundRobinAndPrefixKeepsPrefixesTogether) {
  SimOptions o = machine();
  o.replicas = 8;
  const Workload w = named("sharegpt-2turn", 4000, 60);
  const double round_robin = run(o, w).ttft.mean;
  o.route = Route::least_loaded;
  EXPECT_LT(run(o, w).ttft.mean, round_robin);

  const Workload chats = named("chat-sessions", 3000, 20);
  const double scattered = double(run(o, chats).stats.cached_tokens);
  o.route = Route::prefix;
  EXPECT_GT(double(run(o, chats).stats.cached_tokens), 2 * scattered);
}

std::vector<SimResult> two_lines() {
  const Workload w = workload({{.prompt = 10, .output = 2}});
  std::vector<SimResult> results;
  for (const char* preset : {"<a&b>", "other"}) {
    for (const double load : {1.0, 2.0, 4.0}) {
      SimResult r = run(machine(), w);
      r.preset = preset;
      r.load = load;
      r.normalised.mean = preset[0] == '<' ? 0.1 * load : 0.5;
      results.push_back(r);
    }
  }
  return results;
}

TEST(Report, CrossingsAreBetweenTheLoads) {
  const std::vector<SimResult> results = two_lines();
  const std::string text = sim_crossings(*find_metric("norm_mean"), 300, results);
  EXPECT_THAT(text, HasSubstr("<a&b>: norm_mean of 300 ms at 3.00\n"));
  EXPECT_THAT(text, HasSubstr("other: norm_mean of 300 ms at below 1\n"));
  EXPECT_THAT(sim_crossings(*find_metric("norm_mean"), 501, results),
              HasSubstr("other: norm_mean of 501 ms at above 4\n"));
  EXPECT_EQ(find_metric("nothing"), nullptr);
}

TEST(Report, PlotsEscapeAndStayInside) {
  const std::vector<SimResult> results = two_lines();
  for (const SimMetric& m : sim_metrics()) {
    const std::string svg = sim_plot({.workload = "w", .cost = "c"}, m, results);
    EXPECT_THAT(svg, testing::StartsWith("<svg "));
    EXPECT_THAT(svg, HasSubstr("&lt;a&amp;b>"));
    EXPECT_THAT(svg, HasSubstr("</svg>"));
    for (const char* bad : {"nan", "inf", "<a&"}) EXPECT_THAT(svg, testing::Not(HasSubstr(bad)));
  }
}

}  // namespace
}  // namespace sluice
