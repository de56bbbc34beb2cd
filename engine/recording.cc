#include "engine/recording.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/log.h"

namespace sluice {
namespace {

using nlohmann::json;

std::string_view name_of(FinishReason why) {
  switch (why) {
    case FinishReason::none:
      return "none";
    case FinishReason::stop:
      return "stop";
    case FinishReason::length:
      return "length";
    case FinishReason::cancelled:
      return "cancelled";
    case FinishReason::deadline:
      return "deadline";
    case FinishReason::overloaded:
      return "overloaded";
    case FinishReason::error:
      return "error";
  }
  return "error";
}

Nanos nanos(double seconds) { return Nanos(int64_t(seconds * 1e9)); }

// With a comma before it.
std::string decisions_json(const RequestTrace& t, Instant arrived) {
  const auto since = [&](Instant when) {
    return when == kNever ? "null"
                          : fmt::format("{:.9f}", std::max(0.0, to_seconds(when - arrived)));
  };
  std::string events;
  for (const RequestTrace::Event& e : t.events) {
    events += fmt::format("{}[{},\"{}\",{}]", events.empty() ? "" : ",", since(e.when),
                          name_of(e.kind), e.value);
  }
  return fmt::format(
      R"(,"decisions":{{"admitted":{},"first_token":{},"ended":{},"cached":{},"host_cached":{},)"
      R"("chunks":{},"demotions":{},"promotions":{},"swaps":{},"recomputes":{},)"
      R"("recomputed_tokens":{},"swapped_blocks":{},"swapped_seconds":{:.9f},"events":[{}]}})",
      since(t.admitted), since(t.first_token), since(t.ended), t.cached_tokens,
      t.host_cached_tokens, t.chunks, t.demotions, t.promotions, t.swaps, t.recomputes,
      t.recomputed_tokens, t.swapped_blocks, to_seconds(t.swapped_time), events);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Recorder>> Recorder::open(const std::string& path,
                                                         const RecordingHeader& header,
                                                         Instant start) {
  std::FILE* file = std::fopen(path.c_str(), "w");
  if (!file) return invalid_argument("{}: cannot write: {}", path, std::strerror(errno));
  std::unique_ptr<Recorder> recorder(new Recorder(file, path, header.block_size, start));
  recorder->put(json{{"sluice_recording", kRecordingVersion},
                     {"block_size", header.block_size},
                     {"num_blocks", header.num_blocks},
                     {"host_blocks", header.host_blocks},
                     {"kv_bytes_per_token", header.kv_bytes_per_token},
                     {"config", header.config}}
                    .dump());
  return recorder;
}

Recorder::Recorder(std::FILE* file, std::string path, int block_size, Instant start)
    : file_(file), path_(std::move(path)), block_size_(block_size), start_(start) {}

Recorder::~Recorder() {
  put(json{{"end", true}, {"requests", requests_}, {"steps", steps_}}.dump());
  if (file_) std::fclose(file_);
}

void Recorder::arrived(RequestId id, const GenerateRequest& request, Instant when) {
  Live& live = live_[id] = Live();
  RecordedRequest& r = live.request;
  r.at = since_start(when);
  r.prompt = int(request.prompt.size());
  r.samples = live.samples_left = request.num_samples;
  r.max_tokens = request.sampling.max_tokens;
  r.tenant = request.tenant;
  r.priority = request.priority;
  r.session = request.session;
  live.outputs.resize(size_t(request.num_samples));
  live.chain = hasher_.root(request.cache_salt);
  for (const TokenId token : request.prompt) append(live, token);
}

void Recorder::append(Live& live, TokenId token) {
  live.partial.push_back(token);
  if (int(live.partial.size()) < block_size_) return;
  live.chain = hasher_.chain(live.chain, live.partial);
  live.partial.clear();
  live.request.blocks.push_back(live.chain.lo);
}

void Recorder::observe(std::span<const TokenEvent> events) {
  for (const TokenEvent& e : events) {
    const auto it = live_.find(e.request);
    if (it == live_.end() || e.sample >= it->second.outputs.size()) continue;
    Live& live = it->second;
    if (e.token >= 0) {
      ++live.outputs[e.sample];
      if (live.request.samples == 1) append(live, e.token);
    }
    if (e.finish == FinishReason::none || --live.samples_left > 0) continue;
    live.request.output = *std::max_element(live.outputs.begin(), live.outputs.end());
    write(live, e.finish, e.known().trace.get());
    live_.erase(it);
  }
}

void Recorder::write(const Live& live, FinishReason why, const RequestTrace* trace) {
  const RecordedRequest& r = live.request;
  std::string blocks;
  for (const uint64_t b : r.blocks) {
    blocks += fmt::format("{}\"{:016x}\"", blocks.empty() ? "" : ",", b);
  }
  put(fmt::format(R"({{"at":{:.9f},"prompt":{},"output":{},"n":{},"max_tokens":{},"tenant":{},)"
                  R"("priority":{},"session":"{:016x}","finish":"{}","blocks":[{}]{}}})",
                  r.at, r.prompt, r.output, r.samples, r.max_tokens, r.tenant, r.priority,
                  r.session, name_of(why), blocks,
                  trace ? decisions_json(*trace, start_ + nanos(r.at)) : ""));
  ++requests_;
}

void Recorder::launched(const StepPlan& plan, const Scheduler::Stats& stats, Instant now) {
  if (busy_since_ == kNever) busy_since_ = now;
  RecordedStep& s = in_flight_.emplace_back();
  s.id = plan.id;
  s.at = since_start(now);
  for (const StepRow& row : plan.rows) s.work.add(row.begin, row.count, row.is_decode());
  s.rows = int(plan.rows.size());
  s.waiting = stats.waiting + stats.swapped;
  s.running = stats.running;
  s.swap_out = int(plan.swap_out.size());
  s.swap_in = int(plan.swap_in.size());
  s.forks = int(plan.fork_copies.size());
}

void Recorder::committed(const StepResult& result, const CopyProgress& copies, Instant now) {
  if (in_flight_.empty() || in_flight_.front().id != result.id) return;
  const RecordedStep s = in_flight_.front();
  in_flight_.pop_front();
  const double seconds = s.rows > 0 ? to_seconds(result.device_time) : 0;
  const double host = std::max(0.0, to_seconds(now - busy_since_) - seconds);
  busy_since_ = now;
  put(fmt::format(R"({{"step":{},"at":{:.9f},"seconds":{:.9f},"host_seconds":{:.9f},)"
                  R"("prefill_tokens":{:.0f},"prefill_pairs":{:.1f},"decode_rows":{:.0f},)"
                  R"("context":{:.0f},"rows":{},"waiting":{},"running":{},"swap_out":{},)"
                  R"("swap_in":{},"forks":{},"copied":{},"copy_seconds":{:.9f}}})",
                  s.id, s.at, seconds, host, s.work.prefill_tokens, s.work.prefill_context,
                  s.work.decode_rows, s.work.decode_context, s.rows, s.waiting, s.running,
                  s.swap_out, s.swap_in, s.forks, copies.blocks - copies_.blocks,
                  to_seconds(copies.time - copies_.time)));
  copies_ = copies;
  ++steps_;
}

// A full disk ends the recording, not the daemon.
void Recorder::put(const std::string& line) {
  if (!file_) return;
  if (std::fputs(line.c_str(), file_) >= 0 && std::fputc('\n', file_) != EOF) return;
  log_warn("recording {}: cannot write: {}; it ends here", path_, std::strerror(errno));
  std::fclose(file_);
  file_ = nullptr;
}

}  // namespace sluice
