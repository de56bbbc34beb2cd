#pragma once

#include <functional>
#include <initializer_list>

#include "kernels/device.h"
#include "kernels/tensor.h"

namespace sluice {

// Arrays and times of benchmarks, on whatever device.

struct DeviceTensor {
  Device::Buffer memory;
  Tensor tensor;
};

// Dense and zeroed.
DeviceTensor zeros(Device&, DType, std::initializer_list<int64_t> shape);
// A copy of as many values as the shape has.
DeviceTensor copy_of(Device&, const void* values, DType, std::initializer_list<int64_t> shape);
// Numbers in [-1, 1), the same in every run: on zeros a chip draws less power and runs faster. f32,
// f16, bf16 or fp8_e4m3.
DeviceTensor noise(Device&, DType, std::initializer_list<int64_t> shape);

struct DeviceWeight {
  Device::Buffer memory;
  Weight weight;
};
// Likewise, as a linear layer kept as `type`.
DeviceWeight noise_weight(Device&, DType type, int64_t out_features, int64_t in_features);

// Seconds that the device takes for what `body` asks of it on the compute stream.
double seconds_on(Device&, const std::function<void()>& body);

}  // namespace sluice
