#include "server/workload_flags.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>

namespace sluice {

WorkloadFlags add_workload_flags(CLI::App& command, WorkloadOptions& w) {
  const auto add = [&command](const char* name, auto& value, const std::string& help) {
    return command.add_option(name, value, help)->capture_default_str()->take_last();
  };
  std::string kinds;
  for (const WorkloadKind& k : workload_kinds())
    kinds += fmt::format("{}{}", kinds.empty() ? "" : ", ", k.name);
  const WorkloadFlags flags = {
      add("--workload", w.name, "Requests: " + kinds),
      add("--lengths", w.lengths, "CSV file of prompt,output lengths to use in turn instead")};
  add("--scale", w.scale, "All lengths times this, at least one token");
  add("--seconds", w.seconds, "At most as many as come in so much time; 0: no limit");
  add("--seed", w.seed, "Of all that is drawn");
  add("--ratio", w.ratio, "ratio-sweep: prompt to output");
  add("--total-len", w.total, "ratio-sweep: prompt plus output");
  add("--prefix-tokens", w.prefix, "shared-prefix: tokens in common");
  add("--long-len", w.long_prompt, "short-plus-long: tokens of the long prompt; 0: leave it out");
  add("--long-at", w.long_at, "short-plus-long: second it comes; negative: half-way");
  return flags;
}

}  // namespace sluice
