#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/status.h"
#include "config/config.h"
#include "engine/engine.h"
#include "engine/model.h"
#include "engine/rank_runner.h"
#include "engine/recording.h"
#include "kvcache/block_pool.h"
#include "kvcache/budget.h"

namespace sluice {

// Everything between a Config and a running Engine, made in the order in which it can fail: device,
// memory plan, weights, cache. Owned by main, and outlives the engine made from it: the scheduler
// works on the pools, the runner on `device` and `model`.
class ServedModel {
 public:
  // Reads and packs the weights. Every Status is one line that names the knob or the file.
  static absl::StatusOr<std::unique_ptr<ServedModel>> load(const Config&);

  // Touches all memory that steps will use, and measures what they cost. Before make_engine().
  void warm_up();
  // Once. The engine's thread is not started yet.
  std::unique_ptr<Engine> make_engine(OutputSink&, Metrics&);

  const std::string& name() const { return name_; }  // served_name, or the directory's
  const ModelConfig& config() const { return model_->config(); }
  int max_model_len() const { return model_->max_len(); }
  const MemoryPlan& plan() const { return plan_; }
  std::string device_name() const { return device_->name(); }
  // See Device::on_failure; before the engine starts.
  void on_device_failure(std::function<void()> f) { device_->on_failure(std::move(f)); }

 private:
  ServedModel() = default;
  Config options_;
  Policy policy_;
  std::string name_;
  MemoryPlan plan_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<BlockPool> pool_, host_pool_;  // the latter null without a host tier
  StepCost cost_;                                // what warm_up() measured
  std::unique_ptr<RankRunner> runner_;
  std::unique_ptr<Recorder> recorder_;  // until the engine takes it; null: nothing is recorded
};

// What ServedModel::load() would do with this machine's memory, without reading a tensor: for
// `sluice plan`.
absl::StatusOr<MemoryPlan> plan_memory(const Config&);

// The name that clients use for the model.
std::string served_name(const Config::Model&);

// From a model and the knobs to what a runner needs; num_blocks is left to the memory plan. Refuses
// what the device cannot compute.
absl::StatusOr<RunnerOptions> runner_options(const Config&, const Model&, const Ops&);

}  // namespace sluice
