#include "engine/build.h"

#include <algorithm>
#include <filesystem>
#include <thread>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "base/text.h"
#include "config/load.h"
#include "config/presets.h"
#include "engine/make_device.h"
#include "engine/models/registry.h"

namespace sluice {
namespace {

absl::StatusOr<DType> kv_dtype(const std::string& name, const Model& model, const Ops& ops) {
  const DType usual = ops.kv_dtype(model.weight_dtype());
  if (name == "auto") return model.config().fp8_cache ? DType::fp8_e4m3 : usual;
  for (const auto& [text, t] : {std::pair{"f32", DType::f32},
                                {"f16", DType::f16},
                                {"bf16", DType::bf16},
                                {"fp8", DType::fp8_e4m3}}) {
    if (name != text) continue;
    if (ops.keeps_kv_as(t)) return t;
    return invalid_argument("cache.dtype: this device keeps keys and values as {}, not as {}",
                            name_of(usual), name);
  }
  return invalid_argument("cache.dtype: '{}' is not one of auto, f32, f16, bf16, fp8", name);
}

bool has_cache_scales(const Model& model) {
  const std::vector<LayerKv> layers = model.kv_shape().layers;
  return std::any_of(layers.begin(), layers.end(),
                     [](const LayerKv& l) { return l.k_scale != 1 || l.v_scale != 1; });
}

// Blocks that a sequence of the longest context holds at most, where windowed layers give back and
// the scheduler counts on that: as it does in Scheduler::Impl::check_size().
int64_t most_held(const std::vector<KvGroup>& groups, const Policy& policy, const Device& device,
                  const RunnerOptions& o) {
  if (groups.size() == 1 || policy.sets_all_aside()) return 0;
  const int all = (o.max_model_len + o.block_size - 1) / o.block_size;
  const int in_flight = RankRunner::depth_on(device) * policy.max_step_tokens;
  const int windowed = window_stretches(groups[1].reach, in_flight, o.block_size);
  return int64_t{all} * groups[0].width + int64_t{std::min(all, windowed)} * groups[1].width;
}

absl::StatusOr<MemoryPlan> plan_for(const Config& config, Device& device, const Model& model,
                                    const RunnerOptions& options) {
  const KvShape shape = kv_shape(model, options);
  MemoryNeeds needs;
  needs.weight_bytes = int64_t(model.weight_bytes());
  needs.scratch_bytes = int64_t(RankRunner::scratch_bytes(device, model, options));
  needs.graph_bytes = int64_t(RankRunner::graph_bytes(device, model, options));
  needs.block_bytes = int64_t(KvStore::bytes_per_block(shape));
  needs.block_size = options.block_size;
  needs.stretch_blocks = grouping_of(shape).num_tables();
  const auto policy = Policy::from(config.scheduler, config.cache);
  if (!policy.ok()) return policy.status();
  needs.sequence_blocks = most_held(grouping_of(shape).groups, *policy, device, options);
  needs.max_seqs = options.max_seqs;
  needs.max_model_len = options.max_model_len;
  Config::Cache cache = config.cache;
  if (cache.memory_fraction == 0) cache.memory_fraction = device.is_host() ? 0.5 : 0.92;
  if (device.is_host()) return plan_memory(cache, needs, read_memory_limit());
  const MemoryLimit own{int64_t(device.free_bytes()),
                        fmt::format("free memory of the {} of {}",
                                    bytes_text(int64_t(device.total_bytes())), device.name())};
  return plan_memory(cache, needs, own, read_memory_limit());
}

// The plan, made before a tensor is read: a model that does not fit is refused at once.
absl::Status plan_ahead(const Config& config, Device& device, RunnerOptions& options,
                        MemoryPlan& plan) {
  const auto model = plan_model(config.model, device);
  if (!model.ok()) return model.status();
  auto wanted = runner_options(config, **model, device.ops());
  if (!wanted.ok()) return wanted.status();
  auto planned = plan_for(config, device, **model, *wanted);
  if (!planned.ok()) return planned.status();
  options = *wanted;
  options.num_blocks = planned->num_blocks;
  options.num_host_blocks = planned->num_host_blocks;
  plan = *std::move(planned);
  return absl::OkStatus();
}

std::string time_text(double seconds) {
  for (const auto& [unit, size] : {std::pair{"s", 1.0}, {"ms", 1e-3}, {"us", 1e-6}}) {
    if (seconds >= size) return fmt::format("{:.3g} {}", seconds / size, unit);
  }
  return fmt::format("{:.3g} ns", seconds / 1e-9);
}

}  // namespace

std::string served_name(const Config::Model& model) {
  if (!model.served_name.empty()) return model.served_name;
  // "dir/" and "." have no last component of their own.
  std::error_code error;
  const auto full = std::filesystem::canonical(model.path, error);
  return error ? model.path : full.filename().string();
}

absl::StatusOr<RunnerOptions> runner_options(const Config& config, const Model& model,
                                             const Ops& ops) {
  const auto dtype = kv_dtype(config.cache.dtype, model, ops);
  if (!dtype.ok()) return dtype.status();
  for (const AttentionHeads& heads : model.heads())
    if (const std::string lack = ops.lacks(heads, config.cache.block_size); !lack.empty())
      return unimplemented("this device cannot compute the model's attention: {}", lack);
  RunnerOptions o;
  o.max_seqs = config.scheduler.max_seqs;
  o.max_step_tokens = config.scheduler.max_step_tokens;
  o.max_model_len = model.max_len();
  o.block_size = config.cache.block_size;
  o.kv_dtype = *dtype;
  return o;
}

absl::StatusOr<MemoryPlan> plan_memory(const Config& wanted) {
  Config config = wanted;
  if (auto status = apply_preset(config.scheduler); !status.ok()) return status;
  auto device = make_device(config);
  if (!device.ok()) return device.status();
  RunnerOptions options;
  MemoryPlan plan;
  if (const auto status = plan_ahead(config, **device, options, plan); !status.ok()) return status;
  return plan;
}

absl::StatusOr<std::unique_ptr<ServedModel>> ServedModel::load(const Config& wanted) {
  Config config = wanted;
  if (auto status = apply_preset(config.scheduler); !status.ok()) return status;
  const auto policy = Policy::from(config.scheduler, config.cache);
  if (!policy.ok()) return policy.status();
  std::unique_ptr<ServedModel> served(new ServedModel);
  served->policy_ = *policy;
  served->options_ = config;
  served->name_ = served_name(config.model);
  auto device = make_device(config);
  if (!device.ok()) return device.status();
  served->device_ = *std::move(device);
  RunnerOptions options;
  if (const auto status = plan_ahead(config, *served->device_, options, served->plan_);
      !status.ok())
    return status;
  if (!config.server.record_file.empty()) {
    RecordingHeader header;
    header.block_size = options.block_size;
    // As the simulator counts: blocks of all layers.
    const MemoryNeeds& needs = served->plan_.needs;
    header.num_blocks = options.num_blocks / needs.stretch_blocks;
    header.host_blocks = options.num_host_blocks / needs.stretch_blocks;
    header.kv_bytes_per_token = double(needs.stretch_bytes()) / options.block_size;
    header.config = print_config(config);
    auto recorder =
        Recorder::open(config.server.record_file, header, std::chrono::steady_clock::now());
    if (!recorder.ok()) return annotate(recorder.status(), "server.record_file");
    served->recorder_ = *std::move(recorder);
  }
  // Packing is a short burst before anything is served: every core may help.
  const int threads = config.device.threads > 0
                          ? config.device.threads
                          : std::max(1, int(std::thread::hardware_concurrency()));
  auto model = load_model(config.model, *served->device_, threads);
  if (!model.ok()) return model.status();
  served->model_ = *std::move(model);
  if (options.kv_dtype == DType::fp8_e4m3 && !has_cache_scales(*served->model_))
    log_info("cache: keys and values are fp8 as they are: the checkpoint has no scales for them");
  served->pool_ = std::make_unique<BlockPool>(options.num_blocks, options.block_size);
  // One hasher: what the device evicts is found on the host under the same hash.
  if (options.num_host_blocks > 0)
    served->host_pool_ = std::make_unique<BlockPool>(options.num_host_blocks, options.block_size,
                                                     served->pool_->hasher());
  served->runner_ = std::make_unique<RankRunner>(*served->device_, *served->model_, options);
  log_info("{}", served->plan_.to_line());
  return served;
}

void ServedModel::warm_up() {
  runner_->warm_up();
  cost_ = runner_->measure();
  log_info(
      "step time: {} + {} a decode row + {} a token of its context + {} a prefill token + {} "
      "a token before it{}",
      time_text(cost_.constant), time_text(cost_.per_decode_row),
      time_text(cost_.per_context_token), time_text(cost_.per_prefill_token),
      time_text(cost_.per_prefill_pair),
      host_pool_ ? fmt::format("; {} to copy a block", time_text(cost_.per_block_copy)) : "");
}

std::unique_ptr<Engine> ServedModel::make_engine(OutputSink& sink, Metrics& metrics) {
  CHECK(runner_ != nullptr);
  auto scheduler = std::make_unique<Scheduler>(policy_, CostModel(cost_), *pool_, host_pool_.get(),
                                               runner_->depth(), config().eos_ids, max_model_len(),
                                               runner_->kv().grouping().groups);
  auto engine = std::make_unique<Engine>(std::move(scheduler), std::move(runner_), sink, metrics,
                                         options_.scheduler.max_queue);
  engine->record(std::move(recorder_));
  return engine;
}

}  // namespace sluice
