#include "kernels/cpu/sample.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "base/hash.h"

namespace sluice::cpu {
namespace {

constexpr int64_t kStretch = 256;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

template <class T>
T at(const Tensor& t, int64_t i, T otherwise) {
  return t ? t.row<const T>(0)[i * t.stride[0]] : otherwise;
}

}  // namespace

double uniform(uint64_t seed, int32_t position) {
  return double(mix64(seed, uint64_t(uint32_t(position))) >> 11) * 0x1p-53;
}

void Sampler::reserve(int64_t vocab) {
  if (int64_t(weights_.size()) >= vocab) return;
  adjusted_.resize(vocab);
  weights_.resize(vocab);
  band_.resize(vocab);
  stretch_sums_.resize(vocab / kStretch + 1);
}

float Sampler::log_sum(const float* row, int64_t vocab, float max) const {
  if (!(max > -kInfinity)) return -kInfinity;
  return max + std::log(kernels_->sum_exp(nullptr, row, vocab, max, 1.0f));
}

// The `count` largest, ties by lower id: an insertion into a short sorted list for each value that
// beats its last, found a vector at a time.
void Sampler::best(const float* row, int64_t vocab, float log_sum, int count, int32_t* ids,
                   float* values) {
  int held = 0;
  int64_t i = 0;
  for (; i < vocab && held < count; ++i) {
    const float x = std::isnan(row[i]) ? -kInfinity : row[i];
    int j = held++;
    for (; j > 0 && values[j - 1] < x; --j) {
      values[j] = values[j - 1];
      ids[j] = ids[j - 1];
    }
    values[j] = x;
    ids[j] = int32_t(i);
  }
  while (count > 0 && held == count &&
         (i = kernels_->next_above(row, i, vocab, values[count - 1])) < vocab) {
    int j = count - 1;
    for (; j > 0 && values[j - 1] < row[i]; --j) {
      values[j] = values[j - 1];
      ids[j] = ids[j - 1];
    }
    values[j] = row[i];
    ids[j] = int32_t(i++);
  }
  for (int j = 0; j < held; ++j) values[j] -= log_sum;
  for (int j = held; j < count; ++j) {  // more asked for than the vocabulary has
    ids[j] = -1;
    values[j] = -kInfinity;
  }
}

// adjusted_ = the row after penalties, biases and mask; false (and untouched) where none applies.
bool Sampler::adjust(const float* row, int64_t vocab, const SampleBatch& b, int64_t i) {
  const float presence = at(b.presence, i, 0.0f), frequency = at(b.frequency, i, 0.0f);
  const float repetition = at(b.repetition, i, 1.0f);
  int32_t history_begin = 0, history_end = 0, bias_begin = 0, bias_end = 0;
  const bool penalised = presence != 0 || frequency != 0 || repetition != 1;
  if (b.history_offsets && penalised) {
    history_begin = b.history_offsets.as<int32_t>()[i];
    history_end = b.history_offsets.as<int32_t>()[i + 1];
  }
  if (b.bias_offsets) {
    bias_begin = b.bias_offsets.as<int32_t>()[i];
    bias_end = b.bias_offsets.as<int32_t>()[i + 1];
  }
  int32_t unseen = penalised ? at<int32_t>(b.unseen, i, -1) : -1;
  if (history_begin == history_end && unseen < 0 && bias_begin == bias_end && !b.allowed_mask)
    return false;
  std::copy(row, row + vocab, adjusted_.begin());
  const auto penalise = [&](int32_t id, int32_t count) {
    float& x = adjusted_[id];
    x = x > 0 ? x / repetition : x * repetition;
    if (count > 0) x -= presence + frequency * float(count);
  };
  for (int32_t h = history_begin; h < history_end; ++h) {
    const int32_t id = b.history_ids.as<int32_t>()[h];
    penalise(id, b.history_counts.as<int32_t>()[h] + (id == unseen));
    if (id == unseen) unseen = -1;
  }
  if (unseen >= 0) penalise(unseen, 1);
  for (int32_t e = bias_begin; e < bias_end; ++e) {
    adjusted_[b.bias_ids.as<int32_t>()[e]] += b.bias_values.as<float>()[e];
  }
  if (b.allowed_mask) {
    const uint32_t* mask = b.allowed_mask.row<const uint32_t>(i);
    for (int64_t t = 0; t < vocab; t += 32) {
      const uint32_t word = mask[t / 32];
      if (word == ~0u) continue;
      const int64_t end = std::min<int64_t>(vocab, t + 32);
      for (int64_t j = t; j < end; ++j) {
        if (!(word >> (j - t) & 1)) adjusted_[j] = -kInfinity;
      }
    }
  }
  return true;
}

// Zeroes the weights of all but the fewest heaviest tokens that are `count` many (if count > 0) or
// weigh `weight` together; of equal ones the lower ids stay. Bisects on the bits of a bound (as
// positive floats order like integers), a vector pass a step, until few tokens lie between.
void Sampler::keep_heaviest(int64_t vocab, int64_t count, float weight) {
  constexpr int64_t kFew = 64;
  struct Above {
    uint32_t bits;
    int64_t count = 0;
    float weight = 0;
    float bound() const { return std::bit_cast<float>(bits); }
  };
  const auto measure = [&](uint32_t bits) {
    Above a{bits};
    a.count = kernels_->mass_at_least(weights_.data(), vocab, a.bound(), &a.weight);
    return a;
  };
  const auto enough = [&](const Above& a) {
    return count > 0 ? a.count >= count : a.weight >= weight;
  };
  Above high{std::bit_cast<uint32_t>(2.0f)};  // the heaviest token weighs 1
  Above low = measure(std::bit_cast<uint32_t>(std::numeric_limits<float>::min()));
  if (!enough(low)) return;
  while (high.bits - low.bits > 1 && low.count - high.count > kFew) {
    const Above middle = measure(low.bits + (high.bits - low.bits) / 2);
    (enough(middle) ? low : high) = middle;
  }
  size_t n = 0;
  for (int64_t i = 0;
       (i = kernels_->next_between(weights_.data(), i, vocab, low.bound(), high.bound())) < vocab;
       ++i) {
    band_[n++] = {weights_[i], int32_t(i)};
  }
  if (high.bits - low.bits > 1) {  // else all are equal, in order of their ids
    std::sort(band_.begin(), band_.begin() + n, [](const Candidate& a, const Candidate& b) {
      return a.weight != b.weight ? a.weight > b.weight : a.id < b.id;
    });
  }
  kernels_->drop_below(weights_.data(), vocab, low.bound());
  double held = high.weight;
  for (size_t i = 0; i < n; ++i) {
    const bool full = count > 0 ? high.count + int64_t(i) >= count : held >= weight;
    // The heaviest stays whatever the goal.
    if (full && high.count + int64_t(i) > 0) weights_[band_[i].id] = 0;
    held += band_[i].weight;
  }
}

// The token at which the running sum of the weights, in order of ids, passes u of the whole.
int32_t Sampler::walk(int64_t vocab, double u) {
  double sum = 0;
  for (int64_t t = 0; t < vocab; t += kStretch) {
    float& part = stretch_sums_[t / kStretch];
    kernels_->mass_at_least(weights_.data() + t, std::min(kStretch, vocab - t), 0, &part);
    sum += part;
  }
  double left = u * sum;
  int64_t t = 0;
  for (; t + kStretch < vocab && left >= stretch_sums_[t / kStretch]; t += kStretch) {
    left -= stretch_sums_[t / kStretch];
  }
  int64_t last = -1;
  for (; t < vocab; ++t) {
    if (!(weights_[t] > 0)) continue;
    last = t;
    left -= weights_[t];
    if (left < 0) return int32_t(t);
  }
  // Rounding led past the end: the last token with any weight.
  for (t = vocab - 1; last < 0 && t >= 0; --t) {
    if (weights_[t] > 0) last = t;
  }
  return int32_t(std::max<int64_t>(last, 0));
}

int32_t Sampler::choose(const float* row, int64_t vocab, const SampleBatch& b, int64_t i,
                        float max) {
  const float temperature = at(b.temperature, i, 0.0f);
  // The factor is bounded so that 0 * factor stays 0: such a draw is the argmax anyway.
  const float factor = std::min(1.0f / temperature, 1e30f);
  kernels_->sum_exp(weights_.data(), row, vocab, max, factor);
  const int64_t top_k = at<int32_t>(b.top_k, i, 0);
  const float min_p = std::min(at(b.min_p, i, 0.0f), 1.0f), top_p = at(b.top_p, i, 1.0f);
  if (top_k > 0 && top_k < vocab) keep_heaviest(vocab, top_k, 0);
  if (min_p > 0) kernels_->drop_below(weights_.data(), vocab, min_p);
  if (top_p < 1) {
    float total = 0;
    kernels_->mass_at_least(weights_.data(), vocab, 0, &total);
    keep_heaviest(vocab, 0, std::max(top_p, 0.0f) * total);
  }
  return walk(vocab, uniform(at<uint64_t>(b.seed, i, 0), at<int32_t>(b.position, i, 0)));
}

void Sampler::draw(const SampleOut& out, const Tensor& logits, const SampleBatch& b, int64_t i) {
  const int64_t vocab = logits.shape[1];
  const float* row = logits.row<const float>(b.row.as<int32_t>()[i]);
  const float max = kernels_->row_max(row, vocab);
  const float norm = log_sum(row, vocab, max);
  if (b.top_logprobs > 0) {
    best(row, vocab, norm, b.top_logprobs, out.top_token.row<int32_t>(i),
         out.top_logprob.row<float>(i));
  }
  const float* from = row;
  float from_max = max;
  bool greedy = !(at(b.temperature, i, 0.0f) > 0);
  if (adjust(row, vocab, b, i)) {
    const float adjusted_max = kernels_->row_max(adjusted_.data(), vocab);
    if (adjusted_max > -kInfinity) {
      from = adjusted_.data();
      from_max = adjusted_max;
    } else {
      greedy = true;  // everything is banned: the raw argmax
    }
  }
  int64_t token = 0;
  if (!greedy && from_max > -kInfinity && from_max < kInfinity) {
    token = choose(from, vocab, b, i, from_max);
  } else {
    token = kernels_->next_at_least(from, 0, vocab, from_max);
    if (token >= vocab) token = 0;  // a row of NaN
  }
  out.token.as<int32_t>()[i] = int32_t(token);
  out.logprob.as<float>()[i] = row[token] - norm;
}

void Sampler::token_logprob(const SampleOut& out, const Tensor& logits, const Tensor& targets,
                            int top, int64_t i) {
  const int64_t vocab = logits.shape[1];
  const float* row = logits.row<const float>(i);
  const float norm = log_sum(row, vocab, kernels_->row_max(row, vocab));
  if (top > 0) {
    best(row, vocab, norm, top, out.top_token.row<int32_t>(i), out.top_logprob.row<float>(i));
  }
  out.logprob.as<float>()[i] = row[targets.as<int32_t>()[i]] - norm;
}

}  // namespace sluice::cpu
