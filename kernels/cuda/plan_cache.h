#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "base/status.h"
#include "kernels/tensor.h"

namespace sluice::cuda {

// What was measured of products when a model was loaded, in a file, so that the next start on the
// same machine need not measure it again. A file of another machine or that is damaged is one line
// in the log, and as if there were none; one that cannot be written, too. One owner thread.
class PlanCache {
 public:
  using Log = std::function<void(const std::string&)>;
  struct Shape {  // of weights, and the type of results
    DType type, out;
    int64_t rows, columns;
    auto operator<=>(const Shape&) const = default;
  };
  static constexpr int64_t kMostRows = 1 << 20, kMostWay = 63;  // of an entry

  PlanCache() = default;  // keeps nothing
  // `machine`: one line with all that a measurement depends on. The file is read here.
  PlanCache(const std::string& folder, std::string machine, Log log);

  const std::string& file() const { return file_; }  // empty: none
  // Up to how many rows our own kernel is the faster one.
  std::optional<int64_t> own_rows(const Shape&) const;
  void put_own_rows(const Shape&, int64_t own_rows);
  // Which of the library's algorithms is the fastest for so many rows: the index of a Way.
  std::optional<int> way(const Shape&, int64_t rows) const;
  void put_way(const Shape&, int64_t rows, int way);
  // Writes the file, if something was put; whoever reads it meanwhile sees the old one or the new.
  void save();

 private:
  std::string text() const;
  absl::Status read();
  absl::Status write() const;

  std::string file_, machine_;
  Log log_;
  bool entry(std::string_view line);

  std::map<Shape, int64_t> own_rows_;
  std::map<std::pair<Shape, int64_t>, int> ways_;
  bool changed_ = false;
};

}  // namespace sluice::cuda
