#include "engine/sampler.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "base/hash.h"

namespace sluice {
namespace {

constexpr float kBan = -std::numeric_limits<float>::infinity();

const SamplingParams& params_of(const Draw& d) { return d.seq->request->sampling; }

bool below_min_tokens(const Draw& d) {
  return d.context_len - d.seq->num_prompt < params_of(d).min_tokens;
}

template <class Predicate>
bool any(std::span<const Draw> draws, Predicate p) {
  return std::any_of(draws.begin(), draws.end(), p);
}
bool any_penalties(std::span<const Draw> draws) {
  return any(draws, [](const Draw& d) { return has_penalties(params_of(d)); });
}
bool any_masks(std::span<const Draw> draws) {
  return any(draws, [](const Draw& d) { return !params_of(d).allowed.empty(); });
}

size_t list_bytes(int64_t entries) {  // ids and values (or counts) of a CSR
  return 2 * PackedBuffer::bytes_of(DType::i32, entries);
}

}  // namespace

bool has_penalties(const SamplingParams& p) {
  return p.presence_penalty != 0 || p.frequency_penalty != 0 || p.repetition_penalty != 1;
}

Sampler::Sampler(int vocab_size, std::vector<TokenId> eos_ids)
    : vocab_size_(vocab_size),
      mask_words_((vocab_size + 31) / 32),
      eos_ids_(std::move(eos_ids)),
      stamp_(size_t(vocab_size), 0),
      place_(size_t(vocab_size), 0) {}

int Sampler::num_biases(const Draw& d) const {
  const SamplingParams& p = params_of(d);
  size_t n = p.logit_bias.size();
  if (below_min_tokens(d)) n += p.stop_tokens.size() + (p.ignore_eos ? 0 : eos_ids_.size());
  return int(n);
}

size_t Sampler::bytes(std::span<const Draw> draws) const {
  const auto n = int64_t(draws.size());
  // Eleven dense arrays, one of them of 64 bits, and two rows of offsets.
  size_t total = 10 * PackedBuffer::bytes_of(DType::i32, n) +
                 PackedBuffer::bytes_of(DType::u64, n) +
                 2 * PackedBuffer::bytes_of(DType::i32, n + 1);
  int64_t history = 0, biases = 0;
  for (const Draw& d : draws) {
    if (has_penalties(params_of(d))) history += std::min(d.context_len, vocab_size_);
    biases += num_biases(d);
  }
  total += list_bytes(history) + list_bytes(biases);
  if (any_masks(draws)) total += PackedBuffer::bytes_of(DType::u32, n * mask_words_);
  return total;
}

size_t Sampler::reserve_bytes(int max_draws, int max_model_len, int vocab_size) {
  constexpr int64_t kHistory = 1 << 20;  // tokens of penalised contexts in one step
  constexpr int64_t kBiases = 320;       // entries a draw: the protocol's 300, and bans
  const int64_t n = max_draws;
  const int64_t contexts = n * std::min(vocab_size, max_model_len);
  return 10 * PackedBuffer::bytes_of(DType::i32, n) + PackedBuffer::bytes_of(DType::u64, n) +
         2 * PackedBuffer::bytes_of(DType::i32, n + 1) + list_bytes(std::min(kHistory, contexts)) +
         list_bytes(n * kBiases) + PackedBuffer::bytes_of(DType::u32, n * ((vocab_size + 31) / 32));
}

void Sampler::write_parameters(std::span<const Draw> draws, SampleBatch& b,
                               PackedBuffer& out) const {
  const auto n = int64_t(draws.size());
  b.row = out.take(DType::i32, {n});
  b.temperature = out.take(DType::f32, {n});
  b.top_p = out.take(DType::f32, {n});
  b.min_p = out.take(DType::f32, {n});
  b.top_k = out.take(DType::i32, {n});
  b.seed = out.take(DType::u64, {n});
  b.position = out.take(DType::i32, {n});
  for (int64_t i = 0; i < n; ++i) {
    const Draw& d = draws[i];
    const SamplingParams& p = params_of(d);
    b.row.as<int32_t>()[i] = d.row;
    b.temperature.as<float>()[i] = p.temperature;
    b.top_p.as<float>()[i] = p.top_p;
    b.min_p.as<float>()[i] = p.min_p;
    b.top_k.as<int32_t>()[i] = p.top_k;
    b.seed.as<uint64_t>()[i] = mix64(p.seed, uint64_t(d.sample));
    b.position.as<int32_t>()[i] = d.context_len;
    b.top_logprobs = std::max(b.top_logprobs, p.top_logprobs);
  }
}

// Distinct tokens of each penalised context, each with how often it was generated; but for one that
// the host does not know yet.
void Sampler::write_history(std::span<const Draw> draws, SampleBatch& b, PackedBuffer& out) {
  const auto n = int64_t(draws.size());
  b.presence = out.take(DType::f32, {n});
  b.frequency = out.take(DType::f32, {n});
  b.repetition = out.take(DType::f32, {n});
  b.history_offsets = out.take(DType::i32, {n + 1});
  b.unseen = out.take(DType::i32, {n});
  int64_t room = 0;
  for (const Draw& d : draws)
    if (has_penalties(params_of(d))) room += std::min(d.context_len, vocab_size_);
  b.history_ids = out.take(DType::i32, {room});
  b.history_counts = out.take(DType::i32, {room});
  auto* ids = b.history_ids.as<int32_t>();
  auto* counts = b.history_counts.as<int32_t>();
  auto* offsets = b.history_offsets.as<int32_t>();
  int32_t size = 0;
  for (int64_t i = 0; i < n; ++i) {
    const Draw& d = draws[i];
    const SamplingParams& p = params_of(d);
    b.presence.as<float>()[i] = p.presence_penalty;
    b.frequency.as<float>()[i] = p.frequency_penalty;
    b.repetition.as<float>()[i] = p.repetition_penalty;
    b.unseen.as<int32_t>()[i] = -1;
    offsets[i] = size;
    if (!has_penalties(p)) continue;
    if (++epoch_ == 0) {  // wrapped: every old stamp would look fresh
      std::fill(stamp_.begin(), stamp_.end(), 0);
      epoch_ = 1;
    }
    const int known = std::min(d.context_len, d.seq->num_tokens());
    for (int t = 0; t < known; ++t) {
      const TokenId id = d.seq->tokens[size_t(t)];
      if (stamp_[id] != epoch_) {
        stamp_[id] = epoch_;
        place_[id] = size;
        ids[size] = id;
        counts[size++] = 0;
      }
      if (t >= d.seq->num_prompt) ++counts[place_[id]];
    }
  }
  offsets[n] = size;
  b.history_ids.shape[0] = b.history_counts.shape[0] = size;
}

void Sampler::write_biases(std::span<const Draw> draws, SampleBatch& b, PackedBuffer& out) const {
  const auto n = int64_t(draws.size());
  int64_t room = 0;
  for (const Draw& d : draws) room += num_biases(d);
  b.bias_offsets = out.take(DType::i32, {n + 1});
  b.bias_ids = out.take(DType::i32, {room});
  b.bias_values = out.take(DType::f32, {room});
  auto* ids = b.bias_ids.as<int32_t>();
  auto* values = b.bias_values.as<float>();
  int32_t size = 0;
  const auto put = [&](TokenId id, float value) {
    ids[size] = id;
    values[size++] = value;
  };
  for (int64_t i = 0; i < n; ++i) {
    const SamplingParams& p = params_of(draws[i]);
    b.bias_offsets.as<int32_t>()[i] = size;
    for (const auto& [id, value] : p.logit_bias) put(id, value);
    if (!below_min_tokens(draws[i])) continue;
    for (const TokenId id : p.stop_tokens) put(id, kBan);
    if (p.ignore_eos) continue;
    for (const TokenId id : eos_ids_) put(id, kBan);
  }
  b.bias_offsets.as<int32_t>()[n] = size;
}

void Sampler::write_masks(std::span<const Draw> draws, SampleBatch& b, PackedBuffer& out) const {
  const auto n = int64_t(draws.size());
  b.allowed_mask = out.take(DType::u32, {n, mask_words_});
  for (int64_t i = 0; i < n; ++i) {
    const std::vector<TokenId>& allowed = params_of(draws[i]).allowed;
    auto* bits = b.allowed_mask.row<uint32_t>(i);
    std::memset(bits, allowed.empty() ? 0xff : 0, size_t(mask_words_) * sizeof(uint32_t));
    for (const TokenId id : allowed) bits[id / 32] |= 1u << (id % 32);
  }
}

SampleBatch Sampler::write(std::span<const Draw> draws, PackedBuffer& out) {
  SampleBatch b;
  b.num_draws = int(draws.size());
  write_parameters(draws, b, out);
  if (any_penalties(draws)) write_history(draws, b, out);
  if (any(draws, [&](const Draw& d) { return num_biases(d) > 0; })) write_biases(draws, b, out);
  if (any_masks(draws)) write_masks(draws, b, out);
  return b;
}

std::array<Tensor*, 18> tensors_of(SampleBatch& b) {
  return {&b.row,          &b.temperature,  &b.top_p,           &b.min_p,       &b.top_k,
          &b.seed,         &b.position,     &b.presence,        &b.frequency,   &b.repetition,
          &b.unseen,       &b.allowed_mask, &b.history_offsets, &b.history_ids, &b.history_counts,
          &b.bias_offsets, &b.bias_ids,     &b.bias_values};
}

SampleBatch slice(const SampleBatch& b, int begin, int count) {
  SampleBatch part = b;
  part.num_draws = count;
  for (Tensor* t : {&part.row, &part.temperature, &part.top_p, &part.min_p, &part.top_k, &part.seed,
                    &part.position, &part.presence, &part.frequency, &part.repetition, &part.unseen,
                    &part.allowed_mask})
    if (*t) *t = t->rows(begin, count);
  // Offsets stay absolute: the lists behind them are shared.
  for (Tensor* t : {&part.history_offsets, &part.bias_offsets})
    if (*t) *t = t->rows(begin, count + 1);
  return part;
}

}  // namespace sluice
