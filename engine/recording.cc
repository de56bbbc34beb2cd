#include "engine/recording.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
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

// Reads the fields of one line; the first that is wrong is remembered.
class Fields {
 public:
  explicit Fields(const json& object) : object_(object) {}
  const std::string& error() const { return error_; }

  double number(const char* key, double min, double max) {
    const json* value = find(key);
    if (!value) return min;
    const double v = value->is_number() ? value->get<double>() : std::nan("");
    if (v >= min && v <= max) return v;
    fail(fmt::format("\"{}\" must be a number from {} to {}", key, min, max));
    return min;
  }
  int whole(const char* key, int min, int max) {
    const double v = number(key, min, max);
    if (v != std::floor(v)) fail(fmt::format("\"{}\" must be a whole number", key));
    return int(v);
  }
  std::string text(const char* key) {
    const json* value = find(key);
    if (value && value->is_string()) return value->get<std::string>();
    fail(fmt::format("\"{}\" must be a string", key));
    return "";
  }
  uint64_t hex(const char* key) { return hex_of(key, text(key)); }
  std::vector<uint64_t> hexes(const char* key, size_t most) {
    std::vector<uint64_t> out;
    const json* value = find(key);
    if (!value || !value->is_array() || value->size() > most) {
      fail(fmt::format("\"{}\" must be an array of at most {} strings", key, most));
      return out;
    }
    for (const json& item : *value) {
      out.push_back(hex_of(key, item.is_string() ? item.get_ref<const std::string&>() : ""));
    }
    return out;
  }

 private:
  const json* find(const char* key) {
    const auto it = object_.find(key);
    if (it != object_.end()) return &*it;
    fail(fmt::format("\"{}\" is missing", key));
    return nullptr;
  }
  uint64_t hex_of(const char* key, const std::string& text) {
    const bool good = !text.empty() && text.size() <= 16 &&
                      text.find_first_not_of("0123456789abcdef") == std::string::npos;
    if (good) return std::stoull(text, nullptr, 16);
    fail(fmt::format("\"{}\" must be 1 to 16 lower-case hexadecimal digits", key));
    return 0;
  }
  void fail(std::string what) {
    if (error_.empty()) error_ = std::move(what);
  }

  const json& object_;
  std::string error_;
};

std::string read_header(const json& line, Recording& out) {
  if (!line.contains("sluice_recording")) return "not a recording: no \"sluice_recording\"";
  Fields f(line);
  const int version = f.whole("sluice_recording", 0, 1 << 30);
  if (f.error().empty() && version != kRecordingVersion) {
    return fmt::format("version {}; this program reads version {}", version, kRecordingVersion);
  }
  out.block_size = f.whole("block_size", 1, 1 << 20);
  out.config = f.text("config");
  return f.error();
}

std::string read_request(const json& line, int block_size, RecordedRequest& r) {
  constexpr int kMost = 1 << 28;
  Fields f(line);
  r.at = f.number("at", 0, 1e9);
  r.prompt = f.whole("prompt", 1, kMost);
  r.output = f.whole("output", 0, kMost);
  r.samples = f.whole("n", 1, 65535);
  r.max_tokens = f.whole("max_tokens", 1, kMost);
  r.tenant = uint32_t(f.whole("tenant", 0, 65535));
  r.priority = f.whole("priority", kMinPriority, kMaxPriority);
  r.session = f.hex("session");
  const std::string finish = f.text("finish");
  r.refused = finish == "overloaded" || finish == "error";
  r.blocks = f.hexes("blocks", size_t(r.prompt + r.output) / size_t(block_size));
  return f.error();
}

std::string read_line(const std::string& text, bool first, Recording& out, bool& ended) {
  if (ended) return "something follows the end";
  const json line = json::parse(text, nullptr, false);
  if (!line.is_object()) return "not a JSON object (cut short?)";
  if (first) return read_header(line, out);
  if (line.contains("step")) return "";
  if (!line.contains("end")) {
    return read_request(line, out.block_size, out.requests.emplace_back());
  }
  ended = true;
  Fields f(line);
  const double count = f.number("requests", 0, 1e15);
  if (f.error().empty() && count != double(out.requests.size())) {
    return fmt::format("the end names {} requests, but {} stand before it", count,
                       out.requests.size());
  }
  return f.error();
}

}  // namespace

absl::StatusOr<Recording> read_recording(const std::string& path) {
  std::ifstream file(path);
  if (!file) return not_found("{}: cannot read", path);
  Recording out;
  std::string text;
  int number = 0;
  bool ended = false;
  while (std::getline(file, text)) {
    const std::string error = read_line(text, ++number == 1, out, ended);
    if (!error.empty()) return invalid_argument("{} line {}: {}", path, number, error);
  }
  if (number == 0) return invalid_argument("{} line 1: the file is empty", path);
  if (!ended) return invalid_argument("{} line {}: cut short: no end follows", path, number);
  std::stable_sort(out.requests.begin(), out.requests.end(),
                   [](const auto& a, const auto& b) { return a.at < b.at; });
  return out;
}

absl::StatusOr<std::unique_ptr<Recorder>> Recorder::open(const std::string& path, int block_size,
                                                         std::string_view config, Instant start) {
  std::FILE* file = std::fopen(path.c_str(), "w");
  if (!file) return invalid_argument("{}: cannot write: {}", path, std::strerror(errno));
  std::unique_ptr<Recorder> recorder(new Recorder(file, path, block_size, start));
  recorder->put(json{{"sluice_recording", kRecordingVersion},
                     {"block_size", block_size},
                     {"config", std::string(config)}}
                    .dump());
  return recorder;
}

Recorder::Recorder(std::FILE* file, std::string path, int block_size, Instant start)
    : file_(file), path_(std::move(path)), block_size_(block_size), start_(start) {}

Recorder::~Recorder() {
  put(json{{"end", true}, {"requests", written_}}.dump());
  if (file_) std::fclose(file_);
}

void Recorder::arrived(RequestId id, const GenerateRequest& request, Instant when) {
  Live& live = live_[id] = Live();
  RecordedRequest& r = live.request;
  r.at = std::max(0.0, to_seconds(when - start_));
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
    write(live, e.finish);
    live_.erase(it);
  }
}

void Recorder::write(const Live& live, FinishReason why) {
  const RecordedRequest& r = live.request;
  std::string blocks;
  for (const uint64_t b : r.blocks) {
    blocks += fmt::format("{}\"{:016x}\"", blocks.empty() ? "" : ",", b);
  }
  put(fmt::format(R"({{"at":{:.9f},"prompt":{},"output":{},"n":{},"max_tokens":{},"tenant":{},)"
                  R"("priority":{},"session":"{:016x}","finish":"{}","blocks":[{}]}})",
                  r.at, r.prompt, r.output, r.samples, r.max_tokens, r.tenant, r.priority,
                  r.session, name_of(why), blocks));
  ++written_;
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
