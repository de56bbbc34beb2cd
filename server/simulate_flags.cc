#include "server/simulate_flags.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>

#include "bench/sim_machine.h"
#include "bench/sim_report.h"
#include "server/workload_flags.h"

namespace sluice {
namespace {

// Knobs that a virtual daemon has too.
bool simulated(std::string_view knob) {
  return (knob.starts_with("scheduler.") && knob != "scheduler.max_ttft_seconds") ||
         knob == "cache.block_size" || knob == "cache.bytes" || knob == "cache.host_bytes" ||
         knob == "cache.prefix_caching" || knob == "model.max_model_len";
}

// As add_option(), with a default in the help; a value that is no number ends in exit code 2, one
// out of range is simulate()'s to refuse.
class Adder {
 public:
  explicit Adder(CLI::App& command) : command_(command) {}
  template <class T>
  CLI::Option* operator()(const char* name, T& value, const std::string& help) {
    return command_.add_option(name, value, help)->capture_default_str()->take_last();
  }
  void optional(const char* name, std::optional<double>& value, const std::string& help) {
    command_.add_option(name, value, help)->take_last();
  }
  template <class T>
  void list(const char* name, std::vector<T>& values, const std::string& help) {
    command_.add_option(name, values, help)->delimiter(',');
  }

 private:
  CLI::App& command_;
};

void add_workload(Adder& add, SimulateOptions& o) {
  WorkloadOptions& w = o.workload;
  add("--trace", w.trace, "Recording of a daemon (serve --record) to replay instead");
  add("--requests", w.requests, "Requests of a point");
  add.list("--rates", o.rates, "Open loop: requests a second, as 1,2,4");
  add("--arrivals", o.arrivals, "standard (the workload's), poisson, gamma, closed, batch");
  add("--cv", w.cv, "Gamma: coefficient of variation of the gaps");
  add.list("--clients", o.clients, "Closed loop: requests at once, as 1,8,32 [16]");
  add("--max-context", w.max_context, "chat-sessions: longest prompt plus output");
  add("--think", w.think, "chat-sessions: mean seconds before the next turn");
  add.list("--tenant-weights", o.tenant_weights, "Shares of the tenants, as 1,1; none: equal");
}

void add_machine(Adder& add, SimulateOptions& o) {
  const std::string machines = fmt::format("{}", fmt::join(machine_names(), ", "));
  add("--cost", o.cost,
      "What steps take: " + machines + ", a TOML or JSON file, or a recording (.jsonl) to fit");
  add("--seed-cost", o.seed_cost, "What the scheduler believes at first; empty: the same");
  add.optional("--noise", o.noise,
               "Sigma of a log-normal factor on the time of each step [the machine's]");
  add("--blocks", o.blocks, "Cache blocks; 0: cache.bytes, or what the machine has");
  add("--pool-tokens", o.pool_tokens, "Likewise, in tokens");
  add("--host-blocks", o.host_blocks, "On the host; -1: cache.host_bytes, or the machine's");
  add("--depth", o.depth, "Steps in flight at once");
  add("--replicas", o.replicas, "Daemons behind a router");
  add("--route", o.route, "round-robin, least-loaded, prefix (session, or first block)");
  add("--threads", o.threads, "Of the simulator itself; 0: all processors");
}

}  // namespace

void SimulateFlags::add_to(CLI::App& app, char** environment, int& result) {
  CLI::App* command = app.add_subcommand(
      "simulate", "Run the scheduler against a workload in virtual time, without a model");
  Adder add(*command);
  add.list("--preset", options_.presets, "Scheduling presets to compare, as sluice,orca");
  add_workload_flags(*command, options_.workload);
  add_workload(add, options_);
  add_machine(add, options_);
  std::string metrics;
  for (const SimMetric& m : sim_metrics()) {
    metrics += fmt::format("{}{}", metrics.empty() ? "" : ", ", m.name);
  }
  add("--metric", options_.metric, "Of --plot and --slo: " + metrics);
  add("--slo", options_.bound, "Say at which load each preset's metric exceeds this; 0: do not");
  add("--json", options_.json_path, "Also write the results to this file");
  add("--plot", options_.plot_path, "Also draw the metric over the load into this SVG file");
  command->add_flag("--print-cost", print_cost_, "Print what --cost names as TOML and exit");
  config_.add_knobs_to(*command, simulated);
  command->callback([this, environment, &result] {
    const absl::Status status = run(environment);
    if (status.ok()) return;
    fmt::print(stderr, "sluice: {}\n", message_of(status));
    result = 1;
  });
}

absl::Status SimulateFlags::run(char** environment) {
  if (print_cost_) {
    const auto machine = read_machine("--cost", options_.cost);
    if (machine.ok()) fmt::print("{}", print_machine(*machine));
    return machine.status();
  }
  // A queue without a limit, unless one is asked for: a point beyond capacity is a point too.
  const auto config = config_.load_knobs(environment, {"SLUICE_SCHEDULER_MAX_QUEUE=1000000"});
  if (!config.ok()) return config.status();
  options_.config = *config;
  return simulate(options_);
}

}  // namespace sluice
