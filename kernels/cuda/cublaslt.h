#pragma once

#include <cublasLt.h>

#include <array>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "base/status.h"
#include "kernels/tensor.h"

namespace sluice::cuda {

// NVIDIA's matrix products. The library is half a gigabyte and belongs to the machine: it is looked
// for at run time. One owner thread.
class CublasLt {
 public:
  // Looks into `folder` first, if there is one, then where the loader looks, and where packages of
  // the system and of pip put it. Fails with one line that says what was looked for.
  static absl::StatusOr<std::unique_ptr<CublasLt>> open(const std::string& folder);
  ~CublasLt();
  // What a call that fails is told to, which does not return.
  void on_failure(std::function<void(const std::string&)>);

  // Of the rows of x and of w, f32; none but for fp8.
  struct Scales {
    const float* x;
    const float* w;
  };
  // As Runtime::matmul and scaled_matmul. `workspace`: kWorkspaceBytes on the device, for this
  // stream alone. An algorithm is chosen when a shape comes for the first time, which must not be
  // under capture.
  static constexpr size_t kWorkspaceBytes = size_t{32} << 20;
  void matmul(cudaStream_t, void* workspace, const Tensor& out, const Tensor& x, const Tensor& w,
              const Scales& scales = {});
  // Whether it has a product of fp8 with these scales for this GPU (Hopper has; the library tells).
  bool has_fp8_products() const;
  size_t version() const;

 private:
  struct Library;                      // its functions
  struct Plan;                         // a shape's descriptors and algorithm
  using Key = std::array<int64_t, 7>;  // rows, columns, inputs, strides of x and out, types

  CublasLt() = default;
  // Null: there is no algorithm.
  std::unique_ptr<Plan> make_plan(const Tensor& out, const Tensor& x, const Tensor& w,
                                  const Scales&) const;
  void set_scales(const Plan&, const Scales&) const;

  std::unique_ptr<Library> library_;
  cublasLtHandle_t handle_ = nullptr;
  std::map<Key, std::unique_ptr<Plan>> plans_;
};

}  // namespace sluice::cuda
