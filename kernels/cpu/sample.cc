#include "kernels/cpu/sample.h"

#include <algorithm>
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
  candidates_.resize(vocab);
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
  if (b.history_offsets && (presence != 0 || frequency != 0 || repetition != 1)) {
    history_begin = b.history_offsets.as<int32_t>()[i];
    history_end = b.history_offsets.as<int32_t>()[i + 1];
  }
  if (b.bias_offsets) {
    bias_begin = b.bias_offsets.as<int32_t>()[i];
    bias_end = b.bias_offsets.as<int32_t>()[i + 1];
  }
  if (history_begin == history_end && bias_begin == bias_end && !b.allowed_mask) return false;
  std::copy(row, row + vocab, adjusted_.begin());
  for (int32_t h = history_begin; h < history_end; ++h) {
    float& x = adjusted_[b.history_ids.as<int32_t>()[h]];
    const int32_t count = b.history_counts.as<int32_t>()[h];
    x = x > 0 ? x / repetition : x * repetition;
    if (count > 0) x -= presence + frequency * float(count);
  }
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

// candidates_[0, n) = the tokens that top-k, min-p and top-p leave, by falling weight or not at
// all ordered; the same for the same row.
size_t Sampler::collect(int64_t vocab, float total, int64_t top_k, float min_p, float top_p) {
  // A bound on the weight (the best token's is 1) under which no survivor can be. Top-p alone
  // knows its target from the whole row's weight; behind another filter, from what that one keeps.
  const bool only_top_p = top_k == 0 && !(min_p > 0);
  float bound = 0;
  for (const float step : {0x1p-3f, 0x1p-6f, 0x1p-10f, 0x1p-16f, 0x1p-32f}) {
    float sum = 0;
    const int64_t count = kernels_->mass_at_least(weights_.data(), vocab, step, &sum);
    if (only_top_p ? sum >= top_p * total * 1.0001f
                   : step <= min_p || (top_k > 0 && count >= top_k)) {
      bound = step;
      break;
    }
  }
  bound = std::max(bound, std::max(min_p, std::numeric_limits<float>::min()));
  size_t n = 0;
  for (int64_t i = 0; (i = kernels_->next_at_least(weights_.data(), i, vocab, bound)) < vocab;
       ++i) {
    candidates_[n++] = {weights_[i], int32_t(i)};
  }
  const auto before = [](const Candidate& a, const Candidate& b) {
    return a.weight != b.weight ? a.weight > b.weight : a.id < b.id;
  };
  if (top_k > 0 && size_t(top_k) < n) {
    std::nth_element(candidates_.begin(), candidates_.begin() + top_k - 1, candidates_.begin() + n,
                     before);
    n = size_t(top_k);
  }
  if (!(top_p < 1)) return n;
  double kept = total;
  if (!only_top_p) {
    kept = 0;
    for (size_t c = 0; c < n; ++c) kept += candidates_[c].weight;
  }
  return nucleus(n, std::max(0.0, double(top_p) * kept));
}

// The fewest of the heaviest candidates that weigh `target` together: a quickselect on the running
// sum.
size_t Sampler::nucleus(size_t count, double target) {
  const auto before = [](const Candidate& a, const Candidate& b) {
    return a.weight != b.weight ? a.weight > b.weight : a.id < b.id;
  };
  size_t low = 0, high = count;  // the answer is in (low, high]
  double held = 0;               // weight of [0, low)
  while (high - low > 1) {
    const size_t middle = low + (high - low) / 2;
    std::nth_element(candidates_.begin() + low, candidates_.begin() + middle,
                     candidates_.begin() + high, before);
    double sum = held;
    for (size_t i = low; i < middle; ++i) sum += candidates_[i].weight;
    if (sum >= target) {
      high = middle;
    } else {
      low = middle;
      held = sum;
    }
  }
  return high;
}

int32_t Sampler::choose(const float* row, int64_t vocab, const SampleBatch& b, int64_t i,
                        float max) {
  const float temperature = at(b.temperature, i, 0.0f);
  // The factor is bounded so that 0 * factor stays 0: such a draw is the argmax anyway.
  const float factor = std::min(1.0f / temperature, 1e30f);
  const float total = kernels_->sum_exp(weights_.data(), row, vocab, max, factor);
  int64_t top_k = at<int32_t>(b.top_k, i, 0);
  if (top_k < 0 || top_k >= vocab) top_k = 0;
  const float min_p = std::min(at(b.min_p, i, 0.0f), 1.0f), top_p = at(b.top_p, i, 1.0f);
  const double u = uniform(at<uint64_t>(b.seed, i, 0), at<int32_t>(b.position, i, 0));
  if (top_k > 0 || min_p > 0 || top_p < 1) {
    const size_t n = collect(vocab, total, top_k, min_p, top_p);
    double sum = 0;
    for (size_t c = 0; c < n; ++c) sum += candidates_[c].weight;
    double left = u * sum;
    for (size_t c = 0; c < n; ++c) {
      left -= candidates_[c].weight;
      if (left < 0) return candidates_[c].id;
    }
    return candidates_[n - 1].id;
  }
  // Steps over whole stretches first. The walk's own sum decides, in double.
  double sum = 0;
  for (int64_t t = 0, s = 0; t < vocab; t += kStretch, ++s) {
    double part = 0;
    const int64_t end = std::min(vocab, t + kStretch);
    for (int64_t j = t; j < end; ++j) part += weights_[j];
    stretch_sums_[s] = part;
    sum += part;
  }
  double left = u * sum;
  int64_t t = 0;
  for (; t + kStretch < vocab && left >= stretch_sums_[t / kStretch]; t += kStretch) {
    left -= stretch_sums_[t / kStretch];
  }
  int32_t last = -1;
  for (; t < vocab; ++t) {
    if (!(weights_[t] > 0)) continue;
    last = int32_t(t);
    left -= weights_[t];
    if (left < 0) return last;
  }
  if (last >= 0) return last;
  // Rounding led past the last token with any weight: take that one.
  for (t = vocab - 1; t > 0 && !(weights_[t] > 0); --t) {
  }
  return int32_t(t);
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
