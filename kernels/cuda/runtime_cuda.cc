#include <cuda_runtime.h>

#include <cstring>
#include <mutex>
#include <vector>

#include "kernels/cuda/cublaslt.h"
#include "kernels/cuda/runtime.h"

namespace sluice::cuda {
namespace {

constexpr int kLeastCapability = 80;

void check(Runtime& runtime, cudaError_t error, const char* call) {
  if (error == cudaSuccess) return;
  runtime.fail(fmt::format("CUDA: {} failed: {} ({})", call, cudaGetErrorString(error),
                           cudaGetErrorName(error)));
}

cudaStream_t of(Stream s) { return static_cast<cudaStream_t>(s.handle); }
cudaEvent_t of(Event e) { return static_cast<cudaEvent_t>(e.handle); }

class CudaGraph final : public Graph {
 public:
  CudaGraph(Runtime& runtime, cudaGraphExec_t graph, size_t num_nodes)
      : runtime_(runtime), graph_(graph), num_nodes_(int(num_nodes)) {}
  ~CudaGraph() override { cudaGraphExecDestroy(graph_); }
  void replay(Stream stream) override {
    sluice::cuda::check(runtime_, cudaGraphLaunch(graph_, of(stream)), "GraphLaunch");
  }
  int num_nodes() const override { return num_nodes_; }

 private:
  Runtime& runtime_;
  const cudaGraphExec_t graph_;
  const int num_nodes_;
};

class CudaRuntime final : public Runtime {
 public:
  CudaRuntime(int index, DeviceInfo info, std::unique_ptr<CublasLt> blas)
      : index_(index), info_(std::move(info)), blas_(std::move(blas)) {
    blas_->on_failure([this](const std::string& what) { fail(what); });
    workspace_ = allocate(CublasLt::kWorkspaceBytes, Memory::device);
    if (workspace_ == nullptr) check(cudaErrorMemoryAllocation, "Malloc of the workspace");
  }
  ~CudaRuntime() override {
    use();
    blas_.reset();
    release(workspace_, Memory::device);
    for (const cudaEvent_t e : events_) cudaEventDestroy(e);
    for (const cudaStream_t s : streams_) cudaStreamDestroy(s);
  }

  const DeviceInfo& info() const override { return info_; }
  size_t free_bytes() const override {
    use();
    size_t free = 0, total = 0;
    check(cudaMemGetInfo(&free, &total), "MemGetInfo");
    return free;
  }
  void* allocate(size_t bytes, Memory kind) override {
    use();
    void* p = nullptr;
    const size_t size = bytes > 0 ? bytes : 1;
    if (kind == Memory::pinned_host) {
      if (cudaHostAlloc(&p, size, cudaHostAllocPortable) != cudaSuccess) return failed();
      std::memset(p, 0, size);
      return p;
    }
    if (cudaMalloc(&p, size) != cudaSuccess) return failed();
    check(cudaMemset(p, 0, size), "Memset");
    // Streams made here do not wait for the default one.
    check(cudaDeviceSynchronize(), "DeviceSynchronize");
    return p;
  }
  void release(void* p, Memory kind) override {
    use();
    check(kind == Memory::pinned_host ? cudaFreeHost(p) : cudaFree(p), "Free");
  }

  Stream make_stream() override {
    use();
    cudaStream_t stream;
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "StreamCreate");
    std::lock_guard lock(mutex_);
    streams_.push_back(stream);
    return {stream};
  }
  Event make_event() override {
    use();
    cudaEvent_t event;
    check(cudaEventCreate(&event), "EventCreate");
    std::lock_guard lock(mutex_);
    events_.push_back(event);
    return {event};
  }
  void copy(void* dst, const void* src, size_t bytes, Stream stream) override {
    use();
    check(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDefault, of(stream)), "MemcpyAsync");
  }
  void upload(void* dst, const void* src, size_t bytes) override {
    use();
    check(cudaMemcpy(dst, src, bytes, cudaMemcpyHostToDevice), "Memcpy");
  }
  void check_launches() override {
    use();
    check(cudaPeekAtLastError(), "a kernel's launch");
  }
  void record(Event event, Stream stream) override {
    check_launches();
    check(cudaEventRecord(of(event), of(stream)), "EventRecord");
  }
  void wait(Stream stream, Event event) override {
    use();
    check(cudaStreamWaitEvent(of(stream), of(event)), "StreamWaitEvent");
  }
  void sync(Event event) override {
    use();
    check(cudaEventSynchronize(of(event)), "EventSynchronize");
  }
  Nanos between(Event begin, Event end) override {
    use();
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, of(begin), of(end)), "EventElapsedTime");
    return Nanos(int64_t(double(milliseconds) * 1e6));
  }
  std::unique_ptr<Graph> capture(Stream stream, const std::function<void()>& body) override {
    use();
    check(cudaStreamBeginCapture(of(stream), cudaStreamCaptureModeThreadLocal),
          "StreamBeginCapture");
    body();
    cudaGraph_t graph;
    check(cudaStreamEndCapture(of(stream), &graph), "StreamEndCapture");
    size_t num_nodes = 0;
    check(cudaGraphGetNodes(graph, nullptr, &num_nodes), "GraphGetNodes");
    cudaGraphExec_t executable = nullptr;
    const cudaError_t instantiated = cudaGraphInstantiate(&executable, graph);
    check(cudaGraphDestroy(graph), "GraphDestroy");
    if (instantiated == cudaErrorMemoryAllocation) {
      cudaGetLastError();  // else the next check would find it
      return nullptr;
    }
    check(instantiated, "GraphInstantiate");
    return std::make_unique<CudaGraph>(*this, executable, num_nodes);
  }

  Epilogue matmul(Stream stream, const Product& product, const Epilogue& epilogue,
                  Way way) override {
    use();
    return blas_->matmul(of(stream), workspace_, product, epilogue, way);
  }
  int num_ways(const Product& product) override {
    use();
    return blas_->num_ways(product);
  }

 private:
  // Which GPU a thread means is the thread's own affair in CUDA.
  void use() const {
    thread_local int current = -1;
    if (current == index_) return;
    check(cudaSetDevice(index_), "SetDevice");
    current = index_;
  }
  static void* failed() {
    cudaGetLastError();  // else the next check would find it
    return nullptr;
  }
  // Also of what is const: nothing is left to be changed.
  void check(cudaError_t error, const char* call) const {
    sluice::cuda::check(const_cast<CudaRuntime&>(*this), error, call);
  }

  const int index_;
  const DeviceInfo info_;
  std::unique_ptr<CublasLt> blas_;
  void* workspace_ = nullptr;
  std::mutex mutex_;  // guards what follows
  std::vector<cudaStream_t> streams_;
  std::vector<cudaEvent_t> events_;
};

std::string version_text(int version) {
  return fmt::format("{}.{}", version / 1000, version % 1000 / 10);
}

absl::Status no_devices(cudaError_t error) {
  int driver = 0;
  cudaDriverGetVersion(&driver);
  if (driver == 0) return unavailable("no NVIDIA driver is loaded");
  if (driver < CUDART_VERSION / 1000 * 1000)
    return unavailable("the NVIDIA driver is too old: it has CUDA {}, this build needs {}",
                       version_text(driver), version_text(CUDART_VERSION));
  if (error == cudaErrorNoDevice || error == cudaSuccess)
    return unavailable("no GPU is visible to this process");
  return unavailable("the NVIDIA driver does not answer: {}", cudaGetErrorString(error));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Runtime>> open_runtime(int index, const std::string& libraries) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess || count == 0) return no_devices(error);
  if (index < 0 || index >= count)
    return invalid_argument("device.index = {}: {} GPU{} visible, counted from 0", index, count,
                            count == 1 ? " is" : "s are");
  cudaDeviceProp properties{};
  if (const cudaError_t e = cudaGetDeviceProperties(&properties, index); e != cudaSuccess)
    return unavailable("GPU {} does not answer: {}", index, cudaGetErrorString(e));
  const int capability = properties.major * 10 + properties.minor;
  if (capability < kLeastCapability)
    return unimplemented("GPU {} ({}) has compute capability {}.{}; at least {}.{} is needed",
                         index, properties.name, properties.major, properties.minor,
                         kLeastCapability / 10, kLeastCapability % 10);
  if (const cudaError_t e = cudaSetDevice(index); e != cudaSuccess)
    return unavailable("GPU {} ({}) cannot be used: {}", index, properties.name,
                       cudaGetErrorString(e));
  if (const cudaError_t e = cudaFree(nullptr); e != cudaSuccess)  // makes the context
    return unavailable("GPU {} ({}) cannot be used: {}", index, properties.name,
                       cudaGetErrorString(e));
  auto blas = CublasLt::open(libraries);
  if (!blas.ok()) return blas.status();
  int driver = 0;
  cudaDriverGetVersion(&driver);  // else 0
  const DeviceInfo info{properties.name, properties.multiProcessorCount,
                        (*blas)->has_fp8_products(), properties.totalGlobalMem,
                        fmt::format("compute {}.{}, driver {}, cuBLASLt {}", properties.major,
                                    properties.minor, driver, (*blas)->version())};
  return std::make_unique<CudaRuntime>(index, info, *std::move(blas));
}

}  // namespace sluice::cuda
