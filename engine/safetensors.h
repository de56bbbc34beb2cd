#pragma once

#include <absl/container/flat_hash_map.h>
#include <absl/container/flat_hash_set.h>

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
  // Of what nobody stored: how its values are made (random_weights.h); then `data` is null.
  struct Random {
    enum class Kind { weight, constant, scale } kind = Kind::weight;
    uint64_t stream = 0;
    float mean = 0;
  };
  std::optional<Random> random;
};

// "[128, 64]", for messages.
std::string shape_text(const std::vector<int64_t>& shape);

// The tensors of a model directory: model.safetensors, or the shards that
// model.safetensors.index.json names. Files are mapped read-only and stay so while this lives.
// Immutable after open(), so any thread may read. A default one is empty.
//
// Headers are not trusted. Every tensor's bytes are inside its file and of the size that its shape
// and dtype say, tensors neither overlap nor leave holes, no name occurs twice, and every tensor
// the index names is there; anything else is one line that names file and tensor.
class Safetensors {
 public:
  static absl::StatusOr<Safetensors> open(const std::filesystem::path& dir);
  // What can be opened; every reason why open() would refuse the rest is added to `problems`.
  static Safetensors review(const std::filesystem::path& dir, std::vector<absl::Status>& problems);

  // Without files. `source` stands for them in messages.
  static Safetensors of(std::vector<StoredTensor> tensors, std::string source);

  const StoredTensor* find(std::string_view name) const;  // nullptr: no such tensor
  const std::vector<StoredTensor>& tensors() const { return tensors_; }
  size_t bytes() const { return bytes_; }  // of all tensors
  size_t num_files() const { return files_.size(); }
  const std::string& source() const { return source_; }  // the file that says what there is
  // There is none, and the index says that it is in a file that could not be opened.
  bool is_lost(std::string_view name) const;

 private:
  class Mapping;
  absl::Status add_file(const std::filesystem::path& path);
  void add_shards(const std::filesystem::path& index, std::vector<absl::Status>& problems);

  std::vector<std::shared_ptr<Mapping>> files_;
  std::vector<StoredTensor> tensors_;
  absl::flat_hash_map<std::string, size_t> by_name_;
  absl::flat_hash_set<std::string> lost_;
  std::string source_;
  size_t bytes_ = 0;
};

}  // namespace sluice
