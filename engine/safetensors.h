#pragma once

#include <absl/container/flat_hash_map.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "kernels/tensor.h"

namespace sluice {

// One tensor of a safetensors file, in the file's mapped memory. `data` may be unaligned.
struct StoredTensor {
  std::string name;
  std::string file;            // without its folder, for messages
  std::string dtype_name;      // "BF16"
  std::optional<DType> dtype;  // absent: a dtype of the format that nothing here computes with
  std::vector<int64_t> shape;
  const std::byte* data = nullptr;
  size_t bytes = 0;
};

// "[128, 64]", for messages.
std::string shape_text(const std::vector<int64_t>& shape);

// The tensors of a model directory: model.safetensors, or the shards that
// model.safetensors.index.json names. Files are mapped read-only and stay so while this lives.
// Immutable after open(), so any thread may read.
//
// Headers are not trusted. Every tensor's bytes are inside its file and of the size that its shape
// and dtype say, tensors neither overlap nor leave holes, no name occurs twice, and every tensor
// the index names is there; anything else is one line that names file and tensor.
class Safetensors {
 public:
  static absl::StatusOr<Safetensors> open(const std::filesystem::path& dir);

  const StoredTensor* find(std::string_view name) const;  // nullptr: no such tensor
  const std::vector<StoredTensor>& tensors() const { return tensors_; }
  size_t bytes() const { return bytes_; }  // of all tensors

 private:
  class Mapping;
  Safetensors() = default;
  absl::Status add_file(const std::filesystem::path& path);
  absl::Status add_shards(const std::filesystem::path& index);

  std::vector<std::shared_ptr<Mapping>> files_;
  std::vector<StoredTensor> tensors_;
  absl::flat_hash_map<std::string, size_t> by_name_;
  size_t bytes_ = 0;
};

}  // namespace sluice
