#pragma once

#include <cublasLt.h>

#include <array>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "kernels/cuda/runtime.h"

namespace sluice::cuda {

// NVIDIA's matrix products. The library is half a gigabyte and belongs to the machine: it is looked
// for at run time. One owner thread.
class CublasLt {
 public:
  // `folder`: as library_candidates(). Fails with one line that says what was looked for.
  static absl::StatusOr<std::unique_ptr<CublasLt>> open(const std::string& folder);
  ~CublasLt();
  // What a call that fails is told to, which does not return.
  void on_failure(std::function<void(const std::string&)>);

  // As Runtime. `workspace`: kWorkspaceBytes on the device, for this stream alone. An algorithm is
  // chosen when a shape comes for the first time in a way, which must not be under capture.
  static constexpr size_t kWorkspaceBytes = size_t{32} << 20;
  Epilogue matmul(cudaStream_t, void* workspace, const Product&, const Epilogue&, Way);
  int num_ways(const Product&) const;
  // Whether it has a product of fp8 with these scales for this GPU (Hopper has; the library tells).
  bool has_fp8_products() const;
  size_t version() const;

 private:
  struct Library;  // its functions
  struct Plan;     // a shape's descriptors and algorithm
  using Algorithms = std::vector<cublasLtMatmulHeuristicResult_t>;
  // Rows, columns, inputs, strides of x and out, types, the epilogue, and the way.
  using Key = std::array<int64_t, 11>;

  CublasLt() = default;
  // Without an algorithm.
  std::unique_ptr<Plan> describe(const Product&, const Epilogue&) const;
  Algorithms proposed(const Plan&) const;
  // With as much of the epilogue as there is an algorithm for. Null: there is none at all.
  std::unique_ptr<Plan> make_plan(const Product&, Epilogue, Way) const;
  bool take(Way, const Product&, Plan&) const;
  cublasStatus_t run(cudaStream_t, void* workspace, const Product&, const Plan&) const;
  void set_pointer(const Plan&, cublasLtMatmulDescAttributes_t, const Tensor&) const;
  void set_scales(const Plan&, const Product&) const;

  std::unique_ptr<Library> library_;
  cublasLtHandle_t handle_ = nullptr;
  std::map<Key, std::unique_ptr<Plan>> plans_;
};

}  // namespace sluice::cuda
