#pragma once

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/status.h"
#include "engine/safetensors.h"
#include "kernels/device.h"
#include "kernels/ops.h"

namespace sluice {

// What a model asks of a checkpoint. It lists its layers once; the list is checked and counted
// without reading a tensor, or loaded.

// Rows of a linear layer that one stored tensor holds; several parts make a fused layer. Beside an
// fp8 tensor X.weight lies X.weight_scale, of one element or one a row, and maybe X.input_scale,
// which is not used.
struct LinearPart {
  std::string weight;  // [rows, in_features]
  int64_t rows = 0;
  std::string bias;  // [rows]; empty: none. All parts of a layer have one or none has
  // Of a tensor that holds other rows too, `stored_rows` in all: `run` rows every `step`, from
  // `first` on. 0: the tensor is the part.
  int64_t stored_rows = 0, first = 0, run = 0, step = 0;
  bool transposed = false;  // stored as [in_features, rows]

  int64_t rows_stored() const { return stored_rows > 0 ? stored_rows : rows; }
  // Where the part's row lies in the tensor.
  int64_t stored_row(int64_t row) const {
    return run > 0 ? first + row / run * step + row % run : first + row;
  }
};
struct LinearSpec {
  Weight* out = nullptr;
  int64_t in_features = 0;
  std::vector<LinearPart> parts;
  enum class Use { mlp, attention, head, table, router, experts } use = Use::mlp;

  // Layers and experts are what fp8 checkpoints have as fp8, and what is quantised at load, as vLLM
  // has it; a head may be stored as fp8 too; a table that tokens look up and a router may not.
  bool is_quantised() const {
    return use == Use::mlp || use == Use::attention || use == Use::experts;
  }
  bool may_be_fp8() const { return is_quantised() || use == Use::head; }
};
// A norm: kept as f32.
struct VectorSpec {
  Tensor* out = nullptr;  // f32 [size]
  std::string name;
  int64_t size = 0;
  float plus = 0;  // added to every element
};
// A positive number that a checkpoint may have, under one of several names; 1 where it has none.
struct ScaleSpec {
  float* out = nullptr;
  std::vector<std::string> names;
};
struct WeightList {
  std::vector<LinearSpec> linears;
  std::vector<VectorSpec> vectors;
  std::vector<ScaleSpec> scales;
};

// A list beside a checkpoint's headers: no tensor is read.
struct WeightReview {
  // Tensors that are missing, or of a wrong shape or type; one line each that names the file, the
  // tensor, what is expected and what was found.
  std::vector<absl::Status> problems;
  std::vector<std::string> unused;  // stored tensors that the list does not ask for
  // What the list's tensors come to in the files.
  struct Group {
    const char* name;  // "attention"
    int64_t tensors = 0, parameters = 0;
    size_t bytes = 0;                   // with the scales of fp8
    std::set<std::string> dtypes = {};  // "BF16"
  };
  std::vector<Group> groups;  // none that is empty
};
WeightReview review_weights(const WeightList&, const Safetensors&);
// The scale beside an fp8 weight; null for any other tensor, or where it is missing.
const StoredTensor* scale_of(const Safetensors&, const StoredTensor& weight);
const StoredTensor* find_scale(const Safetensors&, const ScaleSpec&);  // null: there is none

struct WeightPlan {
  size_t bytes = 0;           // of device memory
  std::vector<DType> dtypes;  // of each linear layer in memory
  DType dtype = DType::f32;   // the first of those with the fewest bits
  int max_fp8_inputs = 0;     // of a layer in fp8, experts aside; 0: there is none
};

// "auto" is absent: as stored (f32 where the parts of a fused layer differ). "fp8" quantises layers
// that are stored as something else, each row to a scale of its own.
absl::StatusOr<std::optional<DType>> parse_weight_dtype(std::string_view name);

// Fails where the review has problems, with the first, and where the device would keep nothing as
// the type that is asked for.
absl::StatusOr<WeightPlan> plan_weights(const WeightList&, const Safetensors&, const Ops&,
                                        std::optional<DType> dtype);

// Packs everything into one buffer, from `threads` threads, and points the list's outputs into it.
// Logs progress, and the names of tensors that nobody asked for.
absl::StatusOr<Device::Buffer> load_weights(const WeightList&, const Safetensors&,
                                            const WeightPlan&, Device&, int threads);

}  // namespace sluice
