#include "bench/workload.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <numeric>
#include <set>

#include "bench/sim_machine.h"
#include "bench/statistics.h"
#include "engine/recording.h"

namespace sluice {
namespace {

using testing::HasSubstr;

WorkloadOptions options(const std::string& name, int requests = 40000) {
  WorkloadOptions o;
  o.name = name;
  o.requests = requests;
  o.rate = 5;
  return o;
}

Workload make(const WorkloadOptions& o) {
  auto w = make_workload(o);
  EXPECT_TRUE(w.ok()) << w.status();
  return w.ok() ? *std::move(w) : Workload();
}

std::vector<double> prompts(const Workload& w) {
  std::vector<double> v;
  for (const SimRequest& r : w.requests) v.push_back(r.prompt);
  return v;
}
std::vector<double> outputs(const Workload& w) {
  std::vector<double> v;
  for (const SimRequest& r : w.requests) v.push_back(r.output);
  return v;
}

// Within `share` of `want`.
testing::Matcher<double> about(double want, double share) {
  return testing::DoubleNear(want, share * want);
}

std::string refusal(const WorkloadOptions& o) {
  const auto w = make_workload(o);
  return w.ok() ? "accepted" : std::string(message_of(w.status()));
}

TEST(Workload, OrcaIsUniform) {
  const Workload w = make(options("orca-u"));
  std::vector<double> in = prompts(w), out = outputs(w);
  EXPECT_THAT(mean(in), about((32 + 512) / 2.0, 0.02));
  EXPECT_THAT(mean(out), about((1 + 128) / 2.0, 0.02));
  EXPECT_EQ(percentile(in, 0), 32);
  EXPECT_EQ(percentile(in, 100), 512);
  EXPECT_EQ(percentile(out, 0), 1);
  EXPECT_EQ(percentile(out, 100), 128);
}

TEST(Workload, SharegptHasTheStatedMeansAfterTheCut) {
  const Workload w = make(options("sharegpt-2turn"));
  EXPECT_THAT(mean(prompts(w)), about(161, 0.03));
  EXPECT_THAT(mean(outputs(w)), about(338, 0.03));
  for (const SimRequest& r : w.requests) {
    ASSERT_TRUE(r.prompt >= 1 && r.prompt <= 1024 && r.output >= 1);
    ASSERT_LE(r.prompt + r.output, 2048);
  }
}

TEST(Workload, AlpacaHasTheStatedMeans) {
  const Workload w = make(options("alpaca"));
  EXPECT_THAT(mean(prompts(w)), about(19.31, 0.03));
  EXPECT_THAT(mean(outputs(w)), about(58.45, 0.03));
}

TEST(Workload, Sharegpt4HasTheTracesQuantiles) {
  const Workload w = make(options("sharegpt4-8k"));
  std::vector<double> in = prompts(w), out = outputs(w);
  EXPECT_THAT(mean(in), about(2340, 0.03));
  EXPECT_THAT(mean(out), about(439, 0.03));
  for (const auto& [p, value] : std::map<double, double>{{50, 1730}, {90, 5696}, {99, 7434}})
    EXPECT_THAT(percentile(in, p), about(value, 0.04)) << p;
  for (const auto& [p, value] : std::map<double, double>{{50, 415}, {90, 834}, {99, 998}})
    EXPECT_THAT(percentile(out, p), about(value, 0.04)) << p;
  EXPECT_EQ(std::count_if(w.requests.begin(), w.requests.end(),
                          [](const SimRequest& r) { return r.prompt + r.output > 8192; }),
            0);
}

TEST(Workload, ShortSharegpt4HasTheTracesQuantiles) {
  const Workload w = make(options("sharegpt4-2k"));
  std::vector<double> in = prompts(w), out = outputs(w);
  EXPECT_THAT(mean(in), about(378, 0.03));
  EXPECT_THAT(mean(out), about(415, 0.03));
  EXPECT_THAT(percentile(in, 50), about(297, 0.06));
  EXPECT_THAT(percentile(out, 50), about(399, 0.04));
  for (const SimRequest& r : w.requests) EXPECT_LE(r.prompt + r.output, 2048);
}

TEST(Workload, ArxivHasTheStatedQuantiles) {
  const Workload w = make(options("arxiv-like"));
  std::vector<double> in = prompts(w), out = outputs(w);
  EXPECT_THAT(percentile(in, 50), about(7059, 0.03));
  EXPECT_THAT(percentile(in, 90), about(12985, 0.03));
  EXPECT_THAT(percentile(out, 50), about(208, 0.03));
  EXPECT_THAT(percentile(out, 90), about(371, 0.03));
}

TEST(Workload, FastgenIsNormal) {
  for (const auto& [name, in, out] :
       {std::tuple{"fastgen", 2600.0, 60.0}, std::tuple{"fastgen-short", 1200.0, 128.0}}) {
    const Workload w = make(options(name));
    std::vector<double> p = prompts(w);
    EXPECT_THAT(mean(p), about(in, 0.02));
    EXPECT_THAT(mean(outputs(w)), about(out, 0.02));
    EXPECT_THAT(percentile(p, 84.13) - percentile(p, 50), about(0.3 * in, 0.05));
    EXPECT_EQ(w.clients, 16);
  }
}

TEST(Workload, ZipfFollowsItsLaw) {
  const Workload w = make(options("sarathi-zipf"));
  std::vector<double> total;
  for (const SimRequest& r : w.requests) {
    total.push_back(r.prompt + r.output);
    ASSERT_NEAR(double(r.prompt) / r.output, 10, 0.12);
    ASSERT_EQ(r.arrival, 0);
  }
  EXPECT_GE(percentile(total, 0), 1024);
  EXPECT_LE(percentile(total, 100), 4096);
  // The median x of density ~ x^-0.4 on [a, b]: x^0.6 half-way between a^0.6 and b^0.6.
  const double half = (std::pow(1024, 0.6) + std::pow(4096, 0.6)) / 2;
  EXPECT_THAT(percentile(total, 50), about(std::pow(half, 1 / 0.6), 0.02));
}

TEST(Workload, RatioSweepHoldsRatioAndTotal) {
  for (const double ratio : {0.25, 1.0, 16.0, 256.0}) {
    WorkloadOptions o = options("ratio-sweep", 10);
    o.ratio = ratio;
    for (const SimRequest& r : make(o).requests) {
      EXPECT_EQ(r.prompt + r.output, 1024);
      EXPECT_EQ(r.output, std::lround(1024 / (1 + ratio)));
    }
  }
}

TEST(Workload, PoissonAndGammaGapsHaveTheirMoments) {
  for (const double cv : {0.0, 0.5, 4.0}) {
    WorkloadOptions o = options("alpaca", 60000);
    if (cv > 0) o.arrivals = Arrivals::gamma, o.cv = cv;
    const Workload w = make(o);
    std::vector<double> gaps;
    for (size_t i = 1; i < w.order.size(); ++i) {
      gaps.push_back(w.requests[size_t(w.order[i])].arrival -
                     w.requests[size_t(w.order[i - 1])].arrival);
    }
    const double average = mean(gaps);
    double squares = 0;
    for (const double g : gaps) squares += (g - average) * (g - average);
    EXPECT_THAT(average, about(1 / 5.0, 0.05));
    EXPECT_THAT(std::sqrt(squares / double(gaps.size())) / average, about(cv > 0 ? cv : 1, 0.05));
  }
}

TEST(Workload, AnotherRateIsTheSameRequestsCloserTogether) {
  WorkloadOptions slow = options("sharegpt-2turn", 500), fast = slow;
  fast.rate = 4 * slow.rate;
  const Workload a = make(slow), b = make(fast);
  for (size_t i = 0; i < a.requests.size(); ++i) {
    EXPECT_EQ(a.requests[i].prompt, b.requests[i].prompt);
    EXPECT_EQ(a.requests[i].output, b.requests[i].output);
    EXPECT_NEAR(a.requests[i].arrival, 4 * b.requests[i].arrival, 1e-9);
  }
  slow.seed = 2;
  EXPECT_NE(prompts(make(slow)), prompts(a));
}

TEST(Workload, SecondsBoundTheRequests) {
  WorkloadOptions o = options("alpaca", 1000);
  o.seconds = 80;
  EXPECT_EQ(make(o).requests.size(), 400u);
  o.rate = 100;
  EXPECT_EQ(make(o).requests.size(), 1000u);
}

TEST(Workload, TurnsExtendEachOther) {
  WorkloadOptions o = options("chat-sessions", 20000);
  o.max_context = 1 << 20;
  const Workload w = make(o);
  int turns = 0, single = 0;
  double think = 0;
  for (const int first : w.order) {
    const SimRequest* r = &w.requests[size_t(first)];
    EXPECT_FALSE(r->follows);
    single += r->next < 0;
    for (++turns; r->next >= 0; ++turns) {
      const SimRequest& next = w.requests[size_t(r->next)];
      ASSERT_TRUE(next.follows && next.session == r->session && next.session != 0);
      ASSERT_GT(next.prompt, r->prompt + r->output);
      think += next.arrival;
      // What was said and answered before is the beginning of the next prompt.
      for (const int i : {0, r->prompt - 1, r->prompt, r->prompt + r->output - 1})
        ASSERT_EQ(w.token(*r, i), w.token(next, i));
      r = &next;
    }
  }
  const auto sessions = double(w.order.size());
  EXPECT_EQ(turns, 20000);
  EXPECT_THAT(turns / sessions, about(5.75, 0.05));
  EXPECT_THAT(single / sessions, about(0.27, 0.08));
  EXPECT_THAT(think / (turns - sessions), about(30, 0.05));

  o.max_context = 1000;
  for (const SimRequest& r : make(o).requests) {
    EXPECT_TRUE(!r.follows || r.prompt + r.output <= 1000);
  }
}

TEST(Workload, OnlyTheSharedPrefixIsShared) {
  WorkloadOptions o = options("shared-prefix", 50);
  o.prefix = 341;
  const Workload w = make(o);
  std::set<TokenId> after;
  for (const SimRequest& r : w.requests) {
    const std::vector<TokenId> tokens = w.prompt_of(r), first = w.prompt_of(w.requests[0]);
    EXPECT_TRUE(std::equal(tokens.begin(), tokens.begin() + 341, first.begin()));
    after.insert(tokens[341]);
    EXPECT_TRUE(std::ranges::all_of(tokens, [](TokenId t) { return t >= 0; }));
  }
  EXPECT_EQ(after.size(), 50u);
}

TEST(Workload, OneTenantAsksTenTimesAsOften) {
  const Workload w = make(options("two-tenants"));
  EXPECT_EQ(w.tenants, 2);
  const auto light = std::ranges::count_if(w.requests, [](auto& r) { return r.tenant == 1; });
  EXPECT_THAT(double(light) / double(w.requests.size()), about(1 / 11.0, 0.05));
}

TEST(Workload, TheLongPromptComesWhenItShould) {
  WorkloadOptions o = options("short-plus-long", 100);
  o.long_at = 3;
  const Workload w = make(o);
  EXPECT_EQ(w.order.size(), 101u);
  EXPECT_TRUE(std::ranges::is_sorted(w.order, {}, [&](int i) { return w.requests[i].arrival; }));
  EXPECT_EQ(w.requests.back().prompt, 32768);
  EXPECT_EQ(w.requests.back().arrival, 3);
  o.long_prompt = 0;
  EXPECT_EQ(make(o).requests.size(), 100u);
}

TEST(Workload, AScaleAppliesToEveryLength) {
  WorkloadOptions o = options("shared-prefix", 200), half = o;
  half.scale = 0.5;
  const Workload whole = make(o), w = make(half);
  for (size_t i = 0; i < w.requests.size(); ++i) {
    const SimRequest &a = whole.requests[i], &b = w.requests[i];
    EXPECT_NEAR(b.prompt, a.prompt / 2.0, 0.5);
    EXPECT_NEAR(b.output, std::max(1.0, a.output / 2.0), 0.5);
    EXPECT_EQ(b.shared, 40);
    EXPECT_EQ(b.arrival, a.arrival);
  }
  half.name = "short-plus-long";
  EXPECT_EQ(make(half).requests.back().prompt, 16384);
  half.scale = 1e-4;  // at least one token
  EXPECT_EQ(make(half).requests.front().output, 1);
  half.scale = 0;
  EXPECT_THAT(refusal(half), HasSubstr("--scale"));
  half.scale = 0.5;
  half.trace = "any";
  EXPECT_THAT(refusal(half), HasSubstr("--scale"));
}

TEST(Workload, LengthsMayBeFixed) {
  WorkloadOptions o = options("", 3);
  o.prompt_len = 30;
  o.output_len = 4;
  EXPECT_THAT(prompts(make(o)), testing::Each(30));
  EXPECT_THAT(outputs(make(o)), testing::Each(4));
  EXPECT_EQ(make(o).clients, 0);  // Poisson
}

class WorkloadFiles : public testing::Test {
 protected:
  // Tests of one file run beside each other, each in a process of its own.
  std::string path_ = fmt::format("{}workload_test.{}.txt", testing::TempDir(), getpid());
  void TearDown() override { std::filesystem::remove(path_); }
  void write(const std::string& text) { std::ofstream(path_) << text; }
};

TEST_F(WorkloadFiles, LengthsAreUsedInTurn) {
  write("prompt,output,more\n10,20,x\n30,40\n");
  WorkloadOptions o = options("", 3);
  o.lengths = path_;
  EXPECT_THAT(prompts(make(o)), testing::ElementsAre(10, 30, 10));
  EXPECT_THAT(outputs(make(o)), testing::ElementsAre(20, 40, 20));
  for (const char* bad : {"10,20\nx\n", "10,20\n0,5\n", "10,20\n7\n"}) {
    write(bad);
    EXPECT_THAT(refusal(o), HasSubstr(path_ + " line 2"));
  }
  write("");
  EXPECT_THAT(refusal(o), HasSubstr("has no lengths"));
}

// Two requests that shared a block in the daemon share its tokens here, and no more.
TEST_F(WorkloadFiles, ARecordingKeepsTimesLengthsAndPrefixes) {
  {
    auto recorder =
        Recorder::open(path_, RecordingHeader{.block_size = 4, .num_blocks = 8}, Instant{});
    const auto ask = [&](RequestId id, std::vector<TokenId> prompt, double at) {
      GenerateRequest q;
      q.prompt = std::move(prompt);
      q.tenant = uint32_t(id);
      (*recorder)->arrived(id, q, Instant{} + Nanos(int64_t(at * 1e9)));
      TokenEvent e;
      e.request = id;
      e.token = 3;
      e.finish = id == 3 ? FinishReason::overloaded : FinishReason::stop;
      if (id == 3) e.token = -1;
      (*recorder)->observe({&e, 1});
    };
    ask(1, {1, 2, 3, 4, 5, 6}, 0.5);
    ask(2, {1, 2, 3, 4, 9, 6, 7, 8}, 2.5);
    ask(3, {1, 2, 3, 4}, 3);
  }
  WorkloadOptions o;
  o.trace = path_;
  o.rate = 0;
  const Workload w = make(o);
  ASSERT_EQ(w.requests.size(), 2u);
  EXPECT_EQ(w.skipped, 1);
  EXPECT_EQ(w.tenants, 3);
  EXPECT_EQ(w.requests[1].arrival, 2.5);
  const std::vector<TokenId> a = w.prompt_of(w.requests[0]), b = w.prompt_of(w.requests[1]);
  ASSERT_EQ(a.size(), 6u);
  ASSERT_EQ(b.size(), 8u);
  EXPECT_TRUE(std::equal(a.begin(), a.begin() + 4, b.begin()));
  EXPECT_NE(a[4], b[4]);
  EXPECT_NE(a[5], b[5]);

  o.rate = 10;  // one gap, of 0.1 s
  EXPECT_DOUBLE_EQ(make(o).requests[1].arrival - make(o).requests[0].arrival, 0.1);
  write("{}\n");
  EXPECT_THAT(refusal(o), testing::StartsWith("--trace: " + path_ + " line 1:"));
}

TEST_F(WorkloadFiles, MachinesReadBackWhatTheyPrint) {
  for (const std::string_view name : machine_names()) {
    const auto machine = read_machine("--cost", std::string(name));
    ASSERT_TRUE(machine.ok());
    write(print_machine(*machine));
    const auto again = read_machine("--cost", path_);
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_EQ(print_machine(*again), print_machine(*machine));
  }
  const StepCost c = read_machine("--cost", "a100-opt13b")->step_cost(16);
  EXPECT_DOUBLE_EQ(c.constant, 0.028);
  EXPECT_NEAR(c.per_block_copy, 16 * 819200 / 25e9, 1e-12);
  EXPECT_NEAR(c.per_context_token, 819200 / 1550e9, 1e-12);

  const auto refused = [&](const std::string& text) {
    write(text);
    return std::string(message_of(read_machine("--cost", path_).status()));
  };
  EXPECT_THAT(refused("constant_ms = 0\n"), HasSubstr("line 1: constant_ms must be from"));
  EXPECT_THAT(refused("constant_ms = 1\nspeed = 3\n"), HasSubstr("line 2: unknown key 'speed'"));
  EXPECT_THAT(refused("constant_ms = \"a\"\n"), HasSubstr("line 1: constant_ms must be a number"));
  EXPECT_THAT(refused("constant_ms = 1\n"), HasSubstr("kv_bytes_per_token is missing"));
  EXPECT_THAT(refused("constant_ms ="), HasSubstr("line 1"));
  EXPECT_THAT(message_of(read_machine("--cost", "tpu").status()),
              HasSubstr("--cost: 'tpu' is neither a file nor one of h200-8b, a100-opt13b"));
}

TEST(Workload, RefusesNamingTheOption) {
  const auto with = [](auto change) {
    WorkloadOptions o = options("alpaca", 10);
    change(o);
    return refusal(o);
  };
  EXPECT_THAT(with([](auto& o) { o.name = "x"; }),
              HasSubstr("--workload: 'x' is not one of orca-u"));
  EXPECT_THAT(with([](auto& o) { o.requests = 0; }), HasSubstr("--requests: 0"));
  EXPECT_THAT(with([](auto& o) { o.rate = 0; }), HasSubstr("--rates: 0"));
  EXPECT_THAT(with([](auto& o) { o.rate = -1; }), HasSubstr("--rates: -1"));
  EXPECT_THAT(with([](auto& o) { o.rate = std::nan(""); }), HasSubstr("--rates: nan"));
  EXPECT_THAT(with([](auto& o) { o.cv = 0; }), HasSubstr("--cv: 0"));
  EXPECT_THAT(with([](auto& o) { o.arrivals = Arrivals::closed, o.clients = 0; }),
              HasSubstr("--clients: 0"));
  EXPECT_THAT(with([](auto& o) { o.lengths = "/nonexistent"; }), HasSubstr("/nonexistent"));
  EXPECT_THAT(with([](auto& o) { o.lengths = o.trace = "x"; }), HasSubstr("give one of them"));
}

}  // namespace
}  // namespace sluice
