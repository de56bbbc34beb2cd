// A checkpoint's headers. An input that begins with a brace is an index beside two good shards,
// any other one is a model.safetensors.
#include <cstdint>

#include "engine/safetensors.h"
#include "tests/fuzz/files.h"

namespace sluice {
namespace {

std::string shard(const char* name) {
  const std::string header =
      fmt::format(R"({{"{}":{{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}}})", name);
  std::string bytes(8, '\0');
  bytes[0] = static_cast<char>(header.size());
  return bytes + header + "12345678";
}

void check_tensors(const Safetensors& opened) {
  size_t bytes = 0;
  unsigned sum = 0;
  for (const StoredTensor& t : opened.tensors()) {
    check_line("tensor " + t.name);
    CHECK(opened.find(t.name) == &t && !opened.is_lost(t.name));
    bytes += t.bytes;
    if (t.bytes > 0) sum += unsigned(t.data[0]) + unsigned(t.data[t.bytes - 1]);  // both mapped
  }
  CHECK(bytes == opened.bytes() && sum <= 510 * opened.tensors().size());
}

}  // namespace

void fuzz_one(std::string_view input) {
  static const FuzzDir whole, sharded;
  static const bool ready = [] {
    sharded.put("a.safetensors", shard("a"));
    sharded.put("b.safetensors", shard("b"));
    return true;
  }();
  CHECK(ready);
  const bool is_index = input.starts_with('{');
  const FuzzDir& dir = is_index ? sharded : whole;
  dir.put(is_index ? "model.safetensors.index.json" : "model.safetensors", input);
  std::vector<absl::Status> problems;
  const Safetensors opened = Safetensors::review(dir.path(), problems);
  for (const absl::Status& problem : problems) check_line(problem);
  check_tensors(opened);
  CHECK(Safetensors::open(dir.path()).ok() == problems.empty());
}

}  // namespace sluice
