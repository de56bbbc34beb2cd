#include "server/request_json.h"

#include <fmt/format.h>

#include <iterator>

#include "server/json_text.h"
#include "server/timing.h"

namespace sluice {
namespace {

// Milliseconds from arrival, or null.
std::string at_ms(const RequestTrace& trace, Instant at) {
  return at == kNever ? "null" : fmt::format("{:.3f}", to_millis(at - trace.arrived));
}

// What both answers say of a request; the object stays open.
void append_summary(std::string& out, const RequestView& view) {
  const RequestInfo& info = view.info;
  const RequestTrace& t = info.trace;
  out += R"({"id":)";
  append_json_string(out, view.id);
  fmt::format_to(std::back_inserter(out),
                 R"(,"index":{},"state":"{}","priority":{},"samples":{},"age_ms":{:.3f},)"
                 R"("level":{},"prompt_tokens":{},"output_tokens":{},"cached_tokens":{},)"
                 R"("host_cached_tokens":{},"preemptions":{{"swap":{},"recompute":{}}})",
                 view.prompt, state_of(view), info.priority, info.num_samples, to_millis(info.age),
                 t.level, t.prompt_tokens, t.output_tokens, t.cached_tokens, t.host_cached_tokens,
                 t.swaps, t.recomputes);
}

void append_trace(std::string& out, const RequestView& view) {
  append_summary(out, view);
  const RequestTrace& t = view.info.trace;
  fmt::format_to(
      std::back_inserter(out),
      R"(,"queue_ms":{},"ttft_ms":{},"total_ms":{},"chunks":{},"demotions":{},)"
      R"("promotions":{},"recomputed_tokens":{},"swapped_blocks":{},"swap_ms":{:.3f},"copy_ms":{:.3f},)"
      R"("dropped_events":{},"events":[)",
      at_ms(t, t.admitted), at_ms(t, t.first_token), at_ms(t, t.ended), t.chunks, t.demotions,
      t.promotions, t.recomputed_tokens, t.swapped_blocks, to_millis(t.swapped_time),
      to_millis(t.copy_time), t.dropped_events);
  for (size_t i = 0; i < t.events.size(); ++i) {
    const RequestTrace::Event& e = t.events[i];
    fmt::format_to(std::back_inserter(out), R"({}{{"at_ms":{},"kind":"{}","value":{}}})",
                   i == 0 ? "" : ",", at_ms(t, e.when), name_of(e.kind), e.value);
  }
  out += "]}";
}

}  // namespace

const char* name_of(RequestInfo::State state) {
  switch (state) {
    case RequestInfo::State::waiting:
      return "waiting";
    case RequestInfo::State::running:
      return "running";
    case RequestInfo::State::swapped:
      return "swapped";
    case RequestInfo::State::arriving:
      return "arriving";
  }
  return "unknown";
}

const char* state_of(const RequestView& view) {
  return view.ended ? "ended" : name_of(view.info.state);
}

std::string list_json(const std::vector<RequestView>& views) {
  std::string out = R"({"object":"list","data":[)";
  for (size_t i = 0; i < views.size(); ++i) {
    if (i > 0) out += ',';
    append_summary(out, views[i]);
    out += '}';
  }
  return out + "]}";
}

std::string trace_json(const std::vector<RequestView>& views) {
  std::string out = R"({"id":)";
  append_json_string(out, views.front().id);
  out += R"(,"prompts":[)";
  for (size_t i = 0; i < views.size(); ++i) {
    if (i > 0) out += ',';
    append_trace(out, views[i]);
  }
  return out + "]}";
}

}  // namespace sluice
