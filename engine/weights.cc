#include "engine/weights.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <mutex>
#include <thread>

#include "base/float16.h"
#include "base/float8.h"
#include "base/log.h"
#include "engine/random_weights.h"

namespace sluice {
namespace {

size_t rounded(size_t bytes) { return (bytes + 63) & ~size_t{63}; }

float element(const std::byte* data, DType dtype, int64_t i) {
  if (dtype == DType::fp8_e4m3) return from_e4m3(static_cast<uint8_t>(data[i]));
  if (dtype == DType::f32) {
    float x;
    std::memcpy(&x, data + 4 * i, 4);
    return x;
  }
  uint16_t h;
  std::memcpy(&h, data + 2 * i, 2);
  return dtype == DType::bf16 ? from_bf16(h) : from_f16(h);
}

float element(const StoredTensor& t, int64_t i) {
  if (!t.random) return element(t.data, *t.dtype, i);
  std::byte made[sizeof(float)];
  random_elements(t, i, 1, made);
  return element(made, *t.dtype, 0);
}

absl::StatusOr<float> read_scale(const Safetensors& stored, const ScaleSpec& spec) {
  const StoredTensor* tensor = find_scale(stored, spec);
  if (!tensor) return 1.0f;
  const float x = element(*tensor, 0);
  if (!(x > 0 && std::isfinite(x)))
    return invalid_argument("{}: tensor {}: is {}, expected a finite scale above 0", tensor->file,
                            tensor->name, x);
  return x;
}

// Some rows of one part that lie one after the other, small enough that threads finish together.
struct Task {
  const StoredTensor* from;
  const StoredTensor* scale;  // null unless fp8
  const Weight* to;
  int64_t from_row, to_row, rows;
  bool transposed = false;
};

// Rows of a matrix that is stored by columns.
void gather_columns(const Task& t, std::vector<std::byte>& out) {
  const int64_t columns = t.to->in_features(), stored = t.from->shape[1];
  const size_t size = bits_of(*t.from->dtype) / 8;
  out.resize(t.rows * columns * size);
  std::vector<std::byte> made(t.from->random ? t.rows * size : 0);
  for (int64_t c = 0; c < columns; ++c) {
    const int64_t at = c * stored + t.from_row;
    if (t.from->random) random_elements(*t.from, at, t.rows, made.data());
    const std::byte* from = t.from->random ? made.data() : t.from->data + at * size;
    for (int64_t r = 0; r < t.rows; ++r)
      std::memcpy(&out[(r * columns + c) * size], from + r * size, size);
  }
}

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
        const double seconds = std::chrono::duration<double>(now - begin_).count();
        log_info("model: {:.1f} of {:.1f} GB of weights loaded, about {:.0f} s left",
                 done_bytes_ / 1e9, total_bytes_ / 1e9,
                 seconds * (double(total_bytes_) / double(done_bytes_) - 1));
      }
    }
  }

  // Of the task's rows; fp8 only.
  static absl::StatusOr<std::vector<float>> scales_of(const Task& task) {
    std::vector<float> scales;
    if (!task.scale) return scales;
    const bool one = task.scale->bytes * 8 == size_t(bits_of(*task.scale->dtype));
    for (int64_t r = 0; r < task.rows; ++r) {
      const float x = element(*task.scale, one ? 0 : task.from_row + r);
      if (!(x >= 0 && std::isfinite(x)))
        return invalid_argument("{}: tensor {}: has {}, expected finite scales from 0",
                                task.scale->file, task.scale->name, x);
      scales.push_back(x);
    }
    return scales;
  }

  // That every value survives the way into memory.
  static absl::Status check_values(const Task& task, const std::byte* source,
                                   const std::vector<float>& scales) {
    const DType from = *task.from->dtype, to = task.to->data.dtype;
    const int64_t columns = task.to->in_features(), size = task.rows * columns;
    const auto* codes = reinterpret_cast<const uint8_t*>(source);
    if (from == DType::fp8_e4m3 && std::any_of(codes, codes + size, is_nan_e4m3))
      return invalid_argument("{}: tensor {}: has a NaN, expected numbers", task.from->file,
                              task.from->name);
    const bool quantises = to == DType::fp8_e4m3 && from != to;
    if (!quantises && (to != DType::f16 || from == to)) return absl::OkStatus();
    for (int64_t i = 0; i < size; ++i) {
      const float scale = scales.empty() ? 1.0f : scales[size_t(i / columns)];
      const float x = element(source, from, i) * scale;
      if (quantises ? !std::isfinite(x) : std::fabs(x) >= 65520)
        return invalid_argument("{}: tensor {}: {} is beyond {}: choose another model.dtype",
                                task.from->file, task.from->name, x, name_of(to));
    }
    return absl::OkStatus();
  }

  void pack(const Task& task, std::vector<std::byte>& aligned) {
    const int64_t columns = task.to->in_features();
    const DType dtype = *task.from->dtype;
    const size_t element_bytes = bits_of(dtype) / 8;
    const int64_t begin = task.from_row * columns;
    const std::byte* source = task.from->random ? nullptr : task.from->data + begin * element_bytes;
    // The format promises no alignment, pack_rows wants it.
    if (task.transposed) {
      gather_columns(task, aligned);
      source = aligned.data();
    } else if (task.from->random) {
      aligned.resize(bytes_of(task));
      random_elements(*task.from, begin, task.rows * columns, aligned.data());
      source = aligned.data();
    } else if (reinterpret_cast<uintptr_t>(source) % element_bytes != 0) {
      aligned.assign(source, source + bytes_of(task));
      source = aligned.data();
    }
    auto scales = scales_of(task);
    if (!scales.ok()) return fail(scales.status());
    if (absl::Status s = check_values(task, source, *scales); !s.ok()) return fail(std::move(s));
    ops_.pack_rows(*task.to, task.to_row,
                   Tensor::of(const_cast<std::byte*>(source), dtype, {task.rows, columns}),
                   task.scale ? Tensor::of(scales->data(), DType::f32, {task.rows}) : Tensor());
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
  const std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
  std::chrono::steady_clock::time_point last_report_ = begin_;
  std::mutex mutex_;
  absl::Status status_;
};

// Hands out pieces of the one buffer and fills vectors.
class Filler {
 public:
  Filler(Device& device, void* memory) : device_(device), at_(static_cast<char*>(memory)) {}

  void* take(size_t bytes) {
    void* piece = at_;
    at_ += rounded(bytes);
    return piece;
  }
  Tensor vector(const StoredTensor* t, float plus) {
    std::vector<float> host;
    for (int64_t i = 0; i < t->shape[0]; ++i) host.push_back(element(*t, i) + plus);
    return upload(host, DType::f32);
  }
  Tensor biases(const std::vector<LinearPart>& parts, const Safetensors& stored) {
    std::vector<float> host;
    for (const LinearPart& part : parts) {
      const StoredTensor* t = stored.find(part.bias);
      for (int64_t i = 0; i < part.rows; ++i) host.push_back(element(*t, part.stored_row(i)));
    }
    return upload(host, device_.ops().act_dtype());
  }

 private:
  Tensor upload(const std::vector<float>& values, DType type) {
    std::vector<uint16_t> narrow(type == DType::f32 ? 0 : values.size());
    if (type != DType::f32)
      std::transform(values.begin(), values.end(), narrow.begin(),
                     type == DType::bf16 ? to_bf16 : to_f16);
    const void* host = type == DType::f32 ? static_cast<const void*>(values.data()) : narrow.data();
    const size_t bytes = values.size() * size_t(bits_of(type)) / 8;
    Tensor out = Tensor::of(take(bytes), type, {static_cast<int64_t>(values.size())});
    device_.copy(out.data, host, bytes, device_.copy_stream());
    device_.sync(device_.record(device_.copy_stream()));  // `host` ends here
    return out;
  }

  Device& device_;
  char* at_;
};

// Whether the device makes the rows itself. Rows of one part that lie one after the other.
bool make_there(Ops& ops, const Task& t) {
  if (!t.from->random) return false;
  RandomRows rows{*t.from->dtype, t.from->random->stream, t.from_row, t.rows, t.from->shape[1], 1};
  if (t.transposed) std::swap(rows.row_step, rows.column_step);
  return ops.make_rows(*t.to, t.to_row, rows);
}

void report_unused(const WeightReview& review) {
  const std::vector<std::string>& unused = review.unused;
  if (unused.empty()) return;
  const size_t shown = std::min<size_t>(unused.size(), 4);
  log_warn("model: {} stored tensors are not used: {}{}", unused.size(),
           fmt::join(unused.begin(), unused.begin() + shown, ", "),
           shown < unused.size() ? ", ..." : "");
}

}  // namespace

absl::StatusOr<std::optional<DType>> parse_weight_dtype(std::string_view name) {
  if (name == "auto") return std::optional<DType>();
  for (const DType t : {DType::f32, DType::f16, DType::bf16})
    if (name == name_of(t)) return std::optional<DType>(t);
  if (name == "fp8") return std::optional<DType>(DType::fp8_e4m3);
  return invalid_argument("model.dtype: \"{}\", expected auto, f32, f16, bf16 or fp8", name);
}

absl::StatusOr<WeightPlan> plan_weights(const WeightList& list, const Safetensors& stored,
                                        const Ops& ops, std::optional<DType> dtype) {
  WeightPlan plan;
  const WeightReview review = review_weights(list, stored);
  if (!review.problems.empty()) return review.problems.front();
  bool as_asked = false, refused = false;
  for (const LinearSpec& linear : list.linears) {
    int64_t rows = 0;
    bool has_bias = false;
    std::optional<DType> as_stored;
    for (const LinearPart& part : linear.parts) {
      const DType found = *stored.find(part.weight)->dtype;
      as_stored = as_stored && *as_stored != found ? DType::f32 : found;
      has_bias |= !part.bias.empty();
      rows += part.rows;
    }
    const bool stays = dtype == DType::fp8_e4m3 && !linear.is_quantised();
    const DType wanted = dtype && !stays ? *dtype : *as_stored;
    const bool experts = linear.use == LinearSpec::Use::experts;
    plan.dtypes.push_back(experts ? ops.expert_dtype(wanted) : ops.weight_dtype(wanted));
    plan.bytes += rounded(ops.weight_bytes(plan.dtypes.back(), rows, linear.in_features));
    if (has_bias) plan.bytes += rounded(size_t(rows * bits_of(ops.act_dtype()) / 8));
    if (dtype && !stays) (plan.dtypes.back() == *dtype ? as_asked : refused) = true;
    if (bits_of(plan.dtypes.back()) < bits_of(plan.dtype)) plan.dtype = plan.dtypes.back();
    if (plan.dtypes.back() == DType::fp8_e4m3 && !experts)
      plan.max_fp8_inputs = std::max(plan.max_fp8_inputs, int(linear.in_features));
  }
  if (!as_asked && refused)
    return invalid_argument("model.dtype: this device keeps weights as {}, not as {}",
                            name_of(ops.weight_dtype(*dtype)), name_of(*dtype));
  for (const VectorSpec& v : list.vectors) plan.bytes += rounded(v.size * sizeof(float));
  return plan;
}

absl::StatusOr<Device::Buffer> load_weights(const WeightList& list, const Safetensors& stored,
                                            const WeightPlan& plan, Device& device, int threads) {
  if (plan.bytes > device.free_bytes())
    return resource_exhausted("model: weights take {:.1f} MB, the device has {:.1f} MB free",
                              plan.bytes / 1e6, device.free_bytes() / 1e6);
  report_unused(review_weights(list, stored));
  Device::Buffer memory = device.allocate(plan.bytes, Memory::device);
  Ops& ops = device.ops();
  Filler filler(device, memory.get());
  std::vector<Task> tasks;
  for (size_t i = 0; i < list.linears.size(); ++i) {
    const LinearSpec& linear = list.linears[i];
    int64_t rows = 0;
    size_t num_biases = 0;
    for (const LinearPart& part : linear.parts) {
      rows += part.rows;
      num_biases += !part.bias.empty();
    }
    CHECK(num_biases == 0 || num_biases == linear.parts.size());
    const size_t bytes = ops.weight_bytes(plan.dtypes[i], rows, linear.in_features);
    *linear.out = ops.make_weight(filler.take(bytes), plan.dtypes[i], rows, linear.in_features);
    if (num_biases > 0) linear.out->bias = filler.biases(linear.parts, stored);
    int64_t to_row = 0;
    const int64_t step = std::max<int64_t>(64, (1 << 21) / linear.in_features / 64 * 64);
    for (const LinearPart& part : linear.parts) {
      const StoredTensor* from = stored.find(part.weight);
      const StoredTensor* scale = scale_of(stored, *from);
      const int64_t run = part.run > 0 ? part.run : part.rows;
      for (int64_t row = 0, count; row < part.rows; row += count) {
        count = std::min({step, part.rows - row, run - row % run});
        const Task task{from,         scale, linear.out,     part.stored_row(row),
                        to_row + row, count, part.transposed};
        if (!make_there(ops, task)) tasks.push_back(task);
      }
      to_row += part.rows;
    }
  }
  for (const VectorSpec& v : list.vectors) *v.out = filler.vector(stored.find(v.name), v.plus);
  for (const ScaleSpec& s : list.scales) {
    const auto scale = read_scale(stored, s);
    if (!scale.ok()) return scale.status();
    *s.out = *scale;
  }
  Packer packer(ops, std::move(tasks));
  if (absl::Status s = packer.run(std::max(1, threads)); !s.ok()) return s;
  device.sync(device.record(device.compute_stream()));  // what was made there
  return memory;
}

}  // namespace sluice
