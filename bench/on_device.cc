#include "bench/on_device.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <vector>

#include "base/float16.h"
#include "base/float8.h"
#include "base/hash.h"
#include "kernels/ops.h"

namespace sluice {
namespace {

// Noise repeats after so many values, a number that no shape is a multiple of.
constexpr int64_t kPeriod = (int64_t{4} << 20) + 13;

size_t bytes_of(const Tensor& t) { return size_t(t.size()) * size_t(bits_of(t.dtype)) / 8; }

float number(uint64_t i) { return float(int64_t(mix64(i) >> 40) - (1 << 23)) / (1 << 23); }

void write(DType type, char* to, float x) {
  if (type == DType::f32) {
    std::memcpy(to, &x, sizeof x);
    return;
  }
  if (type == DType::fp8_e4m3) {
    *to = char(to_e4m3(x));
    return;
  }
  CHECK(type == DType::f16 || type == DType::bf16);
  const uint16_t h = type == DType::bf16 ? to_bf16(x) : to_f16(x);
  std::memcpy(to, &h, sizeof h);
}

void upload(Device& device, void* to, const void* from, size_t bytes) {
  device.copy(to, from, bytes, device.compute_stream());
}

void finish(Device& device) { device.sync(device.record(device.compute_stream())); }

}  // namespace

DeviceTensor zeros(Device& device, DType type, std::initializer_list<int64_t> shape) {
  DeviceTensor t{{}, Tensor::of(nullptr, type, shape)};
  t.memory = device.allocate(bytes_of(t.tensor), Memory::device);
  t.tensor.data = t.memory.get();
  return t;
}

DeviceTensor copy_of(Device& device, const void* values, DType type,
                     std::initializer_list<int64_t> shape) {
  DeviceTensor t = zeros(device, type, shape);
  const size_t bytes = bytes_of(t.tensor);
  const Device::Buffer host = device.allocate(bytes, Memory::pinned_host);
  std::memcpy(host.get(), values, bytes);
  upload(device, t.tensor.data, host.get(), bytes);
  finish(device);
  return t;
}

DeviceTensor noise(Device& device, DType type, std::initializer_list<int64_t> shape) {
  DeviceTensor t = zeros(device, type, shape);
  const size_t element = size_t(bits_of(type)) / 8;
  const int64_t count = t.tensor.size(), period = std::min(count, kPeriod);
  const Device::Buffer host = device.allocate(size_t(period) * element, Memory::pinned_host);
  for (int64_t i = 0; i < period; ++i)
    write(type, static_cast<char*>(host.get()) + size_t(i) * element, number(uint64_t(i)));
  for (int64_t at = 0; at < count; at += period)
    upload(device, static_cast<char*>(t.tensor.data) + size_t(at) * element, host.get(),
           size_t(std::min(period, count - at)) * element);
  finish(device);
  return t;
}

DeviceWeight noise_weight(Device& device, DType type, int64_t out_features, int64_t in_features) {
  Ops& ops = device.ops();
  DeviceWeight w;
  w.memory = device.allocate(ops.weight_bytes(type, out_features, in_features), Memory::device);
  w.weight = ops.make_weight(w.memory.get(), type, out_features, in_features);
  const int64_t rows = std::min<int64_t>(out_features, kPeriod / in_features + 1);
  std::vector<uint16_t> values(size_t(rows * in_features));
  for (size_t i = 0; i < values.size(); ++i) values[i] = to_bf16(number(i));
  const Tensor source = Tensor::of(values.data(), DType::bf16, {rows, in_features});
  for (int64_t at = 0; at < out_features; at += rows)
    ops.pack_rows(w.weight, at, source.rows(0, std::min(rows, out_features - at)));
  return w;
}

double seconds_on(Device& device, const std::function<void()>& body) {
  if (device.is_host()) {
    const auto begin = std::chrono::steady_clock::now();
    body();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }
  const Event begin = device.record(device.compute_stream());
  body();
  const Event end = device.record(device.compute_stream());
  device.sync(end);
  return std::chrono::duration<double>(device.between(begin, end)).count();
}

}  // namespace sluice
