// What one NVIDIA GPU can do at most: the ceilings that kernels and swaps are held against. Prints
// a table; exits 77 (skipped) and says why when there is no usable GPU. No code of Sluice is
// involved.
#include <cublasLt.h>
#include <cuda_runtime.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

namespace sluice {
namespace {

constexpr int kSkipped = 77, kRuns = 9;
constexpr size_t kMiB = size_t{1} << 20;
constexpr double kGiga = 1e9, kTera = 1e12;

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "gpu_probe: %s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}

class Stream {
 public:
  Stream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "stream"); }
  ~Stream() { cudaStreamDestroy(stream_); }
  cudaStream_t get() const { return stream_; }

  // Median seconds of what `body` puts on the stream, after one run that does not count.
  double seconds(const std::function<void()>& body) const {
    cudaEvent_t begin, end;
    check(cudaEventCreate(&begin), "event");
    check(cudaEventCreate(&end), "event");
    std::vector<float> ms;
    for (int i = 0; i <= kRuns; ++i) {
      check(cudaEventRecord(begin, stream_), "record");
      body();
      check(cudaEventRecord(end, stream_), "record");
      check(cudaEventSynchronize(end), "run");
      float once = 0;
      check(cudaEventElapsedTime(&once, begin, end), "time");
      if (i > 0) ms.push_back(once);
    }
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    std::nth_element(ms.begin(), ms.begin() + kRuns / 2, ms.end());
    return ms[kRuns / 2] / 1e3;
  }

 private:
  cudaStream_t stream_ = nullptr;
};

class DeviceMemory {
 public:
  explicit DeviceMemory(size_t bytes) {
    check(cudaMalloc(&p_, bytes), "allocate");
    check(cudaMemset(p_, 0, bytes), "clear");
  }
  ~DeviceMemory() { cudaFree(p_); }
  template <class T = void>
  T* get() const {
    return static_cast<T*>(p_);
  }

 private:
  void* p_ = nullptr;
};

// One 16-byte load a thread and turn; the sum is only kept so that the loads are.
__global__ void read_all(const uint4* x, size_t n, uint32_t* out) {
  uint32_t sum = 0;
  const size_t stride = size_t{gridDim.x} * blockDim.x;
  for (size_t i = size_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n; i += stride) {
    const uint4 v = x[i];
    sum += v.x ^ v.y ^ v.z ^ v.w;
  }
  if (sum == 1) *out = sum;
}

__global__ void nothing() {}

// Numbers of both signs about one, as matmuls have them: on zeros a chip draws less power and runs
// faster. `width`: 2 for bf16 (the high byte comes second), 1 for e4m3.
__global__ void fill(uint8_t* x, size_t n, int width) {
  const size_t i = size_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= n) return;
  uint32_t h = uint32_t(i) * 2654435761u;
  h ^= h >> 15;
  h *= 2246822519u;
  h ^= h >> 13;
  if (width == 1)
    x[i] = uint8_t((h & 0x87) | 0x38);
  else
    x[i] = i % 2 == 0 ? uint8_t(h) : uint8_t((h & 0x80) | 0x3f);
}

void memory(const Stream& stream, const cudaDeviceProp& chip) {
  const size_t bytes = std::min<size_t>(4096 * kMiB, chip.totalGlobalMem / 4);
  const DeviceMemory from(bytes), out(sizeof(uint32_t));
  const double s = stream.seconds([&] {
    read_all<<<chip.multiProcessorCount * 8, 512, 0, stream.get()>>>(
        from.get<uint4>(), bytes / sizeof(uint4), out.get<uint32_t>());
    check(cudaGetLastError(), "read_all");
  });
  std::printf("%-44s %10.0f GB/s\n", "memory read", double(bytes) / s / kGiga);
}

// KV blocks travel one copy each: a small copy shows what its set-up costs.
void host_copies(const Stream& stream) {
  constexpr size_t kTotal = 256 * kMiB;
  const DeviceMemory device(kTotal);
  void* host = nullptr;
  check(cudaMallocHost(&host, kTotal), "pinned memory");
  for (const size_t piece : {size_t{2} * kMiB, kTotal}) {
    for (const bool up : {true, false}) {
      const double s = stream.seconds([&] {
        for (size_t at = 0; at < kTotal; at += piece) {
          char *h = static_cast<char*>(host) + at, *d = device.get<char>() + at;
          check(cudaMemcpyAsync(up ? d : h, up ? h : d, piece,
                                up ? cudaMemcpyHostToDevice : cudaMemcpyDeviceToHost, stream.get()),
                "copy");
        }
      });
      const std::string name = "pinned copy, " + std::string(up ? "to the device" : "to the host") +
                               ", " + std::to_string(piece / kMiB) + " MiB pieces";
      std::printf("%-44s %10.1f GB/s\n", name.c_str(), double(kTotal) / s / kGiga);
    }
  }
  cudaFreeHost(host);
}

// Time from kernel to kernel when each does nothing: launched one by one, and as nodes of a graph.
void launches(const Stream& stream) {
  constexpr int kKernels = 1000;
  const auto launch_all = [&] {
    for (int i = 0; i < kKernels; ++i) nothing<<<1, 32, 0, stream.get()>>>();
    check(cudaGetLastError(), "launch");
  };
  std::printf("%-44s %10.2f us\n", "kernel to kernel, launched",
              stream.seconds(launch_all) / kKernels * 1e6);
  cudaGraph_t graph;
  cudaGraphExec_t runnable;
  check(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal), "capture");
  launch_all();
  check(cudaStreamEndCapture(stream.get(), &graph), "capture");
  check(cudaGraphInstantiate(&runnable, graph, 0), "graph");
  const double s =
      stream.seconds([&] { check(cudaGraphLaunch(runnable, stream.get()), "graph launch"); });
  std::printf("%-44s %10.2f us\n", "kernel to kernel, in a graph", s / kKernels * 1e6);
  cudaGraphExecDestroy(runnable);
  cudaGraphDestroy(graph);
}

// cuBLASLt, looked up at run time: a machine without it still gets the other figures.
struct Blas {
  void* library = nullptr;
  template <class F>
  F* find(const char* name) const {
    auto* f = reinterpret_cast<F*>(dlsym(library, name));
    if (f == nullptr) {
      std::fprintf(stderr, "gpu_probe: cuBLASLt has no %s\n", name);
      std::exit(1);
    }
    return f;
  }
};

void check(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  std::fprintf(stderr, "gpu_probe: %s: cuBLASLt status %d\n", what, int(status));
  std::exit(1);
}

// D[n, n] = A^T[n, n] * B[n, n], bf16 out, f32 sums: the layout that fp8 asks for.
double matmul_seconds(const Blas& blas, const Stream& stream, cudaDataType_t type, int64_t n) {
  const size_t element = type == CUDA_R_16BF ? 2 : 1;
  const DeviceMemory a(n * n * element), b(n * n * element), d(n * n * 2), space(64 * kMiB);
  const size_t space_bytes = 64 * kMiB, bytes = n * n * element;
  for (const DeviceMemory* m : {&a, &b})
    fill<<<unsigned((bytes + 255) / 256), 256, 0, stream.get()>>>(m->get<uint8_t>(), bytes,
                                                                  int(element));
  check(cudaGetLastError(), "fill");
  cublasLtHandle_t handle;
  check(blas.find<decltype(cublasLtCreate)>("cublasLtCreate")(&handle), "create");
  cublasLtMatmulDesc_t op;
  check(blas.find<decltype(cublasLtMatmulDescCreate)>("cublasLtMatmulDescCreate")(
            &op, CUBLAS_COMPUTE_32F, CUDA_R_32F),
        "description");
  const cublasOperation_t transposed = CUBLAS_OP_T;
  check(blas.find<decltype(cublasLtMatmulDescSetAttribute)>("cublasLtMatmulDescSetAttribute")(
            op, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed),
        "transposition");
  cublasLtMatrixLayout_t in, out;
  auto* layout = blas.find<decltype(cublasLtMatrixLayoutCreate)>("cublasLtMatrixLayoutCreate");
  check(layout(&in, type, n, n, n), "layout");
  check(layout(&out, CUDA_R_16BF, n, n, n), "layout");
  cublasLtMatmulPreference_t wish;
  check(
      blas.find<decltype(cublasLtMatmulPreferenceCreate)>("cublasLtMatmulPreferenceCreate")(&wish),
      "preference");
  check(blas.find<decltype(cublasLtMatmulPreferenceSetAttribute)>(
            "cublasLtMatmulPreferenceSetAttribute")(wish, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                    &space_bytes, sizeof space_bytes),
        "workspace");
  cublasLtMatmulHeuristicResult_t plan;
  int found = 0;
  check(blas.find<decltype(cublasLtMatmulAlgoGetHeuristic)>("cublasLtMatmulAlgoGetHeuristic")(
            handle, op, in, in, out, out, wish, 1, &plan, &found),
        "plan");
  if (found == 0) return 0;
  auto* matmul = blas.find<decltype(cublasLtMatmul)>("cublasLtMatmul");
  const float one = 1, zero = 0;
  const double s = stream.seconds([&] {
    check(matmul(handle, op, &one, a.get(), in, b.get(), in, &zero, d.get(), out, d.get(), out,
                 &plan.algo, space.get(), space_bytes, stream.get()),
          "matmul");
  });
  blas.find<decltype(cublasLtDestroy)>("cublasLtDestroy")(handle);
  return s;
}

void matmuls(const Stream& stream, const cudaDeviceProp& chip) {
  Blas blas;
  for (const char* name : {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"})
    if (blas.library == nullptr) blas.library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
  if (blas.library == nullptr) {
    std::printf("matmul: cuBLASLt was not found (%s)\n", dlerror());
    return;
  }
  constexpr int64_t n = 8192;
  const double operations = 2.0 * n * n * n;
  const double bf16 = matmul_seconds(blas, stream, CUDA_R_16BF, n);
  std::printf("%-44s %10.0f TFLOP/s\n", "matmul bf16, 8192 cubed", operations / bf16 / kTera);
  if (chip.major * 10 + chip.minor < 89) return;  // fp8 came with Ada and Hopper
  const double fp8 = matmul_seconds(blas, stream, CUDA_R_8F_E4M3, n);
  if (fp8 > 0)
    std::printf("%-44s %10.0f TFLOP/s\n", "matmul fp8 (e4m3), 8192 cubed",
                operations / fp8 / kTera);
}

int probe() {
  int devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&devices);
  if (error != cudaSuccess || devices == 0) {
    std::printf("gpu_probe: skipped, no usable NVIDIA GPU: %s\n",
                error != cudaSuccess ? cudaGetErrorString(error) : "none is visible");
    return kSkipped;
  }
  cudaDeviceProp chip;
  check(cudaGetDeviceProperties(&chip, 0), "properties");
  int driver = 0;
  check(cudaDriverGetVersion(&driver), "driver version");
  std::printf("%s, sm_%d%d, %d SMs, %.1f GiB, driver for CUDA %d.%d\n", chip.name, chip.major,
              chip.minor, chip.multiProcessorCount, double(chip.totalGlobalMem) / double(1 << 30),
              driver / 1000, driver % 1000 / 10);
  const Stream stream;
  memory(stream, chip);
  host_copies(stream);
  launches(stream);
  matmuls(stream, chip);
  return 0;
}

}  // namespace
}  // namespace sluice

int main() { return sluice::probe(); }
