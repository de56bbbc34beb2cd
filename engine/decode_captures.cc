#include "engine/decode_captures.h"

namespace sluice {

int DecodeCaptures::width_of(int rows, int max_rows) {
  const int width = rows <= 4 ? (rows == 3 ? 4 : rows) : (rows + 7) / 8 * 8;
  return std::min(width, max_rows);
}

Tensor DecodeCaptures::run(int width, const std::function<Tensor()>& forward) {
  const auto [at, first] = captured_.try_emplace(width);
  Captured& c = at->second;
  if (first) return forward();
  const size_t mark = scratch_.used();
  if (c.graph == nullptr) {
    c.graph = device_.capture(device_.compute_stream(), [&] { c.hidden = forward(); });
  } else {
    // It lies where it lay, and is taken all the same: what comes next must not.
    const Tensor again = scratch_.take(c.hidden.dtype, {c.hidden.shape[0], c.hidden.shape[1]});
    CHECK(again.data == c.hidden.data && mark == 0);
  }
  c.graph->replay(device_.compute_stream());
  return c.hidden;
}

}  // namespace sluice
