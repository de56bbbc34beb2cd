#include "kernels/cuda/random_rows.h"

#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/launch.h"
#include "kernels/simt/launch.h"

namespace sluice::cuda {
namespace {

template <class T, class Stored>
void start(Stream stream, const Tensor& out, const Tensor& scale, const RandomRows& rows) {
  CHECK(out.contiguous() && out.shape[0] == rows.count);
  constexpr int64_t kPerBlock = kRandomThreads * kRandomRun;
  RandomRowsParams<T> p;
  p.out = out.as<T>(), p.scale = scale ? scale.as<float>() : nullptr;
  p.stream = rows.stream;
  p.first = rows.first, p.row_step = rows.row_step, p.column_step = rows.column_step;
  p.columns = out.shape[1], p.size = out.size();
  for (int i = 0; i < kRandomScales; ++i) p.scales[i] = random_scale(i);
  simt::launch<RandomRowsParams<T>>(random_rows_kernel<T, Stored>,
                                    {int((p.size + kPerBlock - 1) / kPerBlock), kRandomThreads, 0},
                                    stream, p);
}

}  // namespace

void random_rows(Stream stream, Tensor out, Tensor scale, const RandomRows& rows) {
  if (rows.stored == DType::fp8_e4m3) {
    CHECK(out.dtype == DType::fp8_e4m3 && scale);
    return start<simt::E4m3, simt::E4m3>(stream, out, scale, rows);
  }
  dispatch(out.dtype, [&]<class T>(T) {
    if (rows.stored == DType::f32) return start<T, float>(stream, out, scale, rows);
    dispatch(rows.stored,
             [&]<class Stored>(Stored) { start<T, Stored>(stream, out, scale, rows); });
  });
}

}  // namespace sluice::cuda
