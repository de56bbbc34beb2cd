#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <fstream>
#include <mutex>
#include <set>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/float8.h"
#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/runtime.h"
#include "kernels/simt/stream.h"

namespace sluice::cuda {
namespace {

using simt::EmulatedStream;

struct EmulatedEvent {
  EmulatedStream* stream = nullptr;  // null: nothing was recorded
  size_t mark = 0;
  std::chrono::steady_clock::time_point reached;
};

EmulatedStream& of(Stream s) { return *static_cast<EmulatedStream*>(s.handle); }
EmulatedEvent& of(Event e) { return *static_cast<EmulatedEvent*>(e.handle); }

class EmulatedGraph final : public Graph {
 public:
  explicit EmulatedGraph(std::vector<EmulatedStream::Work> work) : work_(std::move(work)) {}
  void replay(Stream stream) override {
    for (const EmulatedStream::Work& work : work_) of(stream).put(work);
  }
  int num_nodes() const override { return int(work_.size()); }

 private:
  const std::vector<EmulatedStream::Work> work_;
};

float load(simt::Bf16 v) { return simt::to_float(v); }
float load(simt::F16 v) { return simt::to_float(v); }
void store(float& to, float v) { to = v; }
void store(simt::Bf16& to, float v) { simt::from_float(to, v); }
void store(simt::F16& to, float v) { simt::from_float(to, v); }

// What the library does, which has neither for results in f32, nor all activations.
struct Finish {
  Tensor bias;
  std::optional<Activation> activation;

  float operator()(float sum, int64_t column) const {
    if (bias) dispatch(bias.dtype, [&]<class T>(T) { sum += load(bias.as<const T>()[column]); });
    if (activation == Activation::relu) sum = std::max(sum, 0.0f);
    if (activation == Activation::gelu_tanh)
      sum *= 0.5f * (1 + std::tanh(0.7978845608f * (sum + 0.044715f * sum * sum * sum)));
    return sum;
  }
};

template <class Out, class T>
void multiply(const Tensor& out, const Tensor& x, const Tensor& w, const Finish& finish) {
  const int64_t in = w.shape[1];
  std::vector<float> row(static_cast<size_t>(in));
  for (int64_t i = 0; i < x.shape[0]; ++i) {
    for (int64_t k = 0; k < in; ++k) row[size_t(k)] = load(x.row<const T>(i)[k]);
    for (int64_t j = 0; j < w.shape[0]; ++j) {
      const T* weights = w.row<const T>(j);
      float sum = 0;
      for (int64_t k = 0; k < in; ++k) sum += row[size_t(k)] * load(weights[k]);
      store(out.row<Out>(i)[j], finish(sum, j));
    }
  }
}

template <class Out>
void multiply_scaled(const Tensor& out, const Tensor& x, const Tensor& x_scale, const Tensor& w,
                     const Tensor& w_scale, const Finish& finish) {
  for (int64_t i = 0; i < x.shape[0]; ++i) {
    for (int64_t j = 0; j < w.shape[0]; ++j) {
      const uint8_t *a = x.row<const uint8_t>(i), *b = w.row<const uint8_t>(j);
      float sum = 0;
      for (int64_t k = 0; k < w.shape[1]; ++k) sum += from_e4m3(a[k]) * from_e4m3(b[k]);
      const float scale = x_scale.as<float>()[i] * w_scale.as<float>()[j];
      store(out.row<Out>(i)[j], finish(scale * sum, j));
    }
  }
}

// A GPU without a GPU, for tests: the host's memory, streams that run at the last moment
// (kernels/simt/stream.h), launches on the emulator, and a plain matrix product. It fails where the
// file `faults`, once there is one, says so: "sync" or "launch"; "memory": there is none;
// "capture": there is none for captured steps.
class EmulatedRuntime final : public Runtime {
 public:
  explicit EmulatedRuntime(std::string faults) : faults_(std::move(faults)) {}

  const DeviceInfo& info() const override { return info_; }
  size_t free_bytes() const override { return info_.memory_bytes; }
  void* allocate(size_t bytes, Memory kind) override {
    if (kind == Memory::device && fault("memory")) return nullptr;
    void* p = std::aligned_alloc(256, (bytes + 256) & ~size_t{255});
    if (p != nullptr) std::memset(p, 0, bytes);
    return p;
  }
  void release(void* p, Memory) override { std::free(p); }

  Stream make_stream() override {
    std::lock_guard lock(mutex_);
    return {&streams_.emplace_back()};
  }
  Event make_event() override {
    std::lock_guard lock(mutex_);
    return {&events_.emplace_back()};
  }
  void copy(void* dst, const void* src, size_t bytes, Stream stream) override {
    of(stream).put([=] { std::memcpy(dst, src, bytes); });
  }
  void upload(void* dst, const void* src, size_t bytes) override { std::memcpy(dst, src, bytes); }
  void record(Event event, Stream stream) override {
    EmulatedEvent& e = of(event);
    of(stream).put([&e] { e.reached = std::chrono::steady_clock::now(); });
    e.stream = &of(stream), e.mark = of(stream).mark();
  }
  void wait(Stream stream, Event event) override {
    const EmulatedEvent e = of(event);
    if (e.stream != nullptr) of(stream).put([e] { e.stream->run_until(e.mark); });
  }
  void check_launches() override { stumble("launch"); }
  void sync(Event event) override {
    stumble("sync");
    const EmulatedEvent e = of(event);
    if (e.stream != nullptr) e.stream->run_until(e.mark);
  }
  Nanos between(Event begin, Event end) override { return of(end).reached - of(begin).reached; }
  std::unique_ptr<Graph> capture(Stream stream, const std::function<void()>& body) override {
    of(stream).begin_capture();
    body();
    auto graph = std::make_unique<EmulatedGraph>(of(stream).end_capture());
    return fault("capture") ? nullptr : std::move(graph);
  }

  Epilogue matmul(Stream stream, const Product& product, const Epilogue& epilogue, Way) override {
    const auto& [out, x, w, x_scale, w_scale] = product;
    Finish finish;
    Epilogue left = epilogue;
    if (out.dtype != DType::f32) {
      std::swap(finish.bias, left.bias);
      CHECK(!finish.bias || (finish.bias.dtype == out.dtype && finish.bias.shape[0] == w.shape[0]));
      if (left.activation == Activation::relu || left.activation == Activation::gelu_tanh)
        std::swap(finish.activation, left.activation);
    }
    x_scale ? scaled_matmul(stream, product, finish) : plain_matmul(stream, product, finish);
    return left;
  }

  int num_ways(const Product&) override { return 1; }

 private:
  void plain_matmul(Stream stream, const Product& product, const Finish& finish) {
    const auto [out, x, w, x_scale, w_scale] = product;
    CHECK(x.dtype == w.dtype && x.shape[1] == w.shape[1] && out.shape[0] == x.shape[0]);
    CHECK(out.shape[1] == w.shape[0] && (out.dtype == x.dtype || out.dtype == DType::f32));
    choose_algorithm(stream, x, w);
    dispatch(x.dtype, [&]<class T>(T) {
      const bool wide_out = out.dtype == DType::f32;
      of(stream).put([=] {
        wide_out ? multiply<float, T>(out, x, w, finish) : multiply<T, T>(out, x, w, finish);
      });
    });
  }
  void scaled_matmul(Stream stream, const Product& product, const Finish& finish) {
    const auto [out, x, w, x_scale, w_scale] = product;
    CHECK(x.dtype == DType::fp8_e4m3 && w.dtype == DType::fp8_e4m3 && w.contiguous());
    CHECK(x.shape[1] == w.shape[1] && out.shape[0] == x.shape[0] && out.shape[1] == w.shape[0]);
    CHECK(w.shape[0] % 16 == 0 && w.shape[1] % 16 == 0 && x.stride[0] % 16 == 0);
    CHECK(x_scale.shape[0] == x.shape[0] && w_scale.shape[0] == w.shape[0]);
    choose_algorithm(stream, x, w);
    if (out.dtype == DType::f32)
      return of(stream).put([=] { multiply_scaled<float>(out, x, x_scale, w, w_scale, finish); });
    dispatch(out.dtype, [&]<class T>(T) {
      of(stream).put([=] { multiply_scaled<T>(out, x, x_scale, w, w_scale, finish); });
    });
  }

  bool fault(std::string_view call) const {
    std::string wanted;
    return !faults_.empty() && std::ifstream(faults_) >> wanted && wanted == call;
  }
  void stumble(std::string_view call) {
    if (fault(call)) fail(fmt::format("CUDA: {} failed: this is a test", call));
  }

  // The library does that when a shape comes for the first time, and cannot under capture.
  void choose_algorithm(Stream stream, const Tensor& x, const Tensor& w) {
    const bool known =
        !shapes_.insert({x.shape[0], w.shape[0], w.shape[1], int64_t(w.dtype)}).second;
    CHECK(known || !of(stream).capturing());
  }

  const DeviceInfo info_{"emulated", 2, true, size_t{4} << 30, "emulator"};
  const std::string faults_;
  std::set<std::array<int64_t, 4>> shapes_;  // of matrix products
  std::mutex mutex_;                         // guards the lists; what is in them stays where it is
  std::deque<EmulatedStream> streams_;
  std::deque<EmulatedEvent> events_;
};

}  // namespace

// It needs no libraries: their folder's name is that of the file of faults.
absl::StatusOr<std::unique_ptr<Runtime>> open_runtime(int index, const std::string& libraries) {
  if (index != 0) return invalid_argument("device.index = {}: there is one emulated GPU", index);
  return std::make_unique<EmulatedRuntime>(libraries);
}

}  // namespace sluice::cuda
