#include "engine/weights.h"

#include <absl/container/flat_hash_set.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <mutex>
#include <thread>

#include "base/float16.h"
#include "base/log.h"

namespace sluice {
namespace {

size_t rounded(size_t bytes) { return (bytes + 63) & ~size_t{63}; }

bool is_float(const std::optional<DType>& t) {
  return t == DType::f32 || t == DType::f16 || t == DType::bf16;
}

absl::StatusOr<const StoredTensor*> expect(const Safetensors& stored, const std::string& name,
                                           const std::vector<int64_t>& shape) {
  const StoredTensor* tensor = stored.find(name);
  if (!tensor)
    return invalid_argument(
        "{}: tensor {} {} is missing",
        stored.tensors().empty() ? "model.safetensors" : stored.tensors().front().file, name,
        shape_text(shape));
  if (tensor->shape != shape)
    return invalid_argument("{}: tensor {}: shape {}, expected {}", tensor->file, name,
                            shape_text(tensor->shape), shape_text(shape));
  if (!is_float(tensor->dtype))
    return invalid_argument("{}: tensor {}: dtype {}, expected F32, F16 or BF16", tensor->file,
                            name, tensor->dtype_name);
  return tensor;
}

float element(const std::byte* data, DType dtype, int64_t i) {
  if (dtype == DType::f32) {
    float x;
    std::memcpy(&x, data + 4 * i, 4);
    return x;
  }
  uint16_t h;
  std::memcpy(&h, data + 2 * i, 2);
  return dtype == DType::bf16 ? from_bf16(h) : from_f16(h);
}

// Some rows of one part, small enough that threads finish together.
struct Task {
  const StoredTensor* from;
  const Weight* to;
  int64_t from_row, to_row, rows;
};

class Packer {
 public:
  Packer(Ops& ops, std::vector<Task> tasks) : ops_(ops), tasks_(std::move(tasks)) {
    for (const Task& t : tasks_) total_bytes_ += bytes_of(t);
  }

  absl::Status run(int threads) {
    std::vector<std::thread> helpers;
    for (int i = 1; i < threads; ++i) helpers.emplace_back([this] { work(false); });
    work(true);
    for (std::thread& t : helpers) t.join();
    return status_;
  }

 private:
  static size_t bytes_of(const Task& t) {
    return static_cast<size_t>(t.rows * t.to->in_features()) * bits_of(*t.from->dtype) / 8;
  }

  void work(bool reports) {
    std::vector<std::byte> aligned;
    for (;;) {
      const size_t i = next_.fetch_add(1);
      if (i >= tasks_.size() || failed_) return;
      pack(tasks_[i], aligned);
      done_bytes_ += bytes_of(tasks_[i]);
      const auto now = std::chrono::steady_clock::now();
      if (reports && now - last_report_ > std::chrono::seconds(2)) {
        last_report_ = now;
        log_info("model: {:.1f} of {:.1f} GB of weights loaded", done_bytes_ / 1e9,
                 total_bytes_ / 1e9);
      }
    }
  }

  void pack(const Task& task, std::vector<std::byte>& aligned) {
    const int64_t columns = task.to->in_features();
    const DType dtype = *task.from->dtype;
    const size_t element_bytes = bits_of(dtype) / 8;
    const std::byte* source = task.from->data + task.from_row * columns * element_bytes;
    // The format promises no alignment, pack_rows wants it.
    if (reinterpret_cast<uintptr_t>(source) % element_bytes != 0) {
      aligned.assign(source, source + bytes_of(task));
      source = aligned.data();
    }
    if (task.to->data.dtype == DType::f16 && dtype != DType::f16) {
      for (int64_t i = 0; i < task.rows * columns; ++i) {
        if (const float x = element(source, dtype, i); std::fabs(x) >= 65520) {
          fail(invalid_argument("{}: tensor {}: {} is beyond f16: choose another model.dtype",
                                task.from->file, task.from->name, x));
          return;
        }
      }
    }
    ops_.pack_rows(*task.to, task.to_row,
                   Tensor::of(const_cast<std::byte*>(source), dtype, {task.rows, columns}));
  }

  void fail(absl::Status status) {
    std::lock_guard lock(mutex_);
    if (status_.ok()) status_ = std::move(status);
    failed_ = true;
  }

  Ops& ops_;
  const std::vector<Task> tasks_;
  size_t total_bytes_ = 0;
  std::atomic<size_t> next_ = 0, done_bytes_ = 0;
  std::atomic<bool> failed_ = false;
  std::chrono::steady_clock::time_point last_report_ = std::chrono::steady_clock::now();
  std::mutex mutex_;
  absl::Status status_;
};

// Hands out pieces of the one buffer and fills f32 vectors.
class Filler {
 public:
  Filler(Device& device, void* memory) : device_(device), at_(static_cast<char*>(memory)) {}

  void* take(size_t bytes) {
    void* piece = at_;
    at_ += rounded(bytes);
    return piece;
  }
  Tensor vector(const std::vector<const StoredTensor*>& parts) {
    std::vector<float> host;
    for (const StoredTensor* t : parts)
      for (int64_t i = 0; i < t->shape[0]; ++i) host.push_back(element(t->data, *t->dtype, i));
    const size_t bytes = host.size() * sizeof(float);
    Tensor out = Tensor::of(take(bytes), DType::f32, {static_cast<int64_t>(host.size())});
    device_.copy(out.data, host.data(), bytes, device_.copy_stream());
    device_.sync(device_.record(device_.copy_stream()));  // `host` ends here
    return out;
  }

 private:
  Device& device_;
  char* at_;
};

void report_unused(const WeightList& list, const Safetensors& stored) {
  absl::flat_hash_set<std::string> wanted;
  for (const LinearSpec& linear : list.linears) {
    for (const LinearPart& part : linear.parts) {
      wanted.insert(part.weight);
      wanted.insert(part.bias);
    }
  }
  for (const VectorSpec& v : list.vectors) wanted.insert(v.name);
  std::string names;
  int count = 0;
  for (const StoredTensor& t : stored.tensors()) {
    // Old exports store the rotary frequencies, which the config determines.
    if (wanted.contains(t.name) || t.name.ends_with(".rotary_emb.inv_freq")) continue;
    if (++count <= 4) names += (count > 1 ? ", " : "") + t.name;
  }
  if (count > 0)
    log_warn("model: {} stored tensors are not used: {}{}", count, names, count > 4 ? ", ..." : "");
}

}  // namespace

absl::StatusOr<std::optional<DType>> parse_weight_dtype(std::string_view name) {
  if (name == "auto") return std::optional<DType>();
  for (const DType t : {DType::f32, DType::f16, DType::bf16})
    if (name == name_of(t)) return std::optional<DType>(t);
  return invalid_argument("model.dtype: \"{}\", expected auto, f32, f16 or bf16", name);
}

absl::StatusOr<WeightPlan> plan_weights(const WeightList& list, const Safetensors& stored,
                                        const Ops& ops, std::optional<DType> dtype) {
  WeightPlan plan;
  if (dtype && ops.weight_dtype(*dtype) != *dtype)
    return invalid_argument("model.dtype: this device keeps weights as {}, not as {}",
                            name_of(ops.weight_dtype(*dtype)), name_of(*dtype));
  for (const LinearSpec& linear : list.linears) {
    int64_t rows = 0;
    bool has_bias = false;
    std::optional<DType> as_stored;
    for (const LinearPart& part : linear.parts) {
      const auto weight = expect(stored, part.weight, {part.rows, linear.in_features});
      if (!weight.ok()) return weight.status();
      const DType found = *(*weight)->dtype;
      as_stored = as_stored && *as_stored != found ? DType::f32 : found;
      if (!part.bias.empty()) {
        if (const auto bias = expect(stored, part.bias, {part.rows}); !bias.ok())
          return bias.status();
        has_bias = true;
      }
      rows += part.rows;
    }
    plan.dtypes.push_back(ops.weight_dtype(dtype.value_or(*as_stored)));
    plan.bytes += rounded(ops.weight_bytes(plan.dtypes.back(), rows, linear.in_features));
    if (has_bias) plan.bytes += rounded(rows * sizeof(float));
    if (plan.dtype == DType::f32) plan.dtype = plan.dtypes.back();
  }
  for (const VectorSpec& v : list.vectors) {
    if (const auto tensor = expect(stored, v.name, {v.size}); !tensor.ok()) return tensor.status();
    plan.bytes += rounded(v.size * sizeof(float));
  }
  return plan;
}

absl::StatusOr<Device::Buffer> load_weights(const WeightList& list, const Safetensors& stored,
                                            const WeightPlan& plan, Device& device, int threads) {
  if (plan.bytes > device.free_bytes())
    return resource_exhausted("model: weights take {:.1f} MB, the device has {:.1f} MB free",
                              plan.bytes / 1e6, device.free_bytes() / 1e6);
  report_unused(list, stored);
  Device::Buffer memory = device.allocate(plan.bytes, Memory::device);
  Ops& ops = device.ops();
  Filler filler(device, memory.get());
  std::vector<Task> tasks;
  for (size_t i = 0; i < list.linears.size(); ++i) {
    const LinearSpec& linear = list.linears[i];
    int64_t rows = 0;
    std::vector<const StoredTensor*> biases;
    for (const LinearPart& part : linear.parts) {
      rows += part.rows;
      if (!part.bias.empty()) biases.push_back(stored.find(part.bias));
    }
    CHECK(biases.empty() || biases.size() == linear.parts.size());
    const size_t bytes = ops.weight_bytes(plan.dtypes[i], rows, linear.in_features);
    *linear.out = ops.make_weight(filler.take(bytes), plan.dtypes[i], rows, linear.in_features);
    if (!biases.empty()) linear.out->bias = filler.vector(biases);
    int64_t to_row = 0;
    const int64_t step = std::max<int64_t>(64, (1 << 21) / linear.in_features / 64 * 64);
    for (const LinearPart& part : linear.parts) {
      for (int64_t row = 0; row < part.rows; row += step)
        tasks.push_back({stored.find(part.weight), linear.out, row, to_row + row,
                         std::min(step, part.rows - row)});
      to_row += part.rows;
    }
  }
  for (const VectorSpec& v : list.vectors) *v.out = filler.vector({stored.find(v.name)});
  Packer packer(ops, std::move(tasks));
  if (absl::Status s = packer.run(std::max(1, threads)); !s.ok()) return s;
  return memory;
}

}  // namespace sluice
