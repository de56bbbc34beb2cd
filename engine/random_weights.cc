#include "engine/random_weights.h"

#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/float16.h"
#include "base/float8.h"
#include "base/random_weights.h"
#include "engine/models/dense.h"

namespace sluice {
namespace {

using Kind = StoredTensor::Random::Kind;

const char* stored_name(DType t) {
  return t == DType::f32 ? "F32" : t == DType::f16 ? "F16" : t == DType::bf16 ? "BF16" : "F8_E4M3";
}

StoredTensor made(CheckpointTensor from, DType dtype, Kind kind, uint64_t seed) {
  StoredTensor t;
  t.random = {kind, weight_stream(seed, from.name), from.mean};
  t.name = std::move(from.name);
  t.file = "config.json";
  t.dtype_name = stored_name(dtype);
  t.dtype = dtype;
  t.shape = std::move(from.shape);
  t.bytes = size_t(bits_of(dtype)) / 8;
  for (const int64_t d : t.shape) t.bytes *= size_t(d);
  return t;
}

float element(const StoredTensor& t, int64_t i) {
  if (t.random->kind == Kind::constant) return t.random->mean;
  if (t.random->kind == Kind::scale) return random_scale(i);
  const float x = random_weight(t.random->stream, uint64_t(i), kWeightDeviation);
  return t.dtype == DType::fp8_e4m3 ? x / random_scale(i / t.shape[1]) : x;
}

}  // namespace

std::vector<StoredTensor> random_checkpoint(const ModelConfig& config, DType dtype, uint64_t seed) {
  const DType rest = dtype == DType::fp8_e4m3 ? DType::bf16 : dtype;
  std::vector<StoredTensor> tensors;
  for (CheckpointTensor& t : checkpoint_tensors(config)) {
    const bool quantised = t.layer && dtype != rest;
    CheckpointTensor scale{t.name + "_scale", {t.shape[0], 1}};
    const Kind kind = t.shape.size() == 1 ? Kind::constant : Kind::weight;
    tensors.push_back(made(std::move(t), quantised ? dtype : rest, kind, seed));
    if (quantised) tensors.push_back(made(std::move(scale), rest, Kind::scale, seed));
  }
  return tensors;
}

DType declared_dtype(const ModelConfig& config) {
  return config.fp8_layers ? DType::fp8_e4m3 : config.dtype.value_or(DType::bf16);
}

void random_elements(const StoredTensor& t, int64_t begin, int64_t count, std::byte* out) {
  CHECK(t.random);
  const auto fill = [&](auto convert) {
    for (int64_t i = 0; i < count; ++i) {
      const auto value = convert(element(t, begin + i));
      std::memcpy(out + size_t(i) * sizeof value, &value, sizeof value);
    }
  };
  if (t.dtype == DType::f32) fill([](float x) { return x; });
  if (t.dtype == DType::f16) fill(to_f16);
  if (t.dtype == DType::bf16) fill(to_bf16);
  if (t.dtype == DType::fp8_e4m3) fill(to_e4m3);
}

}  // namespace sluice
