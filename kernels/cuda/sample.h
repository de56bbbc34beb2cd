// Draws of tokens from rows of logits, and log-probabilities: a block takes a draw at a time.
//
// Everything is a pass over one row, with no sort. Two things make a result exact, the same in any
// batch, and the same however threads run:
//  - Tokens are in one order, by weight and then by id, and every filter (top-k, min-p, top-p)
//    keeps the first few of it. So what is left after any of them is one Cut, and nothing is
//    rewritten. Where to cut is found by radix selection: the bits of a float, as an integer, in
//    three digits, with what each value of a digit holds summed in shared memory.
//  - Masses of tokens are integers, so their sums do not depend on the order: weight * 2^40 rounded
//    down. The best weighs 1, and 2^23 of it would still fit; what is lighter than 2^-40 of the
//    best is never drawn.
// f32 sums (the logarithm of the sum of exponentials) have one order, which the vocabulary's size
// and the alignment of the logits decide.
//
// Functions here are called by the whole block, and leave shared memory free: nobody reads it any
// more when one returns.
#pragma once

#include "base/hash.h"
#include "kernels/simt/simt.h"

namespace sluice::cuda {

// What is told of the model's own distribution, which is the row before penalties and all.
struct LogprobParams {
  const float* logits;
  int64_t stride;  // elements from row to row
  int32_t vocab;
  int32_t top;         // how many of the best are told
  float* logprob;      // [n]: of the token
  int32_t* top_token;  // [n, top], best first, ties by lower id; -1 past the vocabulary
  float* top_logprob;  // [n, top]
  int64_t top_token_stride, top_logprob_stride;  // elements
};

// Entries of draw i: offsets[i] to offsets[i + 1]. Null: none for anybody.
struct SparseList {
  const int32_t* offsets;
  const int32_t* ids;
};

// As in SampleBatch; arrays are [num_draws]. A null pointer turns its parameter off.
struct SampleParams {
  LogprobParams raw;
  int32_t* token;
  float* scratch;  // [num_blocks, vocab]: adjusted logits, then weights
  int32_t num_draws;
  const int32_t* row;
  const float *temperature, *top_p, *min_p;
  const int32_t* top_k;
  const uint64_t* seed;
  const int32_t* position;
  const float *presence, *frequency, *repetition;
  SparseList history;  // distinct ids
  const int32_t* history_counts;
  const int32_t* unseen;  // a token more of the history, generated once more; -1: none
  SparseList biases;      // an id may be there twice
  const float* bias_values;
  const uint32_t* allowed_mask;  // [num_draws, mask_stride]
  int64_t mask_stride;
};

struct TokenLogprobParams {
  LogprobParams raw;
  const int32_t* targets;  // [num_blocks]
};

constexpr int kSampleThreads = 512;  // at most; the vocabulary alone decides how many
constexpr int kSampleWarps = kSampleThreads / 32;
constexpr int kSampleBins = 2048;  // values of a digit

struct SampleShared {
  union {
    // Sums of 64 bits, in two words: shared memory has no adder for more than 32.
    struct {
      uint32_t low[kSampleBins], high[kSampleBins];
    } bins;
    uint64_t best[kSampleBins];
  };
  union {
    uint64_t of_warp[kSampleWarps];
    float sum_of_warp[kSampleWarps];
  };
  uint32_t count;
};

// ---- order ----

// Orders as the values do. NaN counts as -inf, and -0 as 0.
SIMT_DEVICE uint32_t key_of(float x) {
  const uint32_t bits = simt::bit_cast<uint32_t>(simt::max(x, simt::neg_infinity()) + 0.0f);
  return bits >> 31 != 0 ? ~bits : bits | 1u << 31;
}
SIMT_DEVICE float value_of(uint32_t key) {
  return simt::bit_cast<float>(key >> 31 != 0 ? key & ~(1u << 31) : ~key);
}

// A token's place in the order: the greater, the better.
SIMT_DEVICE uint64_t rank_of(uint32_t key, int32_t id) {
  return uint64_t{key} << 32 | ~uint32_t(id);
}
SIMT_DEVICE int32_t id_of(uint64_t rank) { return int32_t(~uint32_t(rank)); }
SIMT_DEVICE float value_of(uint64_t rank) { return value_of(uint32_t(rank >> 32)); }

// The first few of the order: what is above the key, and of what is at it the ids before `end`.
struct Cut {
  uint32_t key = 0;  // no value has this one: everything stays
  int32_t end = 0;

  SIMT_DEVICE bool keeps(uint32_t k, int32_t id) const { return k > key || (k == key && id < end); }
};

// ---- passes ----

// kVector: elements of one access; the row's address and `size` are multiples of it.
template <int kVector>
struct Row {
  const float* values;
  int32_t size;

  // f(value, id) for this thread's tokens: the same ones whatever the row.
  template <class F>
  SIMT_DEVICE void for_each(const F& f) const {
    for (int32_t i = simt::thread_id() * kVector; i < size; i += simt::num_threads() * kVector) {
      if constexpr (kVector == 4) {
        const simt::Float4 v = simt::load_float4(values + i);
        SIMT_UNROLL
        for (int k = 0; k < 4; ++k) f(v.v[k], i + k);
      } else {
        f(values[i], i);
      }
    }
  }
  // to[id] = f(value, id); `to` may be the row itself.
  template <class F>
  SIMT_DEVICE void write(float* to, const F& f) const {
    for (int32_t i = simt::thread_id() * kVector; i < size; i += simt::num_threads() * kVector) {
      if constexpr (kVector == 4) {
        simt::Float4 v = simt::load_float4(values + i);
        SIMT_UNROLL
        for (int k = 0; k < 4; ++k) v.v[k] = f(v.v[k], i + k);
        simt::store_float4(to + i, v);
      } else {
        to[i] = f(values[i], i);
      }
    }
  }
};

// Of all threads, in one order; everybody gets it. What threads wrote before is seen after.
template <class T, class Join>
SIMT_DEVICE T block_reduce(T v, T (&of_warp)[kSampleWarps], const Join& join) {
  SIMT_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) v = join(v, simt::shuffle_xor(v, mask));
  if (simt::lane_id() == 0) of_warp[simt::warp_id()] = v;
  simt::sync_block();
  v = of_warp[0];
  for (int w = 1; w < simt::num_threads() / 32; ++w) v = join(v, of_warp[w]);
  simt::sync_block();
  return v;
}

// The rank of the best token.
template <int kVector>
SIMT_DEVICE uint64_t best_of(const Row<kVector>& row, SampleShared& shared) {
  const auto better = [](uint64_t a, uint64_t b) { return a > b ? a : b; };
  uint64_t best = 0;
  row.for_each([&](float x, int32_t id) { best = better(best, rank_of(key_of(x), id)); });
  return block_reduce(best, shared.of_warp, better);
}

// e^((x - max) * factor); 0 where x is NaN, and where all is -inf or something +inf.
SIMT_DEVICE float weight_of(float x, float max, float factor) {
  return simt::max(simt::exp((x - max) * factor), 0.0f);
}
SIMT_DEVICE uint64_t mass_of(float weight) { return uint64_t(weight * 0x1p40f); }

template <int kVector>
SIMT_DEVICE float log_sum_exp(const Row<kVector>& row, float max, SampleShared& shared) {
  float sum = 0;
  row.for_each([&](float x, int32_t) { sum += weight_of(x, max, 1); });
  sum = block_reduce(sum, shared.sum_of_warp, [](float a, float b) { return a + b; });
  return max + simt::log(sum);
}

// Sum of measure(value) over what the cut keeps.
template <int kVector, class Measure>
SIMT_DEVICE uint64_t total(const Row<kVector>& row, const Cut& cut, const Measure& measure,
                           SampleShared& shared) {
  uint64_t sum = 0;
  row.for_each([&](float x, int32_t id) { sum += cut.keeps(key_of(x), id) ? measure(x) : 0; });
  return block_reduce(sum, shared.of_warp, [](uint64_t a, uint64_t b) { return a + b; });
}

struct Found {
  int32_t at;
  uint64_t before, measure;  // the sum before it, and its own
};

// The first i < n where the running sum of measure(i) comes to `goal`, which is above 0 and at most
// the whole. Each warp sums a part; the part where it happens is divided again. What measure reads
// was written before a barrier.
template <class Measure>
SIMT_DEVICE Found find(int32_t n, uint64_t goal, const Measure& measure, SampleShared& shared) {
  const int warps = simt::num_threads() / 32;
  Found found{0, 0, 0};
  int32_t end = n, part;
  do {
    part = (end - found.at + warps - 1) / warps;
    const int32_t begin = found.at + simt::warp_id() * part;
    const int32_t own_end = begin + part < end ? begin + part : end;
    uint64_t sum = 0;
    for (int32_t i = begin + simt::lane_id(); i < own_end; i += 32) sum += measure(i);
    sum = simt::warp_sum(sum);
    if (simt::lane_id() == 0) shared.of_warp[simt::warp_id()] = sum;
    simt::sync_block();
    int w = 0;
    for (; w < warps - 1 && found.before + shared.of_warp[w] < goal; ++w)
      found.before += shared.of_warp[w];
    found.measure = shared.of_warp[w];
    simt::sync_block();
    found.at += w * part;
    end = found.at + part < end ? found.at + part : end;
  } while (part > 1);
  return found;
}

SIMT_DEVICE void add_to_bin(SampleShared& shared, uint32_t bin, uint64_t v) {
  const auto low = uint32_t(v);
  const bool carry = simt::atomic_add_shared(&shared.bins.low[bin], low) + low < low;
  const uint32_t high = uint32_t(v >> 32) + uint32_t{carry};
  if (high != 0) simt::atomic_add_shared(&shared.bins.high[bin], high);
}

// The fewest first of the order whose measure(value) comes to `goal`, which is above 0 and at most
// the whole. Where an earlier cut keeps as much as that, what it dropped is never come to.
template <int kVector, class Measure>
SIMT_DEVICE Cut select(const Row<kVector>& row, uint64_t goal, const Measure& measure,
                       SampleShared& shared) {
  uint32_t key = 0, known = 0;  // of the last to stay: its upper digits, and which bits they are
  uint64_t equals = 0;          // what is at the key
  for (int digit = 2; digit >= 0; --digit) {
    const int shift = 21 * digit / 2;  // 21, 10, 0: the last two have a bit in common
    for (int b = simt::thread_id(); b < kSampleBins; b += simt::num_threads())
      shared.bins.low[b] = shared.bins.high[b] = 0;
    simt::sync_block();
    row.for_each([&](float x, int32_t) {
      const uint32_t k = key_of(x);
      if (((k ^ key) & known) != 0) return;
      // The greatest first. Bins of what is nothing would be the fullest of all, and the slowest.
      const uint64_t m = measure(x);
      if (m != 0) add_to_bin(shared, ~k >> shift & (kSampleBins - 1), m);
    });
    simt::sync_block();
    const auto bin = [&](int32_t b) {
      return uint64_t{shared.bins.high[b]} << 32 | shared.bins.low[b];
    };
    const Found found = find(kSampleBins, goal, bin, shared);
    goal -= found.before;
    equals = found.measure;
    key |= uint32_t(kSampleBins - 1 - found.at) << shift;
    known = ~0u << shift;
  }
  const uint64_t one = measure(value_of(key));
  if (goal > equals - one) return {key, row.size};  // all of them stay
  const auto is_equal = [&](int32_t id) { return key_of(row.values[id]) == key ? one : 0; };
  return {key, find(row.size, goal, is_equal, shared).at + 1};
}

// ---- a draw ----

// The `top` best tokens, best first.
template <int kVector>
SIMT_DEVICE void write_best(const LogprobParams& p, int32_t index, const Row<kVector>& row,
                            float log_sum, SampleShared& shared) {
  const int32_t held = p.top < row.size ? p.top : row.size;
  Cut cut;
  if (held < row.size)
    cut = select(
        row, uint64_t(held), [](float) { return uint64_t{1}; }, shared);
  if (simt::thread_id() == 0) shared.count = 0;
  simt::sync_block();
  row.for_each([&](float x, int32_t id) {
    const uint32_t k = key_of(x);
    if (cut.keeps(k, id)) shared.best[simt::atomic_add_shared(&shared.count, 1)] = rank_of(k, id);
  });
  simt::sync_block();
  int32_t* tokens = p.top_token + index * p.top_token_stride;
  float* logprobs = p.top_logprob + index * p.top_logprob_stride;
  for (int32_t i = simt::thread_id(); i < p.top; i += simt::num_threads()) {
    int32_t place = i, token = -1;
    float logprob = simt::neg_infinity();
    if (i < held) {  // they lie in any order; ranks are distinct
      const uint64_t rank = shared.best[i];
      place = 0;
      for (int32_t j = 0; j < held; ++j) place += shared.best[j] > rank ? 1 : 0;
      token = id_of(rank), logprob = value_of(rank) - log_sum;
    }
    tokens[place] = token, logprobs[place] = logprob;
  }
  simt::sync_block();
}

SIMT_DEVICE void write_logprob(const LogprobParams& p, int32_t index, float logit, float log_sum) {
  if (simt::thread_id() == 0) p.logprob[index] = simt::max(logit, simt::neg_infinity()) - log_sum;
}

struct Span {
  int32_t begin = 0, end = 0;
};
SIMT_DEVICE Span span_of(const SparseList& list, int32_t draw) {
  if (list.offsets == nullptr) return {};
  return {list.offsets[draw], list.offsets[draw + 1]};
}

template <class T>
SIMT_DEVICE T at(const T* values, int32_t draw, T otherwise) {
  return values != nullptr ? values[draw] : otherwise;
}

// `to` = the row after penalties, biases and mask; false, and nothing written, where none applies.
template <int kVector>
SIMT_DEVICE bool adjust(const SampleParams& p, int32_t draw, const Row<kVector>& row, float* to,
                        SampleShared& shared) {
  const float presence = at(p.presence, draw, 0.0f), frequency = at(p.frequency, draw, 0.0f);
  const float repetition = at(p.repetition, draw, 1.0f);
  Span history, biases = span_of(p.biases, draw);
  int32_t unseen = -1;
  if (presence != 0 || frequency != 0 || repetition != 1)
    history = span_of(p.history, draw), unseen = at(p.unseen, draw, -1);
  if (history.begin == history.end && unseen < 0 && biases.begin == biases.end &&
      p.allowed_mask == nullptr)
    return false;
  // Masked first or last is the same: neither penalties nor biases bring -inf (NaN) back.
  const uint32_t* mask =
      p.allowed_mask != nullptr ? p.allowed_mask + draw * p.mask_stride : nullptr;
  row.write(to, [&](float x, int32_t id) {
    return mask == nullptr || (mask[id / 32] >> id % 32 & 1) != 0 ? x : simt::neg_infinity();
  });
  if (simt::thread_id() == 0) shared.count = 0;
  simt::sync_block();
  const auto penalise = [&](int32_t id, int32_t count) {
    float x = to[id];
    x = x > 0 ? x / repetition : x * repetition;
    if (count > 0) x -= presence + frequency * float(count);
    to[id] = x;
  };
  for (int32_t h = history.begin + simt::thread_id(); h < history.end; h += simt::num_threads()) {
    const int32_t id = p.history.ids[h];
    penalise(id, p.history_counts[h] + (id == unseen ? 1 : 0));
    if (id == unseen) shared.count = 1;  // one thread at most: ids are distinct
  }
  simt::sync_block();
  if (simt::thread_id() == 0 && unseen >= 0 && shared.count == 0) penalise(unseen, 1);
  simt::sync_block();
  // Every thread reads the whole list, and adds what is for its own tokens: in the list's order.
  for (int32_t b = biases.begin; b < biases.end; ++b) {
    const int32_t id = p.biases.ids[b];
    if (id % simt::num_threads() == simt::thread_id()) to[id] += p.bias_values[b];
  }
  simt::sync_block();
  return true;
}

// The token for a random number, of those that top-k, min-p and top-p leave. The best weighs 1.
// Before weights of other threads are read, there was total().
template <int kVector>
SIMT_DEVICE int32_t choose(const SampleParams& p, int32_t draw, const Row<kVector>& weights,
                           SampleShared& shared) {
  const auto mass = [](float weight) { return mass_of(weight); };
  const auto one = [](float weight) -> uint64_t { return mass_of(weight) > 0 ? 1 : 0; };
  Cut cut;
  const int32_t top_k = at(p.top_k, draw, 0);
  if (top_k > 0 && uint64_t(top_k) < total(weights, cut, one, shared))
    cut = select(weights, uint64_t(top_k), one, shared);
  const float min_p = at(p.min_p, draw, 0.0f);
  if (min_p > 0) {
    const uint32_t key = key_of(min_p < 1 ? min_p : 1.0f);
    if (key > cut.key) cut = {key, weights.size};
  }
  const float top_p = at(p.top_p, draw, 1.0f);
  if (top_p < 1) {
    const uint64_t left = total(weights, cut, mass, shared);
    const uint64_t goal = simt::mul_high(uint64_t(simt::max(top_p, 0.0f) * 0x1p64f), left);
    cut = select(weights, goal > 0 ? goal : 1, mass, shared);
  }
  const uint64_t left = total(weights, cut, mass, shared);
  const auto position = uint32_t(at(p.position, draw, 0));
  const uint64_t random = mix64(at(p.seed, draw, uint64_t{0}), position);
  const auto of_token = [&](int32_t id) -> uint64_t {
    const float weight = weights.values[id];
    return cut.keeps(key_of(weight), id) ? mass_of(weight) : 0;
  };
  return find(weights.size, simt::mul_high(random, left) + 1, of_token, shared).at;
}

template <int kVector>
SIMT_KERNEL(kSampleThreads, 2)
sample_kernel(SampleParams p) {
  simt::wait_for_earlier();
  auto& shared = simt::shared<SampleShared>();
  float* scratch = p.scratch + int64_t{simt::block_id()} * p.raw.vocab;
  for (int32_t draw = simt::block_id(); draw < p.num_draws; draw += simt::num_blocks()) {
    const Row<kVector> row{p.raw.logits + p.row[draw] * p.raw.stride, p.raw.vocab};
    const Row<kVector> own{scratch, p.raw.vocab};
    uint64_t best = best_of(row, shared);
    const float log_sum = log_sum_exp(row, value_of(best), shared);
    if (p.raw.top > 0) write_best(p.raw, draw, row, log_sum, shared);
    const float temperature = at(p.temperature, draw, 0.0f);
    bool greedy = !(temperature > 0), adjusted = adjust(p, draw, row, scratch, shared);
    if (adjusted) {
      const uint64_t left = best_of(own, shared);
      if (value_of(left) > simt::neg_infinity()) {
        best = left;
      } else {
        greedy = true;  // everything is banned: the raw argmax
      }
    }
    const float max = value_of(best);
    int32_t token = id_of(best);
    if (!greedy && max > simt::neg_infinity() && max < -simt::neg_infinity()) {
      // Bounded, so that 0 * factor stays 0: such a draw is the argmax anyway.
      const float factor = 1 / temperature < 1e30f ? 1 / temperature : 1e30f;
      const Row<kVector> from{adjusted ? scratch : row.values, row.size};
      from.write(scratch, [&](float x, int32_t) { return weight_of(x, max, factor); });
      token = choose(p, draw, own, shared);
    }
    if (simt::thread_id() == 0) p.token[draw] = token;
    write_logprob(p.raw, draw, row.values[token], log_sum);
  }
}

// A block takes a target.
template <int kVector>
SIMT_KERNEL(kSampleThreads, 2)
token_logprobs_kernel(TokenLogprobParams p) {
  simt::wait_for_earlier();
  auto& shared = simt::shared<SampleShared>();
  const int32_t index = simt::block_id();
  const Row<kVector> row{p.raw.logits + index * p.raw.stride, p.raw.vocab};
  const float log_sum = log_sum_exp(row, value_of(best_of(row, shared)), shared);
  if (p.raw.top > 0) write_best(p.raw, index, row, log_sum, shared);
  write_logprob(p.raw, index, row.values[p.targets[index]], log_sum);
}

}  // namespace sluice::cuda
