// The sampler on the emulator, against the words of ops.h in double precision.
#include "tests/simt/sample_test.h"

namespace sluice::cuda {
namespace {

constexpr double kLogprobError = 1e-4;

// Draws that every filter, alone and with the others, has a part in.
std::vector<Draw> cases(int64_t vocab) {
  std::vector<Draw> c(10);
  c[1].temperature = 0.3f, c[1].top_k = 3;
  c[2].top_p = 0.7f;
  c[3].min_p = 0.05f;
  c[4].top_k = 40, c[4].top_p = 0.9f, c[4].min_p = 0.01f, c[4].temperature = 1.7f;
  c[5].top_k = int(vocab) + 5, c[5].top_p = 0, c[5].temperature = 3;
  c[6].temperature = 1e-40f;  // its inverse is infinite
  c[7].history = {{int(vocab) - 1, 2}, {int(vocab) / 2, 0}, {0, 1}};
  c[7].unseen = int(vocab) / 2;
  if (vocab < 3) c[7].history = {{0, 1}};
  c[7].presence = 0.5f, c[7].frequency = 0.25f, c[7].repetition = 1.3f, c[7].top_p = 0.95f;
  for (int i = 0; i < vocab; i += 3) c[8].biases.push_back({i, i % 2 ? -kInf : 1.5f});
  c[8].top_k = 5;
  for (int i = 0; i < vocab; ++i) {
    if (i % 5 != 2 || i == 64) c[9].banned.push_back(i);
  }
  return c;
}

// Every token as expected; where rounding may decide, another one, but seldom. How often: 0 for
// none of `draws`.
int count_near_ties(Logits& logits, const std::vector<Draw>& draws, const Result& r) {
  int near = 0;
  for (size_t i = 0; i < draws.size(); ++i) {
    const Expected e = expect(logits.row(draws[i].row), logits.vocab, draws[i]);
    if (r.token[i] == e.token) continue;
    EXPECT_TRUE(e.near) << "draw " << i << ": " << r.token[i] << ", not " << e.token;
    near += e.near ? 1 : 0;
  }
  return near;
}

TEST(Sample, SeedsOfTheTestsGiveTheirNumbers) {
  for (const uint64_t random : {0ull, ~0ull, 0x123456789abcdefull})
    EXPECT_EQ(mix64(seed_for(random, 77), 77), random);
}

// Of equals the lower ids stay, exactly as many as asked for: with the last random number the last
// of them is drawn, with the first the first.
TEST(Sample, FiltersCutTiesByTheLowerId) {
  constexpr int kVocab = 1100, kEqual = 1030;  // tokens 70 and up are equal; others are nothing
  Logits logits(1, kVocab);
  for (int i = 0; i < kVocab; ++i) logits.at(0, i) = i < kVocab - kEqual ? -kInf : 0.75f;
  struct Case {
    int top_k;
    float top_p, min_p;
    int stay;
  };
  const std::vector<Case> all = {
      {1, 1, 0, 1},          {2, 1, 0, 2},
      {513, 1, 0, 513},      {kEqual - 1, 1, 0, 1029},
      {kEqual, 1, 0, 1030},  {0, 0.5f, 0, 515},
      {0, 0.50001f, 0, 516}, {0, 0, 0, 1},
      {0, -1, 0, 1},         {0, 1e-9f, 0, 1},
      {0, 1, 1, kEqual},     {0, 1, 0.5f, kEqual},
      {4, 0.5f, 0, 2},       {4, 0.51f, 0, 3},
      {5, 0.5f, 0.9f, 3},    {kEqual + 1, 0.99999994f, 0, kEqual},
      {4, 0.9999f, 0.5f, 4},
  };
  std::vector<Draw> draws;
  for (const Case& c : all) {
    Draw d;
    d.top_k = c.top_k, d.top_p = c.top_p, d.min_p = c.min_p;
    add_spread(draws, d, 0);
  }
  const Result r = draw(logits, draws);
  for (size_t i = 0; i < all.size(); ++i) {
    EXPECT_EQ(r.token[2 * i], 70) << i;
    EXPECT_EQ(r.token[2 * i + 1], 70 + all[i].stay - 1) << i;
  }
}

// Ids in the order of their weights, so that the last to stay is what the last number draws.
TEST(Sample, FiltersKeepExactlyTheHeaviest) {
  constexpr int kVocab = 600;
  Logits logits(1, kVocab);
  const auto weight = [](int id) { return std::pow(0.997, id); };
  for (int i = 0; i < kVocab; ++i) logits.at(0, i) = float(std::log(weight(i)));
  std::vector<Draw> draws;
  std::vector<int> last;
  const auto add = [&](const Draw& d, int stay) {
    Draw high = d;
    high.seed = seed_for(~0ull, 0);
    draws.push_back(high);
    last.push_back(stay - 1);
  };
  for (const int k : {1, 2, 3, 64, 299, 512, 599, 600, 601}) {
    Draw d;
    d.top_k = k;
    add(d, std::min(k, kVocab));
    d.top_p = 0.999999f;  // all but what weighs less than a millionth
    add(d, std::min(k, kVocab));
  }
  for (const int n : {1, 2, 17, 400}) {
    Draw d;
    d.min_p = float((weight(n) + weight(n - 1)) / 2);
    add(d, n);
    d.min_p = 0;
    d.top_p = float((1 - weight(n) * 1.0005) / (1 - weight(kVocab)));  // 1 + .. + weight(n - 1)
    add(d, n);
    d.top_k = 500, d.top_p = float((1 - weight(n) * 1.0005) / (1 - weight(500)));  // of those left
    add(d, n);
  }
  const Result r = draw(logits, draws);
  for (size_t i = 0; i < draws.size(); ++i) EXPECT_EQ(r.token[i], last[i]) << i;
}

TEST(Sample, GreedyTakesTheLowestOfTheLargest) {
  for (const int64_t vocab : {1, 7, 33, 1000}) {
    Logits logits = Logits(5, vocab).fill(3);
    const int first = int(vocab) / 3, last = int(vocab) - 1;
    logits.at(1, first) = logits.at(1, last) = 9;
    for (int64_t i = 0; i < vocab; ++i) {
      logits.at(2, i) = -4;
      logits.at(3, i) = i == last ? 1 : -kInf;
      logits.at(4, i) = i == last ? 0.0f : -0.0f;
    }
    std::vector<Draw> draws(5);
    for (int i = 0; i < 5; ++i) draws[size_t(i)].row = i, draws[size_t(i)].temperature = 0;
    const Result r = draw(logits, draws);
    EXPECT_EQ(count_near_ties(logits, {draws[0]}, r), 0);
    EXPECT_EQ(r.token[1], first);
    EXPECT_EQ(r.token[2], 0);
    EXPECT_EQ(r.token[3], last);
    EXPECT_EQ(r.token[4], 0);
    EXPECT_NEAR(r.logprob[2], -std::log(double(vocab)), kLogprobError);
    EXPECT_EQ(r.logprob[3], 0);
  }
}

TEST(Sample, PenaltiesAndBiasesInTheirOrder) {
  constexpr int kVocab = 1500;
  Logits logits(4, kVocab);
  for (int i = 0; i < kVocab; ++i) logits.at(0, i) = logits.at(1, i) = logits.at(2, i) = -9;
  logits.at(0, 4) = -1.0f, logits.at(0, 5) = -1.2f;
  logits.at(1, 4) = 1.0f, logits.at(1, 5) = 0.8f;
  logits.at(2, 4) = 3.0f, logits.at(2, 5) = 2.0f;
  for (int i = 0; i < kVocab; ++i) logits.at(3, i) = float(i);
  std::vector<Draw> draws;
  std::vector<int> tokens;
  const auto add = [&](int token, int row, float repetition, float presence, float frequency,
                       std::vector<std::pair<int, int>> history,
                       std::vector<std::pair<int, float>> biases = {}, int unseen = -1) {
    Draw d;
    d.row = row, d.temperature = 0, d.repetition = repetition;
    d.presence = presence, d.frequency = frequency;
    d.history = std::move(history), d.biases = std::move(biases), d.unseen = unseen;
    draws.push_back(d), tokens.push_back(token);
  };
  add(5, 0, 1.5f, 0, 0, {{4, 0}});
  add(5, 0, 0.5f, 0, 0, {{5, 0}});
  add(5, 1, 1.5f, 0, 0, {{4, 0}});
  add(4, 2, 1, 5, 5, {{4, 0}});  // in the prompt only
  add(4, 2, 1, 0.9f, 0, {{4, 1}});
  add(5, 2, 1, 1.1f, 0, {{4, 1}});
  add(4, 2, 1, 0, 0.4f, {{4, 2}});
  add(5, 2, 1, 0, 0.4f, {{4, 3}});
  add(4, 2, 1.25f, 0.35f, 0, {{4, 9}});  // 3 / 1.25 - 0.35 is above 2, (3 - 0.35) / 1.25 is too
  add(5, 2, 1.25f, 0.45f, 0, {{4, 9}});  // but here the latter is
  add(4, 2, 1, 0, 0, {{4, 9}});          // no penalty, whatever the history
  // A token that the history lacks: the third of its kind, the first, and one that was in the
  // prompt, which repetition must meet but once.
  add(5, 2, 1, 0, 0.4f, {{9, 1}, {4, 2}}, {}, 4);
  add(5, 2, 1, 1.1f, 0, {{9, 1}}, {}, 4);
  add(5, 2, 1, 1.1f, 0, {}, {}, 4);
  add(4, 1, 1.2f, 0, 0, {{4, 0}}, {}, 4);
  add(4, 2, 1, 0, 0, {}, {}, 4);
  // (1 - 3) is what a bias leaves, and repetition came before it: 1 / 0.5 - 3, not (1 - 3) * 0.5.
  add(4, 1, 0.5f, 0, 0, {{4, 0}}, {{4, -1.15f}});
  // Of one id, in the order of the list: 1 + 2^25 - 2^25 + 0.5 is 0.5 in f32.
  add(5, 1, 1, 0, 0, {}, {{4, 0x1p25f}, {9, 1.0f}, {4, -0x1p25f}, {4, 0.5f}});
  add(4, 1, 1, 0, 0, {}, {{4, 0x1p25f}, {9, 1.0f}, {4, -0x1p25f}, {4, 0.85f}});
  add(4, 1, 1, 0, 0, {}, {{4, 0.5f}, {5, -kInf}, {4, -0.5f}});
  // Longer lists than there are threads.
  std::vector<std::pair<int, int>> most;
  std::vector<std::pair<int, float>> high;
  for (int i = kVocab - 1; i > 10; --i) most.push_back({i, 1}), high.push_back({i, -2000.0f});
  add(10, 3, 1, 2000, 0, most);
  add(10, 3, 1, 0, 0, {}, high);
  simt::in_all_orders([&] {
    const Result r = draw(logits, draws);
    for (size_t i = 0; i < draws.size(); ++i) EXPECT_EQ(r.token[i], tokens[i]) << i;
  });
}

TEST(Sample, WhatIsBannedIsNotDrawn) {
  for (const int64_t vocab : {70, 1001}) {
    Logits logits = Logits(1, vocab).fill(4);
    Draw one, none, by_bias;
    for (int i = 0; i < vocab; ++i) {
      if (i != 33) one.banned.push_back(i);
      none.banned.push_back(i);
      by_bias.biases.push_back({i, -kInf});
    }
    one.biases = {{5, kInf}, {33, -1e30f}};
    const int best = expect(logits.row(0), vocab,
                            [] {
                              Draw d;
                              d.temperature = 0;
                              return d;
                            }())
                         .token;
    for (const float temperature : {0.0f, 1.0f}) {
      one.temperature = none.temperature = by_bias.temperature = temperature;
      const Result r = draw(logits, {one, none, by_bias});
      EXPECT_EQ(r.token[0], 33);
      EXPECT_LT(r.logprob[0], 0);  // of the raw distribution
      EXPECT_EQ(r.token[1], best);
      EXPECT_EQ(r.token[2], best);
    }
  }
}

TEST(Sample, NotANumberIsNeverDrawnAndDisturbsNobody) {
  constexpr int kVocab = 90;
  Logits logits = Logits(6, kVocab).fill(5);
  for (int i = 0; i < kVocab; ++i) {
    logits.at(0, i) = i % 2 ? NAN : float(i) / 20;
    logits.at(1, i) = NAN;
    logits.at(2, i) = -kInf;
    if (i % 30 == 7) logits.at(3, i) = kInf;
  }
  logits.at(0, 3) = -NAN;
  std::vector<Draw> draws;
  for (Draw d : cases(kVocab)) {
    for (d.row = 0; d.row < 6; ++d.row) {
      if (!d.biases.empty() && (d.row == 3)) continue;  // inf - inf
      d.seed = draws.size();
      draws.push_back(d);
    }
  }
  const Result r = draw(logits, draws, 3, 2);
  EXPECT_EQ(count_near_ties(logits, draws, r), 0);
  EXPECT_EQ(r.top_token[0], 88);
  EXPECT_EQ(r.top_token[3], 0);
  EXPECT_EQ(r.top_token[4], 1);
  for (size_t i = 0; i < draws.size(); ++i) {
    EXPECT_EQ(std::isfinite(r.logprob[i]), draws[i].row == 0 || draws[i].row > 3);
    if (draws[i].row < 4) continue;
    const Result alone = draw(logits, {draws[i]}, 3);
    EXPECT_EQ(alone.token[0], r.token[i]);
    EXPECT_EQ(alone.logprob[0], r.logprob[i]);
  }
}

// The log-probability of every token, NaN as -inf.
std::vector<double> logprobs(const float* row, int64_t vocab) {
  std::vector<double> p(row, row + vocab);
  for (double& x : p) x = std::isnan(x) ? -HUGE_VAL : x;
  const double max = *std::max_element(p.begin(), p.end());
  double sum = 0;
  for (const double x : p) sum += std::exp(x - max);
  for (double& x : p) x -= max + std::log(sum);
  return p;
}

void expect_best(const float* row, int64_t vocab, int top, const int32_t* tokens,
                 const float* values) {
  const std::vector<double> p = logprobs(row, vocab);
  std::vector<int> order(p.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int a, int b) { return p[size_t(a)] > p[size_t(b)]; });
  for (int j = 0; j < top; ++j) {
    const bool past = j >= vocab;
    EXPECT_EQ(tokens[j], past ? -1 : order[size_t(j)]) << j;
    if (past || std::isinf(p[size_t(order[size_t(j)])])) {
      EXPECT_EQ(values[j], -kInf) << j;
    } else {
      EXPECT_NEAR(values[j], p[size_t(order[size_t(j)])], kLogprobError) << j;
    }
  }
}

TEST(Sample, LogprobsAreOfTheRawDistribution) {
  for (const auto& [vocab, top] : {std::pair{3, 5}, {64, 1}, {501, 20}, {700, 600}, {4100, 7}}) {
    Logits logits = Logits(3, vocab).fill(6, 3);
    logits.at(1, 2) = logits.at(1, 1) = 20;
    for (int i = 0; i < vocab; ++i)
      logits.at(2, i) = i % 11 == 5 ? NAN : i % 7 == 2 ? -kInf : float(i % 3) - 50;
    Draw d;
    d.row = 1, d.temperature = 0.1f, d.top_k = 2, d.biases = {{0, 100.0f}};
    const std::vector<Draw> draws = {d, {.row = 0}, {.row = 2, .temperature = 0}};
    const Result r = draw(logits, draws, top, 2);
    EXPECT_EQ(r.token[0], 0);
    for (size_t i = 0; i < draws.size(); ++i) {
      const float* row = logits.row(draws[i].row);
      EXPECT_NEAR(r.logprob[i], logprobs(row, vocab)[size_t(r.token[i])], kLogprobError);
      expect_best(row, vocab, top, &r.top_token[i * size_t(top)], &r.top_logprob[i * size_t(top)]);
    }
  }
}

TEST(Sample, LogprobsOfGivenTokens) {
  for (const int64_t vocab : {133, 1000}) {
    constexpr int kTop = 4;
    std::vector<int32_t> targets = {0, int32_t(vocab) - 1, 64, 5, 5};
    const auto n = int64_t(targets.size());
    Logits logits = Logits(n, vocab, vocab + 8).fill(7, 2);
    logits.at(3, 5) = NAN;
    Result r(n, kTop);
    const Tensor t = Tensor::of(targets.data(), DType::i32, {n});
    token_logprobs(Stream{}, r.out(kTop), logits.tensor(), t, kTop);
    for (size_t i = 0; i < targets.size(); ++i) {
      const float* row = logits.row(int64_t(i));
      const double want = logprobs(row, vocab)[size_t(targets[i])];
      if (std::isinf(want)) {
        EXPECT_EQ(r.logprob[i], -kInf);
      } else {
        EXPECT_NEAR(r.logprob[i], want, kLogprobError);
      }
      expect_best(row, vocab, kTop, &r.top_token[i * kTop], &r.top_logprob[i * kTop]);
    }
    Result alone(n, 0);
    token_logprobs(Stream{}, alone.out(0), logits.tensor(), t, 0);
    EXPECT_TRUE(alone.logprob.same_bits(r.logprob));
  }
}

// Draws of several rows, some rows often, all of them different.
std::vector<Draw> crowd(int64_t vocab, int rows) {
  std::vector<Draw> draws;
  for (Draw d : cases(vocab)) {
    d.row = int(draws.size() * 3) % rows;
    d.seed = draws.size(), d.position = int(draws.size()) * 3;
    draws.push_back(d);
  }
  return draws;
}

TEST(Sample, BatchAndBlocksDoNotMatter) {
  for (const int64_t vocab : {999, 1000}) {
    Logits logits = Logits(4, vocab).fill(8);
    const std::vector<Draw> draws = crowd(vocab, 4);
    const Result together = draw(logits, draws, 2, 1);
    for (const int blocks : {5, 64})
      EXPECT_TRUE(draw(logits, draws, 2, blocks).same_bits(together));
    for (size_t i = 0; i < draws.size(); ++i) {
      const Result alone = draw(logits, {draws[i]}, 2);
      EXPECT_EQ(alone.token[0], together.token[i]);
      EXPECT_EQ(alone.logprob[0], together.logprob[i]);
      EXPECT_EQ(alone.top_token[1], together.top_token[2 * i + 1]);
      EXPECT_EQ(alone.top_logprob[1], together.top_logprob[2 * i + 1]);
    }
  }
}

TEST(Sample, EveryFiberOrderGivesTheSameBits) {
  for (const int64_t vocab : {33, 1300}) {
    Logits logits = Logits(4, vocab).fill(8);
    const std::vector<Draw> draws = crowd(vocab, 4);
    const Result first = draw(logits, draws, 6, 2);
    simt::in_all_orders([&] { EXPECT_TRUE(draw(logits, draws, 6, 3).same_bits(first)) << vocab; });
  }
}

// Pearson's statistic of many draws, against three standard deviations above its mean.
TEST(Sample, DrawsFollowTheDistribution) {
  constexpr int kDraws = 600;
  Logits logits = Logits(1, 24).fill(2, 1.5f);
  Draw d;
  d.min_p = 0.05f, d.temperature = 1.2f, d.seed = 99;
  std::vector<Draw> draws(kDraws, d);
  for (int i = 0; i < kDraws; ++i) draws[size_t(i)].position = i;
  const Result r = draw(logits, draws);
  const std::vector<double> p = expect(logits.row(0), logits.vocab, d).p;
  std::vector<double> counts(p.size());
  for (size_t i = 0; i < kDraws; ++i) ++counts[size_t(r.token[i])];
  double statistic = 0;
  int cells = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    if (p[i] == 0) {
      EXPECT_EQ(counts[i], 0) << i;
      continue;
    }
    statistic += std::pow(counts[i] - p[i] * kDraws, 2) / (p[i] * kDraws);
    ++cells;
  }
  EXPECT_GT(cells, 5);
  EXPECT_LT(statistic, cells - 1 + 3 * std::sqrt(2.0 * (cells - 1)));
}

// The larger ones last: ThreadSanitizer never forgets a thread, and grows slower with each.
TEST(Sample, DrawsAreThoseOfDoublePrecision) {
  int near = 0, all = 0;
  for (const int64_t vocab : {1, 7, 33, 1000, 4099}) {
    Logits logits = Logits(2, vocab, vocab % 2 == 0 ? vocab + 4 : vocab + 3).fill(uint32_t(vocab));
    std::vector<Draw> draws;
    for (Draw d : cases(vocab)) {
      d.row = int(draws.size() % 2);
      add_spread(draws, d, 3);
    }
    near += count_near_ties(logits, draws, draw(logits, draws));
    all += int(draws.size());
  }
  EXPECT_LE(near * 100, all) << "of " << all;
}

TEST(Sample, ALargeVocabulary) {
  for (const int64_t vocab : {50257, 32000}) {
    Logits logits = Logits(1, vocab).fill(9, 3);
    std::vector<Draw> draws;
    Draw d;
    d.top_k = 1000, d.top_p = 0.95f, d.biases = {{50, 2.0f}};
    add_spread(draws, d, 2);
    const Result r = draw(logits, draws, 20);
    EXPECT_EQ(count_near_ties(logits, draws, r), 0);
  }
}

}  // namespace
}  // namespace sluice::cuda
