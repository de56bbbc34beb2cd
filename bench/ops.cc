#include "bench/ops.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include "base/hash.h"
#include "base/status.h"
#include "bench/ceilings.h"
#include "kernels/cpu/device.h"
#include "kernels/ops.h"

namespace sluice {
namespace {

using Clock = std::chrono::steady_clock;

// The shapes of a 110M-parameter model.
constexpr int64_t kHidden = 768, kFfn = 2048, kVocab = 32000, kHeads = 12, kDim = 64;
constexpr size_t kRotate = size_t{96} << 20;  // bytes of weights taken in turn: more than a cache

class Bench {
 public:
  Bench(Device& device, const Ceilings& ceilings, double seconds)
      : device_(device), ops_(device.ops()), ceilings_(ceilings), seconds_(seconds) {}

  void run() {
    fmt::print("{:<34}{:>11}{:>10}{:>10}{:>8}\n", "op", "time us", "GB/s", "GFLOP/s", "share");
    for (const int64_t m : {1, 2, 4, 8, 16, 32, 64, 128, 512}) {
      matmul("qkv", m, 3 * kHidden, kHidden);
      matmul("o", m, kHidden, kHidden);
      gate_up(m);
      matmul("down", m, kHidden, kFfn);
      if (m <= 32) matmul("head", m, kVocab, kHidden);
    }
    for (const int64_t m : {1, 32, 512}) rows(m);
    for (const auto& [seqs, len] : {std::pair{1, 512}, {8, 512}, {32, 192}, {1, 4096}, {8, 4096}}) {
      decode_attention(seqs, len);
    }
    prefill_attention(512);
    prefill_attention(2048);
    sampling(1);
    sampling(32);
  }

 private:
  struct Buffer {
    Device::Buffer memory;
    Tensor tensor;
  };

  Buffer tensor(DType type, std::initializer_list<int64_t> shape) {
    int64_t n = 1;
    for (const int64_t d : shape) n *= d;
    Buffer b;
    b.memory = device_.allocate(n * bits_of(type) / 8, Memory::device);
    b.tensor = Tensor::of(b.memory.get(), type, shape);
    for (int64_t i = 0; i < n; ++i) {
      const float x = float(int64_t(mix64(i) >> 40) - (1 << 23)) / (1 << 23);
      if (type == DType::f32) b.tensor.as<float>()[i] = x;
      if (type == DType::bf16) {
        uint32_t u;
        std::memcpy(&u, &x, 4);
        b.tensor.as<uint16_t>()[i] = uint16_t(u >> 16);
      }
    }
    return b;
  }

  // Several layers' weights, so that each call finds its own in memory and not in a cache.
  struct Layers {
    std::vector<Device::Buffer> memory;
    std::vector<Weight> weights;
    size_t next = 0;
    const Weight& take() { return weights[next++ % weights.size()]; }
  };

  Layers layers(int64_t out, int64_t in) {
    Layers l;
    const size_t bytes = ops_.weight_bytes(DType::bf16, out, in);
    const Buffer values = tensor(DType::bf16, {out, in});
    for (size_t i = 0; i < std::max<size_t>(2, kRotate / bytes); ++i) {
      l.memory.push_back(device_.allocate(bytes, Memory::device));
      l.weights.push_back(ops_.make_weight(l.memory.back().get(), DType::bf16, out, in));
      ops_.pack_rows(l.weights.back(), 0, values.tensor);
    }
    return l;
  }

  // The best call of `seconds_`: other load comes and goes.
  void line(const std::string& name, double bytes, double flops,
            const std::function<void()>& body) {
    body();
    double best = 1e30;
    const auto end = Clock::now() + std::chrono::duration<double>(seconds_);
    for (int i = 0; i < 5 || Clock::now() < end; ++i) {
      const auto begin = Clock::now();
      body();
      best = std::min(best, std::chrono::duration<double>(Clock::now() - begin).count());
    }
    const double peak =
        ceilings_.bf16_gflop_per_s > 0 ? ceilings_.bf16_gflop_per_s : ceilings_.f32_gflop_per_s;
    const double floor = std::max(bytes / (ceilings_.read_gb_per_s * 1e9), flops / (peak * 1e9));
    fmt::print("{:<34}{:>11.1f}{:>10.1f}{:>10.1f}{:>7.0f}%\n", name, best * 1e6, bytes / best / 1e9,
               flops / best / 1e9, 100 * floor / best);
    std::fflush(stdout);
  }

  void matmul(const char* what, int64_t m, int64_t out, int64_t in) {
    Layers l = layers(out, in);
    const Buffer x = tensor(DType::f32, {m, in}), y = tensor(DType::f32, {m, out});
    line(fmt::format("matmul {} m={} n={} k={}", what, m, out, in), 2.0 * out * in,
         2.0 * m * out * in, [&] { ops_.matmul(y.tensor, x.tensor, l.take()); });
  }

  void gate_up(int64_t m) {
    Layers l = layers(2 * kFfn, kHidden);
    const Buffer x = tensor(DType::f32, {m, kHidden}), y = tensor(DType::f32, {m, kFfn});
    const Buffer scratch = tensor(DType::f32, {m, 2 * kFfn});
    line(fmt::format("gate_up+silu m={} n={} k={}", m, 2 * kFfn, kHidden), 4.0 * kFfn * kHidden,
         4.0 * m * kFfn * kHidden,
         [&] { ops_.matmul_silu_mul(y.tensor, x.tensor, l.take(), scratch.tensor); });
  }

  void rows(int64_t m) {
    const Buffer x = tensor(DType::f32, {m, kHidden}), r = tensor(DType::f32, {m, kHidden});
    const Buffer y = tensor(DType::f32, {m, kHidden}), w = tensor(DType::f32, {kHidden});
    line(fmt::format("add_rms_norm m={}", m), 16.0 * m * kHidden, 0, [&] {
      std::memset(r.memory.get(), 0, m * kHidden * 4);
      ops_.add_rms_norm(y.tensor, r.tensor, x.tensor, w.tensor, 1e-5f);
    });
    Cache c = cache(1, m);
    const Buffer qkv = tensor(DType::f32, {m, 3 * kHidden}), table = tensor(DType::f32, {m, kDim});
    const Buffer positions = tensor(DType::i32, {m});
    for (int64_t i = 0; i < m; ++i) positions.tensor.as<int32_t>()[i] = int32_t(i);
    QkvParams p;
    p.num_heads = p.num_kv_heads = kHeads;
    p.head_dim = kDim;
    p.cos_sin = table.tensor;
    line(fmt::format("qkv_rope_write m={}", m), 28.0 * m * kHidden, 0,
         [&] { ops_.qkv_rope_write(qkv.tensor, p, positions.tensor, c.view, positions.tensor); });
  }

  struct Cache {
    Buffer bytes, tables;
    KvView view;
  };

  // One layer's bf16 cache, blocks of 16, with each sequence's blocks far apart.
  Cache cache(int64_t seqs, int64_t len) {
    constexpr int64_t kBlock = 16;
    const int64_t per_seq = (len + kBlock - 1) / kBlock, blocks = seqs * per_seq;
    Cache c;
    c.bytes = tensor(DType::bf16, {blocks, 2 * kHeads, kBlock, kDim});
    c.view.k = c.bytes.tensor;
    c.view.k.shape[1] = kHeads;
    c.view.v = c.view.k;
    c.view.v.data = c.bytes.tensor.as<uint16_t>() + kHeads * kBlock * kDim;
    c.tables = tensor(DType::i32, {seqs, per_seq});
    for (int64_t s = 0; s < seqs; ++s) {
      for (int64_t b = 0; b < per_seq; ++b) {
        c.tables.tensor.row<int32_t>(s)[b] = int32_t(b * seqs + s);
      }
    }
    return c;
  }

  void attend(const std::string& name, int64_t seqs, int64_t len, int64_t tokens, double bytes,
              double flops) {
    // A rotation of layers, as in a step.
    const int64_t copies = std::max<int64_t>(1, int64_t(kRotate / bytes));
    std::vector<Cache> caches;
    for (int64_t i = 0; i < std::min<int64_t>(copies, 24); ++i) caches.push_back(cache(seqs, len));
    const Buffer q = tensor(DType::f32, {seqs * tokens, kHidden});
    const Buffer out = tensor(DType::f32, {seqs * tokens, kHidden});
    std::vector<int32_t> cu = {0}, lens;
    for (int64_t s = 0; s < seqs; ++s) {
      cu.push_back(cu.back() + int32_t(tokens));
      lens.push_back(int32_t(len));
    }
    AttnBatch b;
    b.num_seqs = int(seqs);
    b.max_q = int(tokens);
    b.max_seq_len = int(len);
    b.cu_q = Tensor::of(cu.data(), DType::i32, {seqs + 1});
    b.seq_lens = Tensor::of(lens.data(), DType::i32, {seqs});
    size_t next = 0;
    line(name, bytes, flops, [&] {
      const Cache& c = caches[next++ % caches.size()];
      b.block_tables = c.tables.tensor;
      ops_.attention(out.tensor.heads(kDim), q.tensor.heads(kDim), c.view, b, {0.125f, 0, 0});
    });
  }

  void decode_attention(int64_t seqs, int64_t len) {
    attend(fmt::format("decode attention {} x {}", seqs, len), seqs, len, 1,
           4.0 * seqs * len * kHidden, 4.0 * seqs * len * kHidden);
  }

  void prefill_attention(int64_t len) {
    attend(fmt::format("prefill attention {}", len), 1, len, len, 4.0 * len * kHidden,
           2.0 * len * (len + 1) * kHidden);
  }

  void sampling(int64_t n) {
    const Buffer logits = tensor(DType::f32, {n, kVocab});
    std::vector<int32_t> row(n), position(n), top_k(n, 0), token(n);
    std::vector<float> temperature(n), top_p(n, 1), min_p(n, 0), logprob(n);
    std::vector<uint64_t> seed(n);
    const auto vec = [&](auto& v, DType t) { return Tensor::of(v.data(), t, {n}); };
    SampleBatch b;
    b.num_draws = int(n);
    b.row = vec(row, DType::i32);
    b.temperature = vec(temperature, DType::f32);
    b.top_p = vec(top_p, DType::f32);
    b.min_p = vec(min_p, DType::f32);
    b.top_k = vec(top_k, DType::i32);
    b.seed = vec(seed, DType::u64);
    b.position = vec(position, DType::i32);
    SampleOut out;
    out.token = vec(token, DType::i32);
    out.logprob = vec(logprob, DType::f32);
    for (int64_t i = 0; i < n; ++i) row[i] = int32_t(i), seed[i] = i;
    struct Kind {
      const char* name;
      float temperature, top_p;
      int top_k;
    };
    for (const Kind& k : {Kind{"greedy", 0, 1, 0}, Kind{"temperature", 1, 1, 0},
                          Kind{"top-p 0.9", 1, 0.9f, 0}, Kind{"top-k 40", 1, 1, 40}}) {
      temperature.assign(n, k.temperature);
      top_p.assign(n, k.top_p);
      top_k.assign(n, k.top_k);
      for (int64_t i = 0; i < n; ++i) position[i] = int32_t(i);
      line(fmt::format("sample {} n={}", k.name, n), 4.0 * n * kVocab, 0,
           [&] { ops_.sample(out, logits.tensor, b); });
    }
  }

  Device& device_;
  Ops& ops_;
  const Ceilings& ceilings_;
  const double seconds_;
};

}  // namespace

int bench_ops(const BenchOpsOptions& options) {
  const auto device = make_cpu_device({options.threads, options.isa});
  if (!device.ok()) {
    fmt::print(stderr, "error: {}\n", message_of(device.status()));
    return 1;
  }
  const Ceilings c = measure_ceilings(options.threads);
  fmt::print("{}; ceilings: {:.1f} GB/s read, {:.0f} GFLOP/s f32", (*device)->name(),
             c.read_gb_per_s, c.f32_gflop_per_s);
  if (c.bf16_gflop_per_s > 0) fmt::print(", {:.0f} GFLOP/s bf16", c.bf16_gflop_per_s);
  fmt::print("\n");
  Bench(**device, c, options.seconds).run();
  return 0;
}

}  // namespace sluice
