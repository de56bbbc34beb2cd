// What the emulator computes for a warp: no scheduling here.
#include "kernels/simt/simt.h"

namespace sluice::simt {
namespace emulator {

template <bool kTransposed>
void ldmatrix(uint32_t (&r)[4], const void* row) {
  check_shared_16(row);
  const volatile auto* touched = static_cast<const uint64_t*>(row);
  (void)touched[0], (void)touched[1];  // the lane's own read, which TSan and ASan judge
  struct Args {
    const uint16_t* row;
    uint32_t* out;
  } args{static_cast<const uint16_t*>(row), r};
  collective(kTransposed ? "ldmatrix.trans" : "ldmatrix", &args, [](void* const* lanes) {
    const auto lane = [lanes](int l) { return static_cast<const Args*>(lanes[l]); };
    ++emulator_counters().ldmatrix;
    for (int i = 0; i < 4; ++i) {
      // Eight rows of 16 bytes are one pass over the 32 banks if no two share a group of banks.
      const uint16_t* seen[8] = {};
      for (int j = 0; j < 8; ++j) {
        const uint16_t* p = lane(i * 8 + j)->row;
        const uint16_t*& s = seen[reinterpret_cast<uintptr_t>(p) / 16 % 8];
        if (s != nullptr && s != p) ++emulator_counters().bank_conflicts;
        s = p;
      }
      for (int l = 0; l < 32; ++l) {
        const int g = l / 4, t = l % 4 * 2;
        const auto at = [&](int row, int col) -> uint32_t { return lane(i * 8 + row)->row[col]; };
        const uint32_t low = kTransposed ? at(t, g) : at(g, t);
        const uint32_t high = kTransposed ? at(t + 1, g) : at(g, t + 1);
        lane(l)->out[i] = low | high << 16;
      }
    }
  });
}
template void ldmatrix<false>(uint32_t (&)[4], const void*);
template void ldmatrix<true>(uint32_t (&)[4], const void*);

namespace {

struct MmaArgs {
  float* d;
  const uint32_t* a;
  uint32_t b[2];
};

// Arithmetic that the sanitizers are not there to judge, at five times the cost.
template <class T>
__attribute__((no_sanitize("address", "undefined"))) void mma_warp(void* const* lanes) {
  const auto lane = [lanes](int l) { return static_cast<const MmaArgs*>(lanes[l]); };
  const auto low = [](uint32_t v) { return to_float(T{uint16_t(v)}); };
  const auto high = [](uint32_t v) { return to_float(T{uint16_t(v >> 16)}); };
  ++emulator_counters().mma;
  float a[16][16], b[8][16];
  for (int l = 0; l < 32; ++l) {
    const int g = l / 4, t = l % 4 * 2;
    for (int i = 0; i < 4; ++i) {
      float* p = &a[g + i % 2 * 8][t + i / 2 * 8];
      p[0] = low(lane(l)->a[i]), p[1] = high(lane(l)->a[i]);
    }
    for (int i = 0; i < 2; ++i) {
      float* p = &b[g][t + i * 8];
      p[0] = low(lane(l)->b[i]), p[1] = high(lane(l)->b[i]);
    }
  }
  for (int l = 0; l < 32; ++l) {
    for (int i = 0; i < 4; ++i) {
      const float* x = a[l / 4 + i / 2 * 8];
      const float* y = b[l % 4 * 2 + i % 2];
      float sum = 0;
      for (int k = 0; k < 16; ++k) sum += x[k] * y[k];
      lane(l)->d[i] += sum;
    }
  }
}

}  // namespace

void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, bool bf16) {
  MmaArgs args{d, a, {b0, b1}};
  collective(bf16 ? "mma.bf16" : "mma.f16", &args, bf16 ? mma_warp<Bf16> : mma_warp<F16>);
}

}  // namespace emulator

uint32_t ballot(bool v) {
  struct Args {
    bool in;
    uint32_t out;
  } args{v, 0};
  emulator::collective("ballot", &args, [](void* const* lanes) {
    uint32_t mask = 0;
    for (int l = 0; l < 32; ++l) mask |= uint32_t{static_cast<Args*>(lanes[l])->in} << l;
    for (int l = 0; l < 32; ++l) static_cast<Args*>(lanes[l])->out = mask;
  });
  return args.out;
}

uint32_t movmatrix_trans(uint32_t v) {
  struct Args {
    uint32_t in, out;
  } args{v, 0};
  emulator::collective("movmatrix", &args, [](void* const* lanes) {
    const auto at = [lanes](int row, int col) {
      return static_cast<Args*>(lanes[row * 4 + col / 2])->in >> (col % 2 * 16) & 0xffff;
    };
    for (int l = 0; l < 32; ++l) {
      const int g = l / 4, t = l % 4 * 2;
      static_cast<Args*>(lanes[l])->out = at(t, g) | at(t + 1, g) << 16;
    }
  });
  return args.out;
}

float to_float(F16 v) {
  const uint32_t sign = uint32_t(v.bits & 0x8000) << 16, rest = v.bits & 0x7fff;
  if (rest >= 0x7c00) return std::bit_cast<float>(sign | 0x7f800000 | (rest & 0x3ff) << 13);
  // As f32 the exponent is 112 too small, for subnormal numbers too; the product is exact.
  return std::bit_cast<float>(sign | rest << 13) * 0x1p112f;
}

void from_float(F16& to, float v) {
  const uint32_t u = std::bit_cast<uint32_t>(v), sign = u >> 16 & 0x8000;
  const float a = std::fabs(v);
  if (std::isnan(v)) {
    to.bits = 0x7fff;
  } else if (a >= 65520.0f) {  // rounds beyond the largest
    to.bits = uint16_t(sign | 0x7c00);
  } else if (a < 0x1p-14f) {  // subnormal: a multiple of 2^-24
    to.bits = uint16_t(sign | uint32_t(std::nearbyint(a * 0x1p24f)));
  } else {
    const uint32_t rest = u & 0x7fffffff;
    to.bits = uint16_t(sign | ((rest + 0xfff + (rest >> 13 & 1) - (112u << 23)) >> 13));
  }
}

}  // namespace sluice::simt
