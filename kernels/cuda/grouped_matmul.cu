#include "kernels/cuda/grouped_matmul.h"

#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/launch.h"
#include "kernels/simt/launch.h"

namespace sluice::cuda {
namespace {

// However rows are shared out: each expert may have one tile that is not full.
int64_t tiles_of(int64_t rows, int64_t experts) {
  return rows / kGroupedRows + std::min(rows, experts);
}

}  // namespace

size_t grouped_scratch_bytes(int64_t rows, int64_t experts) {
  return size_t(tiles_of(rows, experts)) * sizeof(GroupedTile) + size_t(rows) * sizeof(int32_t);
}

bool grouped_can(const Tensor& out, const Tensor& x, const Tensor& w) {
  return (w.dtype == x.dtype || w.dtype == DType::fp8_e4m3) && wide(x.shape[1], {&x, &w}) &&
         wide(out.shape[1], {&out});
}

void grouped_matmul(Stream stream, Tensor out, Tensor x, Tensor w, Tensor scale, Tensor experts,
                    bool gated, void* scratch) {
  if (out.shape[0] == 0) return;
  const int64_t rows = out.shape[0], width = out.shape[1];
  const int64_t num_experts = w.shape[0] / (gated ? 2 * width : width);
  CHECK(grouped_can(out, x, w) && num_experts <= kMostGroups);
  CHECK(bool(scale) == (w.dtype == DType::fp8_e4m3));
  GroupParams g;
  g.num_tiles = int32_t(tiles_of(rows, num_experts));
  g.tiles = static_cast<GroupedTile*>(scratch);
  g.order = reinterpret_cast<int32_t*>(g.tiles + g.num_tiles);
  g.experts = experts.as<int32_t>();
  g.rows = int32_t(rows), g.num_experts = int32_t(num_experts);
  simt::launch<GroupParams>(group_rows_kernel, {1, kGroupThreads, sizeof(GroupShared)}, stream, g);
  dispatch(x.dtype, w.dtype, [&]<class T, class W>(T, W) {
    GroupedParams<T, W> p;
    p.out = out.as<T>(), p.x = x.as<T>(), p.w = w.as<W>(), p.scale = scale.as<float>();
    p.tiles = g.tiles, p.order = g.order;
    p.out_stride = out.stride[0], p.x_stride = x.stride[0];
    p.per_x = int32_t(rows / x.shape[0]);
    p.width = int32_t(width), p.k = int32_t(x.shape[1]);
    p.gated = gated;
    const int cols = gated ? kGroupedCols / 2 : kGroupedCols;
    p.parts = int32_t((width + cols - 1) / cols);
    simt::launch<GroupedParams<T, W>>(
        grouped_matmul_kernel<T, W>,
        {g.num_tiles * p.parts, kGroupedThreads, sizeof(GroupedShared<T, W>)}, stream, p);
  });
}

}  // namespace sluice::cuda
