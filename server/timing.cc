#include "server/timing.h"

#include <fmt/format.h>

#include <algorithm>

namespace sluice {

double to_millis(Nanos d) { return std::chrono::duration<double, std::milli>(d).count(); }

void Timing::add(const RequestTrace& trace) {
  const auto slowest = [&trace](double& ms, Instant at) {
    if (at != kNever) ms = std::max(ms, to_millis(at - trace.arrived));
  };
  slowest(queue_ms, trace.admitted);
  slowest(ttft_ms, trace.first_token);
  slowest(total_ms, trace.ended);
  level = std::max(level, trace.level);
  chunks += trace.chunks;
  swaps += trace.swaps;
  recomputes += trace.recomputes;
  swapped_blocks += trace.swapped_blocks;
  swap_ms = std::max(swap_ms, to_millis(trace.swapped_time));
  cached_tokens += trace.cached_tokens;
  host_cached_tokens += trace.host_cached_tokens;
}

void append_timing(std::string& out, const Timing& t) {
  out += fmt::format(
      R"({{"queue_ms":{:.3f},"ttft_ms":{:.3f},"total_ms":{:.3f},"level":{},"chunks":{},)"
      R"("preemptions":{{"swap":{},"recompute":{}}},"swapped_blocks":{},"swap_ms":{:.3f},)"
      R"("cached_tokens":{},"host_cached_tokens":{}}})",
      t.queue_ms, t.ttft_ms, t.total_ms, t.level, t.chunks, t.swaps, t.recomputes, t.swapped_blocks,
      t.swap_ms, t.cached_tokens, t.host_cached_tokens);
}

}  // namespace sluice
