#include "bench/sim_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>

namespace sluice {
namespace {

using nlohmann::ordered_json;

constexpr std::array kMetrics = {
    SimMetric{"norm_mean", "mean latency per token", "ms",
              [](const SimResult& r) { return r.normalised.mean * 1e3; }},
    SimMetric{"norm_p50", "median latency per token", "ms",
              [](const SimResult& r) { return r.normalised.p50 * 1e3; }},
    SimMetric{"norm_p95", "P95 latency per token", "ms",
              [](const SimResult& r) { return r.normalised.p95 * 1e3; }},
    SimMetric{"norm_p99", "P99 latency per token", "ms",
              [](const SimResult& r) { return r.normalised.p99 * 1e3; }},
    SimMetric{"ttft_mean", "mean time to first token", "s",
              [](const SimResult& r) { return r.ttft.mean; }},
    SimMetric{"ttft_p50", "median time to first token", "s",
              [](const SimResult& r) { return r.ttft.p50; }},
    SimMetric{"ttft_p99", "P99 time to first token", "s",
              [](const SimResult& r) { return r.ttft.p99; }},
    SimMetric{"tbt_p50", "median time between tokens", "ms",
              [](const SimResult& r) { return r.gap.p50 * 1e3; }},
    SimMetric{"tbt_p99", "P99 time between tokens", "ms",
              [](const SimResult& r) { return r.gap.p99 * 1e3; }},
    SimMetric{"tbt_max", "longest time between tokens", "ms",
              [](const SimResult& r) { return r.gap.max * 1e3; }},
    SimMetric{"latency_mean", "mean latency", "s",
              [](const SimResult& r) { return r.latency.mean; }},
    SimMetric{"latency_p99", "P99 latency", "s", [](const SimResult& r) { return r.latency.p99; }},
    SimMetric{"throughput", "output tokens per second", "tok/s",
              [](const SimResult& r) { return r.output_rate; }},
};

// Three digits that count.
std::string short_number(double v) {
  if (v == 0) return "0";
  if (std::abs(v) >= 100) return fmt::format("{:.0f}", v);
  if (std::abs(v) >= 10) return fmt::format("{:.1f}", v);
  if (std::abs(v) >= 1) return fmt::format("{:.2f}", v);
  if (std::abs(v) >= 0.1) return fmt::format("{:.3f}", v);
  return fmt::format("{:.3g}", v);
}

std::string percent(double part, double whole = 1) {
  return whole > 0 ? fmt::format("{:.1f}", 100 * part / whole) : "-";
}

ordered_json spread_json(const SimResult::Spread& s) {
  return {{"mean", s.mean}, {"p50", s.p50}, {"p95", s.p95}, {"p99", s.p99}, {"max", s.max}};
}

ordered_json line_json(const SimResult& r) {
  ordered_json line = {
      {"preset", r.preset},
      {"load", r.load},
      {"requests", r.requests},
      {"completed", r.completed},
      {"refused", r.refused},
      {"seconds", r.seconds},
      {"offered_per_second", r.offered},
      {"achieved_per_second", r.achieved},
      {"output_tokens_per_second", r.output_rate},
      {"tokens_per_second", r.token_rate},
      {"normalised_latency_s", spread_json(r.normalised)},
      {"ttft_s", spread_json(r.ttft)},
      {"tbt_s", spread_json(r.gap)},
      {"latency_s", spread_json(r.latency)},
      {"steps", r.steps},
      {"step_rows", r.rows},
      {"step_tokens", r.step_tokens},
      {"kv_held", r.held},
      {"kv_live", r.live},
      {"busy", r.busy},
      {"copying", r.copying},
      {"swap_share_of_latency", r.swap_share},
      {"copy_share_of_latency", r.arriving_share},
      {"cost_model_error", r.model_error},
      {"preemptions", r.stats.preemptions},
      {"swaps", r.stats.swaps},
      {"proactive", r.stats.proactive},
      {"blocks_out", r.stats.blocks_out},
      {"blocks_in", r.stats.blocks_in},
      {"written_behind", r.stats.written_behind},
      {"demotions", r.stats.demotions},
      {"promotions", r.stats.promotions},
      {"livelocks", r.stats.livelocks},
      {"prompt_tokens", r.stats.prompt_tokens},
      {"cached_tokens", r.stats.cached_tokens},
      {"host_cached_tokens", r.stats.host_cached_tokens},
      {"recomputed_tokens", r.stats.wasted_recompute},
  };
  if (r.shares.size() > 1) {
    line["tenant_shares"] = r.shares;
    line["tenant_contended_tokens"] = r.tenant_served;
  }
  if (r.has_long) {
    line["long_ttft_s"] = r.long_ttft;
    line["beside_long"] = {
        {"requests", r.beside_long}, {"ttft_p50_s", r.beside_p50}, {"ttft_p99_s", r.beside_p99}};
  }
  return line;
}

std::string notes(const SimResult& r) {
  std::string out;
  if (r.refused > 0) out += fmt::format("    {} refused: {}\n", r.refused, r.refusal);
  if (r.shares.size() > 1) {
    out += "    tokens computed while somebody of every tenant waited:";
    for (size_t i = 0; i < r.shares.size(); ++i)
      out += fmt::format("{} tenant {} {} %", i > 0 ? "," : "", i, percent(r.shares[i]));
    out += "\n";
  }
  if (r.has_long) {
    out += fmt::format(
        "    long prompt: first token after {} s; {} short ones came meanwhile, TTFT P50 {} s, "
        "P99 {} s\n",
        short_number(r.long_ttft), r.beside_long, short_number(r.beside_p50),
        short_number(r.beside_p99));
  }
  return out;
}

}  // namespace

std::span<const SimMetric> sim_metrics() { return kMetrics; }

const SimMetric* find_metric(std::string_view name) {
  const auto it = std::ranges::find(kMetrics, name, &SimMetric::name);
  return it == kMetrics.end() ? nullptr : &*it;
}

std::string sim_table(const SimHeader& h, std::span<const SimResult> results) {
  std::string out =
      fmt::format("{}, {} arrivals, {}{}, {} x {} blocks of {} tokens ({} on the host), seed {}\n",
                  h.workload, h.arrivals, h.cost,
                  h.seed_cost == h.cost ? "" : fmt::format(" (scheduler told {})", h.seed_cost),
                  h.replicas, h.num_blocks, h.block_size, h.host_blocks, h.seed);
  if (h.replicas > 1) out += fmt::format("route: {}\n", h.route);
  if (h.skipped > 0)
    out += fmt::format("{} requests of the recording were refused then: left out\n", h.skipped);
  constexpr std::string_view kRow =
      "{:10} {:>7} {:>8} |{:>7} {:>7} {:>7} {:>7} |{:>7} {:>7} {:>7} |{:>6} {:>6} {:>7} |{:>7} "
      "{:>6} |{:>7} {:>6} {:>6} {:>6} {:>6}\n";
  out += fmt::format("{:27} |{:^31} |{:^23} |{:^21} |{:^14} |{:^35}\n", "",
                     "latency per output token, ms", "first token, s", "between tokens, ms",
                     "output", "cache");
  out += fmt::format(fmt::runtime(kRow), "preset", h.load, "done/s", "mean", "p50", "p95", "p99",
                     "mean", "p50", "p99", "p50", "p99", "max", "tok/s", "rows", "preempt", "swaps",
                     "hit %", "held %", "live %");
  const auto row = [&](const SimResult& r) {
    const auto n = [](double v, bool known = true) { return known ? short_number(v) : "-"; };
    const bool gaps = r.gap.max > 0, cache = r.held > 0;  // else not recorded
    out += fmt::format(fmt::runtime(kRow), r.preset, fmt::format("{:g}", r.load), n(r.achieved),
                       n(r.normalised.mean * 1e3), n(r.normalised.p50 * 1e3),
                       n(r.normalised.p95 * 1e3), n(r.normalised.p99 * 1e3), n(r.ttft.mean),
                       n(r.ttft.p50), n(r.ttft.p99), n(r.gap.p50 * 1e3, gaps),
                       n(r.gap.p99 * 1e3, gaps), n(r.gap.max * 1e3, gaps), n(r.output_rate),
                       n(r.rows), r.stats.preemptions, r.stats.swaps,
                       percent(double(r.stats.cached_tokens), double(r.stats.prompt_tokens)),
                       cache ? percent(r.held) : "-", cache ? percent(r.live) : "-");
    out += notes(r);
  };
  if (h.recorded) row(*h.recorded);
  for (const SimResult& r : results) row(r);
  return out;
}

std::string sim_json(const SimHeader& h, std::span<const SimResult> results) {
  ordered_json lines = ordered_json::array();
  for (const SimResult& r : results) lines.push_back(line_json(r));
  ordered_json out = {{"workload", h.workload},
                      {"arrivals", h.arrivals},
                      {"cost", h.cost},
                      {"seed_cost", h.seed_cost},
                      {"load_unit", h.load},
                      {"block_size", h.block_size},
                      {"num_blocks", h.num_blocks},
                      {"host_blocks", h.host_blocks},
                      {"replicas", h.replicas},
                      {"route", h.route},
                      {"seed", h.seed},
                      {"noise", h.noise},
                      {"skipped", h.skipped},
                      {"lines", lines}};
  if (h.recorded) out["recorded"] = line_json(*h.recorded);
  return out.dump(2) + "\n";
}

std::string sim_crossings(const SimMetric& m, double bound, std::span<const SimResult> results) {
  std::string out;
  for (size_t i = 0; i < results.size();) {
    size_t end = i;
    while (end < results.size() && results[end].preset == results[i].preset) ++end;
    const auto line = results.subspan(i, end - i);
    const auto over = std::ranges::find_if(line, [&](auto& r) { return m.value(r) > bound; });
    std::string where;
    if (over == line.end()) {
      where = fmt::format("above {:g}", line.back().load);
    } else if (over == line.begin()) {
      where = fmt::format("below {:g}", over->load);
    } else {
      const SimResult &a = *(over - 1), &b = *over;
      const double share = (bound - m.value(a)) / (m.value(b) - m.value(a));
      where = short_number(a.load + share * (b.load - a.load));
    }
    out += fmt::format("{}: {} of {:g} {} at {}\n", line[0].preset, m.name, bound, m.unit, where);
    i = end;
  }
  return out;
}

}  // namespace sluice
