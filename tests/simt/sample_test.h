// Draws in a form that is easy to write down, and what they must give: by the words of ops.h, in
// double precision, with a sort.
#pragma once

#include <algorithm>
#include <map>
#include <numeric>

#include "base/hash.h"
#include "kernels/cuda/launch.h"
#include "tests/simt/kernel_test.h"

namespace sluice::cuda {

constexpr float kInf = HUGE_VALF;

struct Draw {
  int row = 0;
  float temperature = 1, top_p = 1, min_p = 0;
  int top_k = 0;
  uint64_t seed = 0;
  int position = 0;
  float presence = 0, frequency = 0, repetition = 1;
  std::vector<std::pair<int, int>> history;  // id, generated
  int unseen = -1;
  std::vector<std::pair<int, float>> biases;
  std::vector<int> banned;  // by the mask
};

struct Logits {
  int64_t rows, vocab, stride;
  simt::Array<float> values;  // NaN between rows

  Logits(int64_t rows, int64_t vocab, int64_t stride = 0)
      : rows(rows),
        vocab(vocab),
        stride(std::max(stride, vocab)),
        values(size_t(rows * this->stride)) {}
  float& at(int64_t row, int64_t id) { return values[size_t(row * stride + id)]; }
  const float* row(int64_t r) { return values.data() + r * stride; }
  Logits& fill(uint32_t seed, float scale = 2) {
    std::mt19937 random(seed + simt::run_seed());
    std::normal_distribution<float> normal(0, scale);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t i = 0; i < vocab; ++i) at(r, i) = normal(random);
    }
    return *this;
  }
  Tensor tensor() {
    Tensor t = Tensor::of(values.data(), DType::f32, {rows, vocab});
    t.stride[0] = stride;
    return t;
  }
};

struct Result {
  simt::Array<int32_t> token, top_token;
  simt::Array<float> logprob, top_logprob;

  Result(int64_t n, int top)
      : token(size_t(n)),
        top_token(size_t(n * top)),
        logprob(size_t(n)),
        top_logprob(size_t(n * top)) {}
  SampleOut out(int top) {
    const auto n = int64_t(token.size());
    SampleOut o;
    o.token = token.tensor(DType::i32, {n});
    o.logprob = logprob.tensor(DType::f32, {n});
    if (top == 0) return o;
    o.top_token = top_token.tensor(DType::i32, {n, top});
    o.top_logprob = top_logprob.tensor(DType::f32, {n, top});
    return o;
  }
  bool same_bits(const Result& o) const {
    return token.same_bits(o.token) && top_token.same_bits(o.top_token) &&
           logprob.same_bits(o.logprob) && top_logprob.same_bits(o.top_logprob);
  }
};

// A SampleBatch and its memory, exactly as much as it needs; lists that no draw has are absent.
class Batch {
 public:
  Batch(const std::vector<Draw>& draws, int64_t vocab, int top) {
    const auto n = int64_t(draws.size()), words = (vocab + 31) / 32;
    std::vector<int32_t> history = {0}, biases = {0}, ids, counts, bias_ids;
    std::vector<float> bias_values;
    std::vector<uint32_t> mask(size_t(n * words), ~0u);
    bool masked = false, penalised = false;
    for (size_t i = 0; i < draws.size(); ++i) {
      const Draw& d = draws[i];
      for (const auto& [id, count] : d.history) ids.push_back(id), counts.push_back(count);
      for (const auto& [id, bias] : d.biases) bias_ids.push_back(id), bias_values.push_back(bias);
      history.push_back(int32_t(ids.size())), biases.push_back(int32_t(bias_ids.size()));
      for (const int id : d.banned) mask[i * size_t(words) + size_t(id) / 32] &= ~(1u << id % 32);
      masked |= !d.banned.empty();
      penalised |= d.presence != 0 || d.frequency != 0 || d.repetition != 1;
    }
    batch.num_draws = int(n), batch.top_logprobs = top;
    batch.row = each(draws, &Draw::row, DType::i32);
    batch.temperature = each(draws, &Draw::temperature, DType::f32);
    batch.top_p = each(draws, &Draw::top_p, DType::f32);
    batch.min_p = each(draws, &Draw::min_p, DType::f32);
    batch.top_k = each(draws, &Draw::top_k, DType::i32);
    batch.seed = each(draws, &Draw::seed, DType::u64);
    batch.position = each(draws, &Draw::position, DType::i32);
    if (penalised) {
      batch.presence = each(draws, &Draw::presence, DType::f32);
      batch.frequency = each(draws, &Draw::frequency, DType::f32);
      batch.repetition = each(draws, &Draw::repetition, DType::f32);
      batch.history_offsets = keep(history, DType::i32);
      batch.history_ids = keep(ids, DType::i32);
      batch.history_counts = keep(counts, DType::i32);
      batch.unseen = each(draws, &Draw::unseen, DType::i32);
    }
    if (!bias_ids.empty()) {
      batch.bias_offsets = keep(biases, DType::i32);
      batch.bias_ids = keep(bias_ids, DType::i32);
      batch.bias_values = keep(bias_values, DType::f32);
    }
    if (masked) {
      batch.allowed_mask = keep(mask, DType::u32);
      batch.allowed_mask.rank = 2;
      batch.allowed_mask.shape = {n, words}, batch.allowed_mask.stride = {words, 1};
    }
  }
  Batch(const Batch&) = delete;

  SampleBatch batch;

 private:
  template <class T>
  Tensor keep(const std::vector<T>& values, DType dtype) {
    const auto& bytes =
        memory_.emplace_back(reinterpret_cast<const unsigned char*>(values.data()),
                             reinterpret_cast<const unsigned char*>(values.data() + values.size()));
    return Tensor::of(const_cast<unsigned char*>(bytes.data()), dtype, {int64_t(values.size())});
  }
  template <class T>
  Tensor each(const std::vector<Draw>& draws, T Draw::*field, DType dtype) {
    std::vector<T> values;
    for (const Draw& d : draws) values.push_back(d.*field);
    return keep(values, dtype);
  }

  std::vector<std::vector<unsigned char>> memory_;
};

inline Result draw(Logits& logits, const std::vector<Draw>& draws, int top = 0, int blocks = 3) {
  const Batch b(draws, logits.vocab, top);
  Result r(int64_t(draws.size()), top);
  simt::Array<float> scratch(sample_scratch_bytes(logits.vocab, blocks) / sizeof(float));
  sample(Stream{}, r.out(top), logits.tensor(), b.batch, scratch.data(), blocks);
  return r;
}

// ---- what must come out ----

// The row after penalties, biases and mask, as f32 has it; the row itself where all is banned.
inline std::vector<float> adjusted(const float* row, int64_t vocab, const Draw& d) {
  std::vector<float> raw(row, row + vocab);
  for (float& x : raw) x = std::isnan(x) ? -kInf : x;
  std::vector<float> x = raw;
  std::map<int, int> history(d.history.begin(), d.history.end());
  if (d.unseen >= 0) ++history[d.unseen];
  for (const auto& [id, count] : history) {
    float& v = x[size_t(id)];
    v = v > 0 ? v / d.repetition : v * d.repetition;
    if (count > 0) v -= d.presence + d.frequency * float(count);
  }
  for (const auto& [id, bias] : d.biases) x[size_t(id)] += bias;
  for (const int id : d.banned) x[size_t(id)] = -kInf;
  for (float& v : x) v = std::isnan(v) ? -kInf : v;
  return *std::max_element(x.begin(), x.end()) > -kInf ? x : raw;
}

struct Expected {
  std::vector<double> p;  // of each token, after the filters
  int token = 0;
  bool near = false;  // so near to a border that f32's rounding may lead to its other side
};

inline Expected expect(const float* row, int64_t vocab, const Draw& d) {
  constexpr double kNear = 1e-5;
  const std::vector<float> x = adjusted(row, vocab, d);
  std::vector<int> order(x.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int a, int b) { return x[size_t(a)] > x[size_t(b)]; });
  Expected e;
  e.p.resize(x.size());
  e.token = order[0];
  const double top = x[size_t(order[0])];
  if (d.temperature == 0 || std::isinf(top)) return e.p[size_t(e.token)] = 1, e;
  std::vector<double> w;  // in this order
  for (const int id : order) w.push_back(std::exp((double(x[size_t(id)]) - top) / d.temperature));
  size_t keep = w.size();
  if (d.top_k > 0 && size_t(d.top_k) < keep) {
    keep = size_t(d.top_k);
    e.near |= x[size_t(order[keep])] != x[size_t(order[keep - 1])] &&
              w[keep - 1] - w[keep] < kNear * w[keep];
  }
  for (; keep > 1 && w[keep - 1] < d.min_p; --keep)
    e.near |= d.min_p - w[keep - 1] < kNear * d.min_p;
  e.near |= w[keep - 1] != 1 && std::fabs(w[keep - 1] - d.min_p) < kNear * d.min_p;
  if (d.top_p < 1) {
    const double goal = double(d.top_p) * std::accumulate(w.begin(), w.begin() + long(keep), 0.0);
    double held = 0;
    size_t nucleus = 0;
    while (nucleus < keep && (nucleus == 0 || held < goal)) {
      held += w[nucleus++];
      // Weights of 1 are added up without rounding.
      e.near |= held != double(nucleus) && std::fabs(held - goal) < kNear * goal;
    }
    keep = nucleus;
  }
  double total = 0, before = 0;
  for (size_t i = 0; i < keep; ++i) e.p[size_t(order[i])] = w[i], total += w[i];
  const double u = double(mix64(d.seed, uint64_t(uint32_t(d.position))) >> 11) * 0x1p-53;
  bool drawn = false;
  for (size_t i = 0; i < e.p.size(); ++i) {
    double& p = e.p[i];
    p /= total;
    if (p == 0 || drawn) continue;
    e.token = int(i);
    drawn = u < before + p;
    // Outside of the first and last border there is nothing.
    e.near |= (before > 0 && std::fabs(u - before) < kNear) ||
              (before + p < 1 - kNear && std::fabs(u - before - p) < kNear);
    before += p;
  }
  return e;
}

// The x with mix64(x) == y.
inline uint64_t unmix64(uint64_t y) {
  const auto inverse = [](uint64_t odd) {  // five steps of Newton's: 3 bits are right at first
    uint64_t x = odd;
    for (int i = 0; i < 5; ++i) x *= 2 - odd * x;
    return x;
  };
  y = (y ^ y >> 31 ^ y >> 62) * inverse(0x94d049bb133111ebull);
  y = (y ^ y >> 27 ^ y >> 54) * inverse(0xbf58476d1ce4e5b9ull);
  return (y ^ y >> 30 ^ y >> 60) - 0x9e3779b97f4a7c15ull;
}

// The seed that gives this random number at `position`.
inline uint64_t seed_for(uint64_t random, int position) {
  return unmix64(unmix64(random) ^ uint32_t(position));
}

// `d` with random numbers from all over [0, 1): the first, the last, and some between.
inline void add_spread(std::vector<Draw>& to, Draw d, int between) {
  const auto add = [&](uint64_t random) {
    d.position = int(to.size() * 7919);
    d.seed = seed_for(random, d.position);
    to.push_back(d);
  };
  add(0);
  add(~0ull);
  std::mt19937_64 random(to.size());
  for (int i = 0; i < between; ++i) add(random());
}

}  // namespace sluice::cuda
