#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bench/sim_metrics.h"

namespace sluice {

// A figure that can be plotted and searched for.
struct SimMetric {
  std::string_view name, label, unit;
  double (*value)(const SimResult&);  // in `unit`
};
std::span<const SimMetric> sim_metrics();
const SimMetric* find_metric(std::string_view name);

// What the lines have in common.
struct SimHeader {
  std::string workload, arrivals, cost, seed_cost, route;
  std::string load = "req/s";  // what SimResult::load is
  int block_size = 0, num_blocks = 0, host_blocks = 0, replicas = 1;
  uint64_t seed = 0;
  double noise = 0;
  int skipped = 0;                    // of a recording
  std::optional<SimResult> recorded;  // likewise: the daemon's own line
};

std::string sim_table(const SimHeader&, std::span<const SimResult>);
std::string sim_json(const SimHeader&, std::span<const SimResult>);
// Where each preset's `metric` first rises through `bound`, linear between neighbouring loads.
std::string sim_crossings(const SimMetric&, double bound, std::span<const SimResult>);
// An SVG line plot: load across, the metric upwards on a logarithmic scale, a line per preset.
std::string sim_plot(const SimHeader&, const SimMetric&, std::span<const SimResult>);

}  // namespace sluice
