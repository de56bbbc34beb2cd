#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>

#include "kernel_test_util.h"

namespace sluice {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

// One draw's parameters.
struct Draw {
  int row = 0;
  float temperature = 1, top_p = 1, min_p = 0;
  int top_k = 0;
  uint64_t seed = 0;
  int position = 0;
  float presence = 0, frequency = 0, repetition = 1;
  std::vector<std::pair<int, int>> history;  // id, generated
  std::vector<std::pair<int, float>> biases;
  std::vector<int> banned;  // by the mask
};

struct Result {
  std::vector<int32_t> token;
  std::vector<float> logprob;
  std::vector<int32_t> top_token;
  std::vector<float> top_logprob;
};

Result run(Ops& ops, Matrix& logits, const std::vector<Draw>& draws, int top = 0) {
  const int64_t n = int64_t(draws.size()), words = (logits.cols() + 31) / 32;
  std::vector<int32_t> row, top_k, position, ho = {0}, hi, hc, bo = {0}, bi;
  std::vector<float> temperature, top_p, min_p, presence, frequency, repetition, bv;
  std::vector<uint64_t> seed;
  std::vector<uint32_t> mask(n * words, ~0u);
  bool masked = false, penalised = false, biased = false;
  for (size_t i = 0; i < draws.size(); ++i) {
    const Draw& d = draws[i];
    row.push_back(d.row);
    temperature.push_back(d.temperature);
    top_p.push_back(d.top_p);
    min_p.push_back(d.min_p);
    top_k.push_back(d.top_k);
    seed.push_back(d.seed);
    position.push_back(d.position);
    presence.push_back(d.presence);
    frequency.push_back(d.frequency);
    repetition.push_back(d.repetition);
    for (const auto& [id, count] : d.history) hi.push_back(id), hc.push_back(count);
    for (const auto& [id, bias] : d.biases) bi.push_back(id), bv.push_back(bias);
    ho.push_back(int32_t(hi.size()));
    bo.push_back(int32_t(bi.size()));
    for (const int id : d.banned) mask[i * words + id / 32] &= ~(1u << id % 32);
    masked |= !d.banned.empty();
    penalised |= !d.history.empty();
    biased |= !d.biases.empty();
  }
  SampleBatch b;
  b.num_draws = int(n);
  b.row = i32(row);
  b.temperature = f32(temperature);
  b.top_p = f32(top_p);
  b.min_p = f32(min_p);
  b.top_k = i32(top_k);
  b.seed = Tensor::of(seed.data(), DType::u64, {n});
  b.position = i32(position);
  if (penalised) {
    b.presence = f32(presence);
    b.frequency = f32(frequency);
    b.repetition = f32(repetition);
    b.history_offsets = i32(ho);
    b.history_ids = i32(hi);
    b.history_counts = i32(hc);
  }
  if (biased) {
    b.bias_offsets = i32(bo);
    b.bias_ids = i32(bi);
    b.bias_values = f32(bv);
  }
  if (masked) b.allowed_mask = Tensor::of(mask.data(), DType::u32, {n, words});
  b.top_logprobs = top;
  Result r{std::vector<int32_t>(n, -7), std::vector<float>(n), std::vector<int32_t>(n * top + 1),
           std::vector<float>(n * top + 1)};
  SampleOut out;
  out.token = i32(r.token);
  out.logprob = f32(r.logprob);
  if (top > 0) {
    out.top_token = Tensor::of(r.top_token.data(), DType::i32, {n, top});
    out.top_logprob = Tensor::of(r.top_logprob.data(), DType::f32, {n, top});
  }
  ops.sample(out, logits.tensor(), b);
  return r;
}

// What the words of ops.h mean, spelled out: the distribution a draw is from.
std::vector<double> distribution(const Matrix& logits, const Draw& d) {
  const int vocab = int(logits.cols());
  std::vector<double> x(vocab);
  for (int i = 0; i < vocab; ++i) x[i] = logits.at(d.row, i);
  for (const auto& [id, count] : d.history) {
    x[id] = x[id] > 0 ? x[id] / d.repetition : x[id] * d.repetition;
    if (count > 0) x[id] -= d.presence + d.frequency * count;
  }
  for (const auto& [id, bias] : d.biases) x[id] += bias;
  for (const int id : d.banned) x[id] = -kInf;
  std::vector<int> order(vocab);
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(),
            [&](int a, int b) { return x[a] != x[b] ? x[a] > x[b] : a < b; });
  std::vector<double> p(vocab);
  const double top = x[order[0]];
  for (int i = 0; i < vocab; ++i) p[i] = std::exp((x[i] - top) / d.temperature);
  size_t keep = d.top_k > 0 ? std::min(size_t(d.top_k), order.size()) : order.size();
  while (keep > 1 && p[order[keep - 1]] < d.min_p) --keep;
  double total = 0, held = 0;
  for (size_t i = 0; i < keep; ++i) total += p[order[i]];
  size_t nucleus = 0;
  while (nucleus < keep && (nucleus == 0 || held < d.top_p * total)) held += p[order[nucleus++]];
  std::vector<double> result(vocab, 0);
  for (size_t i = 0; i < nucleus; ++i) result[order[i]] = p[order[i]] / held;
  return result;
}

// Pearson's statistic over cells expected at least five times, as a number of standard deviations
// above its mean; a draw from outside the support is infinite.
double chi_square(const std::vector<double>& p, const std::map<int, int>& counts, int n) {
  double statistic = 0, rest_p = 1, rest_count = n;
  int cells = 0;
  for (const auto& [id, count] : counts) {
    if (p[id] == 0) return kInf;
  }
  for (size_t i = 0; i < p.size(); ++i) {
    const double expected = p[i] * n;
    const auto it = counts.find(int(i));
    const double count = it == counts.end() ? 0 : it->second;
    if (expected < 5) continue;
    statistic += (count - expected) * (count - expected) / expected;
    rest_p -= p[i];
    rest_count -= count;
    ++cells;
  }
  if (rest_p * n >= 5) {
    statistic += (rest_count - rest_p * n) * (rest_count - rest_p * n) / (rest_p * n);
    ++cells;
  }
  const int freedom = cells - 1;
  return freedom < 1 ? 0 : (statistic - freedom) / std::sqrt(2.0 * freedom);
}

class Sample : public EachIsa {};
SLUICE_EACH_ISA(Sample);

TEST_P(Sample, GreedyTakesTheLowestOfTheLargest) {
  for (const int vocab : {1, 5, 16, 33, 100, 1000}) {
    Matrix logits(4, vocab, vocab + 3);
    std::mt19937 rng(1);
    logits.randomize(rng);
    const int first = vocab / 3, second = vocab - 1;
    logits.at(1, first) = logits.at(1, second) = 9;
    for (int i = 0; i < vocab; ++i) logits.at(2, i) = -4;
    for (int i = 0; i < vocab; ++i) logits.at(3, i) = i == second ? 1 : -kInf;
    std::vector<Draw> draws(4);
    for (int i = 0; i < 4; ++i) draws[i].row = i, draws[i].temperature = 0;
    const Result r = run(ops(), logits, draws);
    int best = 0;
    for (int i = 0; i < vocab; ++i) best = logits.at(0, i) > logits.at(0, best) ? i : best;
    EXPECT_EQ(r.token, (std::vector<int32_t>{best, first, 0, second})) << vocab;
    EXPECT_NEAR(r.logprob[2], -std::log(double(vocab)), 1e-5);
    EXPECT_EQ(r.logprob[3], 0);
  }
}

// 1e5 draws for each set of parameters against the exact distribution; fewer on the sets that are
// not this machine's best, which share all but the vector passes.
TEST_P(Sample, DrawsFollowTheDistribution) {
  const bool best = GetParam() == cpu::name_of(cpu::supported_isas().back());
  const int n = best ? 100000 : 20000;
  std::mt19937 rng(2);
  Matrix logits(2, 61);
  logits.randomize(rng, 1.5f);
  logits.at(0, 5) = logits.at(0, 6) = logits.at(0, 7) = 2.5f;  // ties for the filters to cut
  std::vector<Draw> cases(12);
  cases[1].temperature = 0.5f;
  cases[2].temperature = 2.5f;
  cases[3].top_k = 7;
  cases[4].top_p = 0.8f;
  cases[5].min_p = 0.1f;
  cases[6].top_k = 20, cases[6].top_p = 0.7f, cases[6].min_p = 0.05f, cases[6].temperature = 1.3f;
  cases[7].row = 1, cases[7].banned = {0, 1, 2, 31, 32, 33, 60};
  cases[8].biases = {{3, 4.0f}, {4, -kInf}, {60, 2.0f}};
  cases[9].history = {{5, 3}, {6, 0}, {9, 1}}, cases[9].presence = 0.7f, cases[9].frequency = 0.4f;
  cases[9].repetition = 1.5f;
  cases[10].top_p = 0.999f, cases[10].temperature = 3;
  cases[11].top_p = 0.9f, cases[11].biases = {{2, -kInf}}, cases[11].banned = {5},
  cases[11].history = {{1, 2}}, cases[11].frequency = -1.5f;
  for (size_t c = 0; c < cases.size(); ++c) {
    std::map<int, int> counts;
    for (int done = 0; done < n; done += 5000) {
      std::vector<Draw> draws(5000, cases[c]);
      for (int i = 0; i < 5000; ++i) draws[i].seed = 77 + c, draws[i].position = done + i;
      for (const int32_t token : run(ops(), logits, draws).token) ++counts[token];
    }
    EXPECT_LT(chi_square(distribution(logits, cases[c]), counts, n), 4.5) << "case " << c;
  }
}

// The filters on a large flat vocabulary, where whole stretches and deep cuts matter: which tokens
// can come up, and how often each tenth of them does.
TEST_P(Sample, LargeVocabularies) {
  std::mt19937 rng(3);
  Matrix logits(1, 20011);
  logits.randomize(rng, 0.7f);
  std::vector<Draw> cases(6);
  cases[1].top_p = 0.95f;
  cases[2].top_k = 4000;
  cases[3].min_p = 0.2f;
  cases[4].top_p = 0.3f, cases[4].top_k = 9000;
  cases[5].temperature = 0.05f, cases[5].top_p = 0.9f;
  for (size_t c = 0; c < cases.size(); ++c) {
    const std::vector<double> p = distribution(logits, cases[c]);
    std::vector<double> tenths(10, 0);
    std::map<int, int> counts;
    std::vector<Draw> draws(1000, cases[c]);
    for (int i = 0; i < 1000; ++i) draws[i].seed = i * 31 + c;
    for (size_t i = 0; i < p.size(); ++i) tenths[i * 10 / p.size()] += p[i];
    for (const int32_t token : run(ops(), logits, draws).token) {
      ASSERT_GT(p[token], 0) << "case " << c;
      ++counts[int(token * 10 / int64_t(p.size()))];
    }
    EXPECT_LT(chi_square(tenths, counts, 1000), 4.5) << "case " << c;
  }
}

TEST_P(Sample, ExactCutsAtTheEdges) {
  Matrix logits(1, 40);
  for (int i = 0; i < 40; ++i) logits.at(0, i) = 0;
  const auto support = [&](Draw d) {
    std::vector<Draw> draws(2000, d);
    for (int i = 0; i < 2000; ++i) draws[i].seed = i;
    std::vector<int32_t> seen = run(ops(), logits, draws).token;
    std::sort(seen.begin(), seen.end());
    seen.erase(std::unique(seen.begin(), seen.end()), seen.end());
    return seen;
  };
  Draw d;
  d.top_k = 3;
  EXPECT_EQ(support(d), (std::vector<int32_t>{0, 1, 2}));  // of equals the lowest ids
  d = {};
  d.top_p = 0.0f;
  EXPECT_EQ(support(d), (std::vector<int32_t>{0}));
  d.top_p = 0.124f;  // five of forty
  EXPECT_EQ(support(d), (std::vector<int32_t>{0, 1, 2, 3, 4}));
  d = {};
  d.min_p = 1.0f;
  EXPECT_EQ(support(d).size(), 40u);
  logits.at(0, 17) = 0.01f;
  EXPECT_EQ(support(d), (std::vector<int32_t>{17}));
  d.min_p = 0;
  d.temperature = 1e-30f;
  EXPECT_EQ(support(d), (std::vector<int32_t>{17}));
  d.temperature = 1;
  d.top_k = 1;
  EXPECT_EQ(support(d), (std::vector<int32_t>{17}));
}

// Repetition makes a token less likely on either side of zero; presence and frequency count only
// what was generated.
TEST_P(Sample, PenaltiesChangeTheArgmax) {
  Matrix logits(3, 20);
  for (int i = 0; i < 20; ++i) logits.at(0, i) = logits.at(1, i) = logits.at(2, i) = -9;
  logits.at(0, 4) = -1.0f, logits.at(0, 5) = -1.2f;
  logits.at(1, 4) = 1.0f, logits.at(1, 5) = 0.8f;
  logits.at(2, 4) = 3.0f, logits.at(2, 5) = 2.0f;
  const auto greedy = [&](int row, std::vector<std::pair<int, int>> history, float repetition,
                          float presence, float frequency) {
    Draw d;
    d.row = row, d.temperature = 0, d.history = history;
    d.repetition = repetition, d.presence = presence, d.frequency = frequency;
    return run(ops(), logits, {d}).token[0];
  };
  EXPECT_EQ(greedy(0, {{4, 0}}, 1.5f, 0, 0), 5);
  EXPECT_EQ(greedy(0, {{5, 0}}, 0.5f, 0, 0), 5);
  EXPECT_EQ(greedy(1, {{4, 0}}, 1.5f, 0, 0), 5);
  EXPECT_EQ(greedy(2, {{4, 0}}, 1, 5, 5), 4);
  EXPECT_EQ(greedy(2, {{4, 1}}, 1, 0.9f, 0), 4);
  EXPECT_EQ(greedy(2, {{4, 1}}, 1, 1.1f, 0), 5);
  EXPECT_EQ(greedy(2, {{4, 2}}, 1, 0, 0.4f), 4);
  EXPECT_EQ(greedy(2, {{4, 3}}, 1, 0, 0.4f), 5);
}

TEST_P(Sample, BansHold) {
  std::mt19937 rng(4);
  Matrix logits(1, 70);
  logits.randomize(rng);
  Draw d;
  for (int i = 0; i < 70; ++i) {
    if (i != 33) d.banned.push_back(i);
  }
  for (const float temperature : {0.0f, 1.0f}) {
    d.temperature = temperature;
    const Result r = run(ops(), logits, {d});
    EXPECT_EQ(r.token[0], 33);
    EXPECT_LT(r.logprob[0], 0);  // of the raw distribution
  }
  // Everything banned: the raw argmax.
  d.banned.push_back(33);
  int best = 0;
  for (int i = 0; i < 70; ++i) best = logits.at(0, i) > logits.at(0, best) ? i : best;
  for (const float temperature : {0.0f, 1.0f}) {
    d.temperature = temperature;
    EXPECT_EQ(run(ops(), logits, {d}).token[0], best);
  }
}

TEST_P(Sample, NotANumberIsNeverDrawn) {
  Matrix logits(3, 37);
  for (int i = 0; i < 37; ++i) {
    logits.at(0, i) = i % 2 ? NAN : float(i);
    logits.at(1, i) = NAN;
    logits.at(2, i) = -kInf;
  }
  std::vector<Draw> draws(600);
  for (int i = 0; i < 600; ++i) {
    draws[i].row = i % 3;
    draws[i].seed = i;
    draws[i].temperature = i % 4 ? 20 : 0;
    draws[i].top_p = i % 5 ? 1 : 0.9f;
  }
  const Result r = run(ops(), logits, draws, 3);
  for (int i = 0; i < 600; ++i) {
    if (i % 3 == 0) {
      EXPECT_EQ(r.token[i] % 2, 0);
    } else {
      EXPECT_EQ(r.token[i], 0);
    }
  }
  EXPECT_EQ(r.top_token[0], 36);
}

// The same draw alone, in a crowd, in another place, on other threads.
TEST_P(Sample, BatchDoesNotMatter) {
  std::mt19937 rng(5);
  Matrix logits(8, 3000);
  logits.randomize(rng, 2);
  std::vector<Draw> draws(64);
  for (int i = 0; i < 64; ++i) {
    Draw& d = draws[i];
    d.row = i % 8, d.seed = i, d.position = 3 * i, d.temperature = 0.5f + i % 4;
    d.top_p = i % 3 ? 1 : 0.9f;
    d.top_k = i % 5 ? 0 : 40;
    if (i % 7 == 0) d.history = {{i, 1}}, d.repetition = 1.2f;
    if (i % 6 == 0) d.biases = {{i, 3.0f}};
  }
  const Result together = run(ops(), logits, draws, 2);
  TestDevice other(GetParam(), 5);
  EXPECT_EQ(run(other.ops, logits, draws, 2).token, together.token);
  for (int i = 0; i < 64; ++i) {
    const Result alone = run(ops(), logits, {draws[i]}, 2);
    EXPECT_EQ(alone.token[0], together.token[i]);
    EXPECT_EQ(alone.logprob[0], together.logprob[i]);
    EXPECT_EQ(alone.top_token[1], together.top_token[2 * i + 1]);
  }
}

TEST_P(Sample, LogprobsAreOfTheRawDistribution) {
  std::mt19937 rng(6);
  for (const int vocab : {3, 64, 501}) {
    Matrix logits(2, vocab);
    logits.randomize(rng, 3);
    logits.at(1, 2) = logits.at(1, 1) = 20;
    Draw d;
    d.row = 1, d.temperature = 0.1f, d.top_k = 2, d.biases = {{0, 100.0f}};
    const int top = 5;
    const Result r = run(ops(), logits, {d, d}, top);
    std::vector<double> logprob(vocab);
    double sum = 0;
    for (int i = 0; i < vocab; ++i) sum += std::exp(double(logits.at(1, i)) - 20);
    for (int i = 0; i < vocab; ++i) logprob[i] = logits.at(1, i) - 20 - std::log(sum);
    EXPECT_EQ(r.token[0], 0);
    EXPECT_NEAR(r.logprob[0], logprob[0], 1e-5);
    std::vector<int> order(vocab);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int a, int b) { return logits.at(1, a) > logits.at(1, b); });
    for (int j = 0; j < top; ++j) {
      EXPECT_EQ(r.top_token[top + j], j < vocab ? order[j] : -1);
      if (j < vocab) {
        EXPECT_NEAR(r.top_logprob[top + j], logprob[order[j]], 1e-5);
      } else {
        EXPECT_EQ(r.top_logprob[top + j], -kInf);
      }
    }
  }
}

TEST_P(Sample, TokenLogprobs) {
  std::mt19937 rng(7);
  const int n = 5, vocab = 133, top = 4;
  Matrix logits(n, vocab, vocab + 1);
  logits.randomize(rng, 2);
  std::vector<int32_t> targets = {0, 132, 64, 5, 5}, top_token(n * top);
  std::vector<float> logprob(n), top_logprob(n * top);
  SampleOut out;
  out.logprob = f32(logprob);
  out.top_token = Tensor::of(top_token.data(), DType::i32, {n, top});
  out.top_logprob = Tensor::of(top_logprob.data(), DType::f32, {n, top});
  ops().token_logprobs(out, logits.tensor(), i32(targets), top);
  for (int r = 0; r < n; ++r) {
    double sum = 0;
    int best = 0;
    for (int i = 0; i < vocab; ++i) {
      sum += std::exp(double(logits.at(r, i)));
      best = logits.at(r, i) > logits.at(r, best) ? i : best;
    }
    EXPECT_NEAR(logprob[r], logits.at(r, targets[r]) - std::log(sum), 1e-5);
    EXPECT_EQ(top_token[r * top], best);
    for (int j = 1; j < top; ++j) {
      EXPECT_GE(top_logprob[r * top + j - 1], top_logprob[r * top + j]);
      EXPECT_NEAR(top_logprob[r * top + j], logits.at(r, top_token[r * top + j]) - std::log(sum),
                  1e-5);
    }
  }
}

}  // namespace
}  // namespace sluice
