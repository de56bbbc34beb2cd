#include "bench/model.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>

#include "bench/ceilings.h"
#include "bench/statistics.h"
#include "config/config.h"
#include "engine/build.h"
#include "engine/make_device.h"
#include "engine/models/registry.h"
#include "engine/rank_runner.h"
#include "kvcache/budget.h"

namespace sluice {
namespace {

constexpr int kBlockSize = 16;
constexpr int kMinRuns = 3;
constexpr int kStepsInFlight = 16;  // decode steps after another where the host runs ahead

// What one measurement asks of the machine at least.
struct Work {
  double bytes = 0;  // read from memory: weights once a step, and the cache
  double flops = 0;
  double fp8_flops = 0;  // beside the others
  void add_layers(double of_layers, bool in_fp8) { (in_fp8 ? fp8_flops : flops) += of_layers; }
};
struct Line {
  const char* phase;              // "prefill" or "decode"
  int sequences = 0, tokens = 0;  // tokens: of the prompt, or of each sequence's context
  double seconds = 0;             // median of a whole prompt, or of a step
  double tokens_per_s = 0;
  double floor_s = 0;
  bool compute_bound = false;
  // Of the time on a device of its own from the first step's first kernel to the last step's end:
  // that between steps. Absent: not measured.
  std::optional<double> idle;
  double share() const { return floor_s / seconds; }
};

// The linear layers of one token through the model, without the head.
double linear_params(const ModelConfig& c) {
  double rows = 0;
  for (const LayerConfig& layer : c.layers)
    rows += 2.0 * (layer.num_heads + layer.num_kv_heads) * c.head_dim + 3.0 * layer.ffn_size;
  return rows * c.hidden_size;
}
double head_params(const ModelConfig& c) { return double(c.vocab_size) * c.hidden_size; }

class Bench {
 public:
  Bench(const BenchModelOptions& o, const Ceilings& ceilings, Device& device, Model& model,
        const RunnerOptions& runner)
      : options_(o),
        ceilings_(ceilings),
        model_(model),
        kv_token_bytes_(double(bytes_per_stretch(model, runner)) / kBlockSize),
        weight_element_bytes_(bits_of(model.weight_dtype()) / 8.0),
        head_bytes_(head_params(model.config()) * std::max(2.0, weight_element_bytes_)),
        multiplies_in_fp8_(!device.is_host() && model.max_fp8_inputs() > 0),
        num_blocks_(runner.num_blocks),
        max_step_tokens_(runner.max_step_tokens),
        decode_steps_(device.is_host() ? 1 : kStepsInFlight),
        runner_(device, model, timed(runner)) {
    request_.sampling.temperature = 0;
  }
  // Of a block's tokens in all layers.
  static size_t bytes_per_stretch(const Model& model, const RunnerOptions& runner) {
    const KvShape shape = kv_shape(model, runner);
    return KvStore::bytes_per_block(shape) * size_t(grouping_of(shape).num_tables());
  }

  void warm_up() {
    runner_.warm_up();
    while (runner_.work_ahead()) {
    }
  }
  bool fits(int sequences, int tokens) const {
    const int64_t stretches = num_blocks_ / runner_.kv().grouping().num_tables();
    return tokens <= model_.max_len() && int64_t(sequences) * blocks_of(tokens) <= stretches;
  }
  Line prefill(int tokens);
  Line decode(int sequences, int context);

 private:
  static RunnerOptions timed(RunnerOptions o) {
    o.times_kernels = true;
    return o;
  }
  static int64_t blocks_of(int tokens) { return (tokens + kBlockSize - 1) / kBlockSize; }
  std::vector<Sequence> sequences_of(int count, int tokens) const;
  double run(const std::vector<StepPlan>& plans);
  template <class F>
  double median_seconds(F run) const;
  Line finish(Line line, int tokens, const Work& work) const;
  // Multiplications and additions of attention for the queries of one sequence that see from
  // `first` to `last` positions.
  double attention_flops(double first, double last) const {
    const ModelConfig& c = model_.config();
    const double scores = (first + last) / 2 * (last - first + 1);
    double heads = 0;  // of all layers
    for (const LayerConfig& layer : c.layers) heads += layer.num_heads;
    return 4.0 * heads * c.head_dim * scores;
  }

  const BenchModelOptions& options_;
  const Ceilings& ceilings_;
  Model& model_;
  const double kv_token_bytes_, weight_element_bytes_, head_bytes_;  // a head in fp8 is rare
  const bool multiplies_in_fp8_;                                     // its layers
  const int num_blocks_, max_step_tokens_;
  const int decode_steps_;  // of one measurement
  RankRunner runner_;
  GenerateRequest request_;
};

std::vector<Sequence> Bench::sequences_of(int count, int tokens) const {
  std::vector<Sequence> all(static_cast<size_t>(count));
  BlockId block = 0;
  for (int i = 0; i < count; ++i) {
    Sequence& s = all[i];
    s.request = &request_;
    s.num_prompt = tokens;
    s.seq_slot = i;
    for (int t = 0; t < tokens; ++t)
      s.tokens.push_back((i * 7919 + t * 104729) % model_.config().vocab_size);
    const std::vector<KvGroup>& groups = runner_.kv().grouping().groups;
    for (size_t g = 0; g < groups.size(); ++g) {
      s.tables[g].width = groups[g].width;
      for (int64_t b = blocks_of(tokens) * groups[g].width; b > 0; --b)
        s.tables[g].blocks.push_back(block++);
    }
  }
  return all;
}

double Bench::run(const std::vector<StepPlan>& plans) {
  const auto begin = std::chrono::steady_clock::now();
  size_t collected = 0;
  for (size_t launched = 0; collected < plans.size();) {
    if (launched < plans.size()) runner_.launch(plans[launched++]);
    if (launched == plans.size() || launched - collected == size_t(runner_.depth())) {
      runner_.reuse(runner_.collect());
      ++collected;
    }
  }
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

template <class F>
double Bench::median_seconds(F run) const {
  run();  // caches and pages as they will be
  std::vector<double> seconds;
  for (double total = 0; total < options_.seconds || int(seconds.size()) < kMinRuns;) {
    seconds.push_back(run());
    total += seconds.back();
  }
  return percentile(seconds, 50);
}

Line Bench::finish(Line line, int tokens, const Work& work) const {
  const bool bf16 = model_.weight_dtype() != DType::f32;
  line.floor_s = ceilings_.floor_seconds(work.bytes, work.flops, bf16, work.fp8_flops);
  line.compute_bound = line.floor_s > ceilings_.floor_seconds(work.bytes, 0, bf16);
  line.tokens_per_s = tokens / line.seconds;
  return line;
}

Line Bench::prefill(int tokens) {
  const std::vector<Sequence> sequence = sequences_of(1, tokens);
  std::vector<StepPlan> plans;
  Work work;
  const ModelConfig& c = model_.config();
  for (int begin = 0; begin < tokens; begin += max_step_tokens_) {
    const int count = std::min(max_step_tokens_, tokens - begin);
    const int last = begin + count == tokens;
    StepPlan& plan = plans.emplace_back();
    plan.rows.push_back({&sequence[0], begin, count, last, last});
    plan.num_tokens = count;
    work.add_layers(2 * linear_params(c) * count, multiplies_in_fp8_);
    work.flops += attention_flops(begin + 1, begin + count);
    work.bytes += linear_params(c) * weight_element_bytes_ + begin * kv_token_bytes_;
  }
  work.flops += 2 * head_params(c);
  work.bytes += head_bytes_;
  Line line{"prefill", 1, tokens};
  line.seconds = median_seconds([&] { return run(plans); });
  return finish(line, tokens, work);
}

Line Bench::decode(int sequences, int context) {
  const std::vector<Sequence> all = sequences_of(sequences, context);
  StepPlan plan;
  for (const Sequence& s : all) plan.rows.push_back({&s, context - 1, 1, 1, 1});
  plan.num_tokens = sequences;
  const ModelConfig& c = model_.config();
  Work work;
  work.bytes = linear_params(c) * weight_element_bytes_ + head_bytes_ +
               double(sequences) * context * kv_token_bytes_;
  work.add_layers(sequences * 2 * linear_params(c), multiplies_in_fp8_);
  work.flops += sequences * (2 * head_params(c) + attention_flops(context, context));
  const std::vector<StepPlan> plans(size_t(decode_steps_), plan);
  Line line{"decode", sequences, context};
  RankRunner::KernelTimes times;
  line.seconds = median_seconds([&] {
    runner_.take_times();
    const double seconds = run(plans) / decode_steps_;
    const RankRunner::KernelTimes run = runner_.take_times();
    times.steps += run.steps, times.between += run.between;
    return seconds;
  });
  if (decode_steps_ > 1)
    line.idle = to_seconds(times.between) / to_seconds(times.between + times.steps);
  return finish(line, sequences, work);
}

// Room for the largest line, or for what half of the free memory holds.
int blocks_wanted(const BenchModelOptions& o, const Device& device, const Model& model,
                  const RunnerOptions& runner) {
  int64_t most = 1;
  for (const int t : o.prompts) most = std::max<int64_t>(most, std::min(t, model.max_len()));
  for (const int b : o.batches)
    for (const int c : o.contexts) most = std::max(most, int64_t(b) * std::min(c, model.max_len()));
  const int64_t blocks = most / kBlockSize + *std::max_element(o.batches.begin(), o.batches.end());
  const int64_t left = device.is_host() ? read_memory_limit().bytes - int64_t(model.weight_bytes())
                                        : int64_t(device.free_bytes());
  const int64_t room = left / 2 / int64_t(Bench::bytes_per_stretch(model, runner));
  return int(std::clamp<int64_t>(room, 1, blocks)) *
         grouping_of(kv_shape(model, runner)).num_tables();
}

nlohmann::ordered_json json_of(const Line& l) {
  nlohmann::ordered_json json = {{"phase", l.phase},
                                 {"sequences", l.sequences},
                                 {l.phase[0] == 'p' ? "prompt_tokens" : "context_tokens", l.tokens},
                                 {"seconds", l.seconds},
                                 {"tokens_per_second", l.tokens_per_s},
                                 {"floor_seconds", l.floor_s},
                                 {"bound", l.compute_bound ? "compute" : "memory"},
                                 {"share_of_floor", l.share()}};
  if (l.idle) json["idle_share"] = *l.idle;
  return json;
}

int fail(std::string_view text) {
  fmt::print(stderr, "sluice: {}\n", text);
  return 1;
}

void progress(int done, int total, const Line& l) {
  fmt::print(stderr, "[{}/{}] {} {} x {}: {:.1f} tok/s\n", done, total, l.phase, l.sequences,
             l.tokens, l.tokens_per_s);
}

void print_table(const std::vector<Line>& lines) {
  const bool idle = std::any_of(lines.begin(), lines.end(), [](const Line& l) { return l.idle; });
  fmt::print("{:<8} {:>9} {:>7} {:>10} {:>12} {:>12} {:>7}  {:<8}{}\n", "phase", "sequences",
             "tokens", "ms", "tok/s", "limit tok/s", "share", "bound", idle ? "idle" : "");
  for (const Line& l : lines)
    fmt::print("{:<8} {:>9} {:>7} {:>10.2f} {:>12.1f} {:>12.1f} {:>6.0f}%  {:<8}{}\n", l.phase,
               l.sequences, l.tokens, l.seconds * 1e3, l.tokens_per_s, l.tokens_per_s / l.share(),
               l.share() * 100, l.compute_bound ? "compute" : "memory",
               l.idle ? fmt::format("{:.1f}%", *l.idle * 100) : "");
}

bool any_below_one(const std::vector<int>& values) {
  return values.empty() || *std::min_element(values.begin(), values.end()) < 1;
}

std::vector<Line> measure(const BenchModelOptions& o, Bench& bench) {
  const int total = int(o.prompts.size() + o.batches.size() * o.contexts.size());
  std::vector<Line> lines;
  int done = 0;
  const auto take = [&](int sequences, int tokens, auto&& run) {
    ++done;
    if (!bench.fits(sequences, tokens)) {
      fmt::print(stderr, "[{}/{}] {} x {} tokens: left out, {}\n", done, total, sequences, tokens,
                 bench.fits(1, tokens) ? "the cache would not fit into half of the free memory"
                                       : "longer than the model's context");
      return;
    }
    lines.push_back(run());
    progress(done, total, lines.back());
  };
  for (const int tokens : o.prompts) take(1, tokens, [&] { return bench.prefill(tokens); });
  for (const int context : o.contexts)
    for (const int batch : o.batches)
      take(batch, context, [&] { return bench.decode(batch, context); });
  return lines;
}

}  // namespace

int bench_model(const BenchModelOptions& o) {
  if (any_below_one(o.prompts) || any_below_one(o.batches) || any_below_one(o.contexts) ||
      o.max_step_tokens < 0)
    return fail("prompts, batches and contexts must be positive, max_step_tokens not negative");
  Config config;
  config.model.path = o.model_dir;
  config.model.load_format = o.load_format;
  config.device = o.device;
  auto device = make_device(config);
  if (!device.ok()) return fail(message_of(device.status()));
  const int threads = o.device.threads;
  const int packers = threads > 0 ? threads : int(std::thread::hardware_concurrency());
  auto model = load_model(config.model, **device, std::max(1, packers));
  if (!model.ok()) return fail(message_of(model.status()));
  auto runner = runner_options(config, **model, (*device)->ops());
  if (!runner.ok()) return fail(message_of(runner.status()));
  runner->max_seqs = *std::max_element(o.batches.begin(), o.batches.end());
  const int usual = (*device)->is_host() ? 512 : 8192;
  runner->max_step_tokens =
      std::max(o.max_step_tokens > 0 ? o.max_step_tokens : usual, runner->max_seqs);
  runner->block_size = kBlockSize;
  runner->num_blocks = blocks_wanted(o, **device, **model, *runner);

  fmt::print(stderr, "measuring the device's limits\n");
  const Ceilings ceilings = measure_ceilings(**device, threads);
  Bench bench(o, ceilings, **device, **model, *runner);
  bench.warm_up();
  const std::vector<Line> lines = measure(o, bench);

  const std::string name = served_name(config.model);
  fmt::print("{}, {} weights, on {}{}; limits: {}\n", name, name_of((*model)->weight_dtype()),
             (*device)->name(),
             ceilings.threads > 0 ? fmt::format(", {} threads", ceilings.threads) : "",
             ceilings.text());
  print_table(lines);
  if (o.json_path.empty()) return 0;
  nlohmann::ordered_json json = {{"model", name},
                                 {"weights", name_of((*model)->weight_dtype())},
                                 {"device", (*device)->name()},
                                 {"threads", ceilings.threads},
                                 {"read_gb_per_s", ceilings.read_gb_per_s},
                                 {"f32_gflop_per_s", ceilings.f32_gflop_per_s},
                                 {"bf16_gflop_per_s", ceilings.bf16_gflop_per_s},
                                 {"fp8_gflop_per_s", ceilings.fp8_gflop_per_s},
                                 {"lines", nlohmann::ordered_json::array()}};
  for (const Line& l : lines) json["lines"].push_back(json_of(l));
  std::ofstream out(o.json_path);
  out << json.dump(2) << "\n";
  if (!out.flush()) return fail(fmt::format("cannot write {}", o.json_path));
  return 0;
}

}  // namespace sluice
