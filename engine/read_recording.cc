#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "engine/recording.h"

namespace sluice {
namespace {

using nlohmann::json;

constexpr int kMost = 1 << 28;
constexpr double kLongest = 1e9;  // seconds

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
  // Seconds; null is never, which is negative.
  double moment(const char* key) {
    const json* value = find(key);
    return value && value->is_null() ? -1 : number(key, 0, kLongest);
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
  RecordingHeader& h = out.header;
  h.block_size = f.whole("block_size", 1, 1 << 20);
  h.config = f.text("config");
  if (line.contains("num_blocks")) {
    h.num_blocks = f.whole("num_blocks", 1, 1 << 28);
    h.host_blocks = f.whole("host_blocks", 0, 1 << 28);
    h.kv_bytes_per_token = f.number("kv_bytes_per_token", 0, kMost);
  }
  return f.error();
}

std::string read_decisions(const json& object, RecordedDecisions& d) {
  if (!object.is_object()) return "\"decisions\" must be an object";
  Fields f(object);
  d.admitted = f.moment("admitted");
  d.first_token = f.moment("first_token");
  d.ended = f.moment("ended");
  d.cached = f.whole("cached", 0, kMost);
  d.host_cached = f.whole("host_cached", 0, kMost);
  d.chunks = f.whole("chunks", 0, kMost);
  d.demotions = f.whole("demotions", 0, kMost);
  d.promotions = f.whole("promotions", 0, kMost);
  d.swaps = f.whole("swaps", 0, kMost);
  d.recomputes = f.whole("recomputes", 0, kMost);
  d.recomputed_tokens = f.whole("recomputed_tokens", 0, kMost);
  d.swapped_blocks = f.whole("swapped_blocks", 0, kMost);
  d.swapped_seconds = f.number("swapped_seconds", 0, kLongest);
  return f.error();
}

std::string read_request(const json& line, int block_size, RecordedRequest& r) {
  Fields f(line);
  r.at = f.number("at", 0, kLongest);
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
  r.has_decisions = line.contains("decisions");
  if (!f.error().empty() || !r.has_decisions) return f.error();
  return read_decisions(line["decisions"], r.decisions);
}

std::string read_step(const json& line, RecordedStep& s) {
  Fields f(line);
  s.id = uint64_t(f.number("step", 0, 1e15));
  s.at = f.number("at", 0, kLongest);
  s.seconds = f.number("seconds", 0, kLongest);
  s.host_seconds = f.number("host_seconds", 0, kLongest);
  s.work.prefill_tokens = f.number("prefill_tokens", 0, kMost);
  s.work.prefill_context = f.number("prefill_pairs", 0, 1e15);
  s.work.decode_rows = f.number("decode_rows", 0, kMost);
  s.work.decode_context = f.number("context", 0, 1e15);
  s.rows = f.whole("rows", 0, kMost);
  s.waiting = f.whole("waiting", 0, kMost);
  s.running = f.whole("running", 0, kMost);
  s.swap_out = f.whole("swap_out", 0, kMost);
  s.swap_in = f.whole("swap_in", 0, kMost);
  s.forks = f.whole("forks", 0, kMost);
  s.copied = f.whole("copied", 0, kMost);
  s.copy_seconds = f.number("copy_seconds", 0, kLongest);
  return f.error();
}

std::string read_line(const std::string& text, bool first, Recording& out, bool& ended) {
  if (ended) return "something follows the end";
  const json line = json::parse(text, nullptr, false);
  if (!line.is_object()) return "not a JSON object (cut short?)";
  if (first) return read_header(line, out);
  if (line.contains("step")) return read_step(line, out.steps.emplace_back());
  if (!line.contains("end")) {
    return read_request(line, out.header.block_size, out.requests.emplace_back());
  }
  ended = true;
  Fields f(line);
  const auto check = [&](const char* what, size_t found) {
    const double count = f.number(what, 0, 1e15);
    return count == double(found) || !f.error().empty()
               ? f.error()
               : fmt::format("the end names {} {}, but {} stand before it", count, what, found);
  };
  const std::string error = check("requests", out.requests.size());
  if (!error.empty() || (out.steps.empty() && !line.contains("steps"))) return error;
  return check("steps", out.steps.size());
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

}  // namespace sluice
