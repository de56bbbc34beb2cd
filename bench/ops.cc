#include "bench/ops.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/status.h"
#include "bench/ceilings.h"
#include "bench/mixture.h"
#include "bench/on_device.h"
#include "bench/swaps.h"
#include "engine/make_device.h"
#include "kernels/ops.h"

namespace sluice {
namespace {

constexpr Mixture kGranite = {"1b-a400m", 1024, 512, 32, 8};  // Granite 3.0
constexpr Mixture kQwen = {"30b-a3b", 2048, 768, 128, 8};     // Qwen3

// A model's layer, and a mixture of about its size.
struct Shapes {
  const char* name;
  int64_t hidden, ffn, heads, kv_heads, head_dim, vocab, layers;
  Mixture mixture;
  int64_t q_cols() const { return heads * head_dim; }
  int64_t kv_cols() const { return kv_heads * head_dim; }
  int64_t qkv_cols() const { return q_cols() + 2 * kv_cols(); }
};
constexpr Shapes kShapes[] = {{"110m", 768, 2048, 12, 12, 64, 32000, 12, kGranite},
                              {"1b", 2048, 8192, 32, 8, 64, 128256, 16, kQwen},
                              {"8b", 4096, 14336, 32, 8, 128, 128256, 32, kQwen}};

// What is worth measuring on a processor, and on a device that computes a thousand times as fast.
struct Cases {
  const char* shapes;
  std::vector<int64_t> matmul_rows, rows;
  int64_t most_head_rows;
  struct Decode {
    int64_t seqs, context;
  };
  std::vector<Decode> decodes;
  std::vector<int64_t> prefills, draws;
  size_t rotate_bytes;  // of weights or cache taken in turn: more than a cache of the chip holds
};
const Cases& cases_of(const Device& device) {
  static const Cases host = {"110m",
                             {1, 2, 4, 8, 16, 32, 64, 128, 512},
                             {1, 32, 512},
                             32,
                             {{1, 512}, {8, 512}, {32, 192}, {1, 4096}, {8, 4096}},
                             {512, 2048},
                             {1, 32},
                             size_t{96} << 20};
  static const Cases own = {
      "8b",
      {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096},
      {1, 32, 256, 4096},
      256,
      {{1, 512}, {1, 8192}, {8, 2048}, {32, 512}, {32, 2048}, {32, 8192}, {128, 2048}, {256, 512}},
      {512, 2048, 8192, 32768},
      {1, 32, 256},
      size_t{256} << 20};
  return device.is_host() ? host : own;
}

constexpr int64_t kBlock = 16;

class Bench {
 public:
  Bench(Device& device, const Ceilings& ceilings, const Shapes& shapes, const BenchOpsOptions& o)
      : device_(device),
        ops_(device.ops()),
        act_(ops_.act_dtype()),
        weight_(ops_.weight_dtype(DType::bf16)),
        kv_(ops_.kv_dtype(weight_)),
        act_bytes_(bits_of(act_) / 8.0),
        weight_bytes_(bits_of(weight_) / 8.0),
        ceilings_(ceilings),
        s_(shapes),
        cases_(cases_of(device)),
        options_(o) {
    OpsLimits l;
    for (const Cases::Decode& d : cases_.decodes) {
      l.max_seqs = std::max(l.max_seqs, int(d.seqs));
      l.max_context = std::max(l.max_context, int(d.context));
    }
    for (const int64_t n : cases_.prefills) l.max_tokens = std::max(l.max_tokens, int(n));
    for (const int64_t n : cases_.draws) l.max_logit_rows = std::max(l.max_logit_rows, int(n));
    l.max_context = std::max(l.max_context, l.max_tokens);
    l.max_seqs = std::max(l.max_seqs, l.max_logit_rows);
    if (has_fp8_products()) l.max_fp8_inputs = int(std::max(s_.hidden, s_.ffn));
    l.vocab_size = int(s_.vocab);
    l.num_experts = int(s_.mixture.experts);
    l.max_expert_rows = int(cases_.rows.back() * s_.mixture.taken);
    l.heads = {{int(s_.heads), int(s_.kv_heads), int(s_.head_dim), {0}}};
    ops_.reserve(l);
  }

  nlohmann::ordered_json run() {
    fmt::print("{:<38}{:>11}{:>10}{:>12}{:>8}\n", "op", "time us", "GB/s", "GFLOP/s", "share");
    for (const int64_t m : cases_.matmul_rows) {
      matmul("qkv", m, s_.qkv_cols(), s_.hidden, act_);
      matmul("o", m, s_.hidden, s_.q_cols(), act_);
      gate_up(m);
      matmul("down", m, s_.hidden, s_.ffn, act_);
      if (m <= cases_.most_head_rows) matmul("head", m, s_.vocab, s_.hidden, DType::f32);
    }
    for (const int64_t m : cases_.rows) rows(m);
    for (const DType t : {DType::bf16, DType::fp8_e4m3}) experts(t);
    for (const Cases::Decode& d : cases_.decodes) decode_attention(d.seqs, d.context);
    for (const int64_t n : cases_.prefills) prefill_attention(n);
    for (const int64_t n : cases_.draws) sampling(n);
    return std::move(lines_);
  }

  bool wanted(const std::string& name) const {
    return options_.only.empty() ||
           std::any_of(options_.only.begin(), options_.only.end(), [&](const std::string& part) {
             return name.find(part) != std::string::npos;
           });
  }

  // All layers of the model.
  KvShape kv_shape() const {
    const LayerKv layer{int(s_.kv_heads), int(s_.head_dim), int(s_.head_dim)};
    return {std::vector(size_t(s_.layers), layer), int(kBlock), kv_};
  }

 private:
  // The best of `seconds`: other load comes and goes. A device of its own is given several calls at
  // once, so that their launches hide behind each other as in a step.
  void line(const std::string& name, double bytes, double flops, const std::function<void()>& body,
            double fp8_flops = 0) {
    const double once = std::min(seconds_on(device_, body), seconds_on(device_, body));
    const int calls = device_.is_host() ? 1 : int(std::clamp(1e-3 / once, 1.0, 100.0));
    double best = once, total = 0;
    for (int i = 0; i < 5 || total < options_.seconds; ++i) {
      const double s = seconds_on(device_, [&] {
        for (int c = 0; c < calls; ++c) body();
      });
      best = std::min(best, s / calls);
      total += s;
    }
    const bool bf16 = weight_ != DType::f32;
    const double share = ceilings_.floor_seconds(bytes, flops, bf16, fp8_flops) / best;
    flops += fp8_flops;
    fmt::print("{:<38}{:>11.1f}{:>10.1f}{:>12.1f}{:>7.0f}%\n", name, best * 1e6, bytes / best / 1e9,
               flops / best / 1e9, 100 * share);
    std::fflush(stdout);
    lines_.push_back({{"op", name},
                      {"seconds", best},
                      {"bytes", bytes},
                      {"flops", flops},
                      {"share_of_limit", share}});
  }

  // Several layers' weights, so that each call finds its own in memory and not in a cache.
  struct Layers {
    std::vector<DeviceWeight> weights;
    size_t next = 0;
    const Weight& take() { return weights[next++ % weights.size()].weight; }
  };
  Layers layers(int64_t out, int64_t in, DType result) const {
    Layers l;
    const size_t bytes = ops_.weight_bytes(weight_, out, in);
    for (size_t i = 0; i < std::max<size_t>(2, cases_.rotate_bytes / bytes); ++i)
      l.weights.push_back(noise_weight(device_, weight_, out, in));
    std::vector<Weight> all;
    for (const DeviceWeight& w : l.weights) all.push_back(w.weight);
    ops_.prepare(all, result);
    return l;
  }
  // Of a product with `m` rows: the weights once, inputs and outputs.
  double product_bytes(int64_t m, int64_t out, int64_t in, int64_t written, DType result) const {
    return weight_bytes_ * double(out * in) + act_bytes_ * double(m * in) +
           bits_of(result) / 8.0 * double(m * written);
  }

  void matmul(const char* what, int64_t m, int64_t out, int64_t in, DType result) {
    const std::string name = fmt::format("matmul {} m={} n={} k={}", what, m, out, in);
    if (!wanted(name)) return;
    Layers l = layers(out, in, result);
    const DeviceTensor x = noise(device_, act_, {m, in}), y = zeros(device_, result, {m, out});
    line(name, product_bytes(m, out, in, out, result), 2.0 * double(m * out * in),
         [&] { ops_.matmul(y.tensor, x.tensor, l.take()); });
  }

  void gate_up(int64_t m) {
    const std::string name = fmt::format("gate_up+silu m={} n={} k={}", m, 2 * s_.ffn, s_.hidden);
    if (!wanted(name)) return;
    Layers l = layers(2 * s_.ffn, s_.hidden, act_);
    const DeviceTensor x = noise(device_, act_, {m, s_.hidden}),
                       y = zeros(device_, act_, {m, s_.ffn}),
                       scratch = zeros(device_, act_, {m, 2 * s_.ffn});
    either(
        name, product_bytes(m, 2 * s_.ffn, s_.hidden, s_.ffn, act_),
        4.0 * double(m * s_.ffn * s_.hidden),
        [&] { ops_.matmul_silu_mul(y.tensor, x.tensor, l.take(), scratch.tensor); },
        [&] { ops_.Ops::matmul_silu_mul(y.tensor, x.tensor, l.take(), scratch.tensor); });
  }

  // The fused ops between the products, each beside the plain ops that it stands for.
  void rows(int64_t m) {
    const double row = act_bytes_ * double(m * s_.hidden);
    const DeviceTensor x = zeros(device_, act_, {m, s_.hidden}),
                       r = noise(device_, act_, {m, s_.hidden}),
                       y = zeros(device_, act_, {m, s_.hidden}),
                       w = noise(device_, DType::f32, {s_.hidden});
    either(
        fmt::format("add_rms_norm m={}", m), 4 * row, 0,
        [&] { ops_.add_rms_norm(y.tensor, r.tensor, x.tensor, w.tensor, 1e-5f); },
        [&] { ops_.Ops::add_rms_norm(y.tensor, r.tensor, x.tensor, w.tensor, 1e-5f); });
    const DeviceTensor gates = noise(device_, act_, {m, 2 * s_.ffn}),
                       activated = zeros(device_, act_, {m, s_.ffn});
    if (const std::string name = fmt::format("silu_mul m={}", m); wanted(name))
      line(name, act_bytes_ * 3 * double(m * s_.ffn), 0,
           [&] { ops_.silu_mul(activated.tensor, gates.tensor); });
    if (has_fp8_products()) fp8_rows_of(m, x.tensor, r.tensor, y.tensor, w.tensor, gates.tensor);
    const Cache c = cache(kv_, 1, m);
    std::vector<int32_t> all(static_cast<size_t>(m));
    for (int64_t i = 0; i < m; ++i) all[size_t(i)] = int32_t(i);
    const DeviceTensor qkv = noise(device_, act_, {m, s_.qkv_cols()}),
                       table = noise(device_, DType::f32, {m, s_.head_dim}),
                       positions = copy_of(device_, all.data(), DType::i32, {m});
    QkvParams p;
    p.num_heads = int(s_.heads), p.num_kv_heads = int(s_.kv_heads), p.head_dim = int(s_.head_dim);
    p.cos_sin = table.tensor;
    either(
        fmt::format("qkv_rope_write m={}", m),
        double(m) * (act_bytes_ * double(2 * s_.q_cols() + 2 * s_.kv_cols()) +
                     bits_of(kv_) / 8.0 * double(2 * s_.kv_cols())),
        0, [&] { ops_.qkv_rope_write(qkv.tensor, p, positions.tensor, c.view, positions.tensor); },
        [&] {
          ops_.Ops::qkv_rope_write(qkv.tensor, p, positions.tensor, c.view, positions.tensor);
        });
  }
  bool has_fp8_products() const {
    return !device_.is_host() && ops_.weight_dtype(DType::fp8_e4m3) == DType::fp8_e4m3;
  }
  // Rows quantised as they are normed or gated, beside a pass of their own: each with the product
  // that reads them, whose time is in both.
  void fp8_rows_of(int64_t m, Tensor x, Tensor r, Tensor y, Tensor norm, Tensor gates) {
    const DeviceWeight qkv = noise_weight(device_, DType::fp8_e4m3, s_.qkv_cols(), s_.hidden),
                       down = noise_weight(device_, DType::fp8_e4m3, s_.hidden, s_.ffn);
    if (!ops_.takes_fp8_rows(qkv.weight) || !ops_.takes_fp8_rows(down.weight)) return;
    const DeviceTensor out = zeros(device_, act_, {m, s_.qkv_cols()}),
                       activated = zeros(device_, act_, {m, s_.ffn});
    const auto normed = [&](Tensor to) {
      ops_.add_rms_norm(to, r, x, norm, 1e-5f);
      ops_.matmul(out.tensor, to, qkv.weight);
    };
    const auto gated = [&](Tensor to) {
      ops_.silu_mul(to, gates);
      ops_.matmul(y, to, down.weight);
    };
    either(
        fmt::format("add_rms_norm+qkv fp8 m={}", m),
        double(s_.qkv_cols() * s_.hidden) + double(m) * (act_bytes_ * 3 + 2) * double(s_.hidden) +
            act_bytes_ * double(m * s_.qkv_cols()),
        0, [&] { normed(fp8_rows(y)); }, [&] { normed(y); },
        2.0 * double(m * s_.qkv_cols() * s_.hidden));
    either(
        fmt::format("silu_mul+down fp8 m={}", m),
        double(s_.ffn * s_.hidden) + double(m) * (act_bytes_ * 2 + 2) * double(s_.ffn) +
            act_bytes_ * double(m * s_.hidden),
        0, [&] { gated(fp8_rows(activated.tensor)); }, [&] { gated(activated.tensor); },
        2.0 * double(m * s_.ffn * s_.hidden));
  }
  // Of both what the fused one has to move and compute.
  void either(const std::string& name, double bytes, double flops,
              const std::function<void()>& fused, const std::function<void()>& plain,
              double fp8_flops = 0) {
    if (!wanted(name)) return;
    line(name, bytes, flops, fused, fp8_flops);
    line(name + ", not fused", bytes, flops, plain, fp8_flops);
  }

  // All of a mixture behind its routing. Calls take turns at which experts the tokens go to; bytes
  // are of those that are taken.
  void experts(DType stored) {
    const Mixture& x = s_.mixture;
    const DType type = ops_.expert_dtype(stored);
    const std::string of =
        fmt::format(" of {}{}", x.name, stored == DType::fp8_e4m3 ? ", fp8" : "");
    const auto name = [&](int64_t m) { return fmt::format("experts m={}{}", m, of); };
    if (std::none_of(cases_.rows.begin(), cases_.rows.end(),
                     [&](int64_t m) { return wanted(name(m)); }))
      return;
    std::vector<DeviceWeight> ups, downs;
    const size_t bytes = size_t(3 * x.experts * x.hidden * x.ffn * bits_of(type) / 8);
    for (size_t i = 0; i < 1 + cases_.rotate_bytes / bytes; ++i) {
      ups.push_back(noise_weight(device_, type, x.experts * 2 * x.ffn, x.hidden));
      downs.push_back(noise_weight(device_, type, x.experts * x.hidden, x.ffn));
    }
    for (const int64_t m : cases_.rows) {
      if (!wanted(name(m))) continue;
      const int64_t n = m * x.taken;
      const DeviceTensor in = noise(device_, act_, {m, x.hidden}),
                         weights = noise(device_, DType::f32, {m, x.taken}),
                         gates = zeros(device_, act_, {n, 2 * x.ffn}),
                         activated = zeros(device_, act_, {n, x.ffn}),
                         each = zeros(device_, act_, {n, x.hidden}),
                         out = zeros(device_, act_, {m, x.hidden});
      std::vector<DeviceTensor> turns;
      double different = 0;
      for (uint64_t i = 0; i < 16; ++i) {
        const Routes to = even_routes(x, m, i);
        turns.push_back(copy_of(device_, to.experts.data(), DType::i32, {n}));
        different += double(to.different) / 16;
      }
      size_t next = 0;
      line(name(m),
           bits_of(type) / 8.0 * different * double(3 * x.hidden * x.ffn) +
               act_bytes_ * double(2 * m * x.hidden),
           6.0 * double(n * x.hidden * x.ffn), [&] {
             const Tensor& experts = turns[next % turns.size()].tensor;
             const size_t l = next++ % ups.size();
             ops_.expert_silu_mul(activated.tensor, in.tensor, ups[l].weight, experts,
                                  gates.tensor);
             ops_.expert_matmul(each.tensor, activated.tensor, downs[l].weight, experts);
             ops_.mix_rows(out.tensor, each.tensor, weights.tensor);
           });
    }
  }

  struct Cache {
    DeviceTensor bytes, tables;
    std::vector<int32_t> host_tables;
    KvView view;
  };
  // One layer's cache, with each sequence's blocks far apart.
  Cache cache(DType type, int64_t seqs, int64_t len) const {
    const int64_t per_seq = (len + kBlock - 1) / kBlock, blocks = seqs * per_seq;
    Cache c;
    c.bytes = noise(device_, type, {blocks, 2 * s_.kv_heads, kBlock, s_.head_dim});
    c.view.k = c.bytes.tensor;
    c.view.k.shape[1] = s_.kv_heads;
    c.view.v = c.view.k;
    c.view.v.data =
        static_cast<char*>(c.bytes.memory.get()) + bits_of(type) / 8 * s_.kv_cols() * kBlock;
    for (int64_t s = 0; s < seqs; ++s)
      for (int64_t b = 0; b < per_seq; ++b) c.host_tables.push_back(int32_t(b * seqs + s));
    c.tables = copy_of(device_, c.host_tables.data(), DType::i32, {seqs, per_seq});
    return c;
  }

  // `tokens` queries of each sequence, the last of `len`; the cache as it usually is, and as fp8.
  void attend(const std::string& name, int64_t seqs, int64_t len, int64_t tokens) {
    attend(name, kv_, seqs, len, tokens);
    attend(name + ", fp8 cache", DType::fp8_e4m3, seqs, len, tokens);
  }
  void attend(const std::string& name, DType kv, int64_t seqs, int64_t len, int64_t tokens) {
    if (!wanted(name)) return;
    const double bytes = bits_of(kv) / 8.0 * 2 * double(seqs * len * s_.kv_cols()) +
                         act_bytes_ * 2 * double(seqs * tokens * s_.q_cols());
    const double seen = double(tokens) * (double(len) - double(tokens - 1) / 2);
    const auto copies = int64_t(double(cases_.rotate_bytes) / bytes) + 1;
    std::vector<Cache> caches;
    for (int64_t i = 0; i < std::min<int64_t>(copies, 24); ++i)
      caches.push_back(cache(kv, seqs, len));
    const DeviceTensor q = noise(device_, act_, {seqs * tokens, s_.q_cols()}),
                       out = zeros(device_, act_, {seqs * tokens, s_.q_cols()});
    std::vector<int32_t> cu = {0}, lens(static_cast<size_t>(seqs), int32_t(len));
    for (int64_t i = 0; i < seqs; ++i) cu.push_back(cu.back() + int32_t(tokens));
    const DeviceTensor cu_q = copy_of(device_, cu.data(), DType::i32, {seqs + 1}),
                       seq_lens = copy_of(device_, lens.data(), DType::i32, {seqs});
    AttnBatch b;
    b.num_seqs = int(seqs), b.max_q = int(tokens), b.max_seq_len = int(len);
    b.num_decodes = tokens == 1 ? int(seqs) : 0;
    AttnBatch host = b;
    host.cu_q = Tensor::of(cu.data(), DType::i32, {seqs + 1});
    host.seq_lens = Tensor::of(lens.data(), DType::i32, {seqs});
    host.block_tables = caches[0].tables.tensor;
    host.block_tables.data = caches[0].host_tables.data();
    ops_.begin_step(host);
    b.cu_q = cu_q.tensor, b.seq_lens = seq_lens.tensor;
    const AttnParams params{1 / std::sqrt(float(s_.head_dim)), 0, 0};
    size_t next = 0;
    line(name, bytes, 4.0 * double(seqs) * seen * double(s_.q_cols()), [&] {
      const Cache& c = caches[next++ % caches.size()];
      b.block_tables = c.tables.tensor;
      ops_.attention(out.tensor.heads(s_.head_dim), q.tensor.heads(s_.head_dim), c.view, b, params);
    });
  }
  void decode_attention(int64_t seqs, int64_t len) {
    attend(fmt::format("decode attention {} x {}", seqs, len), seqs, len, 1);
  }
  void prefill_attention(int64_t len) {
    attend(fmt::format("prefill attention {}", len), 1, len, len);
  }

  void sampling(int64_t n) {
    struct Kind {
      const char* name;
      float temperature, top_p;
      int32_t top_k;
    };
    for (const Kind& k : {Kind{"greedy", 0, 1, 0}, Kind{"temperature", 1, 1, 0},
                          Kind{"top-p 0.9", 1, 0.9f, 0}, Kind{"top-k 40", 1, 1, 40}}) {
      const std::string name = fmt::format("sample {} n={}", k.name, n);
      if (!wanted(name)) continue;
      const auto count = static_cast<size_t>(n);
      std::vector<int32_t> index(count), top_k(count, k.top_k);
      std::vector<float> temperature(count, k.temperature), top_p(count, k.top_p), min_p(count);
      std::vector<uint64_t> seed(count);
      for (size_t i = 0; i < count; ++i) index[i] = int32_t(i), seed[i] = i;
      const auto put = [&](const auto& v, DType t) { return copy_of(device_, v.data(), t, {n}); };
      const DeviceTensor logits = noise(device_, DType::f32, {n, s_.vocab}),
                         indexes = put(index, DType::i32), ks = put(top_k, DType::i32),
                         temperatures = put(temperature, DType::f32), tops = put(top_p, DType::f32),
                         mins = put(min_p, DType::f32), seeds = put(seed, DType::u64),
                         token = zeros(device_, DType::i32, {n}),
                         logprob = zeros(device_, DType::f32, {n});
      SampleBatch b;
      b.num_draws = int(n);
      b.row = b.position = indexes.tensor;
      b.temperature = temperatures.tensor, b.top_p = tops.tensor, b.min_p = mins.tensor;
      b.top_k = ks.tensor, b.seed = seeds.tensor;
      SampleOut out;
      out.token = token.tensor, out.logprob = logprob.tensor;
      line(name, 4.0 * double(n * s_.vocab), 0, [&] { ops_.sample(out, logits.tensor, b); });
    }
  }

  Device& device_;
  Ops& ops_;
  const DType act_, weight_, kv_;
  const double act_bytes_, weight_bytes_;  // of an element
  const Ceilings& ceilings_;
  const Shapes& s_;
  const Cases& cases_;
  const BenchOpsOptions& options_;
  nlohmann::ordered_json lines_ = nlohmann::ordered_json::array();
};

int fail(std::string_view text) {
  fmt::print(stderr, "sluice: {}\n", text);
  return 1;
}

}  // namespace

std::vector<std::string> bench_shapes() {
  std::vector<std::string> names = {"auto"};
  for (const Shapes& s : kShapes) names.emplace_back(s.name);
  return names;
}

int bench_ops(const BenchOpsOptions& options) {
  Config config;
  config.device = options.device;
  const auto device = make_device(config);
  if (!device.ok()) return fail(message_of(device.status()));
  const std::string_view name =
      options.shapes == "auto" ? cases_of(**device).shapes : std::string_view(options.shapes);
  const auto* shapes = std::find_if(std::begin(kShapes), std::end(kShapes),
                                    [&](const Shapes& s) { return name == s.name; });
  if (shapes == std::end(kShapes))
    return fail(
        fmt::format("shapes: '{}' is not one of {}", name, fmt::join(bench_shapes(), ", ")));
  const Ceilings c = measure_ceilings(**device, options.device.threads);
  fmt::print("{}, layers of a {} model; limits: {}\n", (*device)->name(), name, c.text());
  nlohmann::ordered_json json = {{"device", (*device)->name()},
                                 {"shapes", name},
                                 {"read_gb_per_s", c.read_gb_per_s},
                                 {"f32_gflop_per_s", c.f32_gflop_per_s},
                                 {"bf16_gflop_per_s", c.bf16_gflop_per_s},
                                 {"fp8_gflop_per_s", c.fp8_gflop_per_s}};
  Bench bench(**device, c, *shapes, options);
  json["lines"] = bench.run();
  if (!(*device)->is_host())
    bench_swaps(
        **device, bench.kv_shape(), options.seconds,
        [&](const std::string& name) { return bench.wanted(name); }, json["lines"]);
  if (options.json_path.empty()) return 0;
  std::ofstream out(options.json_path);
  out << json.dump(2) << "\n";
  if (!out.flush()) return fail(fmt::format("cannot write {}", options.json_path));
  return 0;
}

}  // namespace sluice
