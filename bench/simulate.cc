#include "bench/simulate.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <thread>
#include <utility>

#include "bench/sim_fleet.h"
#include "bench/sim_machine.h"
#include "bench/sim_report.h"
#include "config/presets.h"

namespace sluice {
namespace {

template <class E>
absl::StatusOr<E> choose(std::string_view option, std::string_view text,
                         std::initializer_list<std::pair<std::string_view, E>> values) {
  std::string names;
  for (const auto& [name, value] : values) {
    if (name == text) return value;
    names += fmt::format("{}{}", names.empty() ? "" : ", ", name);
  }
  return invalid_argument("{}: '{}' is not one of {}", option, text, names);
}

absl::Status within(std::string_view option, double v, double min, double max) {
  if (v >= min && v <= max) return absl::OkStatus();
  return invalid_argument("{}: {} is not from {} to {}", option, v, min, max);
}

// A point of the grid: one line of the table.
struct Job {
  std::string preset;
  double load = 0;
  SimOptions sim;
  WorkloadOptions workload;
};

// What the options come to.
struct Plan {
  SimHeader header;
  std::vector<Job> jobs;
  int threads = 1;
};

// Replicas that are simulated one by one need room for one at a time.
absl::Status check_memory(const SimOptions& sim, const Workload& w) {
  constexpr double kMost = 8e9, kBlockBytes = 56;  // of a pool's book-keeping, beside the tokens
  const SimSetup& s = sim.setup;
  const double blocks = double(s.num_blocks) + s.host_blocks;
  const double bytes =
      blocks * (kBlockBytes + 4.0 * s.block_size) * (one_by_one(sim, w) ? 1 : sim.replicas);
  if (bytes <= kMost) return absl::OkStatus();
  return invalid_argument(
      "--replicas: {} with {} blocks each would take {:.1f} GB of memory, and the limit is {:.0f}; "
      "give fewer --blocks or --host-blocks",
      sim.replicas, blocks, bytes / 1e9, kMost / 1e9);
}

absl::Status check(const SimulateOptions& o) {
  for (const absl::Status& status : {
           within("--noise", o.noise.value_or(0), 0, 10),
           within("--blocks", double(o.blocks), 0, 1 << 28),
           within("--pool-tokens", double(o.pool_tokens), 0, 1e11),
           within("--host-blocks", double(o.host_blocks), -1, 1 << 28),
           within("--replicas", o.replicas, 1, 100000),
           within("--depth", o.depth, 1, 64),
           within("--threads", o.threads, 0, 1024),
           within("--slo", o.bound, 0, 1e12),
       }) {
    if (!status.ok()) return status;
  }
  if (o.blocks > 0 && o.pool_tokens > 0)
    return invalid_argument("--blocks and --pool-tokens: give one of them");
  for (const double w : o.tenant_weights) {
    if (absl::Status status = within("--tenant-weights", w, 1e-6, 1e6); !status.ok()) return status;
  }
  if (find_metric(o.metric)) return absl::OkStatus();
  std::string names;
  for (const SimMetric& m : sim_metrics())
    names += fmt::format("{}{}", names.empty() ? "" : ", ", m.name);
  return invalid_argument("--metric: '{}' is not one of {}", o.metric, names);
}

// Sizes in blocks, from the first that is given: blocks, tokens, bytes, the machine's own.
absl::Status size_pools(const SimulateOptions& o, const SimMachine& machine, SimSetup& setup) {
  const Config::Cache& cache = o.config.cache;
  const double block_bytes = cache.block_size * machine.kv_bytes_per_token;
  double blocks = std::floor(machine.pool_tokens / cache.block_size);
  double host = std::floor(machine.host_tokens / cache.block_size);
  std::string_view option = "--cost: pool_tokens";
  if (cache.bytes > 0)
    blocks = std::floor(double(cache.bytes) / block_bytes), option = "cache.bytes";
  if (o.pool_tokens > 0)
    blocks = double(o.pool_tokens / cache.block_size), option = "--pool-tokens";
  if (o.blocks > 0) blocks = double(o.blocks), option = "--blocks";
  if (cache.host_bytes > 0) host = std::floor(double(cache.host_bytes) / block_bytes);
  if (o.host_blocks >= 0) host = double(o.host_blocks);
  if (blocks < 1)
    return invalid_argument("{}: less than one block of {} tokens", option, cache.block_size);
  for (const auto& [name, n] : {std::pair{option, blocks}, {"host blocks", host}}) {
    if (absl::Status status = within(name, n, 0, 1 << 28); !status.ok()) return status;
  }
  setup.block_size = cache.block_size;
  setup.num_blocks = int(blocks);
  setup.host_blocks = int(host);
  return absl::OkStatus();
}

absl::Status add_machine(const SimulateOptions& o, Plan& plan, SimOptions& sim) {
  const auto machine = read_machine("--cost", o.cost);
  if (!machine.ok()) return machine.status();
  const auto seed = read_machine("--seed-cost", o.seed_cost.empty() ? o.cost : o.seed_cost);
  if (!seed.ok()) return seed.status();
  SimSetup& setup = sim.setup;
  if (absl::Status status = size_pools(o, *machine, setup); !status.ok()) return status;
  setup.cost = machine->step_cost(setup.block_size);
  setup.seed_cost = seed->step_cost(setup.block_size);
  setup.noise = plan.header.noise = o.noise.value_or(machine->noise);
  setup.tile_tokens = int(std::min(machine->tile_tokens, 1e6));
  if (!o.noise) setup.errors = machine->errors;
  setup.depth = o.depth;
  if (o.config.model.max_model_len > 0) setup.max_model_len = o.config.model.max_model_len;
  plan.header.cost = machine->name;
  plan.header.seed_cost = seed->name;
  plan.header.block_size = setup.block_size;
  plan.header.num_blocks = setup.num_blocks;
  plan.header.host_blocks = setup.host_blocks;
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::pair<std::string, Policy>>> policies(const SimulateOptions& o) {
  std::vector<std::string> names = o.presets;
  if (names.empty()) names.push_back(o.config.scheduler.preset);
  std::vector<std::pair<std::string, Policy>> out;
  for (const std::string& name : names) {
    Config::Scheduler choices = o.config.scheduler;
    choices.preset = name;
    if (absl::Status status = apply_preset(choices); !status.ok()) return status;
    auto policy = Policy::from(choices, o.config.cache);
    if (!policy.ok()) return policy.status();
    out.emplace_back(name, *std::move(policy));
  }
  return out;
}

absl::StatusOr<Plan> make_plan(const SimulateOptions& o) {
  if (absl::Status status = check(o); !status.ok()) return status;
  Plan plan;
  SimOptions sim;
  if (absl::Status status = add_machine(o, plan, sim); !status.ok()) return status;
  const auto route = choose<Route>("--route", o.route,
                                   {{"round-robin", Route::round_robin},
                                    {"least-loaded", Route::least_loaded},
                                    {"prefix", Route::prefix}});
  if (!route.ok()) return route.status();
  const auto arrivals = choose<Arrivals>("--arrivals", o.arrivals,
                                         {{"standard", Arrivals::standard},
                                          {"poisson", Arrivals::poisson},
                                          {"gamma", Arrivals::gamma},
                                          {"closed", Arrivals::closed},
                                          {"batch", Arrivals::batch}});
  if (!arrivals.ok()) return arrivals.status();
  sim.route = *route;
  sim.replicas = plan.header.replicas = o.replicas;
  sim.seed = plan.header.seed = o.workload.seed;
  plan.threads = o.threads > 0 ? o.threads : int(std::max(1u, std::thread::hardware_concurrency()));
  WorkloadOptions workload = o.workload;
  workload.arrivals = *arrivals;
  const Arrivals kind = workload.arrivals = standard_arrivals(workload);
  const bool as_recorded = !workload.trace.empty() && o.rates.empty();
  plan.header.arrivals = kind == Arrivals::closed  ? "closed-loop"
                         : kind == Arrivals::batch ? "batch"
                         : !workload.trace.empty() ? "recorded"
                         : kind == Arrivals::gamma ? fmt::format("gamma (cv {:g})", workload.cv)
                                                   : "poisson";
  plan.header.workload = !workload.lengths.empty() ? "lengths"
                         : !workload.trace.empty() ? "trace"
                                                   : workload.name;
  plan.header.route = o.route;
  std::vector<double> loads = o.rates;
  if (loads.empty()) loads.push_back(as_recorded ? 0 : 1);
  if (kind == Arrivals::batch) loads = {0};
  if (kind == Arrivals::closed) {
    loads.assign(o.clients.begin(), o.clients.end());
    plan.header.load = "clients";
  }
  if (loads.empty()) return invalid_argument("--clients: none given");
  const auto named = policies(o);
  if (!named.ok()) return named.status();
  for (const auto& [name, policy] : *named) {
    for (const double load : loads) {
      Job& job = plan.jobs.emplace_back(Job{name, load, sim, workload});
      job.sim.setup.policy = policy;
      if (kind == Arrivals::closed) {
        job.workload.clients = int(load);
      } else {
        job.workload.rate = load;
      }
    }
  }
  return plan;
}

absl::StatusOr<SimResult> run(const SimulateOptions& o, Job& job, int& skipped) {
  const auto workload = make_workload(job.workload);
  if (!workload.ok()) return workload.status();
  std::vector<double>& weights = job.sim.setup.policy.tenant_weights;
  weights = o.tenant_weights;
  if (weights.empty()) weights.assign(size_t(workload->tenants), 1.0);
  if (int(weights.size()) < workload->tenants) {
    return invalid_argument("--tenant-weights: {} given, but the workload has {} tenants",
                            weights.size(), workload->tenants);
  }
  skipped = workload->skipped;
  if (absl::Status status = check_memory(job.sim, *workload); !status.ok()) return status;
  auto result = simulate_point(job.sim, *workload);
  if (!result.ok()) {
    return annotate(result.status(), fmt::format("preset {} at {:g}", job.preset, job.load));
  }
  result->preset = job.preset;
  result->load = job.load > 0 ? job.load : result->offered;
  return result;
}

// Points in parallel where there are several, else the replicas of the one.
absl::StatusOr<std::vector<SimResult>> run_all(const SimulateOptions& o, Plan& plan) {
  std::vector<absl::StatusOr<SimResult>> results(plan.jobs.size(), absl::UnknownError(""));
  std::vector<int> skipped(plan.jobs.size());
  std::atomic<size_t> next{0};
  const auto work = [&] {
    for (size_t i; (i = next++) < plan.jobs.size();) {
      plan.jobs[i].sim.threads = plan.jobs.size() == 1 ? plan.threads : 1;
      results[i] = run(o, plan.jobs[i], skipped[i]);
    }
  };
  std::vector<std::thread> threads;
  for (int t = 1; t < std::min(plan.threads, int(plan.jobs.size())); ++t)
    threads.emplace_back(work);
  work();
  for (std::thread& t : threads) t.join();
  plan.header.skipped = skipped[0];
  std::vector<SimResult> out;
  for (auto& result : results) {
    if (!result.ok()) return result.status();
    out.push_back(*std::move(result));
  }
  return out;
}

// What the daemon itself did, beside what others would have done.
absl::Status add_recorded(const SimulateOptions& o, SimHeader& header) {
  if (o.workload.trace.empty()) return absl::OkStatus();
  const auto recording = read_recording(o.workload.trace);
  if (!recording.ok()) return annotate(recording.status(), "--trace");
  WorkloadOptions as_recorded = o.workload;
  as_recorded.rate = 0;
  const auto workload = make_workload(as_recorded);
  if (!workload.ok()) return workload.status();
  header.recorded = recorded_result(*recording, *workload);
  return absl::OkStatus();
}

absl::Status write_file(std::string_view option, const std::string& path, const std::string& text) {
  if (path.empty()) return absl::OkStatus();
  std::ofstream file(path);
  file << text;
  file.close();
  return file ? absl::OkStatus() : invalid_argument("{}: cannot write {}", option, path);
}

}  // namespace

absl::Status simulate(const SimulateOptions& o) {
  auto plan = make_plan(o);
  if (!plan.ok()) return plan.status();
  const auto begin = std::chrono::steady_clock::now();
  const auto results = run_all(o, *plan);
  if (!results.ok()) return results.status();
  const double wall =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  int64_t steps = 0, requests = 0;
  for (const SimResult& r : *results) steps += r.steps, requests += r.requests;
  fmt::print(stderr, "{} requests, {} steps in {:.1f} s\n", requests, steps, wall);

  if (absl::Status status = add_recorded(o, plan->header); !status.ok()) return status;
  const SimMetric& metric = *find_metric(o.metric);
  fmt::print("{}", sim_table(plan->header, *results));
  if (o.bound > 0) fmt::print("{}", sim_crossings(metric, o.bound, *results));
  if (absl::Status status = write_file("--json", o.json_path, sim_json(plan->header, *results));
      !status.ok())
    return status;
  return write_file("--plot", o.plot_path, sim_plot(plan->header, metric, *results));
}

}  // namespace sluice
