#include "config/presets.h"

#include <algorithm>
#include <array>

namespace sluice {
namespace {

struct Preset {
  std::string_view name;
  std::string_view order, step, reservation, budget, pressure, proactive;
  std::string_view promotion = "restart";
  double promote_ms = 3000, promote_growth = 1;
};

constexpr std::array kPresets = {
    // Request-level batching (FasterTransformer): the batch runs until its last member ends.
    Preset{"static", "fcfs_strict", "batch", "full", "fixed", "recompute", "off"},
    // Orca (OSDI'22): iteration-level, memory for the longest output reserved at once.
    Preset{"orca", "fcfs_strict", "whole", "full", "fixed", "recompute", "off"},
    // vLLM as published (SOSP'23): prompts first, the latest request gives way.
    Preset{"vllm", "fcfs_strict", "prefill_first", "paged", "fixed", "swap_groups", "off"},
    // Sarathi-Serve (OSDI'24): stall-free batches within a budget for the time between tokens.
    Preset{"sarathi", "fcfs", "chunked", "paged", "target", "recompute", "off"},
    // FastServe (NSDI'26): skip-join MLFQ, proactive swap. Promotion as in its artifact in effect,
    // which looks for 3 s every thousand steps: the paper's 0.3 s swaps so much that reactive swap
    // is better.
    Preset{"fastserve", "mlfq", "whole", "paged", "fixed", "swap", "on", "restart", 30000, 1},
    // Text Generation Inference: newcomers gather, memory reserved at once.
    Preset{"tgi", "fcfs_strict", "ratio", "full", "fixed", "recompute", "off"},
    // LMDeploy's TurboMind: persistent slots, split-fuse; a victim's blocks stay cached until
    // somebody takes them.
    Preset{"lmdeploy", "fcfs", "chunked", "paged", "split_fuse", "recompute", "off"},
    // Promotion after 3 s at every level: longer bounds let answers stand still for as long. A
    // visit, since under overload requests that all start again at the top leave no room for new
    // ones, whose first tokens then wait as long.
    Preset{"sluice", "mlfq", "chunked", "paged", "target", "cheapest", "on", "visit", 3000, 1},
};

}  // namespace

std::vector<std::string_view> preset_names() {
  std::vector<std::string_view> names;
  for (const Preset& p : kPresets) names.push_back(p.name);
  return names;
}

absl::Status apply_preset(Config::Scheduler& c) {
  const auto* p = std::ranges::find(kPresets, c.preset, &Preset::name);
  if (p == kPresets.end()) {
    return invalid_argument("scheduler.preset: '{}' is not one of {}", c.preset,
                            fmt::join(preset_names(), ", "));
  }
  const auto fill = [](std::string& value, std::string_view preset) {
    if (value == "auto") value = preset;
  };
  fill(c.order, p->order);
  fill(c.step, p->step);
  fill(c.reservation, p->reservation);
  fill(c.budget, p->budget);
  fill(c.pressure, p->pressure);
  fill(c.proactive, p->proactive);
  fill(c.promotion, p->promotion);
  if (c.promote_ms == 0) c.promote_ms = p->promote_ms;
  if (c.promote_growth == 0) c.promote_growth = p->promote_growth;
  const bool cut = c.step == "chunked" || c.step == "ratio";
  if (c.max_step_tokens == 0) c.max_step_tokens = cut ? 256 : 2048;
  return absl::OkStatus();
}

}  // namespace sluice
