#include "engine/decode_captures.h"

#include <algorithm>
#include <utility>

namespace sluice {

int DecodeCaptures::width_of(int rows, int max_rows) {
  const int width = rows <= 4 ? (rows == 3 ? 4 : rows) : (rows + 7) / 8 * 8;
  return std::min(width, max_rows);
}

std::vector<int> DecodeCaptures::widths(int max_rows) {
  std::vector<int> all;
  for (int rows = 1; rows <= max_rows; rows = all.back() + 1)
    all.push_back(width_of(rows, max_rows));
  return all;
}

const Forward& DecodeCaptures::replay(int width) {
  CHECK(scratch_.used() == 0);
  const Captured& c = captured_.at(width);
  // It lies where it lay, and is taken all the same: what comes next must not.
  scratch_.take(DType::u8, {int64_t(c.scratch)});
  c.graph->replay(device_.compute_stream());
  return c.forward;
}

bool DecodeCaptures::capture(int width, const std::function<Forward()>& forward) {
  CHECK(!has(width));
  scratch_.reset();
  Captured c;
  c.graph = device_.capture(device_.compute_stream(), [&] { c.forward = forward(); });
  c.scratch = scratch_.used();
  if (c.graph == nullptr) return false;
  captured_[width] = std::move(c);
  return true;
}

int64_t DecodeCaptures::num_nodes() const {
  int64_t nodes = 0;
  for (const auto& [width, c] : captured_) nodes += c.graph->num_nodes();
  return nodes;
}

int DecodeCaptures::num_eager(int width) const {
  const auto at = num_eager_.find(width);
  return at == num_eager_.end() ? 0 : at->second;
}

}  // namespace sluice
